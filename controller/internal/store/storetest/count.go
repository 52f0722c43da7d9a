package storetest

import (
	"errors"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// countEnv says how often tests that count repeat what they do; unset is as often as a quick run needs. seedEnv says what they draw.
const (
	countEnv = "LIMIQUANTIX_TEST_COUNT"
	seedEnv  = "LIMIQUANTIX_TEST_SEED"
)

// Count is how often to do what is done usual times in a quick run.
func Count(t *testing.T, usual int) int {
	t.Helper()
	return int(number(t, countEnv, int64(usual)))
}

// Seed is what to draw from; it is printed, for the run to be had again.
func Seed(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(number(t, seedEnv, time.Now().UnixNano())) //nolint:gosec // any number will do
	t.Logf("%s=%d", seedEnv, seed)
	return seed
}

func number(t *testing.T, name string, usual int64) int64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is no count", name, text)
	}
	return n
}

func isNotFound(err error) bool { return errors.Is(err, store.ErrNotFound) }

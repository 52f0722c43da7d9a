package memory_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/limiquantix/limiquantix/controller/internal/store/memory"
	"github.com/limiquantix/limiquantix/controller/internal/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Subject {
		s := memory.Open(memory.Options{})
		t.Cleanup(func() { _ = s.Close() })
		return storetest.Subject{Store: s}
	})
}

package memory_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/limiquantix/limiquantix/controller/internal/store/memory"
	"github.com/limiquantix/limiquantix/controller/internal/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Subject {
		s := memory.Open(memory.Options{})
		t.Cleanup(func() { _ = s.Close() })
		return storetest.Subject{Store: s}
	})
}

func TestFull(t *testing.T) {
	t.Parallel()
	storetest.RunFull(t, func(t *testing.T) storetest.Small {
		s := memory.Open(memory.Options{QuotaBytes: 4 << 20})
		t.Cleanup(func() { _ = s.Close() })
		return storetest.Small{Store: s}
	})
}

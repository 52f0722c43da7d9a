package reconcile

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

type nobody struct{}

func (nobody) Reconciled(string, string, time.Duration)     {}
func (nobody) Called(string, string, string, time.Duration) {}

// A call that hangs ends at its deadline, and gives its place back; those that find no place end at theirs.
func TestCallsEnd(t *testing.T) {
	e := &Engine{limits: newLimits(), observer: nobody{}, now: time.Now}
	e.progress = newProgress("node", time.Now, func(realised.Key, *computev1.Progress) {})
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	limit, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	done := make(chan error)
	const calls = 3 * callsPerPlugin
	for range calls {
		go func() { done <- e.call(limit, "plugin", "", "GetDomain", 20*time.Millisecond, hang) }()
	}
	for range calls {
		if err := <-done; fault.From(err).Code != codes.DeadlineExceeded {
			t.Errorf("a hung call ended with %v", err)
		}
	}
	if limit.Err() != nil {
		t.Error("hung calls ended with their caller only")
	}
	if err := e.call(limit, "plugin", "", "GetDomain", time.Second, func(context.Context) error { return nil }); err != nil {
		t.Errorf("a call after hung ones: %v", err)
	}
}

package conformance

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// T is what a check needs of whoever runs it. *testing.T is one; the tool has its own.
type T interface {
	Helper()
	// Context ends when the check must end.
	Context() context.Context
	// Cleanup registers what is done when the check has ended; the last registered first.
	Cleanup(func())
	Logf(format string, args ...any)
	// Errorf notes a failure; the check goes on.
	Errorf(format string, args ...any)
	// Fatalf notes a failure and ends the check.
	Fatalf(format string, args ...any)
	// Skipf ends the check: it does not apply.
	Skipf(format string, args ...any)
}

// recorder is a T outside of go test.
type recorder struct {
	ctx context.Context

	mu       sync.Mutex
	failures []string
	logs     []string
	skipped  string
	cleanups []func()
}

// record runs f as a check of its own and returns what came of it.
func record(ctx context.Context, f func(T)) *recorder {
	r := &recorder{}
	ctx, cancel := context.WithCancel(ctx)
	r.ctx = ctx
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				r.Errorf("the check panicked: %v", p)
			}
		}()
		f(r)
	}()
	<-done
	cancel()
	for _, c := range slices.Backward(r.cleanups) {
		c()
	}
	return r
}

func (r *recorder) Helper()                  {}
func (r *recorder) Context() context.Context { return r.ctx }

func (r *recorder) Cleanup(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, f)
}

func (r *recorder) Logf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.logs = append(r.logs, fmt.Sprintf(format, args...))
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Skipf(format string, args ...any) {
	r.mu.Lock()
	r.skipped = fmt.Sprintf(format, args...)
	r.mu.Unlock()
	runtime.Goexit()
}

// outcome is the recorder's verdict.
func (r *recorder) outcome() (Outcome, string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case len(r.failures) > 0:
		return Failed, strings.Join(r.failures, "; ")
	case r.skipped != "":
		return Skipped, r.skipped
	}
	return Passed, strings.Join(r.logs, "; ")
}

package conformance

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
)

// verb is one changing call, ready to be issued any number of times with the same arguments.
type verb struct {
	name string
	// prepare makes what the call works on and returns the call, and a function that fails the check unless the call's effect is there, once.
	prepare func(T, *Env) (call func(context.Context) error, verify func(T))
	// feature that the verb needs, of its suite.
	needs int32
}

// wrapper is a fault that a call must bear.
type wrapper struct {
	name, contract string
	apply          func(t T, e *Env, call func(context.Context) error)
}

// wrappers are the faults that every changing call must bear.
func wrappers() []wrapper {
	return []wrapper{
		{"repeated", "Same key and same spec = OK with the same answer.", repeated},
		{"concurrent", "A second call on a key while one is under way = ABORTED (BUSY).", concurrent},
		{"cancelled", "A driver gives up when its context ends, and leaves nothing that a re-issue cannot finish or undo.", cancelled},
		{"killed", "Plugins keep no database and may be killed at any time. A lost reply means unknown: issuing the call again converges.", killed},
	}
}

func repeated(t T, e *Env, call func(context.Context) error) {
	times := 10
	if e.o.Brief {
		times = 3
	}
	for i := range times {
		if err := call(within(t)); err != nil {
			t.Errorf("call %d: %v", i+1, err)
		}
	}
}

func concurrent(t T, _ *Env, call func(context.Context) error) {
	const callers = 8
	errs := make([]error, callers)
	var wg sync.WaitGroup
	ctx := within(t)
	for i := range callers {
		wg.Go(func() { errs[i] = call(ctx) })
	}
	wg.Wait()
	done := 0
	for _, err := range errs {
		wantCode(t, "one of several at once", err, codes.OK, codes.Aborted)
		if err == nil {
			done++
		}
	}
	if done == 0 {
		t.Errorf("of %d calls at once none was done", callers)
	}
	settle(t, call)
}

// moments are when a call is cut short: before it can have begun, early, and when fast backends are done.
func (e *Env) moments() []time.Duration {
	if e.o.Brief {
		return []time.Duration{0, 25 * time.Millisecond}
	}
	return []time.Duration{0, time.Millisecond, 5 * time.Millisecond, 25 * time.Millisecond, 100 * time.Millisecond}
}

func cancelled(t T, e *Env, call func(context.Context) error) {
	for _, after := range e.moments() {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		began := time.Now()
		err := call(ctx)
		cancel()
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("cancelled after %s, it returned after %s", after, d)
		}
		wantCode(t, "cancelled", err, codes.OK, codes.DeadlineExceeded, codes.Canceled, codes.Aborted)
	}
	settle(t, call)
}

func killed(t T, e *Env, call func(context.Context) error) {
	for _, after := range e.moments()[1:] {
		done := make(chan error, 1)
		ctx := within(t)
		go func() { done <- call(ctx) }()
		timer := time.NewTimer(after)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		e.kill(t)
		wantCode(t, "cut short", <-done, codes.OK, codes.Unavailable)
		settle(t, call)
	}
}

// settle issues the call until it is done: what a host does after a fault. BUSY is borne for a while, since a cancelled call may still be ending.
func settle(t T, call func(context.Context) error) {
	var last error
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for wait := 5 * time.Millisecond; ; wait *= 2 {
		if last = call(within(t)); last == nil {
			return
		}
		if code(last) != codes.Aborted {
			t.Fatalf("issued again: %v", last)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			t.Fatalf("issued again and again: %v", last)
		}
	}
}

// faultChecks makes a check of each verb under each fault.
func faultChecks(prefix string, verbs []verb, each func(*Check, verb)) []*Check {
	var out []*Check
	for _, v := range verbs {
		for _, w := range wrappers() {
			c := &Check{Name: prefix + "/" + v.name + "/" + w.name, Contract: w.contract, run: func(t T, e *Env) {
				call, verify := v.prepare(t, e)
				w.apply(t, e, call)
				verify(t)
			}}
			each(c, v)
			out = append(out, c)
		}
	}
	return out
}

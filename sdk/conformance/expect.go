package conformance

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/limiquantix/limiquantix/proto/fault"
)

// callTimeout bounds one call of a check.
const callTimeout = 90 * time.Second

// within is the context of one call.
func within(t T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	t.Cleanup(cancel)
	return ctx
}

// must ends the check on an error.
func must(t T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// call issues a call that has to succeed and returns its answer.
func call[Q, R any](t T, method func(context.Context, Q, ...grpc.CallOption) (R, error), req Q) R {
	t.Helper()
	r, err := method(within(t), req)
	if err != nil {
		t.Fatalf("%T: %v", req, err)
	}
	return r
}

// refused issues a call that has to be refused with one of the codes.
func refused[Q, R any](t T, what string, method func(context.Context, Q, ...grpc.CallOption) (R, error), req Q, want ...codes.Code) {
	t.Helper()
	_, err := method(within(t), req)
	wantCode(t, what, err, want...)
}

// noSendLimit lifts the host's own limit of message size, to see the plugin's.
func noSendLimit() grpc.CallOption { return grpc.MaxCallSendMsgSize(1 << 30) }

// wantCode fails the check unless err has one of the codes.
func wantCode(t T, what string, err error, want ...codes.Code) {
	t.Helper()
	got := code(err)
	for _, w := range want {
		if got == w {
			return
		}
	}
	t.Errorf("%s: answered %s (%v), want %v", what, got, err, want)
}

func code(err error) codes.Code {
	if err == nil {
		return codes.OK
	}
	if f := fault.From(err); f.Code != codes.Unknown {
		return f.Code
	}
	return status.Code(err)
}

// eventually looks again and again until ok, and ends the check when it takes too long.
func eventually(t T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within %s: %s", d, what)
		case <-tick.C:
		}
	}
}

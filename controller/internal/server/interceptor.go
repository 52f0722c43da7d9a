package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc/codes"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// unaryLimit ends a unary call that takes longer, whatever its client is willing to wait. WaitOperation waits 60 s at most.
const unaryLimit = 90 * time.Second

// interceptor stands around every RPC of the public port: refused bodies, deadline, panics, and the shape of errors.
type interceptor struct {
	log *slog.Logger
	// draining ends streams when the server stops.
	draining <-chan struct{}
}

// WrapUnary implements connect.Interceptor.
func (i interceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (res connect.AnyResponse, err error) {
		defer func() { res, err = i.finish(ctx, req.Spec().Procedure, res, err, recover()) }()
		if err := refusedBody(req.Any()); err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, unaryLimit)
		defer cancel()
		return next(ctx, req)
	}
}

// WrapStreamingHandler implements connect.Interceptor.
func (i interceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) (err error) {
		defer func() { _, err = i.finish(ctx, conn.Spec().Procedure, nil, err, recover()) }()
		ctx, cancel := context.WithCancelCause(ctx)
		stop := make(chan struct{})
		defer close(stop)
		defer cancel(nil)
		go func() {
			select {
			case <-i.draining:
				cancel(errDraining)
			case <-stop:
			}
		}()
		err = next(ctx, strictConn{conn})
		if err != nil && errors.Is(context.Cause(ctx), errDraining) {
			return errDraining
		}
		return err
	}
}

// WrapStreamingClient implements connect.Interceptor; this server is no client.
func (i interceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

var errDraining error = fault.New(metav1.Reason_REASON_STORE_UNAVAILABLE, "the controller is stopping").WithRemedy("connect again")

// finish gives an error its public shape and notes how the call ended.
func (i interceptor) finish(ctx context.Context, procedure string, res connect.AnyResponse, err error, panicked any) (connect.AnyResponse, error) {
	if panicked != nil {
		if panicked == http.ErrAbortHandler { //nolint:errorlint // it is that very value
			panic(panicked)
		}
		i.log.ErrorContext(ctx, "panic in a call", "method", procedure, "panic", fmt.Sprint(panicked), "stack", string(debug.Stack()))
		err = internalFault(ctx, nil)
	}
	c := callOf(ctx)
	c.err, c.code = err, codeName(codes.OK)
	if err != nil {
		ce := connectError(ctx, err)
		c.code = codeName(codes.Code(ce.Code()))
		return nil, ce
	}
	return res, nil
}

// strictConn refuses messages of a stream that the codec refused.
type strictConn struct{ connect.StreamingHandlerConn }

func (c strictConn) Receive(m any) error {
	if err := c.StreamingHandlerConn.Receive(m); err != nil {
		return err
	}
	return refusedBody(m)
}

package server

import (
	"context"
	"errors"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/grpc/codes"

	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// faultOf is any error of a service as a fault. An error that nobody foresaw keeps its words for the log; callers see the request's id instead.
func faultOf(ctx context.Context, err error) *fault.Error {
	var f *fault.Error
	if errors.As(err, &f) {
		return f
	}
	if st := fault.From(err); st.Code != codes.Internal && st.Code != codes.Unknown {
		return st
	}
	f = fault.From(request.Fault(err))
	if f.Reason == metav1.Reason_REASON_INTERNAL {
		return internalFault(ctx, err)
	}
	return f
}

func internalFault(ctx context.Context, cause error) *fault.Error {
	f := fault.New(metav1.Reason_REASON_INTERNAL, "a defect of the controller stopped this call%w", silent{cause})
	if id := RequestID(ctx); id != "" {
		f = f.WithRemedy("see the controller's log for request %s", id).WithMetadata("request_id", id)
	}
	return f
}

// silent is a cause that does not show in the message.
type silent struct{ error }

func (silent) Error() string   { return "" }
func (s silent) Unwrap() error { return s.error }

// connectError is what a client of the public port gets for an error.
func connectError(ctx context.Context, err error) *connect.Error {
	if err == nil {
		return nil
	}
	var f *fault.Error
	var ce *connect.Error
	if !errors.As(err, &f) && errors.As(err, &ce) {
		return withReason(ce)
	}
	f = faultOf(ctx, err)
	return connectStatus(f.GRPCStatus().Proto())
}

// withReason completes an error that connect itself made: limits and malformed bodies.
func withReason(e *connect.Error) *connect.Error {
	if len(e.Details()) > 0 {
		return e
	}
	var reason metav1.Reason
	switch e.Code() {
	case connect.CodeResourceExhausted:
		reason = metav1.Reason_REASON_LIMIT_EXCEEDED
	case connect.CodeInvalidArgument:
		reason = metav1.Reason_REASON_INVALID_FIELD
	case connect.CodeUnimplemented:
		reason = metav1.Reason_REASON_NOT_IMPLEMENTED
	case connect.CodeCanceled:
		reason = metav1.Reason_REASON_CANCELLED
	default:
		return e
	}
	return connectStatus(fault.New(reason, "%s", e.Message()).GRPCStatus().Proto())
}

// codeName is a gRPC code as logs and metrics write it.
func codeName(c codes.Code) string {
	var b strings.Builder
	for i, r := range c.String() {
		if i > 0 && r >= 'A' && r <= 'Z' && c != codes.OK {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return strings.ToUpper(b.String())
}

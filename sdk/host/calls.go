package host

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// DefaultCallTimeout is the deadline of a unary call that has none: every call carries one, by contract.
const DefaultCallTimeout = 60 * time.Second

// unary gives a call its deadline and its error a reason.
func (p *Process) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultCallTimeout)
		defer cancel()
	}
	return classify(ctx, p.manifest.Name, method, invoke(ctx, method, req, reply, cc, opts...))
}

// stream gives a stream's errors a reason.
func (p *Process) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	p.dialled(cc)
	s, err := open(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, classify(ctx, p.manifest.Name, method, err)
	}
	out := &faultStream{ClientStream: s, caller: ctx, plugin: p.manifest.Name, method: method}
	if method == driverv1.StorageDriverService_ImportImage_FullMethodName && p.takesHoles() {
		return &holeStream{out}, nil
	}
	return out, nil
}

type faultStream struct {
	grpc.ClientStream
	caller         context.Context //nolint:containedctx // the stream's own context ends with the stream, whoever ended it
	plugin, method string
}

func (s *faultStream) SendMsg(m any) error {
	return classify(s.caller, s.plugin, s.method, s.ClientStream.SendMsg(m))
}

func (s *faultStream) RecvMsg(m any) error {
	return classify(s.caller, s.plugin, s.method, s.ClientStream.RecvMsg(m))
}

// classify makes any error of a call a *fault.Error. One that gRPC itself made, and not the plugin, gets the reason that fits its code.
func classify(ctx context.Context, plugin, method string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	f := fault.From(err)
	if f.Reason != metav1.Reason_REASON_UNSPECIFIED || len(f.Metadata) > 0 {
		return f
	}
	switch {
	case (f.Code == codes.Canceled || f.Code == codes.DeadlineExceeded) && fault.TimeIsUp(ctx):
		f.Code, f.Message = codes.DeadlineExceeded, "plugin "+plugin+" did not answer "+method+" in time"
	case f.Code == codes.Canceled && ctx.Err() == nil:
		f.Code = codes.Unavailable // not the caller gave up: the connection was closed under the call
	}
	switch f.Code {
	case codes.Unavailable:
		f.Reason = metav1.Reason_REASON_PLUGIN_UNAVAILABLE
		f.Message = "plugin " + plugin + " went away during " + method + ": " + f.Message
		f.Remedy = "whether it was done is unknown; call again when the plugin is back"
	case codes.DeadlineExceeded:
		f.Reason = metav1.Reason_REASON_BACKEND_TIMEOUT
		f.Remedy = "whether it was done is unknown; call again"
	case codes.Canceled:
		f.Reason = metav1.Reason_REASON_CANCELLED
	case codes.Unimplemented:
		f.Reason = metav1.Reason_REASON_NO_CAPABILITY
	case codes.ResourceExhausted:
		f.Reason = metav1.Reason_REASON_LIMIT_EXCEEDED
	}
	return f.WithMetadata("plugin", plugin)
}

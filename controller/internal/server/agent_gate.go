package server

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/pki"
	"github.com/limiquantix/limiquantix/controller/internal/service/caller"
	"github.com/limiquantix/limiquantix/controller/internal/service/enrol"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// agentGate stands before every call of the agent port.
type agentGate struct {
	cfg      AgentConfig
	draining <-chan struct{}
	every    time.Duration // see recheck
}

// admit applies the method's rule and puts the calling node into the context.
func (g *agentGate) admit(ctx context.Context, method string) (context.Context, rule, error) {
	r := agentRules[method]
	switch r.access {
	case nodeSelf, anyone:
	default:
		return ctx, r, fault.New(metav1.Reason_REASON_FORBIDDEN, "%s is not for agents", method).WithRemedy("call it on the public port, with a token")
	}
	if !g.cfg.Leadership.Leading() {
		f := fault.New(metav1.Reason_REASON_NOT_LEADER, "this controller is not the leader; agents are served by it alone")
		if l := g.cfg.Leadership.Leader(); l.Address != "" {
			f = f.WithMetadata("leader", l.Address).WithRemedy("call %s", l.Address)
		}
		return ctx, r, f
	}
	if r.access == anyone {
		return ctx, r, nil
	}
	id, err := g.node(ctx)
	if err != nil {
		return ctx, r, err
	}
	callOf(ctx).principal = id
	return caller.WithNode(enrol.WithSerial(ctx, pki.SerialOf(peerCertificate(ctx))), id), r, nil
}

// node is the node whose certificate the connection has: one of this cluster, still valid, of a node that exists, and the newest of that node or
// the one before it.
func (g *agentGate) node(ctx context.Context) (string, error) {
	refuse := func(format string, args ...any) error {
		return fault.New(metav1.Reason_REASON_UNAUTHENTICATED, format, args...).
			WithRemedy("enrol the node anew with a join token: lqctl node token NAME")
	}
	cert := peerCertificate(ctx)
	if cert == nil {
		return "", refuse("this call needs a node's certificate, and the connection has none")
	}
	id, err := pki.NodeIDFromCert(cert, g.cfg.CA.ClusterID())
	if err != nil {
		return "", refuse("%w", err)
	}
	if g.cfg.Now().After(cert.NotAfter) {
		return "", refuse("the certificate of node %s ended at %s", id, cert.NotAfter.UTC().Format(time.RFC3339))
	}
	rec := g.cfg.Nodes(id)
	if rec == nil || !rec.GetEnrolled() {
		return "", refuse("node %s does not exist; it was deleted", id)
	}
	if !pki.Serial(rec.GetCertificateSerial()).Accepts(pki.SerialOf(cert)) {
		return "", refuse("the certificate of node %s was replaced by a newer one", id)
	}
	return id, nil
}

func peerCertificate(ctx context.Context) *x509.Certificate {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return nil
	}
	return info.State.VerifiedChains[0][0]
}

// onlySelf refuses a request that names another node than the caller.
func (g *agentGate) onlySelf(ctx context.Context, r rule, request any) error {
	m, ok := request.(proto.Message)
	if r.names == nil || !ok {
		return nil
	}
	named, self := r.names(m), caller.Node(ctx)
	if named == "" || named == self {
		return nil
	}
	if rec := g.cfg.Nodes(self); rec.GetNode().GetMeta().GetName() == named {
		return nil
	}
	return fault.New(metav1.Reason_REASON_FORBIDDEN, "node %s may act for itself only, not for %q", self, named)
}

func (g *agentGate) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (res any, err error) {
	ctx, done := g.begin(ctx, info.FullMethod)
	defer func() { err = done(err, recover()) }()
	ctx, cancel := context.WithTimeout(ctx, unaryLimit)
	defer cancel()
	ctx, r, err := g.admit(ctx, info.FullMethod)
	if err == nil {
		err = g.onlySelf(ctx, r, req)
	}
	if err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func (g *agentGate) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	ctx, done := g.begin(ss.Context(), info.FullMethod)
	defer func() { err = done(err, recover()) }()
	ctx, r, err := g.admit(ctx, info.FullMethod)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := make(chan struct{})
	defer close(stop)
	defer cancel(nil)
	go g.guard(ctx, cancel, stop, info.FullMethod)
	err = next(srv, &gatedStream{ServerStream: ss, ctx: ctx, gate: g, rule: r})
	var why *cutOff
	if err != nil && errors.As(context.Cause(ctx), &why) {
		return why.error
	}
	return err
}

// cutOff is why the gate ended a stream.
type cutOff struct{ error }

// recheck is how often a stream's right to go on is looked at.
const recheck = 5 * time.Second

// guard ends a stream that may go on no longer: the port stops, the lead is lost, or the node was deleted or its certificate replaced.
func (g *agentGate) guard(ctx context.Context, cancel context.CancelCauseFunc, stop <-chan struct{}, method string) {
	term := g.cfg.Leadership.Term()
	tick := time.NewTicker(g.every)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-g.draining:
			cancel(&cutOff{errDraining})
			return
		case <-term:
		case <-tick.C:
		}
		if _, _, err := g.admit(withCall(ctx, nil), method); err != nil { // the call's own record is its own goroutine's
			cancel(&cutOff{err})
			return
		}
		term = g.cfg.Leadership.Term() // another one, if it was lost and won again
	}
}

// gatedStream carries the gate's context, and checks what the stream's messages name.
type gatedStream struct {
	grpc.ServerStream
	ctx  context.Context
	gate *agentGate
	rule rule
}

func (s *gatedStream) Context() context.Context { return s.ctx }

func (s *gatedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.gate.onlySelf(s.ctx, s.rule, m)
}

// begin starts a call's record; the returned function ends it: panics, the error's shape, metrics, log.
func (g *agentGate) begin(ctx context.Context, method string) (context.Context, func(err error, panicked any) error) {
	start := time.Now()
	c := &call{requestID: chosenRequestID("")}
	ctx = withCall(ctx, c)
	return ctx, func(err error, panicked any) error {
		if panicked != nil {
			g.cfg.Log.ErrorContext(ctx, "panic in a call", "method", method, "panic", fmt.Sprint(panicked), "stack", string(debug.Stack()))
			err = internalFault(ctx, nil)
		}
		raw := err
		if err != nil {
			if st, ok := status.FromError(err); ok && !isFault(err) {
				err = st.Err() // a transport's own
			} else {
				err = faultOf(ctx, err)
			}
		}
		took, code := time.Since(start), codeName(status.Code(err))
		if g.cfg.Metrics != nil {
			g.cfg.Metrics.observeAgent(method, code, took)
		}
		level := slog.LevelDebug
		switch {
		case code == codeName(codes.Internal) || code == codeName(codes.Unknown):
			level = slog.LevelError
		case err != nil:
			level = slog.LevelInfo
		}
		if g.cfg.Log.Enabled(ctx, level) {
			attrs := []slog.Attr{
				slog.String("request_id", c.requestID), slog.String("method", method), slog.String("code", code), slog.Duration("took", took),
			}
			if c.principal != "" {
				attrs = append(attrs, slog.String("node_id", c.principal))
			}
			if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
				attrs = append(attrs, slog.String("peer", p.Addr.String()))
			}
			if raw != nil {
				attrs = append(attrs, slog.String("error", causeOf(raw)))
			}
			g.cfg.Log.LogAttrs(withCall(ctx, nil), level, "agent call", attrs...)
		}
		return err
	}
}

func isFault(err error) bool {
	var f *fault.Error
	return errors.As(err, &f)
}

// Package tunnel carries bytes between a controller and a driver: consoles, console logs, uploads. The controller asks for one on the desired stream, the
// agent dials. Every tunnel ends with a TunnelEnd that says how.
package tunnel

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/limiquantix/limiquantix/agent/internal/link"
	"github.com/limiquantix/limiquantix/agent/internal/reconcile"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	// most is how many tunnels may be open at once.
	most = 128
	// lastWords is how long to wait for the controller to take the end of a tunnel.
	lastWords = 5 * time.Second
)

// Node is what tunnels need of the node.
type Node interface {
	// Domain is the driver of a VM, running, with its handle.
	Domain(vmID string) (driver string, handle []byte, err error)
	// Pool waits, for a while, until a pool is usable, and names its driver.
	Pool(ctx context.Context, poolID string) (driver string, err error)
	// Within lets a call for a pool begin or refuses it; its context ends with the pool's or the lease's, and done is called when the call has.
	Within(ctx context.Context, driver, poolID, method string) (within context.Context, done func(), err error)
	// Mark is the mark for an object of this node.
	Mark(objectID string, generation, epoch int64) *driverv1.OwnershipMark
	// Stored says that an image copy is complete.
	Stored(*driverv1.Image)
}

// Tunnels opens tunnels. All methods may be called at once.
type Tunnels struct {
	link    *link.Link
	plugins reconcile.Plugins
	node    Node
	log     *slog.Logger

	ctx   context.Context
	stop  context.CancelFunc
	wg    sync.WaitGroup
	slots chan struct{}
}

// New makes the tunnels of a node.
func New(l *link.Link, plugins reconcile.Plugins, node Node, log *slog.Logger) *Tunnels {
	ctx, stop := context.WithCancel(context.Background())
	return &Tunnels{link: l, plugins: plugins, node: node, log: log, ctx: ctx, stop: stop, slots: make(chan struct{}, most)}
}

// Close ends all tunnels.
func (t *Tunnels) Close() {
	t.stop()
	t.wg.Wait()
}

// Open dials a tunnel and returns at once.
func (t *Tunnels) Open(o *agentv1.OpenTunnel) {
	select {
	case t.slots <- struct{}{}:
	default:
		t.log.Warn("a tunnel is refused: too many are open", "tunnel", o.GetTunnelId())
		return // the controller's wait for it ends by itself
	}
	t.wg.Go(func() {
		defer func() { <-t.slots }()
		if err := t.run(o); err != nil && t.ctx.Err() == nil {
			t.log.Info("tunnel ended", "tunnel", o.GetTunnelId(), "error", err)
		}
	})
}

// stream is the controller's side of a tunnel; sends are one at a time, and one goroutine alone receives.
type stream struct {
	agentv1.AgentService_TunnelClient
	mu sync.Mutex
	in chan received
}

type received struct {
	m   *agentv1.TunnelResponse
	err error
}

// receive hands on what comes until the stream ends; its context ends it too.
func (s *stream) receive() {
	for {
		m, err := s.Recv()
		select {
		case s.in <- received{m, err}:
		case <-s.Context().Done():
			return
		}
		if err != nil {
			return
		}
	}
}

func (s *stream) send(m *agentv1.TunnelRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Send(m)
}

func (s *stream) data(b []byte, offset int64) error {
	return s.send(&agentv1.TunnelRequest{Message: &agentv1.TunnelRequest_Data{Data: b}, Offset: offset})
}

func (t *Tunnels) run(o *agentv1.OpenTunnel) error {
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	conn, err := t.link.Conn()
	if err != nil {
		return err
	}
	client, err := agentv1.NewAgentServiceClient(conn).Tunnel(ctx)
	if err != nil {
		return fault.From(err)
	}
	s := &stream{AgentService_TunnelClient: client, in: make(chan received)}
	t.wg.Go(s.receive)
	if err := s.send(&agentv1.TunnelRequest{Message: &agentv1.TunnelRequest_Hello{Hello: &agentv1.TunnelHello{TunnelId: o.GetTunnelId()}}}); err != nil {
		return err
	}
	end := &agentv1.TunnelEnd{}
	switch p := o.GetPurpose().(type) {
	case *agentv1.OpenTunnel_Console:
		err = t.console(ctx, s, p.Console)
	case *agentv1.OpenTunnel_ConsoleLog:
		err = t.consoleLog(ctx, s, p.ConsoleLog)
	case *agentv1.OpenTunnel_ImageUpload:
		end.Image, err = t.upload(ctx, s, p.ImageUpload)
	case *agentv1.OpenTunnel_Export:
		err = t.export(ctx, s, p.Export)
	default:
		err = fault.New(metav1.Reason_REASON_NOT_IMPLEMENTED, "this agent does not know such a tunnel")
	}
	if err != nil {
		f := fault.From(err)
		end.Code, end.Reason, end.Message = int32(f.Code), fault.ReasonName(f.Reason), f.Error() //nolint:gosec // gRPC codes are small
	}
	if sendErr := s.send(&agentv1.TunnelRequest{Message: &agentv1.TunnelRequest_End{End: end}}); sendErr != nil {
		return errors.Join(err, sendErr)
	}
	drain(s)
	return err
}

// drain waits until the controller has taken the end.
func drain(s *stream) {
	_ = s.CloseSend()
	t := time.NewTimer(lastWords)
	defer t.Stop()
	for {
		select {
		case r := <-s.in:
			if r.err != nil {
				return
			}
		case <-t.C:
			return
		case <-s.Context().Done():
			return
		}
	}
}

// errCut says that the controller went away without an end.
var errCut = fault.New(metav1.Reason_REASON_CANCELLED, "the other side went away before the end")

// fromController calls data for each part that comes, until the controller ends its side: nil then, or the error that it gives.
func fromController(ctx context.Context, s *stream, data func([]byte) error) error {
	for {
		var r received
		select {
		case r = <-s.in:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.Context().Done():
			return errCut
		}
		if errors.Is(r.err, io.EOF) {
			return errCut
		} else if r.err != nil {
			return fault.From(r.err)
		}
		if end := r.m.GetEnd(); end != nil {
			if end.GetCode() == 0 {
				return nil
			}
			reason := metav1.Reason(metav1.Reason_value["REASON_"+end.GetReason()])
			return &fault.Error{Code: codes.Code(uint32(end.GetCode())), Reason: reason, Message: end.GetMessage()} //nolint:gosec // a gRPC code
		}
		if err := data(r.m.GetData()); err != nil {
			return err
		}
	}
}

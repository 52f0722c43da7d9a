// Package presence says that the node is there: it registers what the node is, and sends heartbeats on a goroutine of its own that waits for nobody but
// the controller.
package presence

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/agent/internal/link"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	defaultInterval = 5 * time.Second
	minInterval     = 50 * time.Millisecond
	maxRetry        = 2 * time.Second
)

// Config is what presence needs to know.
type Config struct {
	Link      *link.Link
	NodeID    string
	NodeName  string
	BootID    string
	SessionID string
	Logger    *slog.Logger
	// Lease takes until when the node may work on shared pools; it does not wait.
	Lease func(until time.Time)
}

// Presence registers and beats. All methods may be called at once.
type Presence struct {
	c     Config
	beats atomic.Int64
	last  atomic.Int64 // unix nanoseconds of the last heartbeat that was answered
	again chan struct{}

	mu       sync.Mutex
	status   *computev1.NodeStatus
	interval time.Duration
}

// New makes a presence that registers status; SetFacts changes it.
func New(c Config, status *computev1.NodeStatus) *Presence {
	return &Presence{c: c, status: status, interval: defaultInterval, again: make(chan struct{}, 1)}
}

// SetFacts says what the node is. When that is news the node registers again.
func (p *Presence) SetFacts(change func(*computev1.NodeStatus)) {
	p.mu.Lock()
	next := proto.CloneOf(p.status)
	change(next)
	news := !proto.Equal(next, p.status)
	p.status = next
	p.mu.Unlock()
	if news {
		p.registerAgain()
	}
}

func (p *Presence) registerAgain() {
	select {
	case p.again <- struct{}{}:
	default:
	}
}

// LastHeartbeat is when a heartbeat was last answered; zero = never.
func (p *Presence) LastHeartbeat() time.Time {
	if n := p.last.Load(); n != 0 {
		return time.Unix(0, n)
	}
	return time.Time{}
}

// Run registers and beats until ctx ends.
func (p *Presence) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { p.beatLoop(ctx) })
	wg.Go(func() { p.registerLoop(ctx) })
	wg.Wait()
}

func (p *Presence) registerLoop(ctx context.Context) {
	failures := 0
	p.registerAgain()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.again:
		}
		for ctx.Err() == nil {
			err := p.register(ctx)
			if err == nil {
				failures = 0
				break
			}
			failures++
			if failures == 1 && ctx.Err() == nil {
				p.c.Logger.Warn("registration failed; it is tried again", "controller", p.c.Link.Endpoint(), "error", err)
			}
			if !link.Sleep(ctx, link.Backoff(failures, maxRetry, rand.Float64())) {
				return
			}
		}
	}
}

func (p *Presence) register(ctx context.Context) error {
	p.mu.Lock()
	status := p.status
	p.mu.Unlock()
	return p.c.Link.Call(ctx, 10*time.Second, func(ctx context.Context, conn *grpc.ClientConn) error {
		r, err := computev1.NewNodeServiceClient(conn).RegisterNode(ctx, &computev1.RegisterNodeRequest{
			Node: &computev1.Node{Meta: &metav1.ObjectMeta{Id: p.c.NodeID, Name: p.c.NodeName}, Status: status},
		})
		if err == nil && r.GetHeartbeatInterval().AsDuration() > 0 {
			p.setInterval(r.GetHeartbeatInterval().AsDuration())
		}
		return err
	})
}

func (p *Presence) setInterval(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.interval = min(max(d, minInterval), time.Minute)
}

func (p *Presence) beatLoop(ctx context.Context) {
	failures, late := 0, 0
	for {
		begin := time.Now()
		conn, err := p.beat(ctx)
		p.mu.Lock()
		wait := p.interval
		p.mu.Unlock()
		switch {
		case err == nil:
			failures, late = 0, 0
		case ctx.Err() != nil:
			return
		default:
			failures++
			if failures == 1 {
				p.c.Logger.Warn("heartbeat failed", "controller", p.c.Link.Endpoint(), "error", err)
			}
			if late++; fault.From(err).Code != codes.DeadlineExceeded {
				late = 0
			}
			if late >= 2 { // a connection that takes everything and answers nothing, as that of a controller that was stopped
				p.c.Link.Failed(conn, err)
				late = 0
			}
			wait = min(wait, link.Backoff(failures, maxRetry, rand.Float64()))
		}
		if !link.Sleep(ctx, max(wait-time.Since(begin), minInterval)) {
			return
		}
	}
}

func (p *Presence) beat(ctx context.Context) (*grpc.ClientConn, error) {
	conn, err := p.c.Link.Conn()
	if err != nil {
		return nil, err
	}
	callCtx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	sent := time.Now() // the controller counts from when it came, which is later
	r, err := computev1.NewNodeServiceClient(conn).Heartbeat(callCtx, &computev1.HeartbeatRequest{
		NodeId: p.c.NodeID, BootId: p.c.BootID, SessionId: p.c.SessionID, Sequence: p.beats.Add(1),
	})
	if err != nil {
		if fault.From(err).Code != codes.DeadlineExceeded {
			p.c.Link.Failed(conn, err)
		}
		return conn, err
	}
	p.last.Store(time.Now().UnixNano())
	if d := r.GetLease().AsDuration(); d > 0 {
		p.c.Lease(sent.Add(d))
	}
	if d := r.GetInterval().AsDuration(); d > 0 {
		p.setInterval(d)
	}
	if r.GetRegisterAgain() {
		p.registerAgain()
	}
	return conn, nil
}

// Package tunnel joins who wants bytes from a node (a console, a log, an upload) with the agent that carries them. Agents are never dialled: the hub
// asks through the node's desired stream, the agent dials Tunnel, and the hub pairs the two. Nothing is buffered beyond a few messages in each
// direction, so a slow side slows the other, and either side's end ends both.
package tunnel

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/service/seam"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	// MaxData is the most bytes of one message.
	MaxData = 1 << 20
	// maxPerNode bounds the tunnels of one node.
	maxPerNode = 256
	// defaultDialTimeout is how long an agent may take to dial.
	defaultDialTimeout = 10 * time.Second
)

// Hub implements seam.Tunnels. Make one with New.
type Hub struct {
	asker   seam.TunnelAsker
	timeout time.Duration

	mu      sync.Mutex
	waiting map[string]*tunnel // asked for, not dialled yet
	perNode map[string]int
	pumps   sync.WaitGroup
}

var _ seam.Tunnels = (*Hub)(nil)

// New makes a hub that asks agents through asker. dialTimeout bounds how long an agent may take to dial; 0 = 10 s.
func New(asker seam.TunnelAsker, dialTimeout time.Duration) *Hub {
	if dialTimeout <= 0 {
		dialTimeout = defaultDialTimeout
	}
	return &Hub{asker: asker, timeout: dialTimeout, waiting: map[string]*tunnel{}, perNode: map[string]int{}}
}

// Open implements seam.Tunnels.
func (h *Hub) Open(ctx context.Context, nodeID string, open *agentv1.OpenTunnel) (seam.Tunnel, error) {
	open.TunnelId = rand.Text()
	t := newTunnel(nodeID)
	if err := h.admit(open.GetTunnelId(), t); err != nil {
		return nil, err
	}
	t.release = sync.OnceFunc(func() { h.forget(open.GetTunnelId(), nodeID) })
	if err := h.asker.AskTunnel(nodeID, open); err != nil {
		t.Close()
		return nil, err
	}
	timer := time.NewTimer(h.timeout)
	defer timer.Stop()
	select {
	case <-t.dialled:
	case <-timer.C:
		t.Close()
		return nil, fault.New(metav1.Reason_REASON_NODE_UNREACHABLE, "node %s did not open the tunnel within %v", nodeID, h.timeout).
			WithRemedy("see whether its agent runs: systemctl status limiquantix-agent on that host")
	case <-ctx.Done():
		t.Close()
		return nil, fault.From(ctx.Err())
	}
	t.unhook = context.AfterFunc(ctx, t.abandon)
	return t, nil
}

// Serve is the agent's side: it carries stream until the tunnel ends. nodeID is the caller's, from its certificate.
func (h *Hub) Serve(nodeID string, stream agentv1.AgentService_TunnelServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return fault.Invalid(fault.Violation{Field: "hello", Description: "must be the first message"})
	}
	t, err := h.claim(hello.GetTunnelId(), nodeID)
	if err != nil {
		return err
	}
	return t.carry(stream, &h.pumps)
}

// Wait returns when no tunnel moves bytes any more. Call it once the agent port has stopped.
func (h *Hub) Wait() { h.pumps.Wait() }

// Count is how many tunnels there are, those being opened included.
func (h *Hub) Count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, c := range h.perNode {
		n += c
	}
	return n
}

func (h *Hub) admit(id string, t *tunnel) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.perNode[t.nodeID] >= maxPerNode {
		return fault.New(metav1.Reason_REASON_LIMIT_EXCEEDED, "node %s has %d tunnels open", t.nodeID, maxPerNode).WithRemedy("close consoles that nobody reads")
	}
	h.perNode[t.nodeID]++
	h.waiting[id] = t
	return nil
}

// claim gives an asked-for tunnel to the node that it was asked of, once.
func (h *Hub) claim(id, nodeID string) (*tunnel, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t, ok := h.waiting[id]
	if !ok || t.nodeID != nodeID {
		// The same answer for both: an id tells another node nothing.
		return nil, fault.New(metav1.Reason_REASON_NOT_FOUND, "no tunnel of that id waits for this node")
	}
	delete(h.waiting, id)
	return t, nil
}

func (h *Hub) forget(id, nodeID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.waiting, id)
	if h.perNode[nodeID]--; h.perNode[nodeID] <= 0 {
		delete(h.perNode, nodeID)
	}
}

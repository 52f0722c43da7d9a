// Package seam names what the services ask of the rest of the process: a box for secrets, tunnels to nodes, the cluster's CA. The server provides them.
package seam

import (
	"context"
	"time"

	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
)

// Sealer encrypts what must not lie in the store in the clear.
type Sealer interface {
	// Seal encrypts plain, bound to aad: the key of the store's record it will lie in.
	Seal(plain, aad []byte) ([]byte, error)
	// Open decrypts what Seal made with the same aad.
	Open(sealed, aad []byte) ([]byte, error)
}

// Tunnels opens byte channels to nodes.
type Tunnels interface {
	// Open asks the node's agent to dial a tunnel and waits until it did. It fills open.tunnel_id. A node without a stream: NODE_UNREACHABLE. The tunnel
	// lives no longer than ctx; when ctx ends before CloseSend the agent sees a broken stream and undoes what it began.
	Open(ctx context.Context, nodeID string, open *agentv1.OpenTunnel) (Tunnel, error)
}

// Part is what came through a tunnel at once.
type Part struct {
	Data   []byte
	Offset int64 // of Data, in a console log or an export
	Hole   int64 // length of a hole in an export: zeros, and no Data
}

// Tunnel is one open channel. Send and Recv may be called concurrently with each other.
type Tunnel interface {
	// Send sends bytes to the node, at most 1 MiB at a time; it blocks while the node does not read.
	Send(data []byte) error
	// Recv waits for bytes from the node. io.EOF: the node ended well. A node that ended with an error gives it as a fault.
	Recv() (Part, error)
	// CloseSend says that nothing more will be sent.
	CloseSend() error
	// Result is what the node's ending said about an image that was uploaded; nil before Recv gave io.EOF, and for other tunnels.
	Result() *agentv1.ImageCopyReport
	// Close lets go of the tunnel, whatever its state. A second Close does nothing.
	Close()
}

// TunnelAsker passes a request for a tunnel to a node's desired stream. The agent service implements it for whoever implements Tunnels.
type TunnelAsker interface {
	// AskTunnel sends open on the node's stream. No stream: NODE_UNREACHABLE.
	AskTunnel(nodeID string, open *agentv1.OpenTunnel) error
}

// CA is what a join token tells of the cluster's certificate authority.
type CA interface {
	// CertificateDER is the CA's certificate.
	CertificateDER() []byte
}

// Timing is how agents and controller keep in touch.
type Timing struct {
	HeartbeatInterval time.Duration // default 5 s
	HeartbeatTimeout  time.Duration // default 20 s; a silent node is UNKNOWN after it
	Lease             time.Duration // default 15 s; less than the timeout
}

// WithDefaults fills what is zero.
func (t Timing) WithDefaults() Timing {
	if t.HeartbeatInterval <= 0 {
		t.HeartbeatInterval = 5 * time.Second
	}
	if t.HeartbeatTimeout <= 0 {
		t.HeartbeatTimeout = 4 * t.HeartbeatInterval
	}
	if t.Lease <= 0 {
		t.Lease = 3 * t.HeartbeatInterval
	}
	return t
}

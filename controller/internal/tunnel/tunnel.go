package tunnel

import (
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc/codes"

	"github.com/limiquantix/limiquantix/controller/internal/service/seam"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// window is how many messages from the node may wait for the reader.
const window = 2

type outgoing struct {
	message *agentv1.TunnelResponse
	sent    chan error
}

// tunnel implements seam.Tunnel. One goroutine reads the agent's stream, one writes it; the agent's call returns when the tunnel is over.
type tunnel struct {
	nodeID  string
	release func()      // takes it out of the hub
	unhook  func() bool // from the opener's ctx

	dialled chan struct{}  // closed when the agent has dialled
	in      chan seam.Part // closed once ended is set
	out     chan outgoing
	closed  chan struct{} // closed by Close or the end of the opener's ctx
	readEnd chan struct{} // closed once ended is set
	gone    chan struct{} // closed when the agent's call is over

	shut func() // closes closed, once

	ended  error // io.EOF, a fault of the node, or how the stream broke; read after readEnd
	result *agentv1.ImageCopyReport
	breach bool // ended says how the node broke the protocol

	mu        sync.Mutex
	closeSent bool
	endSent   chan struct{} // closed when our end was sent
}

func newTunnel(nodeID string) *tunnel {
	t := &tunnel{
		nodeID:  nodeID,
		dialled: make(chan struct{}),
		in:      make(chan seam.Part, window),
		out:     make(chan outgoing),
		closed:  make(chan struct{}),
		readEnd: make(chan struct{}),
		gone:    make(chan struct{}),
		endSent: make(chan struct{}),
	}
	t.shut = sync.OnceFunc(func() { close(t.closed) })
	return t
}

// Send implements seam.Tunnel.
func (t *tunnel) Send(data []byte) error {
	for len(data) > MaxData {
		if err := t.send(&agentv1.TunnelResponse{Message: &agentv1.TunnelResponse_Data{Data: data[:MaxData]}}); err != nil {
			return err
		}
		data = data[MaxData:]
	}
	return t.send(&agentv1.TunnelResponse{Message: &agentv1.TunnelResponse_Data{Data: data}})
}

// CloseSend implements seam.Tunnel.
func (t *tunnel) CloseSend() error {
	t.mu.Lock()
	again := t.closeSent
	t.closeSent = true
	t.mu.Unlock()
	if again {
		return nil
	}
	if err := t.send(&agentv1.TunnelResponse{Message: &agentv1.TunnelResponse_End{End: &agentv1.TunnelEnd{}}}); err != nil {
		return err
	}
	close(t.endSent)
	return nil
}

// send hands a message to the writer and waits until it was taken by the transport: data may be reused after it.
func (t *tunnel) send(message *agentv1.TunnelResponse) error {
	o := outgoing{message: message, sent: make(chan error, 1)}
	select {
	case <-t.closed:
		return t.errClosed()
	case <-t.readEnd:
		return t.errEnded()
	default:
	}
	select {
	case t.out <- o:
	case <-t.closed:
		return t.errClosed()
	case <-t.readEnd:
		return t.errEnded()
	case <-t.gone:
		return t.errGone()
	}
	select {
	case err := <-o.sent:
		if err != nil {
			return t.errGone()
		}
		return nil
	case <-t.gone:
		return t.errGone()
	}
}

// Recv implements seam.Tunnel.
func (t *tunnel) Recv() (seam.Part, error) {
	select {
	case c, ok := <-t.in:
		if !ok {
			return seam.Part{}, t.ended
		}
		return c, nil
	case <-t.closed:
		return seam.Part{}, t.errClosed()
	}
}

// Result implements seam.Tunnel.
func (t *tunnel) Result() *agentv1.ImageCopyReport {
	select {
	case <-t.readEnd:
		return t.result
	default:
		return nil
	}
}

// Close implements seam.Tunnel.
func (t *tunnel) Close() {
	if t.unhook != nil {
		t.unhook()
	}
	t.abandon()
}

func (t *tunnel) abandon() {
	t.shut()
	t.release()
}

func (t *tunnel) errClosed() error {
	return fault.New(metav1.Reason_REASON_CANCELLED, "the tunnel to node %s was closed", t.nodeID)
}

func (t *tunnel) errGone() error {
	select {
	case <-t.readEnd:
		return t.errEnded()
	default:
		return fault.New(metav1.Reason_REASON_NODE_UNREACHABLE, "node %s closed the tunnel", t.nodeID)
	}
}

// errEnded is what a writer gets after the node's end.
func (t *tunnel) errEnded() error {
	if errors.Is(t.ended, io.EOF) {
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "node %s has ended the tunnel", t.nodeID)
	}
	return t.ended
}

// carry moves bytes between the tunnel and the agent's stream and returns how the agent's call ends.
func (t *tunnel) carry(stream agentv1.AgentService_TunnelServer, pumps *sync.WaitGroup) error {
	defer close(t.gone)
	close(t.dialled)
	// Both end by themselves once this call has returned, since its stream ends with it.
	pumps.Go(func() { t.read(stream) })
	pumps.Go(func() { t.write(stream) })
	select {
	case <-t.closed:
	case <-stream.Context().Done():
	case <-t.readEnd:
		if t.breach {
			return t.ended
		}
		select {
		case <-t.closed:
		case <-t.endSent:
		case <-stream.Context().Done():
		}
	}
	select {
	case <-t.readEnd:
		return nil
	default:
		return fault.New(metav1.Reason_REASON_CANCELLED, "who opened the tunnel went away")
	}
}

func (t *tunnel) write(stream agentv1.AgentService_TunnelServer) {
	for {
		select {
		case o := <-t.out:
			o.sent <- stream.Send(o.message)
		case <-t.gone:
			return
		}
	}
}

func (t *tunnel) read(stream agentv1.AgentService_TunnelServer) {
	defer close(t.in)
	defer close(t.readEnd)
	for {
		m, err := stream.Recv()
		if err != nil {
			t.ended = fault.New(metav1.Reason_REASON_NODE_UNREACHABLE, "the connection to node %s broke", t.nodeID)
			return
		}
		switch m := m.GetMessage().(type) {
		case *agentv1.TunnelRequest_End:
			t.ended, t.result = endOf(m.End), m.End.GetImage()
			return
		case *agentv1.TunnelRequest_Hello, nil:
			t.breach, t.ended = true, fault.New(metav1.Reason_REASON_WRONG_STATE, "node %s broke the tunnel's protocol", t.nodeID)
			return
		}
		if len(m.GetData()) > MaxData {
			t.breach, t.ended = true, fault.New(metav1.Reason_REASON_LIMIT_EXCEEDED, "node %s sent %d bytes at once, over %d", t.nodeID, len(m.GetData()), MaxData)
			return
		}
		select {
		case t.in <- seam.Part{Data: m.GetData(), Offset: m.GetOffset(), Hole: m.GetHoleBytes()}:
		case <-t.closed:
			t.ended = t.errClosed()
			return
		}
	}
}

// endOf is the error of a node's end: io.EOF when it was fine.
func endOf(end *agentv1.TunnelEnd) error {
	if end.GetCode() == 0 {
		return io.EOF
	}
	reason := metav1.Reason(metav1.Reason_value["REASON_"+end.GetReason()])
	e := fault.New(reason, "%s", end.GetMessage())
	e.Code = codes.Code(uint32(end.GetCode()))
	return e
}

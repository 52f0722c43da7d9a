package tunnel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/limiquantix/limiquantix/controller/internal/service/seam"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a hub behind a gRPC server; asked gets what agents would be asked.
type rig struct {
	agentv1.UnimplementedAgentServiceServer
	hub    *Hub
	asked  chan *agentv1.OpenTunnel
	client agentv1.AgentServiceClient
	refuse error
}

func (r *rig) AskTunnel(_ string, open *agentv1.OpenTunnel) error {
	if r.refuse == nil {
		r.asked <- open
	}
	return r.refuse
}

func (r *rig) Tunnel(stream agentv1.AgentService_TunnelServer) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	return r.hub.Serve(md.Get("node")[0], stream)
}

func newRig(t *testing.T, timeout time.Duration) *rig {
	t.Helper()
	r := &rig{asked: make(chan *agentv1.OpenTunnel, 1)}
	r.hub = New(r, timeout)
	lis := bufconn.Listen(1 << 16)
	srv := grpc.NewServer()
	agentv1.RegisterAgentServiceServer(srv, r)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(lis) }()
	conn, err := grpc.NewClient("passthrough:x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	r.client = agentv1.NewAgentServiceClient(conn)
	t.Cleanup(func() {
		_ = conn.Close()
		srv.Stop()
		<-served
		r.hub.Wait()
		if n := r.hub.Count(); n != 0 {
			t.Errorf("%d tunnels left", n)
		}
	})
	return r
}

type dialled struct {
	stream agentv1.AgentService_TunnelClient
	cancel context.CancelFunc
}

func (r *rig) dial(t *testing.T, node, id string) dialled {
	t.Helper()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "node", node), 20*time.Second)
	t.Cleanup(cancel)
	s, err := r.client.Tunnel(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&agentv1.TunnelRequest{Message: &agentv1.TunnelRequest_Hello{Hello: &agentv1.TunnelHello{TunnelId: id}}}); err != nil {
		t.Fatal(err)
	}
	return dialled{s, cancel}
}

// pair opens a tunnel to node n1 and answers as its agent.
func (r *rig) pair(t *testing.T, ctx context.Context) (seam.Tunnel, dialled) {
	t.Helper()
	type opened struct {
		t   seam.Tunnel
		err error
	}
	done := make(chan opened, 1)
	go func() {
		tun, err := r.hub.Open(ctx, "n1", &agentv1.OpenTunnel{})
		done <- opened{tun, err}
	}()
	agent := r.dial(t, "n1", (<-r.asked).GetTunnelId())
	o := <-done
	if o.err != nil {
		t.Fatal(o.err)
	}
	t.Cleanup(o.t.Close)
	return o.t, agent
}

func data(b []byte) *agentv1.TunnelRequest {
	return &agentv1.TunnelRequest{Message: &agentv1.TunnelRequest_Data{Data: b}}
}

func end(e *agentv1.TunnelEnd) *agentv1.TunnelRequest {
	return &agentv1.TunnelRequest{Message: &agentv1.TunnelRequest_End{End: e}}
}

func TestBothDirectionsAndResult(t *testing.T) {
	r := newRig(t, 0)
	tun, agent := r.pair(t, t.Context())
	sent := bytes.Repeat([]byte("x"), 3<<20)
	failed := make(chan error, 1)
	go func() { failed <- errors.Join(tun.Send(sent), tun.CloseSend(), tun.CloseSend()) }()
	var got []byte
	for {
		m, err := agent.stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m.GetEnd() != nil {
			break
		}
		got = append(got, m.GetData()...)
	}
	if err := <-failed; err != nil || !bytes.Equal(got, sent) {
		t.Fatal(err, len(got))
	}
	if tun.Result() != nil {
		t.Error("a result before the end")
	}
	first := data([]byte("hello"))
	first.Offset = 7
	if err := errors.Join(agent.stream.Send(first), agent.stream.Send(end(&agentv1.TunnelEnd{Image: &agentv1.ImageCopyReport{ImageId: "i"}}))); err != nil {
		t.Fatal(err)
	}
	if b, err := tun.Recv(); string(b.Data) != "hello" || b.Offset != 7 || err != nil {
		t.Fatal(b, err)
	}
	if _, err := tun.Recv(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if tun.Result().GetImageId() != "i" {
		t.Error("no result")
	}
	if _, err := agent.stream.Recv(); !errors.Is(err, io.EOF) {
		t.Error("the agent's call did not end well:", err)
	}
}

func TestNodeEndsWithFault(t *testing.T) {
	r := newRig(t, 0)
	tun, agent := r.pair(t, t.Context())
	if err := agent.stream.Send(end(&agentv1.TunnelEnd{Code: int32(codes.DataLoss), Reason: "CHECKSUM_MISMATCH", Message: "not what was declared"})); err != nil {
		t.Fatal(err)
	}
	if _, err := tun.Recv(); !fault.Is(err, metav1.Reason_REASON_CHECKSUM_MISMATCH) || status.Code(err) != codes.DataLoss {
		t.Error(err)
	}
	if err := tun.Send([]byte("more")); !fault.Is(err, metav1.Reason_REASON_CHECKSUM_MISMATCH) {
		t.Error(err)
	}
}

func TestConnectionBreaks(t *testing.T) {
	r := newRig(t, 0)
	tun, agent := r.pair(t, t.Context())
	agent.cancel()
	if _, err := tun.Recv(); !fault.Is(err, metav1.Reason_REASON_NODE_UNREACHABLE) {
		t.Error(err)
	}
	if err := tun.Send([]byte("x")); !fault.Is(err, metav1.Reason_REASON_NODE_UNREACHABLE) {
		t.Error(err)
	}
}

func TestOpenerGoesAway(t *testing.T) {
	for name, leave := range map[string]func(seam.Tunnel, context.CancelFunc){
		"close":   func(tun seam.Tunnel, _ context.CancelFunc) { tun.Close(); tun.Close() },
		"its ctx": func(_ seam.Tunnel, cancel context.CancelFunc) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 0)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			tun, agent := r.pair(t, ctx)
			// More than transport and hub will hold, so that the agent's writer stands still.
			go func() {
				for agent.stream.Send(data(make([]byte, MaxData))) == nil {
				}
			}()
			leave(tun, cancel)
			if _, err := agent.stream.Recv(); !fault.Is(err, metav1.Reason_REASON_CANCELLED) {
				t.Error("the agent was not told:", err)
			}
			if err := tun.Send(nil); err == nil {
				t.Error("sent into a closed tunnel")
			}
		})
	}
}

func TestSlowReaderSlowsTheNode(t *testing.T) {
	r := newRig(t, 0)
	_, agent := r.pair(t, t.Context())
	blocked := make(chan int, 1)
	go func() {
		n := 0
		for ; n < 64; n++ {
			if agent.stream.Send(data(make([]byte, MaxData))) != nil {
				break
			}
		}
		blocked <- n
	}()
	select {
	case n := <-blocked:
		t.Errorf("%d MiB went in and nobody read", n)
	case <-time.After(300 * time.Millisecond):
	}
	agent.cancel()
	if n := <-blocked; n >= 64 {
		t.Errorf("%d MiB went in", n)
	}
}

func TestIDIsOneNodesAndForOnce(t *testing.T) {
	r := newRig(t, 0)
	failed := make(chan error, 1)
	tuns := make(chan seam.Tunnel, 1)
	go func() {
		tun, err := r.hub.Open(t.Context(), "n1", &agentv1.OpenTunnel{})
		failed <- err
		tuns <- tun
	}()
	id := (<-r.asked).GetTunnelId()
	if _, err := r.dial(t, "n2", id).stream.Recv(); !fault.Is(err, metav1.Reason_REASON_NOT_FOUND) {
		t.Error("another node took the tunnel:", err)
	}
	right := r.dial(t, "n1", id)
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	if _, err := r.dial(t, "n1", id).stream.Recv(); !fault.Is(err, metav1.Reason_REASON_NOT_FOUND) {
		t.Error("taken twice:", err)
	}
	(<-tuns).Close()
	if _, err := right.stream.Recv(); err == nil {
		t.Error("still open")
	}
}

func TestOpenFails(t *testing.T) {
	r := newRig(t, 20*time.Millisecond)
	_, err := r.hub.Open(t.Context(), "n1", &agentv1.OpenTunnel{})
	if !fault.Is(err, metav1.Reason_REASON_NODE_UNREACHABLE) {
		t.Error(err)
	}
	// Too late.
	if _, err := r.dial(t, "n1", (<-r.asked).GetTunnelId()).stream.Recv(); !fault.Is(err, metav1.Reason_REASON_NOT_FOUND) {
		t.Error(err)
	}
	r.refuse = fault.New(metav1.Reason_REASON_NODE_UNREACHABLE, "no stream")
	if _, err := r.hub.Open(t.Context(), "n1", &agentv1.OpenTunnel{}); !errors.Is(err, r.refuse) {
		t.Error(err)
	}
	r.refuse = nil
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.hub.Open(ctx, "n1", &agentv1.OpenTunnel{}); !fault.Is(err, metav1.Reason_REASON_CANCELLED) {
		t.Error(err)
	}
}

func TestProtocolBreaches(t *testing.T) {
	r := newRig(t, 0)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "node", "n1")
	s, err := r.client.Tunnel(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Send(data([]byte("no hello")))
	if _, err := s.Recv(); !fault.Is(err, metav1.Reason_REASON_INVALID_FIELD) {
		t.Error(err)
	}
	tun, agent := r.pair(t, t.Context())
	_ = agent.stream.Send(data(make([]byte, MaxData+1)))
	if _, err := agent.stream.Recv(); !fault.Is(err, metav1.Reason_REASON_LIMIT_EXCEEDED) {
		t.Error(err)
	}
	if _, err := tun.Recv(); !fault.Is(err, metav1.Reason_REASON_LIMIT_EXCEEDED) {
		t.Error(err)
	}
}

func TestTunnelsPerNodeAreBounded(t *testing.T) {
	r := newRig(t, 0)
	r.hub.perNode["n1"] = maxPerNode
	if _, err := r.hub.Open(t.Context(), "n1", &agentv1.OpenTunnel{}); !fault.Is(err, metav1.Reason_REASON_LIMIT_EXCEEDED) {
		t.Error(err)
	}
	delete(r.hub.perNode, "n1")
}

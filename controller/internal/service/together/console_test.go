package together_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/controller/internal/service/seam"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
)

// chatter is a console that prints without end, and still has something to say for a while after it was closed.
type chatter struct {
	closed  chan struct{}
	once    sync.Once
	reading atomic.Int32
}

func (c *chatter) Open(context.Context, string, *agentv1.OpenTunnel) (seam.Tunnel, error) {
	return c, nil
}
func (c *chatter) Send([]byte) error                { return nil }
func (c *chatter) CloseSend() error                 { return nil }
func (c *chatter) Result() *agentv1.ImageCopyReport { return nil }
func (c *chatter) Close()                           { c.once.Do(func() { close(c.closed) }) }

func (c *chatter) Recv() (seam.Part, error) {
	c.reading.Add(1)
	defer c.reading.Add(-1)
	select {
	case <-c.closed:
		time.Sleep(50 * time.Millisecond) // what was under way arrives
		return seam.Part{}, io.EOF
	case <-time.After(time.Millisecond):
		return seam.Part{Data: []byte("x")}, nil
	}
}

// watched notes how many reads of the console are under way when the handler has returned.
type watched struct {
	c    *chatter
	left chan int32
}

func (watched) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc { return next }
func (watched) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (w watched) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		err := next(ctx, conn)
		w.left <- w.c.reading.Load()
		return err
	}
}

// A client that goes away while the console prints ends its own call and nothing else: nothing is sent on a call that has returned, which would end the controller.
func TestConsoleClientGoesAway(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	r.join("n1", 8, 1<<34)
	on := true
	s := spec(1 << 30)
	s.SerialConsole = &on
	vm := r.mustCreate("talks", s).GetVm().GetMeta().GetId()
	r.untilPhase(vm, computev1.VMPhase_VM_PHASE_RUNNING)
	c := &chatter{closed: make(chan struct{})}
	r.tunnels = c
	w := watched{c, make(chan int32, 1)}
	mux := http.NewServeMux()
	mux.Handle(computev1connect.NewVMServiceHandler(r.VM, connect.WithInterceptors(w)))
	srv := httptest.NewUnstartedServer(mux)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	stream := computev1connect.NewVMServiceClient(srv.Client(), srv.URL).OpenConsole(t.Context())
	if err := stream.Send(&computev1.OpenConsoleRequest{Message: &computev1.OpenConsoleRequest_Open{Open: &computev1.ConsoleTarget{Id: vm}}}); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := stream.Receive(); err != nil {
			t.Fatal(err)
		}
	}
	srv.CloseClientConnections() // as when the client is killed
	select {
	case n := <-w.left:
		if n != 0 {
			t.Errorf("%d reads of the console are under way when its call has returned", n)
		}
	case <-time.After(wait):
		t.Fatal("the call goes on without its client")
	}
}

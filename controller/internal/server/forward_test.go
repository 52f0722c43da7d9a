package server

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/controller/internal/pki"
	"github.com/limiquantix/limiquantix/controller/internal/service/caller"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
)

// seat is one controller's place in an election that the test decides.
type seat struct {
	leads  atomic.Bool
	leader atomic.Pointer[Leader]
}

func (s *seat) Leading() bool         { return s.leads.Load() }
func (s *seat) Term() <-chan struct{} { return nil }
func (s *seat) Leader() Leader {
	if l := s.leader.Load(); l != nil {
		return *l
	}
	return Leader{}
}

// consoles answers with who asks, and echoes.
type consoles struct {
	computev1connect.UnimplementedVMServiceHandler
	storagev1connect.UnimplementedImageServiceHandler
}

func (consoles) OpenConsole(ctx context.Context, s *connect.BidiStream[computev1.OpenConsoleRequest, computev1.OpenConsoleResponse]) error {
	for {
		m, err := s.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(&computev1.OpenConsoleResponse{Data: append([]byte(caller.Principal(ctx)+":"), m.GetData()...)}); err != nil {
			return err
		}
	}
}

func (consoles) ListVMEvents(_ context.Context, r *connect.Request[computev1.ListVMEventsRequest]) (*connect.Response[computev1.ListVMEventsResponse], error) {
	return connect.NewResponse(&computev1.ListVMEventsResponse{Events: []*computev1.VMEvent{{Message: r.Header().Get(revisionHeader)}}}), nil
}

func (consoles) UploadImage(_ context.Context, s *connect.ClientStream[storagev1.UploadImageRequest]) (*connect.Response[storagev1.UploadImageResponse], error) {
	var n int64
	for s.Receive() {
		n += int64(len(s.Msg().GetData()))
	}
	return connect.NewResponse(&storagev1.UploadImageResponse{Image: &storagev1.Image{Spec: &storagev1.ImageSpec{ContentBytes: n}}}), s.Err()
}

// member is one controller of several: both its ports, and nothing behind them but consoles.
type member struct {
	seat   *seat
	url    string
	agents string
	asked  atomic.Int64 // the revision that was waited for last
	die    func()       // closes every connection of the agent port
}

func newMember(t *testing.T, ca *pki.CA, id string) *member {
	t.Helper()
	m := &member{seat: &seat{}}
	log := slog.New(slog.DiscardHandler)
	tokens := &Tokens{}
	sum := sha256.Sum256([]byte(testToken))
	tokens.SetAdmin(sum[:])
	own, err := ca.IssueController(id)
	if err != nil {
		t.Fatal(err)
	}
	services := unimplemented(consoles{})
	services.Image = consoles{}
	public := NewPublic(PublicConfig{
		Services: services, Tokens: tokens, Metrics: NewMetrics("", ""), Log: log,
		Forwarding: &Forwarding{
			Leadership: m.seat, CA: ca, Certificate: own, Revision: func() int64 { return 42 },
			Await: func(_ context.Context, revision int64) error { m.asked.Store(revision); return nil },
		},
	})
	cert, err := ca.IssueServer("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	agents, err := NewAgent(AgentConfig{
		Agent: &agentv1.UnimplementedAgentServiceServer{}, Node: &computev1.UnimplementedNodeServiceServer{}, CA: ca, Certificate: cert,
		Leadership: m.seat, Metrics: NewMetrics("", ""), Log: log, Now: time.Now, Peers: public.Peers(),
	})
	if err != nil {
		t.Fatal(err)
	}
	m.die = func() { _ = agents.peers.http.Close() }
	srv := NewHTTP(public, nil, log)
	var listeners [2]net.Listener
	for i := range listeners {
		if listeners[i], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	m.url, m.agents = "http://"+listeners[0].Addr().String(), listeners[1].Addr().String()
	served := make(chan error, 2)
	go func() { served <- ServeHTTP(srv, listeners[0]) }()
	go func() { served <- agents.Serve(listeners[1]) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := StopHTTP(ctx, srv, public); err != nil {
			t.Error(err)
		}
		agents.Stop(ctx)
		if err := errors.Join(<-served, <-served); err != nil {
			t.Error(err)
		}
	})
	return m
}

// pair is a leader and another controller that knows it.
func pair(t *testing.T) (leader, other *member, client *http.Client) {
	t.Helper()
	ca, _, _, err := pki.Create("cl", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	leader, other = newMember(t, ca, "a"), newMember(t, ca, "b")
	leader.seat.leads.Store(true)
	other.seat.leader.Store(&Leader{ID: "a", Address: leader.agents})
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return leader, other, &http.Client{Transport: transport}
}

func TestLeadersCallsReachItThroughAnother(t *testing.T) {
	t.Parallel()
	leader, other, client := pair(t)
	for name, opts := range protocols {
		opts = append(opts[:len(opts):len(opts)], connect.WithInterceptors(bearer{testToken}))
		vms := computev1connect.NewVMServiceClient(client, other.url, opts...)
		s := vms.OpenConsole(t.Context())
		for _, text := range []string{"one", "two"} { // each answer before the next is typed
			if err := s.Send(&computev1.OpenConsoleRequest{Message: &computev1.OpenConsoleRequest_Data{Data: []byte(text)}}); err != nil {
				t.Fatal(name, err)
			}
			if m, err := s.Receive(); err != nil || string(m.GetData()) != AdminPrincipal+":"+text {
				t.Fatal(name, m, err)
			}
		}
		if err := s.CloseRequest(); err != nil {
			t.Error(name, err)
		}
		if _, err := s.Receive(); !errors.Is(err, io.EOF) {
			t.Error(name, err)
		}
		up := storagev1connect.NewImageServiceClient(client, other.url, opts...).UploadImage(t.Context())
		for range 5 {
			if err := up.Send(&storagev1.UploadImageRequest{Message: &storagev1.UploadImageRequest_Data{Data: make([]byte, 1<<20)}}); err != nil {
				t.Fatal(name, err)
			}
		}
		if r, err := up.CloseAndReceive(); err != nil || r.Msg.GetImage().GetSpec().GetContentBytes() != 5<<20 {
			t.Error(name, r, err)
		}
		if r, err := vms.ListVMEvents(t.Context(), connect.NewRequest(&computev1.ListVMEventsRequest{})); err != nil || r.Msg.GetEvents()[0].GetMessage() != "42" {
			t.Error(name, r, err)
		} else if len(r.Header().Values("X-Request-Id")) != 1 {
			t.Error(name, r.Header())
		}
		if leader.asked.Swap(0) != 42 {
			t.Error(name, "the leader did not wait for what the other knows")
		}
	}
}

func TestForwardingIsRefused(t *testing.T) {
	t.Parallel()
	leader, other, client := pair(t)
	events := func(token string) error {
		vms := computev1connect.NewVMServiceClient(client, other.url, connect.WithInterceptors(bearer{token}))
		_, err := vms.ListVMEvents(t.Context(), connect.NewRequest(&computev1.ListVMEventsRequest{}))
		return err
	}
	for _, tc := range []struct {
		what, token, says string
		code              connect.Code
		before            func()
	}{
		{"no token", "wrong", "token is not known", connect.CodeUnauthenticated, func() {}},
		{"deposed", testToken, "no controller leads", connect.CodeUnavailable, func() { leader.seat.leads.Store(false) }},
		{"unreachable", testToken, "cannot be reached", connect.CodeUnavailable, func() {
			other.seat.leader.Store(&Leader{ID: "x", Address: "127.0.0.1:1"})
		}},
		{"none", testToken, "no controller leads", connect.CodeUnavailable, func() { other.seat.leader.Store(nil) }},
	} {
		tc.before()
		if err := events(tc.token); connect.CodeOf(err) != tc.code || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", tc.what, err)
		}
	}
}

// Only the calls that are the leader's are taken from a controller, and only from one with a certificate of this cluster.
func TestPeersMayDoNoMore(t *testing.T) {
	t.Parallel()
	ca, _, _, err := pki.Create("cl", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	twin, _, _, err := pki.Create("cl", time.Now) // the same name, another key
	if err != nil {
		t.Fatal(err)
	}
	leader := newMember(t, ca, "a")
	leader.seat.leads.Store(true)
	ask := func(by *pki.CA, path string) (int, error) {
		cert, err := by.IssueController("b")
		if err != nil {
			t.Fatal(err)
		}
		transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
			Certificates: []tls.Certificate{cert}, RootCAs: ca.Pool(), ServerName: pki.ServerName, MinVersion: tls.VersionTLS13,
		}}
		defer transport.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), "POST", "https://"+leader.agents+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+testToken)
		res, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			return 0, err
		}
		return res.StatusCode, res.Body.Close()
	}
	if code, err := ask(ca, computev1connect.VMServiceListVMEventsProcedure); err != nil || code != http.StatusOK {
		t.Error(code, err)
	}
	for _, path := range []string{computev1connect.VMServiceDeleteVMProcedure, agentv1.AgentService_Enrol_FullMethodName, "/metrics"} {
		if code, err := ask(ca, path); err != nil || code != http.StatusNotFound && code != http.StatusNotImplemented {
			t.Error(path, code, err)
		}
	}
	if code, err := ask(twin, computev1connect.VMServiceListVMEventsProcedure); err == nil {
		t.Error("a controller of another cluster was let in", code)
	}
}

// A client whose call goes through another controller is told when the leader dies.
func TestLeadersDeathIsTold(t *testing.T) {
	t.Parallel()
	for name, opts := range protocols {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			leader, other, client := pair(t)
			opts := append(opts[:len(opts):len(opts)], connect.WithInterceptors(bearer{testToken}))
			s := computev1connect.NewVMServiceClient(client, other.url, opts...).OpenConsole(t.Context())
			if err := s.Send(&computev1.OpenConsoleRequest{}); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Receive(); err != nil {
				t.Fatal(err)
			}
			leader.die()
			told := make(chan error, 1)
			go func() {
				_, err := s.Receive()
				told <- err
			}()
			select {
			case err := <-told:
				if connect.CodeOf(err) != connect.CodeUnavailable || !strings.Contains(err.Error(), "call again") {
					t.Errorf("told %v", err)
				}
			case <-time.After(20 * time.Second):
				buf := make([]byte, 1<<20)
				t.Fatalf("not told; %s", buf[:runtime.Stack(buf, true)])
			}
			_ = s.CloseRequest()
			_ = s.CloseResponse()
		})
	}
}

package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/limiquantix/limiquantix/controller/internal/pki"
	"github.com/limiquantix/limiquantix/controller/internal/service/caller"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

type protoName = protoreflect.FullName

func clientTLS(ca *pki.CA, certs ...tls.Certificate) *tls.Config {
	return &tls.Config{RootCAs: ca.Pool(), Certificates: certs, ServerName: pki.ServerName}
}

// agentRig is an agent port with one node, n1, named node-a.
type agentRig struct {
	agentv1.UnimplementedAgentServiceServer
	computev1.UnimplementedNodeServiceServer
	ca    *pki.CA
	agent *Agent
	addr  string
	logs  *lockedBuffer
	term  chan struct{}

	mu      sync.Mutex
	rec     *statev1.NodeRecord
	leading bool
	now     time.Time
}

func (r *agentRig) Leading() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leading
}

func (r *agentRig) Term() <-chan struct{} { return r.term }

func (r *agentRig) Leader() Leader { return Leader{ID: "other", Address: "other:8081"} }

func (r *agentRig) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

func (r *agentRig) Enrol(ctx context.Context, _ *agentv1.EnrolRequest) (*agentv1.EnrolResponse, error) {
	return &agentv1.EnrolResponse{NodeId: "caller=" + caller.Node(ctx)}, nil
}

func (r *agentRig) GetNode(ctx context.Context, _ *computev1.GetNodeRequest) (*computev1.GetNodeResponse, error) {
	return &computev1.GetNodeResponse{Node: &computev1.Node{Meta: &metav1.ObjectMeta{Id: caller.Node(ctx)}}}, nil
}

func (r *agentRig) Heartbeat(context.Context, *computev1.HeartbeatRequest) (*computev1.HeartbeatResponse, error) {
	return &computev1.HeartbeatResponse{}, nil
}

func (r *agentRig) RegisterNode(context.Context, *computev1.RegisterNodeRequest) (*computev1.RegisterNodeResponse, error) {
	panic("secret")
}

func (r *agentRig) ReportStatus(context.Context, *agentv1.ReportStatusRequest) (*agentv1.ReportStatusResponse, error) {
	return &agentv1.ReportStatusResponse{}, nil
}

func (r *agentRig) WatchDesired(_ *agentv1.WatchDesiredRequest, s agentv1.AgentService_WatchDesiredServer) error {
	if err := s.Send(&agentv1.WatchDesiredResponse{Message: &agentv1.WatchDesiredResponse_Remove{Remove: &agentv1.DesiredKey{Id: caller.Node(s.Context())}}}); err != nil {
		return err
	}
	<-s.Context().Done()
	return s.Context().Err()
}

func newAgentRig(t *testing.T) *agentRig {
	t.Helper()
	r := &agentRig{leading: true, logs: &lockedBuffer{}, now: time.Now(), term: make(chan struct{})}
	var err error
	if r.ca, _, _, err = pki.Create("cluster-1", time.Now); err != nil {
		t.Fatal(err)
	}
	cert, err := r.ca.IssueServer()
	if err != nil {
		t.Fatal(err)
	}
	r.rec = &statev1.NodeRecord{Enrolled: true, Node: &computev1.Node{Meta: &metav1.ObjectMeta{Id: "n1", Name: "node-a"}}}
	r.agent, err = NewAgent(AgentConfig{
		Agent: r, Node: r, CA: r.ca, Certificate: cert, Leadership: r, Metrics: NewMetrics("", ""),
		Log: slog.New(slog.NewJSONHandler(r.logs, nil)), recheck: 10 * time.Millisecond,
		Now: func() time.Time { r.mu.Lock(); defer r.mu.Unlock(); return r.now },
		Nodes: func(id string) *statev1.NodeRecord {
			r.mu.Lock()
			defer r.mu.Unlock()
			if id == "n1" {
				return r.rec
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- r.agent.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		r.agent.Stop(ctx)
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return r
}

// certificate is one of a node, by ca; the record takes its serial.
func (r *agentRig) certificate(t *testing.T, ca *pki.CA, node string, serial pki.Serial) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	req, err := pki.ParseRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := ca.IssueNode(req, node, serial)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{issued.DER}, PrivateKey: key}
}

func (r *agentRig) dial(t *testing.T, certs ...tls.Certificate) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(r.addr, grpc.WithTransportCredentials(credentials.NewTLS(clientTLS(r.ca, certs...))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestEveryAgentMethodHasARule(t *testing.T) {
	t.Parallel()
	srv := grpc.NewServer()
	agentv1.RegisterAgentServiceServer(srv, agentv1.UnimplementedAgentServiceServer{})
	computev1.RegisterNodeServiceServer(srv, computev1.UnimplementedNodeServiceServer{})
	info := srv.GetServiceInfo()
	if err := checkRules(info, agentRules); err != nil {
		t.Error(err)
	}
	// The descriptors say the same as the server.
	for _, full := range proceduresOf([]string{"limiquantix.agent.v1.AgentService", "limiquantix.compute.v1.NodeService"}) {
		if _, ok := agentRules[full]; !ok {
			t.Errorf("%s has no rule", full)
		}
	}
	anyones := 0
	for name, has := range agentRules {
		if has.access == anyone {
			anyones++
		}
		without := map[string]rule{}
		for n, r := range agentRules {
			if n != name {
				without[n] = r
			}
		}
		if err := checkRules(info, without); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without a rule for %s: %v", name, err)
		}
	}
	if anyones != 1 {
		t.Errorf("%d methods need no certificate; Enrol alone may", anyones)
	}
	extra := map[string]rule{"/no.Such/Method": {access: denied}}
	for n, r := range agentRules {
		extra[n] = r
	}
	if checkRules(info, extra) == nil {
		t.Error("a rule for a method that is not served passed")
	}
}

func TestWithoutCertificateOnlyEnrol(t *testing.T) {
	t.Parallel()
	r := newAgentRig(t)
	conn := r.dial(t)
	res, err := agentv1.NewAgentServiceClient(conn).Enrol(t.Context(), &agentv1.EnrolRequest{})
	if err != nil || res.GetNodeId() != "caller=" {
		t.Fatal(res, err)
	}
	for method, has := range agentRules {
		if has.access == anyone {
			continue
		}
		want := metav1.Reason_REASON_UNAUTHENTICATED
		if has.access == denied {
			want = metav1.Reason_REASON_FORBIDDEN
		}
		// An empty message is a request of any of these methods.
		err := conn.Invoke(t.Context(), method, &agentv1.ReportStatusResponse{}, &agentv1.ReportStatusResponse{})
		if !fault.Is(err, want) {
			t.Errorf("%s: %v", method, err)
		}
	}
}

func TestNodeIsWhoItsCertificateSays(t *testing.T) {
	t.Parallel()
	r := newAgentRig(t)
	serial := pki.FirstSerial()
	r.rec.CertificateSerial = string(serial)
	conn := r.dial(t, r.certificate(t, r.ca, "n1", serial))
	nodes, agent := computev1.NewNodeServiceClient(conn), agentv1.NewAgentServiceClient(conn)
	for _, id := range []string{"", "n1", "node-a"} {
		if res, err := nodes.GetNode(t.Context(), &computev1.GetNodeRequest{Id: id}); err != nil || res.GetNode().GetMeta().GetId() != "n1" {
			t.Error(id, res, err)
		}
	}
	for name, call := range map[string]func() error{
		"get": func() error { _, err := nodes.GetNode(t.Context(), &computev1.GetNodeRequest{Id: "n2"}); return err },
		"heartbeat": func() error {
			_, err := nodes.Heartbeat(t.Context(), &computev1.HeartbeatRequest{NodeId: "n2"})
			return err
		},
		"register": func() error {
			_, err := nodes.RegisterNode(t.Context(), &computev1.RegisterNodeRequest{Node: &computev1.Node{Meta: &metav1.ObjectMeta{Id: "n2"}}})
			return err
		},
		"list": func() error { _, err := nodes.ListNodes(t.Context(), &computev1.ListNodesRequest{}); return err },
		"token": func() error {
			_, err := nodes.CreateJoinToken(t.Context(), &computev1.CreateJoinTokenRequest{})
			return err
		},
	} {
		if err := call(); !fault.Is(err, metav1.Reason_REASON_FORBIDDEN) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s, err := agent.WatchDesired(t.Context(), &agentv1.WatchDesiredRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := s.Recv(); err != nil || m.GetRemove().GetId() != "n1" {
		t.Error(m, err)
	}
	_, err = nodes.RegisterNode(t.Context(), &computev1.RegisterNodeRequest{})
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "secret") || !strings.Contains(r.logs.String(), "secret") {
		t.Error("a panic:", err)
	}
	_, err = agent.ReportStatus(t.Context(), &agentv1.ReportStatusRequest{SessionId: strings.Repeat("a", MaxMessage+1)})
	if status.Code(err) != codes.ResourceExhausted {
		t.Error("too large:", err)
	}
	// Streams end when the port stops.
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	r.agent.Stop(ctx)
	if ctx.Err() != nil {
		t.Error("the port did not stop by itself")
	}
	if _, err := s.Recv(); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
}

func TestCertificatesRefused(t *testing.T) {
	t.Parallel()
	r := newAgentRig(t)
	serial := pki.FirstSerial()
	next := serial.After()
	r.rec.CertificateSerial = string(serial)
	good := r.certificate(t, r.ca, "n1", serial)
	conn := r.dial(t, good)
	beat := func(c *grpc.ClientConn) error {
		_, err := computev1.NewNodeServiceClient(c).Heartbeat(t.Context(), &computev1.HeartbeatRequest{})
		return err
	}
	if err := beat(conn); err != nil {
		t.Fatal(err)
	}
	unknown := r.dial(t, r.certificate(t, r.ca, "n2", serial))
	if err := beat(unknown); !fault.Is(err, metav1.Reason_REASON_UNAUTHENTICATED) {
		t.Error("a node that does not exist:", err)
	}
	server, err := r.ca.IssueServer()
	if err != nil {
		t.Fatal(err)
	}
	if err := beat(r.dial(t, server)); err == nil {
		t.Error("the server's certificate is a node")
	}
	foreign, _, _, err := pki.Create("cluster-1", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if err := beat(r.dial(t, r.certificate(t, foreign, "n1", serial))); err == nil {
		t.Error("a foreign CA's certificate is a node")
	}
	r.set(func() { r.rec.CertificateSerial = string(next) })
	if err := beat(conn); err != nil {
		t.Error("the certificate before the newest:", err)
	}
	r.set(func() { r.rec.CertificateSerial = string(next.After()) })
	if err := beat(conn); !fault.Is(err, metav1.Reason_REASON_UNAUTHENTICATED) {
		t.Error("a replaced certificate:", err)
	}
	r.set(func() { r.rec.CertificateSerial = string(serial); r.now = r.now.Add(25 * time.Hour) })
	if err := beat(conn); !fault.Is(err, metav1.Reason_REASON_UNAUTHENTICATED) {
		t.Error("ended on an open connection:", err)
	}
	r.set(func() { r.now = time.Now(); r.rec = nil })
	if err := beat(conn); !fault.Is(err, metav1.Reason_REASON_UNAUTHENTICATED) {
		t.Error("a deleted node:", err)
	}
}

func TestOnlyTheLeaderServesAgents(t *testing.T) {
	t.Parallel()
	r := newAgentRig(t)
	r.set(func() { r.leading = false })
	_, err := agentv1.NewAgentServiceClient(r.dial(t)).Enrol(t.Context(), &agentv1.EnrolRequest{})
	if f := fault.From(err); f.Reason != metav1.Reason_REASON_NOT_LEADER || f.Metadata["leader"] != "other:8081" {
		t.Error(err)
	}
}

func TestStreamsAreCutOff(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*agentRig)
		want   metav1.Reason
	}{
		"node deleted": {func(r *agentRig) { r.set(func() { r.rec = nil }) }, metav1.Reason_REASON_UNAUTHENTICATED},
		"lead lost":    {func(r *agentRig) { r.set(func() { r.leading = false }); close(r.term) }, metav1.Reason_REASON_NOT_LEADER},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newAgentRig(t)
			serial := pki.FirstSerial()
			r.rec.CertificateSerial = string(serial)
			s, err := agentv1.NewAgentServiceClient(r.dial(t, r.certificate(t, r.ca, "n1", serial))).WatchDesired(t.Context(), &agentv1.WatchDesiredRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Recv(); err != nil {
				t.Fatal(err)
			}
			tc.change(r)
			if _, err := s.Recv(); !fault.Is(err, tc.want) {
				t.Error(err)
			}
		})
	}
}

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// pinned trusts a server whose chain ends in the CA with that hash, as an agent does that has only its token.
func pinned(caHash string) *tls.Config {
	return &tls.Config{
		InsecureSkipVerify: true, // VerifyConnection does it, by the hash
		VerifyConnection: func(s tls.ConnectionState) error {
			last := s.PeerCertificates[len(s.PeerCertificates)-1]
			if sum := sha256.Sum256(last.Raw); hex.EncodeToString(sum[:]) != caHash {
				return errors.New("another CA than the token's")
			}
			pool := x509.NewCertPool()
			pool.AddCert(last)
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, DNSName: "limiquantix-controller"})
			return err
		},
	}
}

func dialAgentPort(t *testing.T, p *process, cfg *tls.Config) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(p.ready["agent_listen"].(string), grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// A node joins the real controller as an agent does, is served across a restart, and is shut out once it is deleted.
func TestNodeJoins(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	p := start(t, "--data-dir", dir)
	p.isReady(t)
	admin := readToken(t, dir)
	status, body := p.post(t, admin, "compute.v1.NodeService/CreateJoinToken", `{"node_name":"node-a"}`)
	var made struct{ Token string }
	if err := json.Unmarshal([]byte(body), &made); err != nil || status != 200 {
		t.Fatal(status, body)
	}
	caHash := made.Token[strings.LastIndexByte(made.Token, '.')+1:]

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	request := &agentv1.EnrolRequest{Token: made.Token, CertificateRequest: csr}
	wrong := agentv1.NewAgentServiceClient(dialAgentPort(t, p, pinned(strings.Repeat("0", 64))))
	if _, err := wrong.Enrol(t.Context(), request); err == nil || !strings.Contains(err.Error(), "another CA") {
		t.Fatal("an agent trusted another CA:", err)
	}
	enrolled, err := agentv1.NewAgentServiceClient(dialAgentPort(t, p, pinned(caHash))).Enrol(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}

	mutual := pinned(caHash)
	mutual.Certificates = []tls.Certificate{{Certificate: [][]byte{enrolled.GetCertificate()}, PrivateKey: key}}
	conn := dialAgentPort(t, p, mutual)
	nodes := computev1.NewNodeServiceClient(conn)
	if _, err := nodes.RegisterNode(t.Context(), &computev1.RegisterNodeRequest{Node: &computev1.Node{Status: &computev1.NodeStatus{
		Resources: &computev1.NodeResources{Cpus: 4, MemoryBytes: 8 << 30}, AgentVersion: "1",
		Drivers: []*computev1.DriverStatus{{Name: "kvm", Kinds: []string{"compute"}, State: "healthy"}},
	}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := nodes.Heartbeat(t.Context(), &computev1.HeartbeatRequest{NodeId: enrolled.GetNodeId(), SessionId: "s", Sequence: 1}); err != nil {
		t.Fatal(err)
	}
	if status, body := p.post(t, admin, "compute.v1.NodeService/GetNode", `{"id":"node-a"}`); !strings.Contains(body, "NODE_PHASE_READY") {
		t.Error(status, body)
	}
	desired, err := agentv1.NewAgentServiceClient(conn).WatchDesired(t.Context(), &agentv1.WatchDesiredRequest{SessionId: "s"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := desired.Recv(); err != nil {
		t.Fatal(err)
	}
	renewed, err := agentv1.NewAgentServiceClient(conn).Renew(t.Context(), &agentv1.RenewRequest{CertificateRequest: csr})
	if err != nil {
		t.Fatal(err)
	}
	if code := p.stop(t); code != 0 {
		t.Fatal(p.text())
	}

	p = start(t, "--data-dir", dir)
	p.isReady(t)
	mutual.Certificates[0].Certificate = [][]byte{renewed.GetCertificate()}
	nodes = computev1.NewNodeServiceClient(dialAgentPort(t, p, mutual))
	if res, err := nodes.GetNode(t.Context(), &computev1.GetNodeRequest{Id: "node-a"}); err != nil || res.GetNode().GetMeta().GetId() != enrolled.GetNodeId() {
		t.Fatal(res, err)
	}
	if status, body := p.post(t, admin, "compute.v1.NodeService/DeleteNode", `{"id":"node-a"}`); status != 200 {
		t.Fatal(status, body)
	}
	if _, err := nodes.GetNode(t.Context(), &computev1.GetNodeRequest{Id: "node-a"}); !fault.Is(err, metav1.Reason_REASON_UNAUTHENTICATED) {
		t.Error("a deleted node is served:", err)
	}
}

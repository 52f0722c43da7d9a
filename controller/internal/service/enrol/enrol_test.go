package enrol

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/pki"
	"github.com/limiquantix/limiquantix/controller/internal/service/caller"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/controller/internal/store/memory"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

type rig struct {
	*Service
	now time.Time
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{now: time.Now()}
	s := memory.Open(memory.Options{})
	now := func() time.Time { return r.now }
	ca, _, _, err := pki.Create("cluster-1", now)
	if err != nil {
		t.Fatal(err)
	}
	cache := state.NewCache(s, slog.New(slog.DiscardHandler), time.Now)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = cache.Run(ctx) }()
	lead, err := s.Campaign(ctx, "controller", "me")
	if err != nil {
		t.Fatal(err)
	}
	leader := &state.Leader{}
	leader.Set(lead)
	<-cache.Loaded()
	t.Cleanup(func() {
		_ = lead.Resign(context.Background())
		cancel()
		<-done
		_ = s.Close()
	})
	r.Service = &Service{Store: s, Cache: cache, Leader: leader, CA: ca, Log: slog.New(slog.DiscardHandler), Now: now}
	return r
}

func (r *rig) put(t *testing.T, key string, m proto.Message) {
	t.Helper()
	value, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	res, err := r.Store.Commit(t.Context(), []store.Txn{{Ops: []store.Op{store.Put(key, value)}}})
	if err == nil {
		err = r.Cache.Wait(t.Context(), res[0].Revision)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) token(t *testing.T, name string) pki.JoinToken {
	t.Helper()
	token := pki.NewJoinToken(domain.NewID(r.now), r.CA.Hash())
	r.put(t, state.Key(state.KindJoinToken, token.ID), &statev1.JoinTokenRecord{
		SchemaVersion: 1, Id: token.ID, SecretSha256: token.SecretSHA256(), NodeName: name, ExpireTime: timestamppb.New(r.now.Add(time.Hour)),
	})
	return token
}

func csr(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func (r *rig) enrol(t *testing.T, token pki.JoinToken, request []byte) (*agentv1.EnrolResponse, error) {
	t.Helper()
	return r.Enrol(t.Context(), &agentv1.EnrolRequest{Token: token.String(), CertificateRequest: request})
}

func serialOf(t *testing.T, der []byte) pki.Serial {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return pki.SerialOf(cert)
}

func (r *rig) accepts(t *testing.T, res *agentv1.EnrolResponse, der []byte) bool {
	t.Helper()
	rec := r.Cache.Row(state.KindNode, res.GetNodeId()).Node()
	return rec.GetEnrolled() && pki.Serial(rec.GetCertificateSerial()).Accepts(serialOf(t, der))
}

func TestEnrol(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	token, request := r.token(t, "node-a"), csr(t)
	res, err := r.enrol(t, token, request)
	if err != nil {
		t.Fatal(err)
	}
	if res.GetNodeName() != "node-a" || res.GetClusterId() != "cluster-1" || !r.accepts(t, res, res.GetCertificate()) {
		t.Fatal(res)
	}
	if r.Cache.ByName("", state.KindNode, "node-a") != res.GetNodeId() {
		t.Error("the name is not taken")
	}
	if r.Cache.Row(state.KindJoinToken, token.ID) != nil {
		t.Error("the token is still there")
	}
	// The answer was lost: the same key asks again.
	again, err := r.enrol(t, token, request)
	if err != nil || again.GetNodeId() != res.GetNodeId() {
		t.Fatal(again, err)
	}
	if !r.accepts(t, res, again.GetCertificate()) || r.accepts(t, res, res.GetCertificate()) {
		t.Error("the newer certificate must count, and alone")
	}
	// Somebody else finds the token.
	if _, err := r.enrol(t, token, csr(t)); !fault.Is(err, metav1.Reason_REASON_JOIN_TOKEN_REFUSED) {
		t.Error(err)
	}
	// A used token does not outlive its time.
	r.now = r.now.Add(2 * time.Hour)
	if _, err := r.enrol(t, token, request); !fault.Is(err, metav1.Reason_REASON_JOIN_TOKEN_REFUSED) {
		t.Error(err)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	good := r.token(t, "node-b")
	wrongSecret, wrongCA, unknown := good, good, good
	wrongSecret.Secret = pki.NewSecret()
	wrongCA.CAHash = wrongCA.CAHash[1:] + "0"
	unknown.ID = "nobody"
	for name, token := range map[string]pki.JoinToken{"secret": wrongSecret, "ca": wrongCA, "unknown": unknown, "empty": {}} {
		if _, err := r.enrol(t, token, csr(t)); !fault.Is(err, metav1.Reason_REASON_JOIN_TOKEN_REFUSED) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := r.enrol(t, good, []byte("noise")); !fault.Is(err, metav1.Reason_REASON_INVALID_FIELD) {
		t.Error(err)
	}
	if r.Cache.ByName("", state.KindNode, "node-b") != "" {
		t.Error("a refused token made a node")
	}
	r.now = r.now.Add(61 * time.Minute)
	if _, err := r.enrol(t, good, csr(t)); !fault.Is(err, metav1.Reason_REASON_JOIN_TOKEN_REFUSED) {
		t.Error("expired:", err)
	}
	r.Leader.Set(nil)
	r.now = r.now.Add(-61 * time.Minute)
	if _, err := r.enrol(t, good, csr(t)); !fault.Is(err, metav1.Reason_REASON_NOT_LEADER) {
		t.Error(err)
	}
}

func TestPreRegisteredIsTakenOver(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rec := newNode(domain.NewID(r.now), "node-c", r.now)
	rec.Node.Meta.Labels = map[string]string{"rack": "1"}
	id := rec.GetNode().GetMeta().GetId()
	r.put(t, state.Key(state.KindNode, id), rec)
	if _, err := r.Store.Commit(t.Context(), []store.Txn{{Ops: []store.Op{store.Put(state.NameKey("", state.KindNode, "node-c"), []byte(id))}}}); err != nil {
		t.Fatal(err)
	}
	res, err := r.enrol(t, r.token(t, "node-c"), csr(t))
	if err != nil || res.GetNodeId() != id {
		t.Fatal(res, err)
	}
	if got := r.Cache.Row(state.KindNode, id).Node(); got.GetNode().GetMeta().GetLabels()["rack"] != "1" || !got.GetEnrolled() {
		t.Error(got)
	}
	// A second host must not become the same node.
	second := r.token(t, "node-c")
	if _, err := r.enrol(t, second, csr(t)); !fault.Is(err, metav1.Reason_REASON_NAME_TAKEN) {
		t.Error(err)
	}
	if r.Cache.Row(state.KindJoinToken, second.ID) == nil {
		t.Error("a refusal used up the token")
	}
}

func TestSameKeyEnrolsAnew(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	request := csr(t)
	first, err := r.enrol(t, r.token(t, "node-d"), request)
	if err != nil {
		t.Fatal(err)
	}
	second, err := r.enrol(t, r.token(t, "node-d"), request)
	if err != nil || second.GetNodeId() != first.GetNodeId() || r.accepts(t, first, first.GetCertificate()) {
		t.Fatal(second, err)
	}
}

func TestTokensRaceForOneName(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const hosts = 8
	results := make(chan error, hosts)
	for range hosts {
		token, request := r.token(t, "node-e"), csr(t)
		go func() {
			_, err := r.Enrol(context.Background(), &agentv1.EnrolRequest{Token: token.String(), CertificateRequest: request})
			results <- err
		}()
	}
	won := 0
	for range hosts {
		switch err := <-results; {
		case err == nil:
			won++
		case !fault.Is(err, metav1.Reason_REASON_NAME_TAKEN):
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d hosts became one node", won)
	}
}

func TestRenew(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	request := csr(t)
	res, err := r.enrol(t, r.token(t, "node-f"), request)
	if err != nil {
		t.Fatal(err)
	}
	renew := func(with []byte) ([]byte, error) {
		ctx := WithSerial(caller.WithNode(t.Context(), res.GetNodeId()), serialOf(t, with))
		out, err := r.Renew(ctx, &agentv1.RenewRequest{CertificateRequest: request})
		return out.GetCertificate(), err
	}
	one := res.GetCertificate()
	lost, err := renew(one)
	if err != nil {
		t.Fatal(err)
	}
	two, err := renew(one) // the answer was lost, and again below
	if err != nil {
		t.Fatal(err)
	}
	if !r.accepts(t, res, one) || !r.accepts(t, res, two) || r.accepts(t, res, lost) {
		t.Error("the old and the newest certificate must count, and no other")
	}
	three, err := renew(two)
	if err != nil {
		t.Fatal(err)
	}
	if r.accepts(t, res, one) || !r.accepts(t, res, two) || !r.accepts(t, res, three) {
		t.Error("a certificate outlived two renewals")
	}
	if _, err := renew(one); !fault.Is(err, metav1.Reason_REASON_UNAUTHENTICATED) {
		t.Error(err)
	}
	if _, err := r.Renew(t.Context(), &agentv1.RenewRequest{CertificateRequest: request}); !fault.Is(err, metav1.Reason_REASON_UNAUTHENTICATED) {
		t.Error(err)
	}
}

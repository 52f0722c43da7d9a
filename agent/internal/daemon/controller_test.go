package daemon

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/limiquantix/limiquantix/agent/internal/enrol"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	testCluster = "11111111-1111-4111-8111-111111111111"
	testNode    = "22222222-2222-4222-8222-222222222222"
)

// ca signs for a fake cluster.
type ca struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t *testing.T) *ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return &ca{cert, key}
}

func (c *ca) sign(pub any, life time.Duration, usage x509.ExtKeyUsage, dns ...string) ([]byte, error) {
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "x"}, NotBefore: time.Now().Add(-time.Second),
		NotAfter: time.Now().Add(life), DNSNames: dns, ExtKeyUsage: []x509.ExtKeyUsage{usage}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	return x509.CreateCertificate(rand.Reader, tmpl, c.cert, pub, c.key)
}

// fakeController is a controller in this process, over real TLS.
type fakeController struct {
	agentv1.UnimplementedAgentServiceServer
	computev1.UnimplementedNodeServiceServer
	t    *testing.T
	ca   *ca
	addr string
	srv  *grpc.Server

	mu       sync.Mutex
	changed  chan struct{}
	notLead  string // not empty: NOT_LEADER with this leader
	certLife time.Duration
	tokens   map[string]bool
	desired  map[string]*agentv1.DesiredObject
	digest   [32]byte
	revision int64
	streams  map[*stream]bool
	upserts  int // sent in all
	snaps    int
	renewals int
	deaf     bool // reports are refused

	vms      map[string]*agentv1.VMReport
	history  map[string][]computev1.VMPhase
	volumes  map[string]*agentv1.VolumeReport
	pools    map[string]*agentv1.PoolReport
	images   map[string]*agentv1.ImageCopyReport
	networks map[string]*agentv1.NetworkReport
	ports    map[string]*agentv1.PortReport
	rules    map[string]*agentv1.RuleSetReport
	stats    map[string]*agentv1.PortStats
	counted  int // entries of counters that came
	drivers  []*computev1.DriverStatus
	orphans  []*computev1.Orphan
	details  []*agentv1.OrphanDetail
	orphaned bool
	events   []*agentv1.EventReport
	node     *computev1.Node
	beats    int64
	again    bool
	lease    time.Duration // granted with each heartbeat
	tunnels  map[string]chan *tunnelEnd
	progress map[string]*computev1.Progress // by id; what is no more is missing
}

type stream struct {
	out  chan *agentv1.WatchDesiredResponse
	over chan struct{}
}

// tunnelEnd is the controller's end of a tunnel in a test.
type tunnelEnd struct {
	s    agentv1.AgentService_TunnelServer
	done chan struct{}
}

func startController(t *testing.T, c *ca) *fakeController {
	t.Helper()
	f := &fakeController{
		t: t, ca: c, changed: make(chan struct{}), certLife: time.Hour, tokens: map[string]bool{}, desired: map[string]*agentv1.DesiredObject{},
		revision: 1, streams: map[*stream]bool{}, vms: map[string]*agentv1.VMReport{}, history: map[string][]computev1.VMPhase{},
		volumes: map[string]*agentv1.VolumeReport{}, pools: map[string]*agentv1.PoolReport{}, images: map[string]*agentv1.ImageCopyReport{},
		networks: map[string]*agentv1.NetworkReport{}, ports: map[string]*agentv1.PortReport{}, rules: map[string]*agentv1.RuleSetReport{}, stats: map[string]*agentv1.PortStats{},
		tunnels: map[string]chan *tunnelEnd{}, progress: map[string]*computev1.Progress{},
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	f.addr = l.Addr().String()
	f.serve(l)
	t.Cleanup(func() { f.srv.Stop() })
	return f
}

func (f *fakeController) serve(l net.Listener) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(f.t, err)
	der, err := f.ca.sign(key.Public(), time.Hour, x509.ExtKeyUsageServerAuth, enrol.ServerName)
	must(f.t, err)
	pool := x509.NewCertPool()
	pool.AddCert(f.ca.cert)
	f.srv = grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der, f.ca.cert.Raw}, PrivateKey: key}}, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool,
	})))
	agentv1.RegisterAgentServiceServer(f.srv, f)
	computev1.RegisterNodeServiceServer(f.srv, f)
	go f.srv.Serve(l) //nolint:errcheck // ends with Stop
}

func (f *fakeController) token() string {
	sum := sha256.Sum256(f.ca.cert.Raw)
	tok := "lq1.id.c2VjcmV0." + hex.EncodeToString(sum[:])
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tokens[tok] = true
	return tok
}

func (f *fakeController) bump() { close(f.changed); f.changed = make(chan struct{}) }

// wait waits until cond holds, which is called with mu held.
func (f *fakeController) wait(what string, cond func() bool) {
	f.t.Helper()
	deadline := time.After(15 * time.Second)
	for {
		f.mu.Lock()
		ok, ch := cond(), f.changed
		f.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-ch:
		case <-deadline:
			f.mu.Lock()
			defer f.mu.Unlock()
			f.t.Fatalf("waited in vain for %s\nvms: %v\nnetworks: %v\nports: %v\nrules: %v\nvolumes: %v\npools: %v\norphans: %v\nevents: %v\ndrivers: %v", what, f.vms, f.networks, f.ports, f.rules, f.volumes, f.pools, f.orphans, f.events, f.drivers)
		}
	}
}

func (f *fakeController) waitPhase(id string, gen int64, phase computev1.VMPhase) {
	f.t.Helper()
	f.wait(fmt.Sprintf("vm %s in %s at generation %d", id, phase, gen), func() bool {
		v := f.vms[id]
		return v.GetStatus().GetPhase() == phase && v.GetObservedGeneration() == gen && !v.GetAbsent()
	})
}

func (f *fakeController) set(o *agentv1.DesiredObject) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.revision++
	o.Version = fmt.Sprint(f.revision)
	k := o.GetKey().String()
	f.fold(f.desired[k])
	f.desired[k] = o
	f.fold(o)
	f.send(&agentv1.WatchDesiredResponse{Message: &agentv1.WatchDesiredResponse_Upsert{Upsert: proto.CloneOf(o)}})
	f.send(f.sync())
}

func (f *fakeController) remove(k *agentv1.DesiredKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.revision++
	f.fold(f.desired[k.String()])
	delete(f.desired, k.String())
	f.send(&agentv1.WatchDesiredResponse{Message: &agentv1.WatchDesiredResponse_Remove{Remove: k}})
	f.send(f.sync())
}

func (f *fakeController) fold(o *agentv1.DesiredObject) {
	if o == nil {
		return
	}
	sum := sha256.Sum256([]byte(fmt.Sprintf("%s/%s/%s", o.GetKey().GetKind(), o.GetKey().GetId(), o.GetVersion())))
	for i := range f.digest {
		f.digest[i] ^= sum[i]
	}
}

func (f *fakeController) sync() *agentv1.WatchDesiredResponse {
	return &agentv1.WatchDesiredResponse{Message: &agentv1.WatchDesiredResponse_Sync{Sync: &agentv1.DesiredSync{Revision: f.revision, Digest: bytes.Clone(f.digest[:])}}}
}

func (f *fakeController) send(m *agentv1.WatchDesiredResponse) {
	if m.GetUpsert() != nil {
		f.upserts++
	}
	for s := range f.streams {
		s.out <- m
	}
}

// cut ends all streams as a controller that goes away does.
func (f *fakeController) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.streams {
		close(s.over)
		delete(f.streams, s)
	}
	f.bump()
}

func (f *fakeController) refuse() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.notLead != "" {
		return fault.New(metav1.Reason_REASON_NOT_LEADER, "not the leader").WithMetadata("leader", f.notLead)
	}
	return nil
}

func (f *fakeController) Enrol(_ context.Context, req *agentv1.EnrolRequest) (*agentv1.EnrolResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.tokens[req.GetToken()] {
		return nil, fault.New(metav1.Reason_REASON_JOIN_TOKEN_REFUSED, "unknown token")
	}
	csr, err := x509.ParseCertificateRequest(req.GetCertificateRequest())
	if err != nil {
		return nil, err
	}
	der, err := f.ca.sign(csr.PublicKey, f.certLife, x509.ExtKeyUsageClientAuth)
	return &agentv1.EnrolResponse{NodeId: testNode, NodeName: "n1", ClusterId: testCluster, Certificate: der, CaCertificate: f.ca.cert.Raw}, err
}

func (f *fakeController) Renew(_ context.Context, req *agentv1.RenewRequest) (*agentv1.RenewResponse, error) {
	csr, err := x509.ParseCertificateRequest(req.GetCertificateRequest())
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.renewals++
	f.bump()
	der, err := f.ca.sign(csr.PublicKey, time.Hour, x509.ExtKeyUsageClientAuth)
	return &agentv1.RenewResponse{Certificate: der, CaCertificate: f.ca.cert.Raw}, err
}

func (f *fakeController) WatchDesired(req *agentv1.WatchDesiredRequest, srv agentv1.AgentService_WatchDesiredServer) error {
	if err := f.refuse(); err != nil {
		return err
	}
	s := &stream{out: make(chan *agentv1.WatchDesiredResponse, 10000), over: make(chan struct{})}
	f.mu.Lock()
	if req.GetKnownRevision() == 0 || string(req.GetKnownDigest()) != string(f.digest[:]) {
		f.snaps++
		s.out <- &agentv1.WatchDesiredResponse{Message: &agentv1.WatchDesiredResponse_Snapshot{Snapshot: &agentv1.DesiredSnapshot{Revision: f.revision}}}
		for _, o := range f.desired {
			f.upserts++
			s.out <- &agentv1.WatchDesiredResponse{Message: &agentv1.WatchDesiredResponse_Upsert{Upsert: proto.CloneOf(o)}}
		}
	}
	s.out <- f.sync()
	f.streams[s] = true
	f.bump()
	f.mu.Unlock()
	for {
		select {
		case m := <-s.out:
			if err := srv.Send(m); err != nil {
				return err
			}
		case <-s.over:
			return fault.New(metav1.Reason_REASON_STORE_UNAVAILABLE, "cut")
		case <-srv.Context().Done():
			f.mu.Lock()
			delete(f.streams, s)
			f.bump()
			f.mu.Unlock()
			return srv.Context().Err()
		}
	}
}

func (f *fakeController) ReportStatus(_ context.Context, req *agentv1.ReportStatusRequest) (*agentv1.ReportStatusResponse, error) {
	if err := f.refuse(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.deaf {
		return nil, fault.New(metav1.Reason_REASON_STORE_UNAVAILABLE, "deaf")
	}
	for _, v := range req.GetVms() {
		f.vms[v.GetVmId()] = v
		f.history[v.GetVmId()] = append(f.history[v.GetVmId()], v.GetStatus().GetPhase())
	}
	for _, v := range req.GetVolumes() {
		f.volumes[v.GetVolumeId()] = v
	}
	for _, p := range req.GetPools() {
		f.pools[p.GetPoolId()] = p
	}
	for _, i := range req.GetImages() {
		f.images[i.GetImageId()] = i
	}
	for _, n := range req.GetNetworks() {
		f.networks[n.GetNetworkId()] = n
	}
	for _, p := range req.GetPorts() {
		f.ports[p.GetPortId()] = p
	}
	for _, r := range req.GetRuleSets() {
		f.rules[r.GetRuleSetId()] = r
	}
	for _, s := range req.GetPortStats() {
		f.stats[s.GetPortId()] = s
		f.counted++
	}
	for _, p := range req.GetProgress() {
		if f.progress[p.GetKey().GetId()] = p.GetProgress(); p.GetProgress() == nil {
			delete(f.progress, p.GetKey().GetId())
		}
	}
	if len(req.GetDrivers()) > 0 {
		f.drivers = req.GetDrivers()
	}
	if req.GetOrphansKnown() {
		f.orphans, f.details, f.orphaned = req.GetOrphans(), req.GetOrphanDetails(), true
	}
	f.events = append(f.events, req.GetEvents()...)
	f.bump()
	return &agentv1.ReportStatusResponse{}, nil
}

func (f *fakeController) RegisterNode(_ context.Context, req *computev1.RegisterNodeRequest) (*computev1.RegisterNodeResponse, error) {
	if err := f.refuse(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.node = req.GetNode()
	f.bump()
	return &computev1.RegisterNodeResponse{Node: req.GetNode(), HeartbeatInterval: durationpb.New(100 * time.Millisecond)}, nil
}

func (f *fakeController) Heartbeat(_ context.Context, req *computev1.HeartbeatRequest) (*computev1.HeartbeatResponse, error) {
	if err := f.refuse(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.beats = req.GetSequence()
	again := f.again || f.node == nil
	f.again = false
	f.bump()
	return &computev1.HeartbeatResponse{Interval: durationpb.New(100 * time.Millisecond), RegisterAgain: again, Lease: durationpb.New(f.lease)}, nil
}

func (f *fakeController) Tunnel(srv agentv1.AgentService_TunnelServer) error {
	m, err := srv.Recv()
	if err != nil {
		return err
	}
	f.mu.Lock()
	c := f.tunnels[m.GetHello().GetTunnelId()]
	f.mu.Unlock()
	end := &tunnelEnd{s: srv, done: make(chan struct{})}
	c <- end
	<-end.done
	return nil
}

// open asks for a tunnel and waits for the agent to dial it.
func (f *fakeController) open(o *agentv1.OpenTunnel) *tunnelEnd {
	f.t.Helper()
	c := make(chan *tunnelEnd, 1)
	f.mu.Lock()
	f.tunnels[o.GetTunnelId()] = c
	f.send(&agentv1.WatchDesiredResponse{Message: &agentv1.WatchDesiredResponse_OpenTunnel{OpenTunnel: o}})
	f.mu.Unlock()
	select {
	case e := <-c:
		f.t.Cleanup(func() { e.close() })
		return e
	case <-time.After(10 * time.Second):
		f.t.Fatal("the agent does not dial the tunnel")
		return nil
	}
}

func (e *tunnelEnd) close() {
	select {
	case <-e.done:
	default:
		close(e.done)
	}
}

func (e *tunnelEnd) data(b string) error {
	return e.s.Send(&agentv1.TunnelResponse{Message: &agentv1.TunnelResponse_Data{Data: []byte(b)}})
}

func (e *tunnelEnd) end(code int32) error {
	return e.s.Send(&agentv1.TunnelResponse{Message: &agentv1.TunnelResponse_End{End: &agentv1.TunnelEnd{Code: code}}})
}

// text reads data until want has come.
func (e *tunnelEnd) text(t *testing.T, want string) {
	t.Helper()
	got := ""
	for len(got) < len(want) {
		m, err := e.s.Recv()
		must(t, err)
		if m.GetEnd() != nil {
			t.Fatalf("tunnel ended: %v", m.GetEnd())
		}
		got += string(m.GetData())
	}
	if got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

// ended reads on until the agent ends.
func (e *tunnelEnd) ended(t *testing.T) *agentv1.TunnelEnd {
	t.Helper()
	for {
		m, err := e.s.Recv()
		must(t, err)
		if m.GetEnd() != nil {
			return m.GetEnd()
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

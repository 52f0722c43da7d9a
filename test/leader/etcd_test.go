package leader

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

const (
	etcdEnv   = "LIMIQUANTIX_TEST_ETCD" // set in the child: its data directory
	prefix    = "/limiquantix/"
	leaderKey = prefix + "leader/controller"
)

// witness is what the etcd saw: which fences leaders' writes carried, and what became of them.
type witness struct {
	Fenced  int // writes that carried the fence of their time and were done
	Refused int // writes that carried a former leader's fence
	Terms   int // leaders that were elected
	Bare    []string
	Held    bool // a write is held back
	// Outcome of the write that was held last: "done", "refused", or "" while it is held.
	Outcome string
}

// recorder stands before etcd's transactions.
type recorder struct {
	mu      sync.Mutex
	w       witness
	arm     bool
	release chan struct{}
}

// serveEtcd is the child process: an etcd on a port of its own, and a small HTTP server to ask and steer the recorder.
func serveEtcd(dir string) error {
	r := &recorder{}
	cfg := embed.NewConfig()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	client := url.URL{Scheme: "http", Host: l.Addr().String()}
	if err := l.Close(); err != nil {
		return err
	}
	cfg.Dir, cfg.ListenPeerUrls = dir, nil
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.EnableGRPCGateway = false
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = embed.CompactorModePeriodic, "5m"
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	cfg.GRPCAdditionalServerOptions = []grpc.ServerOption{grpc.ChainUnaryInterceptor(r.intercept)}
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	<-server.Server.ReadyNotify()
	control, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("%s %s\n", client.String(), control.Addr())
	return http.Serve(control, r) //nolint:gosec // ours alone, until we are killed
}

// ServeHTTP steers: /hold, /release, /witness.
func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch req.URL.Path {
	case "/hold":
		r.arm, r.release, r.w.Outcome = true, make(chan struct{}), ""
	case "/release":
		close(r.release)
	}
	_ = json.NewEncoder(w).Encode(r.w)
}

func (r *recorder) intercept(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	txn, ok := req.(*pb.TxnRequest)
	if !ok {
		return next(ctx, req)
	}
	var release chan struct{}
	r.mu.Lock()
	if r.arm && len(fences(txn)) > 0 {
		r.arm, r.w.Held, release = false, true, r.release
	}
	r.mu.Unlock()
	if release != nil {
		<-release
		ctx = context.WithoutCancel(ctx) // it arrives, however late
	}
	res, err := next(ctx, req)
	if answer, ok := res.(*pb.TxnResponse); ok && err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		done, refused := r.judge(txn, answer)
		if release != nil {
			r.w.Held, r.w.Outcome = false, "done"
			if refused > 0 && done == 0 {
				r.w.Outcome = "refused"
			}
		}
	}
	return res, err
}

// fences are the terms that a transaction, or one in its group, is conditional on.
func fences(txn *pb.TxnRequest) (out []int64) {
	for _, c := range txn.GetCompare() {
		if string(c.GetKey()) == leaderKey && c.GetTarget() == pb.Compare_CREATE && c.GetCreateRevision() > 0 {
			out = append(out, c.GetCreateRevision())
		}
	}
	for _, op := range txn.GetSuccess() {
		if inner := op.GetRequestTxn(); inner != nil {
			out = append(out, fences(inner)...)
		}
	}
	return out
}

// judge notes every single transaction of a group.
func (r *recorder) judge(txn *pb.TxnRequest, res *pb.TxnResponse) (done, refused int) {
	ops := txn.GetSuccess()
	if !res.GetSucceeded() {
		ops = txn.GetFailure()
	}
	var own []*pb.RequestOp
	for i, op := range ops {
		if inner := op.GetRequestTxn(); inner != nil {
			d, n := r.judge(inner, res.GetResponses()[i].GetResponseTxn())
			done, refused = done+d, refused+n
			continue
		}
		own = append(own, op)
	}
	fenced := false
	for _, c := range txn.GetCompare() {
		fenced = fenced || string(c.GetKey()) == leaderKey && c.GetTarget() == pb.Compare_CREATE && c.GetCreateRevision() > 0
	}
	switch {
	case fenced && res.GetSucceeded():
		r.w.Fenced++
		done++
	case fenced:
		if !fenceHolds(txn, res) {
			r.w.Refused++
			refused++
		}
	case res.GetSucceeded():
		r.bare(own)
	}
	return done, refused
}

// fenceHolds reports whether a transaction that was not done failed for another reason than its fence; the answer holds the keys as they were.
func fenceHolds(txn *pb.TxnRequest, res *pb.TxnResponse) bool {
	var term int64
	for _, c := range txn.GetCompare() {
		if string(c.GetKey()) == leaderKey {
			term = c.GetCreateRevision()
		}
	}
	for _, got := range res.GetResponses() {
		for _, kv := range got.GetResponseRange().GetKvs() {
			if string(kv.GetKey()) == leaderKey {
				return kv.GetCreateRevision() == term
			}
		}
	}
	return false
}

// bare judges a write without a fence: only a client's request, which carries its id, an election, and the making of the cluster may be so.
func (r *recorder) bare(ops []*pb.RequestOp) {
	var keys []string
	for _, op := range ops {
		switch {
		case op.GetRequestPut() != nil:
			keys = append(keys, string(op.GetRequestPut().GetKey()))
		case op.GetRequestDeleteRange() != nil:
			keys = append(keys, string(op.GetRequestDeleteRange().GetKey()))
		}
	}
	for _, k := range keys {
		switch {
		case k == leaderKey:
			r.w.Terms++
			return
		case strings.HasPrefix(k, prefix+"req/"), k == prefix+"cluster":
			return
		}
	}
	if len(keys) > 0 && len(r.w.Bare) < 20 {
		r.w.Bare = append(r.w.Bare, strings.Join(keys, " "))
	}
}

// etcd is the child as the tests see it.
type etcd struct {
	*proc
	endpoint, control string
}

func startEtcd(t *testing.T, dir string) *etcd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	e := &etcd{proc: &proc{name: "etcd", log: dir + "/etcd.log", env: []string{etcdEnv + "=" + dir + "/etcd"}, argv: []string{exe}}}
	e.start(t)
	await(t, time.Minute, "etcd serves", func() (bool, string) {
		b, err := os.ReadFile(e.log)
		_, _ = fmt.Sscan(string(b), &e.endpoint, &e.control)
		return e.control != "", fmt.Sprint(string(b), err)
	})
	return e
}

// steer asks the recorder: "hold", "release" or "witness".
func (e *etcd) steer(t *testing.T, what string) witness {
	t.Helper()
	res, err := http.Get("http://" + e.control + "/" + what) //nolint:noctx // ours
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var w witness
	if err := json.NewDecoder(res.Body).Decode(&w); err != nil {
		t.Fatal(err)
	}
	return w
}

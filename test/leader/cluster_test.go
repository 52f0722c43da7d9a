package leader

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
	"github.com/limiquantix/limiquantix/test/ports"
	"github.com/limiquantix/limiquantix/test/stack"
)

// binaries holds limiquantix; pluginDir the reference driver and the local pool's.
var binaries, pluginDir string

func TestMain(m *testing.M) {
	if dir := os.Getenv(etcdEnv); dir != "" {
		fmt.Fprintln(os.Stderr, serveEtcd(dir)) // until killed
		os.Exit(1)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if binaries, err = stack.Build(context.Background()); err == nil {
		pluginDir, err = os.MkdirTemp("", "lqlp")
	}
	if err == nil {
		defer func() { _ = os.RemoveAll(pluginDir) }()
		err = buildPlugins()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func buildPlugins() error {
	root, err := stack.Root()
	if err != nil {
		return err
	}
	binary := filepath.Join(pluginDir, "reference", "limiquantix-plugin-reference")
	for _, args := range [][]string{
		{"cp", "-r", filepath.Join(binaries, "plugins", "local"), pluginDir},
		{"go", "build", "-o", binary, "./sdk/conformance/cmd/limiquantix-plugin-reference"},
		{"go", "run", "./sdk/cmd/plugin-manifest", binary},
	} {
		cmd := exec.Command(args[0], args[1:]...) //nolint:gosec // ours
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w\n%s", args, err, out)
		}
	}
	return nil
}

// controller is one of the cluster's.
type controller struct {
	*proc
	url, agents, dir string
	vms              computev1connect.VMServiceClient
	nodes            computev1connect.NodeServiceClient
	images           storagev1connect.ImageServiceClient
	token            *bearer
	id               string // of the process that runs, once ready
}

// cluster is some controllers, an etcd unless there is but one, and agents.
type cluster struct {
	dir     string
	etcd    *etcd // nil = inside the one controller
	members []*controller
	agents  []*proc
}

// config is what differs between tests.
type config struct {
	members, agents int
	overcommitCPU   float64
	heartbeat       string // empty = the default
}

type bearer struct{ token string }

func (b *bearer) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		r.Header().Set("Authorization", "Bearer "+b.token)
		return next(ctx, r)
	}
}

func (b *bearer) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, s connect.Spec) connect.StreamingClientConn {
		c := next(ctx, s)
		c.RequestHeader().Set("Authorization", "Bearer "+b.token)
		return c
	}
}

func (b *bearer) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

func freePort(t *testing.T) string {
	t.Helper()
	port, err := ports.Free(1)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port[0])
}

// startCluster starts everything and waits until every node is ready.
func startCluster(t *testing.T, c config) *cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "lql")
	if err != nil {
		t.Fatal(err)
	}
	k := &cluster{dir: dir}
	t.Cleanup(func() { k.stop(t) })
	if c.members > 1 {
		k.etcd = startEtcd(t, dir)
	}
	for i := range c.members {
		m := k.newController(t, i, c)
		k.members = append(k.members, m)
		if i > 0 {
			k.shareKey(t, m)
		}
		m.up(t)
	}
	for i := range c.agents {
		k.startAgent(t, i)
	}
	k.awaitNodes(t)
	return k
}

func (k *cluster) newController(t *testing.T, i int, c config) *controller {
	t.Helper()
	name := fmt.Sprintf("c%d", i)
	m := &controller{dir: filepath.Join(k.dir, name), agents: freePort(t)}
	listen := freePort(t)
	m.url = "http://" + listen
	endpoints := ""
	if k.etcd != nil {
		endpoints = k.etcd.endpoint
	}
	file := filepath.Join(k.dir, name+".yaml")
	text := fmt.Sprintf("listen: %s\nagent_listen: %s\ndata_dir: %s\nstore: {kind: etcd, endpoints: [%s]}\nscheduler: {overcommit_cpu: %g, overcommit_memory: 8}\n%s",
		listen, m.agents, m.dir, endpoints, c.overcommitCPU, c.heartbeat)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	m.proc = &proc{name: name, log: filepath.Join(k.dir, name+".log"), argv: []string{filepath.Join(binaries, "limiquantix-controller"), "--config", file}}
	return m
}

// shareKey does what docs/operations.md tells an operator to do, and checks what the controller says before that.
func (k *cluster) shareKey(t *testing.T, m *controller) {
	t.Helper()
	m.start(t)
	select {
	case <-m.ended:
	case <-time.After(time.Minute):
		t.Fatal("a controller without the cluster's key file runs")
	}
	if b, _ := os.ReadFile(m.log); !strings.Contains(string(b), "copy it from the controller that made the cluster") {
		t.Fatalf("a controller without the cluster's key file says %s", b)
	}
	for _, name := range []string{"seal.key", "admin.token"} {
		b, err := os.ReadFile(filepath.Join(k.members[0].dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(m.dir, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// up starts the controller and waits until it is ready.
func (m *controller) up(t *testing.T) {
	t.Helper()
	m.start(t)
	await(t, time.Minute, m.name+" is ready", func() (bool, string) {
		code, body := get(m.url + "/ready")
		return code == http.StatusOK, body
	})
	m.id = m.info().ControllerID
	b, err := os.ReadFile(filepath.Join(m.dir, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{Protocols: new(http.Protocols), MaxIdleConnsPerHost: 64}
	transport.Protocols.SetHTTP1(true)
	transport.Protocols.SetUnencryptedHTTP2(false)
	h2 := &http.Transport{Protocols: new(http.Protocols)}
	h2.Protocols.SetUnencryptedHTTP2(true)
	m.token = &bearer{strings.TrimSpace(string(b))}
	opt := connect.WithInterceptors(m.token)
	m.vms = computev1connect.NewVMServiceClient(&http.Client{Transport: mixed{transport, h2}}, m.url, opt)
	m.nodes = computev1connect.NewNodeServiceClient(&http.Client{Transport: transport}, m.url, opt)
	m.images = storagev1connect.NewImageServiceClient(&http.Client{Transport: h2}, m.url, opt)
}

// mixed sends unary calls over HTTP/1.1, as curl and most programs do, and streams over HTTP/2.
type mixed struct{ one, two http.RoundTripper }

func (m mixed) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/connect") {
		return m.two.RoundTrip(r)
	}
	res, err := m.one.RoundTrip(r)
	if err == nil && res.StatusCode == http.StatusBadRequest && !strings.Contains(res.Header.Get("Content-Type"), "json") { // not from a handler: whose is it?
		body, _ := io.ReadAll(res.Body)
		res.Status = fmt.Sprintf("%s %s from %s: %q", res.Proto, res.Status, r.URL.Host, body)
		res.Body = io.NopCloser(strings.NewReader(""))
	}
	return res, err
}

type info struct {
	ControllerID string `json:"controller_id"`
	Leader       struct{ ID, Address string }
}

func (m *controller) info() (i info) {
	_, body := get(m.url + "/api/v1/info")
	_ = json.Unmarshal([]byte(body), &i) // who does not answer says nothing
	return i
}

// metric is a figure without labels on /metrics; -1 when it is not there.
func (m *controller) metric(name string) float64 {
	_, body := get(m.url + "/metrics")
	for line := range strings.SplitSeq(body, "\n") {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			if f, err := strconv.ParseFloat(rest, 64); err == nil {
				return f
			}
		}
	}
	return -1
}

var plain = &http.Client{Timeout: 2 * time.Second}

func get(url string) (int, string) {
	res, err := plain.Get(url) //nolint:noctx // bounded
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, string(b)
}

func (k *cluster) startAgent(t *testing.T, i int) {
	t.Helper()
	name := fmt.Sprintf("n%d", i)
	dir := filepath.Join(k.dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	token, err := k.members[0].nodes.CreateJoinToken(t.Context(), connect.NewRequest(&computev1.CreateJoinTokenRequest{NodeName: name, RequestId: "join-" + name}))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/token", []byte(token.Msg.GetToken()), 0o600); err != nil {
		t.Fatal(err)
	}
	var endpoints []string
	for _, m := range k.members {
		endpoints = append(endpoints, strconv.Quote(m.agents))
	}
	text := fmt.Sprintf(`controllers: [%[1]s]
data_dir: %[2]s/data
state_dir: %[2]s/state
run_dir: %[2]s/run
plugin_dir: %[3]s
listen: %[4]s
join_token_file: %[2]s/token
plugins:
  - name: reference
    config: {journal: %[2]s/journal}
  - name: local
`, strings.Join(endpoints, ", "), dir, pluginDir, freePort(t))
	if err := os.WriteFile(dir+".yaml", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &proc{name: name, log: dir + ".log", argv: []string{filepath.Join(binaries, "limiquantix-agent"), "--config", dir + ".yaml"}}
	a.start(t)
	k.agents = append(k.agents, a)
}

func (k *cluster) awaitNodes(t *testing.T) {
	t.Helper()
	await(t, 2*time.Minute, "every node is ready", func() (bool, string) {
		res, err := k.members[0].nodes.ListNodes(t.Context(), connect.NewRequest(&computev1.ListNodesRequest{}))
		if err != nil {
			return false, err.Error()
		}
		ready := 0
		for _, n := range res.Msg.GetNodes() {
			if n.GetStatus().GetPhase() == computev1.NodePhase_NODE_PHASE_READY && len(n.GetStatus().GetDrivers()) == 2 {
				ready++
			}
		}
		return ready == len(k.agents), fmt.Sprint(res.Msg.GetNodes())
	})
}

// leader is who leads, as all controllers that answer say, and the other.
func (k *cluster) leader(t *testing.T) (leads, other *controller) {
	t.Helper()
	await(t, 2*time.Minute, "both controllers name the leader", func() (bool, string) {
		a, b := k.members[0].info(), k.members[1].info()
		switch a.Leader.ID {
		case k.members[0].id:
			leads, other = k.members[0], k.members[1]
		case k.members[1].id:
			leads, other = k.members[1], k.members[0]
		default:
			return false, fmt.Sprint(a, b)
		}
		return a.Leader == b.Leader && a.Leader.Address == leads.agents, fmt.Sprint(a, b)
	})
	return leads, other
}

func (k *cluster) stop(t *testing.T) {
	t.Helper()
	for _, a := range k.agents {
		a.end(t, syscall.SIGTERM)
	}
	for _, m := range k.members {
		if m.cmd != nil {
			_ = m.cmd.Process.Signal(syscall.SIGCONT) // a test may have failed meanwhile
			m.end(t, syscall.SIGTERM)
		}
	}
	if k.etcd != nil {
		k.etcd.end(t, syscall.SIGKILL)
	}
	if t.Failed() {
		logs, _ := filepath.Glob(k.dir + "/*.log")
		for _, f := range logs {
			b, _ := os.ReadFile(f)
			if len(b) > 6000 {
				b = b[len(b)-6000:]
			}
			t.Logf("%s:\n%s", f, b)
		}
		t.Logf("kept: %s", k.dir)
		return
	}
	_ = os.RemoveAll(k.dir)
}

package fault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1/operationv1connect"
	"github.com/limiquantix/limiquantix/test/stack"
)

var binaries, pluginDir string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var err error
	if binaries, err = stack.Build(context.Background()); err == nil {
		pluginDir, err = os.MkdirTemp("", "lqfl")
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

// buildPlugins lays out the plugins of a fleet: the reference driver for guests, the local pool for their disks.
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

// fleet is one controller and some agents.
type fleet struct {
	dir        string
	url, agent string
	controller *process
	nodes      []*node

	vms   computev1connect.VMServiceClient
	nodeS computev1connect.NodeServiceClient
	ops   operationv1connect.OperationServiceClient
}

// callTakes is how long a driver's change takes, half of it before and half after it is done, so that faults meet calls under way.
const callTakes = 200 * time.Millisecond

// node is an agent, the network before it, and its driver's journal.
type node struct {
	*process
	net     *proxy
	journal string
	id      string
}

// shape is what differs between tests.
type shape struct {
	nodes     int
	heartbeat string // interval and timeout
	cpu       float64
}

func startFleet(t *testing.T, s shape) *fleet {
	t.Helper()
	dir, err := os.MkdirTemp("", "lqfl")
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{dir: dir}
	t.Cleanup(func() { f.stop(t) })
	public := port(t)
	f.url, f.agent = "http://"+public, port(t)
	conf := fmt.Sprintf("listen: %s\nagent_listen: %s\ndata_dir: %s/controller\nheartbeat: %s\nscheduler: {placement_strategy: spread, overcommit_cpu: %g, overcommit_memory: 1}\n",
		public, f.agent, dir, s.heartbeat, s.cpu)
	f.write(t, "controller.yaml", conf)
	f.controller = &process{name: "controller", log: dir + "/controller.log", argv: []string{binaries + "/limiquantix-controller", "--config", dir + "/controller.yaml"}}
	if err := f.controller.start(); err != nil {
		t.Fatal(err)
	}
	f.until(t, time.Minute, "the controller is ready", func() (bool, string) {
		r, err := http.Get(f.url + "/ready") //nolint:noctx // ours
		if err != nil {
			return false, err.Error()
		}
		_ = r.Body.Close()
		return r.StatusCode == http.StatusOK, r.Status
	})
	token, err := os.ReadFile(dir + "/controller/admin.token")
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	auth := connect.WithInterceptors(connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
			r.Header().Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
			return next(ctx, r)
		}
	}))
	f.vms = computev1connect.NewVMServiceClient(client, f.url, auth)
	f.nodeS = computev1connect.NewNodeServiceClient(client, f.url, auth)
	f.ops = operationv1connect.NewOperationServiceClient(client, f.url, auth)
	for i := range s.nodes {
		f.addNode(t, i)
	}
	f.awaitNodes(t, time.Minute)
	return f
}

func port(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func (f *fleet) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (f *fleet) addNode(t *testing.T, i int) *node {
	t.Helper()
	name := fmt.Sprintf("n%d", i)
	if err := os.MkdirAll(filepath.Join(f.dir, name, "j"), 0o700); err != nil {
		t.Fatal(err)
	}
	between, err := newProxy(f.agent)
	if err != nil {
		t.Fatal(err)
	}
	token, err := f.nodeS.CreateJoinToken(t.Context(), connect.NewRequest(&computev1.CreateJoinTokenRequest{NodeName: name, RequestId: "join-" + name}))
	if err != nil {
		t.Fatal(err)
	}
	f.write(t, name+"/token", token.Msg.GetToken())
	n := &node{net: between, journal: filepath.Join(f.dir, name, "j", "journal")}
	f.write(t, name+".yaml", fmt.Sprintf(`controllers: [%q]
data_dir: %[2]s/data
state_dir: %[2]s/state
run_dir: %[2]s/run
plugin_dir: %[3]s
listen: ""
join_token_file: %[2]s/token
plugins:
  - name: reference
    config: {journal: %[4]s, delay_ms: %[5]d}
  - name: local
`, between.addr(), filepath.Join(f.dir, name), pluginDir, n.journal, callTakes.Milliseconds()))
	n.process = &process{name: name, log: filepath.Join(f.dir, name+".log"), argv: []string{binaries + "/limiquantix-agent", "--config", filepath.Join(f.dir, name+".yaml")}}
	if err := n.start(); err != nil {
		t.Fatal(err)
	}
	f.nodes = append(f.nodes, n)
	return n
}

// awaitNodes waits until every node is ready with a healthy driver, and learns their ids.
func (f *fleet) awaitNodes(t *testing.T, limit time.Duration) {
	t.Helper()
	f.until(t, limit, "every node is ready", func() (bool, string) {
		list, err := f.list()
		if err != nil {
			return false, err.Error()
		}
		ready := 0
		for _, n := range list {
			for _, own := range f.nodes {
				if own.name == n.GetMeta().GetName() {
					own.id = n.GetMeta().GetId()
				}
			}
			d := n.GetStatus().GetDrivers()
			if n.GetStatus().GetPhase() == computev1.NodePhase_NODE_PHASE_READY && len(d) == 2 && d[0].GetState() == "healthy" && d[1].GetState() == "healthy" {
				ready++
			}
		}
		return ready == len(f.nodes), fmt.Sprint(list)
	})
}

func (f *fleet) list() ([]*computev1.Node, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	res, err := f.nodeS.ListNodes(ctx, connect.NewRequest(&computev1.ListNodesRequest{PageSize: 500}))
	if err != nil {
		return nil, err
	}
	return res.Msg.GetNodes(), nil
}

// allVMs lists every VM.
func (f *fleet) allVMs() (out []*computev1.VM, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	token := ""
	for {
		res, err := f.vms.ListVMs(ctx, connect.NewRequest(&computev1.ListVMsRequest{PageSize: 500, PageToken: token}))
		if err != nil {
			return nil, err
		}
		out = append(out, res.Msg.GetVms()...)
		if token = res.Msg.GetNextPageToken(); token == "" {
			return out, nil
		}
	}
}

func (f *fleet) until(t *testing.T, limit time.Duration, what string, cond func() (bool, string)) {
	t.Helper()
	if err := stack.Until(context.Background(), limit, what, cond); err != nil {
		t.Fatal(err)
	}
}

func (f *fleet) stop(t *testing.T) {
	t.Helper()
	for _, n := range f.nodes {
		n.net.heal()
		if n.process.current() != nil {
			n.rest()
		}
		n.net.close()
	}
	if f.controller != nil && f.controller.current() != nil {
		f.controller.rest()
	}
	if t.Failed() {
		logs, _ := filepath.Glob(f.dir + "/*.log")
		for _, path := range logs {
			b, _ := os.ReadFile(path)
			t.Logf("end of %s:\n%s", path, b[max(0, len(b)-3000):])
		}
		t.Logf("kept: %s", f.dir)
		return
	}
	_ = os.RemoveAll(f.dir)
}

// disks are the files of volumes on a node.
func (n *node) disks() (files []string, err error) {
	err = filepath.WalkDir(filepath.Join(filepath.Dir(filepath.Dir(n.journal)), "state"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.Contains(path, "/volumes/") {
			files = append(files, path)
		}
		if errors.Is(err, fs.ErrNotExist) { // it went while we looked
			return nil
		}
		return err
	})
	return files, err
}

// domains is what runs or lies on a node, by the driver's own journal.
func (n *node) domains() (map[string]*driverv1.Domain, error) {
	tables, err := n.tables()
	out := map[string]*driverv1.Domain{}
	for id, data := range tables["domain"] {
		d := &driverv1.Domain{}
		if err := proto.Unmarshal(data, d); err != nil {
			return nil, fmt.Errorf("%s: domain %s: %w", n.name, id, err)
		}
		out[id] = d
	}
	return out, err
}

func (n *node) tables() (map[string]map[string][]byte, error) {
	data, err := os.ReadFile(n.journal)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	tables := map[string]map[string][]byte{}
	if err == nil {
		err = json.Unmarshal(data, &tables)
	}
	return tables, err
}

func isOn(d *driverv1.Domain) bool {
	switch d.GetState() {
	case driverv1.DomainState_DOMAIN_STATE_RUNNING, driverv1.DomainState_DOMAIN_STATE_PAUSED, driverv1.DomainState_DOMAIN_STATE_STOPPING:
		return true
	}
	return false
}

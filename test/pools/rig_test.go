package pools

import (
	"context"
	"errors"
	"fmt"
	"net"
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
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
	"github.com/limiquantix/limiquantix/test/stack"
)

var binaries, pluginDir string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var err error
	if binaries, err = stack.Build(context.Background()); err == nil {
		pluginDir, err = os.MkdirTemp("", "lqpo")
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

// buildPlugins lays out the plugins: the reference driver for guests, local pools, Ceph, and pools that hang when they are told to.
func buildPlugins() error {
	root, err := stack.Root()
	if err != nil {
		return err
	}
	slow, reference := filepath.Join(pluginDir, "slow", "limiquantix-plugin-slow"), filepath.Join(pluginDir, "reference", "limiquantix-plugin-reference")
	for _, args := range [][]string{
		{"cp", "-r", filepath.Join(binaries, "plugins", "local"), filepath.Join(binaries, "plugins", "ceph"), pluginDir},
		{"go", "build", "-o", reference, "./sdk/conformance/cmd/limiquantix-plugin-reference"},
		{"go", "build", "-o", slow, "./test/pools/slow"},
		{"go", "run", "./sdk/cmd/plugin-manifest", reference},
		{"go", "run", "./sdk/cmd/plugin-manifest", slow},
	} {
		cmd := exec.Command(args[0], args[1:]...) //nolint:gosec // ours
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w\n%s", args, err, out)
		}
	}
	return nil
}

// count is how often a suite does what it counts, and what bounds are multiplied by: they are ten times as wide in make test as in soak.
func count(t *testing.T, usually int) (n, slack int) {
	t.Helper()
	s := os.Getenv(stack.CountEnv)
	if s == "" {
		return usually, 10
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n, 1
}

// process is a child in a process group of its own.
type process struct {
	name, log string
	argv      []string
	cmd       *exec.Cmd
}

func (p *process) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	defer func() { _ = log.Close() }()
	p.cmd = exec.Command(p.argv[0], p.argv[1:]...) //nolint:gosec // ours
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + filepath.Dir(p.log)}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, p.cmd.Start())
}

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	must(t, p.cmd.Process.Signal(s))
}

// end ends the process, by force when asked to or when it takes too long.
func (p *process) end(s syscall.Signal) {
	if p.cmd == nil || p.cmd.ProcessState != nil {
		return
	}
	_ = p.cmd.Process.Signal(s)
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
	late := time.AfterFunc(30*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	_ = p.cmd.Wait() // how it ended is in its log
}

// rig is a controller and some agents.
type rig struct {
	t          *testing.T
	dir        string
	url        string
	controller *process
	nodes      map[string]*process

	vms     computev1connect.VMServiceClient
	nodeS   computev1connect.NodeServiceClient
	pools   storagev1connect.StoragePoolServiceClient
	volumes storagev1connect.VolumeServiceClient
}

func startRig(t *testing.T, nodes int, heartbeat string) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "lqpo")
	must(t, err)
	r := &rig{t: t, dir: dir, nodes: map[string]*process{}}
	t.Cleanup(r.stop)
	public, agents := port(t), port(t)
	r.url = "http://" + public
	r.write("controller.yaml", fmt.Sprintf("listen: %s\nagent_listen: %s\ndata_dir: %s/controller\nheartbeat: %s\n", public, agents, dir, heartbeat))
	r.controller = &process{name: "controller", log: dir + "/controller.log", argv: []string{binaries + "/limiquantix-controller", "--config", dir + "/controller.yaml"}}
	r.controller.start(t)
	r.until(time.Minute, "the controller is ready", func() (bool, string) {
		a, err := http.Get(r.url + "/ready") //nolint:noctx // ours
		if err != nil {
			return false, err.Error()
		}
		return a.StatusCode == http.StatusOK, fmt.Sprint(a.Status, a.Body.Close())
	})
	token, err := os.ReadFile(dir + "/controller/admin.token")
	must(t, err)
	auth := connect.WithInterceptors(connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
			r.Header().Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
			return next(ctx, r)
		}
	}))
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	r.vms, r.nodeS = computev1connect.NewVMServiceClient(client, r.url, auth), computev1connect.NewNodeServiceClient(client, r.url, auth)
	r.pools, r.volumes = storagev1connect.NewStoragePoolServiceClient(client, r.url, auth), storagev1connect.NewVolumeServiceClient(client, r.url, auth)
	for i := range nodes {
		r.addNode(fmt.Sprintf("n%d", i), agents)
	}
	r.until(time.Minute, "every node is ready", func() (bool, string) {
		ready := 0
		for _, n := range r.list() {
			if d := n.GetStatus().GetDrivers(); n.GetStatus().GetPhase() == computev1.NodePhase_NODE_PHASE_READY && len(d) == 4 {
				ready++
			}
		}
		return ready == nodes, fmt.Sprint(ready)
	})
	return r
}

func port(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func (r *rig) write(name, text string) {
	r.t.Helper()
	must(r.t, os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600))
}

func (r *rig) addNode(name, controller string) {
	r.t.Helper()
	dir := filepath.Join(r.dir, name)
	must(r.t, os.Mkdir(dir, 0o700))
	token, err := r.nodeS.CreateJoinToken(r.t.Context(), connect.NewRequest(&computev1.CreateJoinTokenRequest{NodeName: name, RequestId: "join-" + name}))
	must(r.t, err)
	r.write(name+"/token", token.Msg.GetToken())
	r.write(name+".yaml", fmt.Sprintf(`controllers: [%q]
data_dir: %[2]s/data
state_dir: %[2]s/state
run_dir: %[2]s/run
plugin_dir: %[3]s
listen: ""
join_token_file: %[2]s/token
plugins:
  - name: reference
    config: {journal: %[2]s/journal}
  - name: local
  - name: ceph
  - name: slow
`, controller, dir, pluginDir))
	p := &process{name: name, log: dir + ".log", argv: []string{binaries + "/limiquantix-agent", "--config", dir + ".yaml"}}
	p.start(r.t)
	r.nodes[name] = p
}

func (r *rig) list() []*computev1.Node {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	res, err := r.nodeS.ListNodes(ctx, connect.NewRequest(&computev1.ListNodesRequest{}))
	if err != nil {
		return nil
	}
	return res.Msg.GetNodes()
}

func (r *rig) until(limit time.Duration, what string, cond func() (bool, string)) {
	r.t.Helper()
	must(r.t, stack.Until(context.Background(), limit, what, cond))
}

func (r *rig) stop() {
	for _, n := range r.nodes {
		n.end(syscall.SIGTERM)
	}
	if r.controller != nil {
		r.controller.end(syscall.SIGTERM)
	}
	if !r.t.Failed() {
		_ = os.RemoveAll(r.dir)
		return
	}
	logs, _ := filepath.Glob(r.dir + "/*.log")
	for _, path := range logs {
		b, _ := os.ReadFile(path)
		r.t.Logf("end of %s:\n%s", path, b[max(0, len(b)-4000):])
	}
	r.t.Logf("kept: %s", r.dir)
}

// pool makes a pool and waits until it is ready on every node.
func (r *rig) pool(name, driver string, params map[string]string, secrets map[string][]byte) *storagev1.StoragePool {
	r.t.Helper()
	res, err := r.pools.CreateStoragePool(r.t.Context(), connect.NewRequest(&storagev1.CreateStoragePoolRequest{StoragePool: &storagev1.StoragePool{
		Meta: &metav1.ObjectMeta{Name: name}, Spec: &storagev1.StoragePoolSpec{Driver: driver, Parameters: params, Secrets: secrets},
	}}))
	must(r.t, err)
	r.health(res.Msg.GetStoragePool().GetMeta().GetId(), time.Minute, storagev1.PoolHealth_POOL_HEALTH_HEALTHY, len(r.nodes))
	return res.Msg.GetStoragePool()
}

// health waits until a pool is so on so many nodes, and returns what they say.
func (r *rig) health(id string, limit time.Duration, want storagev1.PoolHealth, nodes int) (last []*storagev1.PoolNodeStatus) {
	r.t.Helper()
	r.until(limit, fmt.Sprintf("pool %s is %s on %d nodes", id, want, nodes), func() (bool, string) {
		last = r.status(id)
		n := 0
		for _, s := range last {
			if s.GetHealth() == want {
				n++
			}
		}
		return n == nodes, fmt.Sprint(last)
	})
	return last
}

func (r *rig) status(id string) []*storagev1.PoolNodeStatus {
	res, err := r.pools.GetStoragePool(r.t.Context(), connect.NewRequest(&storagev1.GetStoragePoolRequest{Id: id}))
	if err != nil {
		return nil
	}
	return res.Msg.GetStoragePool().GetStatus().GetNodes()
}

func (r *rig) create(name, pool string) (id string, err error) {
	res, err := r.volumes.CreateVolume(r.t.Context(), connect.NewRequest(&storagev1.CreateVolumeRequest{Volume: &storagev1.Volume{
		Meta: &metav1.ObjectMeta{Name: name}, Spec: &storagev1.VolumeSpec{PoolId: pool, SizeBytes: 1 << 20, Format: storagev1.VolumeFormat_VOLUME_FORMAT_RAW},
	}}))
	return res.Msg.GetVolume().GetMeta().GetId(), err
}

func (r *rig) volume(id string) (*storagev1.Volume, error) {
	res, err := r.volumes.GetVolume(r.t.Context(), connect.NewRequest(&storagev1.GetVolumeRequest{Id: id}))
	if err != nil {
		return nil, err
	}
	return res.Msg.GetVolume(), nil
}

func (r *rig) ready(id string, limit time.Duration) {
	r.t.Helper()
	r.until(limit, "volume "+id+" is ready", func() (bool, string) {
		v, err := r.volume(id)
		return err == nil && v.GetStatus().GetPhase() == storagev1.VolumePhase_VOLUME_PHASE_READY, fmt.Sprint(v.GetStatus(), err)
	})
}

// delete removes a volume and waits until it is gone.
func (r *rig) delete(id string, limit time.Duration) {
	r.t.Helper()
	_, err := r.volumes.DeleteVolume(r.t.Context(), connect.NewRequest(&storagev1.DeleteVolumeRequest{Id: id}))
	must(r.t, err)
	r.until(limit, "volume "+id+" is gone", func() (bool, string) {
		v, err := r.volume(id)
		return connect.CodeOf(err) == connect.CodeNotFound, fmt.Sprint(v, err)
	})
}

func (r *rig) lqctl(args ...string) string {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), filepath.Join(binaries, "lqctl"), args...) //nolint:gosec // ours
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + r.dir, "LQCTL_SERVER=" + r.url, "LQCTL_TOKEN_FILE=" + r.dir + "/controller/admin.token"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Errorf("lqctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var errLeft = errors.New("files are left")

// empty fails when anything but the test's own files lies in a pool's folder.
func empty(dir string) error {
	files, err := os.ReadDir(dir)
	for _, f := range files {
		if !strings.HasPrefix(f.Name(), ".") {
			err = errors.Join(err, fmt.Errorf("%w: %s", errLeft, f.Name()))
		}
	}
	return err
}

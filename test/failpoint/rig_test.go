package failpoint_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1/networkv1connect"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1/operationv1connect"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
	"github.com/limiquantix/limiquantix/test/failpoint/rewrite"
	"github.com/limiquantix/limiquantix/test/ports"
	"github.com/limiquantix/limiquantix/test/stack"
)

// The node that every rig has, and the one that it has besides if it is a pair.
const (
	nodeName   = "n1"
	secondName = "n2"
)

// rig is a controller and an agent with the reference plugin, or two that share its pools, and the directory by which their failpoints are told what to do.
type rig struct {
	dir   string
	fp    string
	built rewrite.Built
	bound time.Duration // within which everything converges

	controller, agent *process
	agents            map[string]*process // by node, of those that shall be there
	agentAddr, public string
	http              *http.Client

	vms       computev1connect.VMServiceClient
	nodes     computev1connect.NodeServiceClient
	images    storagev1connect.ImageServiceClient
	pools     storagev1connect.StoragePoolServiceClient
	volumes   storagev1connect.VolumeServiceClient
	snapshots storagev1connect.SnapshotServiceClient
	networks  networkv1connect.VirtualNetworkServiceClient
	ports     networkv1connect.PortServiceClient
	groups    networkv1connect.SecurityGroupServiceClient
	ops       operationv1connect.OperationServiceClient

	serial int // of names and request ids
}

// newRig prepares everything below dir, and starts nothing.
func newRig(dir string, built rewrite.Built, bound time.Duration) (*rig, error) {
	return newRigOf(dir, built, bound, false)
}

func newRigOf(dir string, built rewrite.Built, bound time.Duration, pair bool) (*rig, error) {
	r := &rig{dir: dir, fp: filepath.Join(dir, "fp"), built: built, bound: bound, agents: map[string]*process{}}
	for _, d := range []string{"fp/armed", "fp/fired", "fp/ask", "journal"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o750); err != nil {
			return nil, err
		}
	}
	ports, err := ports.Free(2)
	if err != nil {
		return nil, err
	}
	listen := fmt.Sprintf("127.0.0.1:%d", ports[0])
	r.public, r.agentAddr = "http://"+listen, fmt.Sprintf("127.0.0.1:%d", ports[1])
	config := "heartbeat: {interval: 200ms, timeout: 3s}\nscheduler: {placement_strategy: spread, overcommit_cpu: 8, overcommit_memory: 1.5}\n"
	if err := os.WriteFile(filepath.Join(dir, "controller.yaml"), []byte(config), 0o600); err != nil {
		return nil, err
	}
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LIMIQUANTIX_FAILPOINTS=" + r.fp}
	r.controller = &process{log: filepath.Join(dir, "controller.log"), env: env, argv: []string{
		filepath.Join(built.Bin, "limiquantix-controller"), "--config", filepath.Join(dir, "controller.yaml"), "--data-dir", filepath.Join(dir, "controller"),
		"--listen", listen, "--agent-listen", r.agentAddr,
	}}
	if err := r.addAgent(nodeName, dir, pair, env); err != nil {
		return nil, err
	}
	r.agent = r.agents[nodeName]
	if pair {
		if err := r.addAgent(secondName, filepath.Join(dir, secondName), pair, env); err != nil {
			return nil, err
		}
	}
	transport := &http.Transport{Protocols: new(http.Protocols), IdleConnTimeout: 10 * time.Second}
	transport.Protocols.SetUnencryptedHTTP2(true)
	r.http = &http.Client{Transport: transport}
	auth := connect.WithInterceptors(bearer(filepath.Join(dir, "controller", "admin.token")))
	r.vms = computev1connect.NewVMServiceClient(r.http, r.public, auth)
	r.nodes = computev1connect.NewNodeServiceClient(r.http, r.public, auth)
	r.images = storagev1connect.NewImageServiceClient(r.http, r.public, auth)
	r.pools = storagev1connect.NewStoragePoolServiceClient(r.http, r.public, auth)
	r.volumes = storagev1connect.NewVolumeServiceClient(r.http, r.public, auth)
	r.snapshots = storagev1connect.NewSnapshotServiceClient(r.http, r.public, auth)
	r.networks = networkv1connect.NewVirtualNetworkServiceClient(r.http, r.public, auth)
	r.ports = networkv1connect.NewPortServiceClient(r.http, r.public, auth)
	r.groups = networkv1connect.NewSecurityGroupServiceClient(r.http, r.public, auth)
	r.ops = operationv1connect.NewOperationServiceClient(r.http, r.public, auth)
	return r, nil
}

// addAgent prepares the agent of a node below a directory.
func (r *rig) addAgent(name, dir string, shared bool, env []string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	config := fmt.Sprintf(`controllers: [%q]
data_dir: %[2]s/agent
state_dir: %[2]s/state
run_dir: %[2]s/run
plugin_dir: %[3]s/plugins
listen: ""
join_token_file: %[2]s/token
image_networks: [127.0.0.1/32]
plugins:
  - name: local
    config: {journal: %[4]s/journal/j, online_snapshots: compute_switch, online_disks: true, online_interfaces: true, shared_pools: %[5]v}
`, r.agentAddr, dir, r.built.Bin, r.dir, shared)
	r.agents[name] = &process{log: filepath.Join(dir, "agent.log"), env: env, argv: []string{
		filepath.Join(r.built.Bin, "limiquantix-agent"), "--config", filepath.Join(dir, "agent.yaml"),
	}}
	return os.WriteFile(filepath.Join(dir, "agent.yaml"), []byte(config), 0o600)
}

// up starts everything and makes the nodes join.
func (r *rig) up(ctx context.Context) error {
	if err := r.controller.start(); err != nil {
		return err
	}
	if err := r.ready(ctx); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(r.agents)) {
		token, err := r.joinToken(ctx, name, time.Hour)
		if err != nil {
			return err
		}
		agent := r.agents[name]
		if err := os.WriteFile(filepath.Join(filepath.Dir(agent.log), "token"), []byte(token), 0o600); err != nil {
			return err
		}
		if err := agent.start(); err != nil {
			return err
		}
	}
	return r.nodeReady(ctx)
}

func (r *rig) down() error {
	var err error
	for _, agent := range r.agents {
		err = errors.Join(err, agent.stop(syscall.SIGTERM))
	}
	return errors.Join(err, r.controller.stop(syscall.SIGTERM))
}

// ready waits until the controller answers and leads.
func (r *rig) ready(ctx context.Context) error {
	return r.until(ctx, "the controller is ready", func() (bool, string) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.public+"/ready", nil)
		if err != nil {
			return false, err.Error()
		}
		resp, err := r.http.Do(req)
		if err != nil {
			return false, err.Error()
		}
		defer func() { _ = resp.Body.Close() }()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode == http.StatusOK, string(body)
	})
}

func (r *rig) until(ctx context.Context, what string, cond func() (bool, string)) error {
	return stack.Until(ctx, r.bound, what, cond)
}

// name is one that was not used before.
func (r *rig) name(what string) string {
	r.serial++
	return fmt.Sprintf("%s-%d", what, r.serial)
}

func fileOf(id string) string { return strings.ReplaceAll(id, "/", "+") }

// arm makes the next visit of a point do something.
func (r *rig) arm(id, action string) error {
	_ = os.Remove(filepath.Join(r.fp, "fired", fileOf(id)))
	tmp := filepath.Join(r.fp, "arming")
	if err := os.WriteFile(tmp, []byte(action), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(r.fp, "armed", fileOf(id)))
}

// disarm takes a point back that was not visited.
func (r *rig) disarm(id string) { _ = os.Remove(filepath.Join(r.fp, "armed", fileOf(id))) }

func (r *rig) fired(id string) bool {
	_, err := os.Stat(filepath.Join(r.fp, "fired", fileOf(id)))
	return err == nil
}

// ask wants something that no API can ask for, until the returned function is called.
func (r *rig) ask(what string) (done func(), err error) {
	file := filepath.Join(r.fp, "ask", what)
	return func() { _ = os.Remove(file) }, os.WriteFile(file, nil, 0o600)
}

// visits counts the visits of each point from an offset of the file on, and returns the next offset.
func (r *rig) visits(from int) (map[string]int, int) {
	data, err := os.ReadFile(filepath.Join(r.fp, "visits"))
	if err != nil || len(data) < from {
		return map[string]int{}, from
	}
	out := map[string]int{}
	for line := range bytes.Lines(data[from:]) {
		out[strings.TrimSpace(string(line))]++
	}
	return out, len(data)
}

// bearer sends the admin token as it stands in the file at that moment.
func bearer(file string) connect.Interceptor { return tokenFile(file) }

type tokenFile string

func (f tokenFile) header(h http.Header) {
	b, _ := os.ReadFile(string(f)) // without it the answer says what is missing
	h.Set("Authorization", "Bearer "+strings.TrimSpace(string(b)))
}

func (f tokenFile) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		f.header(req.Header())
		return next(ctx, req)
	}
}

func (f tokenFile) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		f.header(conn.RequestHeader())
		return conn
	}
}

func (f tokenFile) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

package network

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/test/lab"
	"github.com/limiquantix/limiquantix/test/stack"
)

// bootLimit is ten times what a boot takes on two quiet cores, and more; settle is what everything else may take: ten times what is asserted in a soak.
const (
	bootLimit = 5 * time.Minute
	settle    = time.Minute
)

var (
	binaries string
	tools    string // folder of programs for guests
)

const toolsEnv = "LIMIQUANTIX_TEST_GUEST_TOOLS"

func TestMain(m *testing.M) {
	if address := os.Getenv(floodEnv); address != "" {
		flood(address)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx := context.Background()
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := lab.EnsurePackages(ctx, lab.NetworkPackages...); err != nil {
		return fail(err)
	}
	if _, err := lab.BusyboxGuest(ctx); err != nil { // made where the machine's network is, as all that is built
		return fail(err)
	}
	var err error
	if binaries, err = stack.Build(ctx); err != nil {
		return fail(err)
	}
	if err := os.Setenv(stack.BinEnv, binaries); err != nil {
		return fail(err)
	}
	if tools = os.Getenv(toolsEnv); tools == "" {
		if tools, err = os.MkdirTemp("", "lqtools"); err != nil {
			return fail(err)
		}
		defer func() { _ = os.RemoveAll(tools) }()
		build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", filepath.Join(tools, "liar"), "./liar") //nolint:gosec // ours
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fail(fmt.Errorf("build liar: %w: %s", err, out))
		}
		if err := os.Setenv(toolsEnv, tools); err != nil {
			return fail(err)
		}
	}
	inside, code, err := stack.InOwnNetwork()
	switch {
	case err != nil:
		return fail(err)
	case inside:
		return m.Run()
	}
	return code
}

// start runs a fleet of the test's own with some network plugins, and the small guest's images.
func start(t *testing.T, drivers []string, hosts ...string) *stack.Fleet {
	t.Helper()
	plugins := map[string]string{}
	for _, d := range drivers {
		plugins[d] = map[string]string{"ovs": "{run_directory: DIR/ovs, datapath: netdev, uplinks: {physnet1: br-ex}}"}[d]
	}
	dir, err := os.MkdirTemp("", "lqn")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	f, err := stack.StartFleet(t.Context(), stack.FleetOptions{Dir: dir, Bin: binaries, Hosts: hosts, Network: plugins, Prepare: prepare(plugins)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, h := range f.Hosts {
				log := h.Log()
				t.Logf("end of the agent's log on %s:\n%s", h.Name, log[max(0, len(log)-8000):])
			}
		}
		if err := f.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := f.Await(t.Context(), 2+len(plugins)); err != nil {
		t.Fatal(err)
	}
	small, err := f.Guest.WithPrograms(filepath.Join(dir, "initrd"), map[string]string{"liar": filepath.Join(tools, "liar")})
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]string{"vmlinuz": small.Kernel, "initrd": small.Initrd} {
		lq(t, f, "image", "import", name, "--file", file, "--format", "raw")
	}
	return f
}

// prepare starts what the network plugins of a host need.
func prepare(plugins map[string]string) func(context.Context, *stack.Host) error {
	return func(ctx context.Context, h *stack.Host) error {
		if _, ovs := plugins["ovs"]; !ovs {
			return nil
		}
		if err := wire(ctx, h); err != nil {
			return err
		}
		_, err := h.Sh(ctx, `set -e; cd /run/openvswitch; export OVS_RUNDIR=/run/openvswitch OVS_LOGDIR=/run/openvswitch OVS_DBDIR=/run/openvswitch
ovsdb-tool create conf.db /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server conf.db --remote=punix:/run/openvswitch/db.sock --pidfile --detach --log-file=ovsdb.log
ovs-vsctl --no-wait init
ovs-vswitchd unix:/run/openvswitch/db.sock --pidfile --detach --log-file=vswitchd.log
ovs-vsctl --timeout=20 add-br br-ex -- set bridge br-ex datapath_type=netdev -- add-port br-ex phys`)
		return err
	}
}

// wire gives a host a second device, phys, on a bridge that all hosts share and that passes VLAN tags.
func wire(ctx context.Context, h *stack.Host) error {
	script := fmt.Sprintf(`ip link show wire >/dev/null 2>&1 || { ip link add wire type bridge && ip link set wire up; }
ip link del w-%[1]s 2>/dev/null || true
ip link add w-%[1]s type veth peer name phys netns %[2]d && ip link set w-%[1]s master wire up && nsenter -t %[2]d -n ip link set phys addrgenmode none && nsenter -t %[2]d -n ip link set phys up`, h.Name, h.Node.PID())
	if out, err := exec.CommandContext(ctx, "sh", "-ec", script).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func lq(t *testing.T, f *stack.Fleet, args ...string) string {
	t.Helper()
	out, err := f.LQCtl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// show is an object as lqctl prints it in JSON.
func show(t *testing.T, f *stack.Fleet, kind, name string) map[string]any {
	t.Helper()
	var out map[string]any
	if err := json.Unmarshal([]byte(lq(t, f, kind, "show", name, "-o", "json")), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// guest is a small guest with NICs in networks.
type guest struct {
	t *testing.T
	f *stack.Fleet
	stack.Shell
	name string
}

// launch makes a small guest without waiting for it to be ready.
func launch(t *testing.T, f *stack.Fleet, name, node string, nics ...string) *guest {
	t.Helper()
	return launchAs(t, f, name, node, "dhcp", nics...)
}

// launchAs makes one whose first NIC has an address of its own, with prefix length, or "dhcp".
func launchAs(t *testing.T, f *stack.Fleet, name, node, address string, nics ...string) *guest {
	t.Helper()
	args := []string{
		"vm", "create", name, "--memory", "128M", "--kernel", "vmlinuz", "--initrd", "initrd", "--node", node,
		"--cmdline", "console=ttyS0 quiet panic=1 labip=" + address + " labname=" + name,
	}
	for _, n := range nics {
		args = append(args, "--nic", n)
	}
	lq(t, f, args...)
	return &guest{t: t, f: f, name: name, Shell: stack.Shell{Stack: f.Stack, VM: name}}
}

func (g *guest) ready() {
	g.t.Helper()
	err := stack.Until(g.t.Context(), bootLimit, g.name+" is ready", func() (bool, string) {
		out, err := g.f.LQCtl(g.t.Context(), "vm", "logs", g.name)
		if err != nil {
			return false, err.Error()
		}
		return strings.Contains(out, "GUEST-READY"), out[max(0, len(out)-500):]
	})
	if err != nil {
		g.t.Fatal(err)
	}
}

// do runs a command in the guest and returns what it printed and whether it succeeded.
func (g *guest) do(command string) (string, bool) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), bootLimit)
	defer cancel()
	out, code, err := g.Run(ctx, command)
	if err != nil {
		g.t.Fatal(err)
	}
	return out, code == "0"
}

// must runs a command in the guest, which must succeed.
func (g *guest) must(command string) string {
	g.t.Helper()
	out, ok := g.do(command)
	if !ok {
		g.t.Fatalf("in guest %s: %s failed: %s", g.name, command, out)
	}
	return out
}

// soon runs a command in the guest until it ends as it should.
func (g *guest) soon(command string, want bool) {
	g.t.Helper()
	err := stack.Until(g.t.Context(), settle, fmt.Sprintf("in %s: %s: success %v", g.name, command, want), func() (bool, string) {
		out, ok := g.do(command)
		return ok == want, out
	})
	if err != nil {
		g.t.Fatal(err)
	}
}

// address is the first address of a VM's n-th NIC, as the API says.
func (g *guest) address(n int) string {
	g.t.Helper()
	vm := show(g.t, g.f, "vm", g.name)
	nics, _ := vm["status"].(map[string]any)["nics"].([]any)
	if len(nics) <= n {
		g.t.Fatalf("VM %s has %d NICs: %v", g.name, len(nics), vm["status"])
	}
	ips, _ := nics[n].(map[string]any)["ipAddresses"].([]any)
	if len(ips) == 0 {
		g.t.Fatalf("NIC %d of VM %s has no address: %v", n, g.name, nics[n])
	}
	return ips[0].(string)
}

// Commands in a guest; each tries but a few times, and quickly.
func ping(to string) string { return "ping -c 2 -i 0.2 -W 2 " + to + " >/dev/null" }

// fetch prints what an HTTP server answers; the guest's own wget has no time limit that works.
func fetch(host, port string) string {
	return fmt.Sprintf(`printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 3 %s %s | grep -v : | tail -n 1 | grep .`, host, port)
}

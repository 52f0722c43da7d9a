package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/limiquantix/limiquantix/test/lab"
)

// ownNetworkEnv tells a test binary that it was started in a network namespace of its own.
const ownNetworkEnv = "LIMIQUANTIX_TEST_OWN_NETWORK"

// InOwnNetwork runs this test binary once more, in a network namespace of its own with loopback up, and returns its exit code; in there inside is true and nothing
// was run. There are no control groups in there, so that libvirt does without. Call it in TestMain after whatever needs the machine's network, such as a build.
func InOwnNetwork() (inside bool, code int, err error) {
	if os.Getenv(ownNetworkEnv) != "" {
		return true, 0, nil
	}
	self, err := os.Executable()
	if err != nil {
		return false, 0, err
	}
	script := `umount -R /sys/fs/cgroup; mount -t sysfs sysfs /sys && ip link set lo up && exec "$@"`
	cmd := exec.Command("unshare", append([]string{"-n", "-m", "--propagation", "private", "sh", "-c", script, "sh", self}, os.Args[1:]...)...) //nolint:gosec // this program
	cmd.Env = append(os.Environ(), ownNetworkEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return false, exit.ExitCode(), nil
	}
	return false, 0, err
}

// The fabric joins the nodes of a fleet: a bridge in the test's own network namespace, which is the world outside as the nodes see it.
const (
	fabric     = "fabric"
	fabricIP   = "10.77.0.1"
	fabricBits = "/24"
)

// FabricAddress is the test's own address on the fabric.
const FabricAddress = fabricIP

// Fleet is a controller and some nodes, each with a network namespace, a libvirtd and an agent of its own, joined by a fabric.
type Fleet struct {
	*Stack
	Hosts []*Host
}

// Host is one node of a fleet.
type Host struct {
	Name    string
	Address string // on the fabric
	Node    *lab.Node

	fleet *Fleet
	dir   string
	agent *exec.Cmd
}

// FleetOptions say what a fleet is made of.
type FleetOptions struct {
	Dir string // short
	Bin string
	// Hosts are the nodes' names.
	Hosts []string
	// Network are the network plugins of each agent, by name, with their configuration in YAML's flow style; "" = none.
	Network map[string]string
	// Prepare is called for each host before its agent starts.
	Prepare func(ctx context.Context, h *Host) error
}

// StartFleet starts a controller and nodes within the present network namespace, which is to be the test's own: see InOwnNetwork.
func StartFleet(ctx context.Context, o FleetOptions) (*Fleet, error) {
	if os.Getenv(ownNetworkEnv) == "" {
		return nil, errors.New("a fleet needs a network namespace of its own")
	}
	for _, args := range [][]string{
		{"link", "add", fabric, "type", "bridge"}, {"addr", "add", fabricIP + fabricBits, "dev", fabric}, {"link", "set", fabric, "up"},
	} {
		if err := ip(ctx, args...); err != nil {
			return nil, err
		}
	}
	s, err := StartControllerOnly(ctx, Options{Dir: o.Dir, Bin: o.Bin, Plugins: filepath.Join(o.Bin, "plugins"), AgentHost: fabricIP})
	if err != nil {
		return nil, err
	}
	f := &Fleet{Stack: s}
	if s.Guest, err = lab.BusyboxGuest(ctx); err != nil {
		return nil, errors.Join(err, f.Stop())
	}
	for i, name := range o.Hosts {
		h := &Host{Name: name, Address: fmt.Sprintf("10.77.0.%d", 11+i), fleet: f, dir: filepath.Join(o.Dir, name)}
		f.Hosts = append(f.Hosts, h)
		if err := h.start(ctx, o); err != nil {
			return nil, errors.Join(err, f.Stop())
		}
	}
	return f, nil
}

func (h *Host) start(ctx context.Context, o FleetOptions) (err error) {
	if err := os.MkdirAll(h.dir, 0o755); err != nil { //nolint:gosec // guests' files lie below
		return err
	}
	if h.Node, err = lab.StartNode(ctx, filepath.Join(h.dir, "node"), h.Name); err != nil {
		return err
	}
	outer := "f-" + h.Name
	_ = ip(ctx, "link", "del", outer) // of a node of that name whose namespace the kernel has not taken down yet
	for _, args := range [][]string{
		{"link", "add", outer, "type", "veth", "peer", "name", "uplink", "netns", strconv.Itoa(h.Node.PID())},
		{"link", "set", outer, "master", fabric, "up"},
	} {
		if err := ip(ctx, args...); err != nil {
			return err
		}
	}
	setup := fmt.Sprintf(`ip link set uplink addrgenmode none && ip addr add %s%s dev uplink && ip link set uplink up && ip route add default via %s &&
mkdir -p %s /run/openvswitch && mount --bind %[4]s /run/openvswitch`, h.Address, fabricBits, fabricIP, h.switchDir())
	if _, err := h.Node.Exec(ctx, "sh", "-c", setup); err != nil {
		return err
	}
	if o.Prepare != nil {
		if err := o.Prepare(ctx, h); err != nil {
			return err
		}
	}
	token, err := h.fleet.LQCtl(ctx, "node", "token", "create", h.Name)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(h.dir, "token"), []byte(token), 0o600); err != nil {
		return err
	}
	config := fmt.Sprintf(`controllers: [%q]
data_dir: %[2]s/agent
state_dir: %[2]s/state
run_dir: %[2]s/run
plugin_dir: %[3]s
listen: 127.0.0.1:9177
join_token_file: %[2]s/token
tunnel_address: %[4]s
plugins:
  - name: kvm
    config: {socket: %[5]s, accel: tcg}
  - name: local
`, fmt.Sprintf("%s:%d", fabricIP, h.fleet.agentPort), h.dir, h.fleet.Plugins, h.Address, h.Node.Socket())
	for name, c := range o.Network {
		config += "  - name: " + name + "\n"
		if c != "" {
			config += "    config: " + strings.ReplaceAll(c, "DIR", h.dir) + "\n"
		}
	}
	if err := os.WriteFile(filepath.Join(h.dir, "agent.yaml"), []byte(config), 0o600); err != nil {
		return err
	}
	return h.StartAgent()
}

// switchDir is what the host has at /run/openvswitch.
func (h *Host) switchDir() string { return filepath.Join(h.dir, "ovs") }

// inNetworkOf is a command in a node's network, with devices of that network in /sys. It is not in the node's PID namespace: it does not end with the node.
// script ends with exec "$@".
func inNetworkOf(n *lab.Node, script string, argv ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{
		"-t", strconv.Itoa(n.PID()), "-n", "--", "unshare", "-m", "--propagation", "private", "sh", "-c", "mount -t sysfs sysfs /sys && " + script, "sh",
	}, argv...)...)
}

// StartAgent starts the host's agent, in the host's network.
func (h *Host) StartAgent() error {
	log, err := os.OpenFile(filepath.Join(h.dir, "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	script := fmt.Sprintf(`mkdir -p %[1]s /run/openvswitch && mount --bind %[1]s /run/openvswitch && exec "$@"`, h.switchDir())
	cmd := inNetworkOf(h.Node, script, filepath.Join(h.fleet.Bin, "limiquantix-agent"), "--config", filepath.Join(h.dir, "agent.yaml"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/sbin:/sbin:" + os.Getenv("PATH"), "HOME=" + h.dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the agent of %s: %w", h.Name, err)
	}
	h.agent = cmd
	return nil
}

// KillAgent kills the host's agent, and with it its plugins.
func (h *Host) KillAgent() error {
	if h.agent == nil {
		return nil
	}
	err := h.agent.Process.Kill()
	_ = h.agent.Wait()
	h.agent = nil
	return err
}

// Plugin finds a plugin's process on the host.
func (h *Host) Plugin(name string) (int, error) {
	return pluginOf(h.agent.Process.Pid, name)
}

// Log is what the host's agent has logged.
func (h *Host) Log() string {
	b, _ := os.ReadFile(filepath.Join(h.dir, "agent.log"))
	return string(b)
}

// Sh runs a shell command on the host and returns what it printed.
func (h *Host) Sh(ctx context.Context, command string) (string, error) {
	out, err := h.Node.Exec(ctx, "sh", "-c", command)
	return strings.TrimSpace(out), err
}

// Await waits until all hosts can take VMs and all their drivers are healthy.
func (f *Fleet) Await(ctx context.Context, drivers int) error {
	for _, h := range f.Hosts {
		err := Until(ctx, 2*time.Minute, h.Name+" is ready", func() (bool, string) {
			var out struct {
				Node struct {
					Status struct {
						Phase   string
						Drivers []struct{ Name, State, Reason, Message string }
					}
				}
			}
			if err := f.Call(ctx, "limiquantix.compute.v1.NodeService/GetNode", map[string]string{"id": h.Name}, &out); err != nil {
				return false, err.Error()
			}
			healthy := 0
			for _, d := range out.Node.Status.Drivers {
				if d.State == "healthy" {
					healthy++
				}
			}
			return out.Node.Status.Phase == "NODE_PHASE_READY" && healthy == drivers, fmt.Sprintf("%+v", out.Node.Status)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Stop ends everything, and removes the fabric.
func (f *Fleet) Stop() error {
	var err error
	for _, h := range f.Hosts {
		err = errors.Join(err, h.KillAgent())
		if h.Node != nil {
			err = errors.Join(err, h.Node.Stop())
		}
	}
	err = errors.Join(err, f.Stack.Stop())
	return errors.Join(err, ip(context.Background(), "link", "del", fabric))
}

func ip(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

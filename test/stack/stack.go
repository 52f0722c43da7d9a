// Package stack runs the whole of limiquantix from built binaries, as processes over sockets, beside a private libvirtd: a controller, an agent with
// its plugins, and lqctl. Everything lies below one directory and is gone after Stop.
package stack

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/limiquantix/limiquantix/test/lab"
	"github.com/limiquantix/limiquantix/test/ports"
)

// Options say what differs from the usual.
type Options struct {
	Dir     string // short: sockets lie below it; made when missing
	Bin     string // folder of the built binaries, see Build
	Plugins string // folder of plugins; default Bin/plugins
	Name    string // node's name; default "n1"
	// Detached lets everything outlive the process that started it; Open finds it again.
	Detached bool
	// Small gives a process ("controller", "agent") a file system of its own, of a few MiB, on a folder below Dir; see Inside.
	Small map[string]Small
	// Storage are further storage plugins that the agent loads, by name, each with a pool of its own to be made by the test.
	Storage []string
	// HostNetwork lets the hypervisor reach servers on 127.0.0.1.
	HostNetwork bool
	// Network are network plugins that the agent loads, by name: agent and plugins then run in the node's network, and reach the controller by forwarded ports.
	Network []string
	// AgentHost is the address on which the controller listens for agents; default 127.0.0.1.
	AgentHost string
	// Prepare, if set, is called when the folder is there and nothing runs yet.
	Prepare func(s *Stack) error `json:"-"`
	// Before, if set, is told libvirtd's socket and says which one the plugin shall use, so that something may stand between.
	Before func(libvirtd string) (socket string, err error) `json:"-"`
}

// Small is a file system that can be filled.
type Small struct {
	Dir string // from the stack's folder
	MiB int
}

// Stack is a running controller, agent and libvirtd.
type Stack struct {
	Options
	Node   *lab.Node
	Server string // public API, http://127.0.0.1:PORT
	Guest  lab.Guest

	agentPort, metricsPort int
	procs                  map[string]*exec.Cmd
}

// Root is the repository's folder.
func Root() (string, error) {
	out, err := exec.Command("go", "env", "GOWORK").Output()
	if err != nil {
		return "", fmt.Errorf("find repository: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}

// BinEnv names a folder of binaries to test instead of building them, for example an installed version.
const BinEnv = "LIMIQUANTIX_TEST_BIN"

// CountEnv says how often tests that count repeat what they do; unset = as often as make test needs.
const CountEnv = "LIMIQUANTIX_TEST_COUNT"

// SeedEnv gives the seed of tests that draw; unset = the clock.
const SeedEnv = "LIMIQUANTIX_TEST_SEED"

// Build builds every binary, as a user does, and returns their folder.
func Build(ctx context.Context) (string, error) {
	if dir := os.Getenv(BinEnv); dir != "" {
		return dir, nil
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	unlock, err := lockBuild(root)
	if err != nil {
		return "", err
	}
	defer unlock()
	cmd := exec.CommandContext(ctx, "make", "-s", "build")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("make build: %w\n%s", err, out)
	}
	return filepath.Join(root, "bin"), nil
}

// lockBuild keeps test packages that run at once from building into the same folder at once.
func lockBuild(root string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Join(root, "bin"), 0o755); err != nil { //nolint:gosec // as make does
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(root, "bin", ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil { //nolint:gosec // a descriptor
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil // closing unlocks
}

// Start starts everything and waits until the node is ready.
func Start(ctx context.Context, o Options) (*Stack, error) {
	if o.Name == "" {
		o.Name = "n1"
	}
	if o.Plugins == "" {
		o.Plugins = filepath.Join(o.Bin, "plugins")
	}
	s := &Stack{Options: o, procs: map[string]*exec.Cmd{}}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil { //nolint:gosec // guests' files lie below
		return nil, err
	}
	ports, err := ports.Free(3)
	if err != nil {
		return nil, err
	}
	s.Server, s.agentPort, s.metricsPort = fmt.Sprintf("http://127.0.0.1:%d", ports[0]), ports[1], ports[2]
	if s.Guest, err = lab.BusyboxGuest(ctx); err != nil {
		return nil, err
	}
	if s.Prepare != nil {
		if err := s.Prepare(s); err != nil {
			return nil, err
		}
	}
	var how []lab.NodeOption
	if o.Detached {
		how = append(how, lab.Detached())
	}
	if o.HostNetwork {
		how = append(how, lab.HostNetwork())
	}
	if s.Node, err = lab.StartNode(ctx, filepath.Join(o.Dir, "node"), o.Name, how...); err != nil {
		return nil, err
	}
	if err := s.up(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, s.remember()
}

func (s *Stack) up(ctx context.Context) error {
	if err := s.StartController(ctx); err != nil {
		return err
	}
	token, err := s.LQCtl(ctx, "node", "token", "create", s.Name)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "token"), []byte(token), 0o600); err != nil {
		return err
	}
	socket := s.Node.Socket()
	if s.Before != nil {
		if socket, err = s.Before(socket); err != nil {
			return err
		}
	}
	config := fmt.Sprintf(`controllers: ["127.0.0.1:%d"]
data_dir: %[2]s/agent
state_dir: %[2]s/state
run_dir: %[2]s/run
plugin_dir: %[3]s
listen: 127.0.0.1:%[4]d
join_token_file: %[2]s/token
image_networks: [127.0.0.1/32]
plugins:
  - name: kvm
    config: {socket: %[5]s, accel: tcg}
  - name: local
`, s.agentPort, s.Dir, s.Plugins, s.metricsPort, socket)
	for _, name := range slices.Concat(s.Storage, s.Network) {
		config += "  - name: " + name + "\n"
	}
	if len(s.Network) > 0 {
		config = "tunnel_address: " + loneAddress + "\n" + config
		if err := s.joinNetworks(ctx); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "agent.yaml"), []byte(config), 0o600); err != nil {
		return err
	}
	return s.StartAgent(ctx)
}

// StartController starts the controller and waits until it is ready.
func (s *Stack) StartController(ctx context.Context) error {
	u := strings.TrimPrefix(s.Server, "http://")
	err := s.start("controller", "limiquantix-controller", "--data-dir", filepath.Join(s.Dir, "controller"), "--listen", u, "--agent-listen", s.AgentAddress())
	if err != nil {
		return err
	}
	return Until(ctx, time.Minute, "the controller is ready", func() (bool, string) {
		r, err := http.Get(s.Server + "/ready") //nolint:gosec,noctx // ours
		if err != nil {
			return false, err.Error()
		}
		defer func() { _ = r.Body.Close() }()
		b, _ := io.ReadAll(r.Body)
		return r.StatusCode == http.StatusOK, string(b)
	})
}

// StartAgent starts the agent; the node may take a moment to be ready.
func (s *Stack) StartAgent(context.Context) error {
	return s.start("agent", "limiquantix-agent", "--config", filepath.Join(s.Dir, "agent.yaml"))
}

// loneAddress is where other nodes would reach the node's tunnels, if there were any: of the addresses that are for documentation.
const loneAddress = "192.0.2.10"

// joinNetworks gives the node an address, and lets an agent in the node's network and the world outside reach each other's ports on loopback.
func (s *Stack) joinNetworks(ctx context.Context) error {
	if err := lab.EnsurePackages(ctx, lab.NetworkPackages...); err != nil {
		return err
	}
	if _, err := s.Node.Exec(ctx, "ip", "addr", "add", loneAddress+"/32", "dev", "lo"); err != nil {
		return err
	}
	return errors.Join(s.Node.ForwardIn(ctx, s.agentPort), s.Node.ForwardOut(ctx, s.metricsPort))
}

// plugins are those that the agent of a stack runs.
var plugins = []string{"kvm", "local"}

// ErrPluginMissing says that a plugin's binary is not there, which does not mend by itself.
var ErrPluginMissing = errors.New("a plugin is missing")

// AwaitNode waits until the node can take VMs with the plugins that run now; a status of an earlier agent or plugin does not count.
func (s *Stack) AwaitNode(ctx context.Context) error {
	var missing error
	err := Until(ctx, 2*time.Minute, "the node is ready", func() (bool, string) {
		ready, seen, err := s.nodeReady(ctx)
		if errors.Is(err, ErrPluginMissing) {
			missing = err
			return true, seen
		}
		if err != nil {
			return false, err.Error()
		}
		return ready, seen
	})
	return errors.Join(err, missing)
}

func (s *Stack) nodeReady(ctx context.Context) (ready bool, seen string, err error) {
	var out struct {
		Node struct {
			Status struct {
				Phase   string
				Drivers []struct{ Name, State, PID, Reason, Message string }
			}
		}
	}
	if err := s.Call(ctx, "limiquantix.compute.v1.NodeService/GetNode", map[string]string{"id": s.Name}, &out); err != nil {
		return false, "", err
	}
	seen = fmt.Sprintf("%+v", out.Node.Status)
	healthy := 0
	for _, d := range out.Node.Status.Drivers {
		switch pid, runs := s.Plugin(d.Name); {
		case d.State == "missing":
			err = fmt.Errorf("%w: the node says %s: %s", ErrPluginMissing, d.Reason, d.Message)
		case runs != nil || d.PID != fmt.Sprint(pid):
			return false, seen, nil // of an earlier agent
		case d.State == "healthy":
			healthy++
		}
	}
	if err != nil {
		return false, seen, err
	}
	return out.Node.Status.Phase == "NODE_PHASE_READY" && healthy == len(plugins)+len(s.Storage)+len(s.Network), seen, nil
}

func (s *Stack) start(name, binary string, args ...string) error {
	log, err := os.OpenFile(filepath.Join(s.Dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(filepath.Join(s.Bin, binary), args...)
	if small := s.Small[name]; small.MiB > 0 { // mounted where nobody else sees it, and gone with the process
		mount := `dir=$1 size=$2; shift 2; mkdir -p "$dir" && mount -t tmpfs -o mode=700,size="$size"m limiquantix-small "$dir" && exec "$@"`
		cmd = exec.Command("unshare", append([]string{
			"-m", "--propagation", "private", "sh", "-c", mount, "sh",
			filepath.Join(s.Dir, small.Dir), fmt.Sprint(small.MiB), filepath.Join(s.Bin, binary),
		}, args...)...)
	} else if name == "agent" && len(s.Network) > 0 {
		cmd = inNetworkOf(s.Node, `exec "$@"`, append([]string{filepath.Join(s.Bin, binary)}, args...)...)
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "HOME=" + s.Dir}
	if s.AgentHost != "" {
		cmd.Env = append(cmd.Env, "LIMIQUANTIX_CONTROLLER_AGENT_ADDRESS="+s.AgentHost)
	}
	if s.Detached {
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	} else {
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	s.procs[name] = cmd
	return nil
}

// PID is a process's id: "controller" or "agent".
func (s *Stack) PID(name string) int { return s.procs[name].Process.Pid }

// Inside is a path as a process sees it.
func (s *Stack) Inside(name, path string) string {
	return filepath.Join("/proc", fmt.Sprint(s.PID(name)), "root", s.Dir, path)
}

// Kill sends SIGKILL and waits for the end.
func (s *Stack) Kill(name string) error { return s.end(name, syscall.SIGKILL) }

// Terminate sends SIGTERM and waits for the end.
func (s *Stack) Terminate(name string) error { return s.end(name, syscall.SIGTERM) }

func (s *Stack) end(name string, sig syscall.Signal) error {
	cmd := s.procs[name]
	if cmd == nil {
		return nil
	}
	delete(s.procs, name)
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if cmd.Path != "" {
			_ = cmd.Wait()
			return
		}
		for isOurs(cmd.Process.Pid, s.Bin) { // found, not started here: no child of ours to wait for
			time.Sleep(20 * time.Millisecond)
		}
	}()
	select {
	case <-done:
		return nil
	case <-time.After(30 * time.Second):
		_ = cmd.Process.Kill()
		<-done
		return fmt.Errorf("%s did not end within 30 s of signal %v", name, sig)
	}
}

// Plugin finds a plugin's process: a child of the agent.
func (s *Stack) Plugin(name string) (pid int, err error) { return pluginOf(s.PID("agent"), name) }

// pluginOf finds a child of an agent by what it runs.
func pluginOf(agent int, name string) (pid int, err error) {
	status, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		return 0, err
	}
	for _, f := range status {
		b, err := os.ReadFile(f)
		if err != nil || !strings.Contains(string(b), fmt.Sprintf("\nPPid:\t%d\n", agent)) {
			continue
		}
		environ, err := os.ReadFile(filepath.Join(filepath.Dir(f), "environ"))
		exe, _ := os.Readlink(filepath.Join(filepath.Dir(f), "exe"))
		if err == nil && strings.Contains(exe+string(environ), "limiquantix-plugin-"+name) {
			_, err := fmt.Sscan(filepath.Base(filepath.Dir(f)), &pid)
			return pid, err
		}
	}
	return 0, fmt.Errorf("plugin %s does not run", name)
}

// Stop ends everything.
func (s *Stack) Stop() error {
	err := errors.Join(s.Terminate("agent"), s.Terminate("controller"))
	if s.Node != nil {
		err = errors.Join(err, s.Node.Stop())
	}
	return err
}

// LQCtl runs lqctl and returns what it printed.
func (s *Stack) LQCtl(ctx context.Context, args ...string) (string, error) {
	cmd := s.Command(ctx, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("lqctl %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out), nil
}

// Command prepares a run of lqctl against this stack.
func (s *Stack) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.Bin, "lqctl"), args...)
	cmd.Env = s.Env()
	return cmd
}

// Env lets lqctl find this stack.
func (s *Stack) Env() []string {
	return []string{"PATH=" + s.Bin + ":" + os.Getenv("PATH"), "HOME=" + s.Dir, "LQCTL_SERVER=" + s.Server, "LQCTL_TOKEN_FILE=" + s.TokenFile()}
}

// TokenFile holds the admin token.
func (s *Stack) TokenFile() string { return filepath.Join(s.Dir, "controller", "admin.token") }

// Call calls a method of the public API in JSON. The answer is decoded into out unless it is nil; an answer that is not 200 is an error with the body.
func (s *Stack) Call(ctx context.Context, method string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	status, answer, err := s.Post(ctx, method, body, true)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("%s: status %d: %s", method, status, answer)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

// Post sends a body to a method of the public API, with or without the token.
func (s *Stack) Post(ctx context.Context, method string, body []byte, authorised bool) (status int, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.Server+"/"+method, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if authorised {
		token, err := os.ReadFile(s.TokenFile())
		if err != nil {
			return 0, nil, err
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = r.Body.Close() }()
	answer, err = io.ReadAll(r.Body)
	return r.StatusCode, answer, err
}

// Metrics reads a /metrics page: "agent" or "controller".
func (s *Stack) Metrics(ctx context.Context, of string) ([]byte, error) {
	url := s.Server + "/metrics"
	if of == "agent" {
		url = fmt.Sprintf("http://127.0.0.1:%d/metrics", s.metricsPort)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Body.Close() }()
	return io.ReadAll(r.Body)
}

// Until waits for a condition; the error says what was seen last.
func Until(ctx context.Context, limit time.Duration, what string, cond func() (bool, string)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		began := time.Now()
		ok, seen := cond()
		if ok {
			return nil
		}
		// Asking takes at most a fifth of the time: on a small machine it would slow down what is waited for.
		pause := time.NewTimer(min(max(4*time.Since(began), 100*time.Millisecond), time.Second))
		select {
		case <-ctx.Done():
			pause.Stop()
			return fmt.Errorf("waited in vain for: %s; last seen: %s", what, seen)
		case <-pause.C:
		}
	}
}

// AgentAddress is where agents dial.
func (s *Stack) AgentAddress() string {
	return fmt.Sprintf("%s:%d", cmp.Or(s.AgentHost, "127.0.0.1"), s.agentPort)
}

// StartControllerOnly starts a controller without node and agent.
func StartControllerOnly(ctx context.Context, o Options) (*Stack, error) {
	s := &Stack{Options: o, procs: map[string]*exec.Cmd{}}
	ports, err := ports.Free(2)
	if err != nil {
		return nil, err
	}
	s.Server, s.agentPort = fmt.Sprintf("http://127.0.0.1:%d", ports[0]), ports[1]
	if err := s.StartController(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// AtRest fails unless an agent, whose metrics page is read twice, leaves what is as it is wanted alone: nothing wakes its workers in a circle.
func AtRest(ctx context.Context, page func(context.Context) ([]byte, error)) error {
	const window, most = 3 * time.Second, 60 // a round of all objects may fall into the window
	runs := func() (sum int, err error) {
		b, err := page(ctx)
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, "limiquantix_agent_reconciles_total{") {
				f := strings.Fields(line)
				n, err := strconv.ParseFloat(f[len(f)-1], 64)
				if err != nil {
					return 0, fmt.Errorf("%s: %w", line, err)
				}
				sum += int(n)
			}
		}
		if sum == 0 {
			return 0, errors.New("the agent does not tell how often its workers ran")
		}
		return sum, nil
	}
	before, err := runs()
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(window):
	}
	after, err := runs()
	if err == nil && after-before > most {
		err = fmt.Errorf("workers ran %d times within %s though nothing changes", after-before, window)
	}
	return err
}

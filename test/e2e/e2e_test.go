// Package e2e runs whole paths: built binaries as processes, a real libvirt, guests that boot.
package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/test/lab"
	"github.com/limiquantix/limiquantix/test/stack"
)

var (
	bootLimit = 5 * time.Minute // ten times what a boot takes on two quiet cores, and more
	binaries  string
	shared    struct {
		once sync.Once
		s    *stack.Stack
		err  error
	}
)

func TestMain(m *testing.M) {
	ctx := context.Background()
	bin, err := stack.Build(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binaries = bin
	if os.Getenv(insideEnv) != "" {
		bootLimit = 30 * time.Minute
	}
	code := m.Run()
	if shared.s != nil {
		if err := shared.s.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stop:", err)
			code = 1
		}
		_ = os.RemoveAll(shared.s.Dir)
	}
	os.Exit(code)
}

// start runs a stack of the test's own.
func start(t *testing.T, mod ...func(*stack.Options)) *stack.Stack {
	t.Helper()
	dir, err := os.MkdirTemp("", "lqe")
	if err != nil {
		t.Fatal(err)
	}
	o := stack.Options{Dir: dir, Bin: binaries}
	for _, m := range mod {
		m(&o)
	}
	s, err := stack.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			dump(t, s)
		}
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		_ = os.RemoveAll(dir)
	})
	return s
}

// common is the stack that tests share which leave nothing behind and kill nothing; it holds the images of the small guest.
func common(t *testing.T) *stack.Stack {
	t.Helper()
	shared.once.Do(func() {
		var dir string
		if dir, shared.err = os.MkdirTemp("", "lqe"); shared.err != nil {
			return
		}
		if shared.s, shared.err = stack.Start(context.Background(), stack.Options{Dir: dir, Bin: binaries}); shared.err != nil {
			return
		}
		if shared.err = shared.s.AwaitNode(context.Background()); shared.err == nil {
			shared.err = importGuest(context.Background(), shared.s)
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			dump(t, shared.s)
		}
	})
	return shared.s
}

// dump logs the end of each process's log.
func dump(t *testing.T, s *stack.Stack) {
	t.Helper()
	for _, name := range []string{"controller", "agent"} {
		b, err := os.ReadFile(filepath.Join(s.Dir, name+".log"))
		if err != nil {
			continue
		}
		t.Logf("end of %s.log:\n%s", name, b[max(0, len(b)-6000):])
	}
}

// importGuest imports kernel and initrd of the small guest.
func importGuest(ctx context.Context, s *stack.Stack) error {
	for name, file := range map[string]string{"vmlinuz": s.Guest.Kernel, "initrd": s.Guest.Initrd} {
		if _, err := s.LQCtl(ctx, "image", "import", name, "--file", file, "--format", "raw"); err != nil {
			return err
		}
	}
	return nil
}

func lq(t *testing.T, s *stack.Stack, args ...string) string {
	t.Helper()
	out, err := s.LQCtl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// small are the arguments for a small guest.
func small(name, cmdline string, more ...string) []string {
	return append([]string{
		"vm", "create", name, "--memory", "128M", "--kernel", "vmlinuz", "--initrd", "initrd",
		"--cmdline", "console=ttyS0 quiet panic=1 labname=" + name + " " + cmdline,
	}, more...)
}

// awaitConsole waits until the console's log holds text and returns the log.
func awaitConsole(t *testing.T, s *stack.Stack, vm, text string) string {
	t.Helper()
	var log string
	err := stack.Until(t.Context(), bootLimit, vm+" prints "+text, func() (bool, string) {
		out, err := s.LQCtl(t.Context(), "vm", "logs", vm)
		if err != nil {
			return false, err.Error()
		}
		log = out
		return strings.Contains(out, text), out[max(0, len(out)-500):]
	})
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// running are a node's guests by VM id.
func running(t *testing.T, s *stack.Stack) map[string]lab.GuestProcess {
	t.Helper()
	list, err := s.Node.Guests()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]lab.GuestProcess{}
	for _, g := range list {
		out[g.UUID] = g
	}
	return out
}

// A VM is created, placed, realised and boots: the nonce on its kernel's command line comes back from its console; after its deletion nothing is left.
func TestGuestBoots(t *testing.T) {
	s := common(t)
	before := hostState(t, s)
	nonce := rand.Text()
	lq(t, s, small("boots", "nonce="+nonce, "--disk", "name=data,size=64M")...)
	log := awaitConsole(t, s, "boots", "GUEST-READY")
	if !strings.Contains(log, "NONCE "+nonce) || !strings.Contains(log, "disks=vda") {
		t.Errorf("console:\n%s", log)
	}
	if out := lq(t, s, "vm", "list", "-o", "wide"); !strings.Contains(out, "boots") || !strings.Contains(out, "running") {
		t.Error(out)
	}
	lq(t, s, "vm", "delete", "boots")
	if after := hostState(t, s); after != before {
		t.Errorf("left behind; before:\n%s\nafter:\n%s", before, after)
	}
}

// hostState is what a host holds: domains, files and sockets of pools and drivers, QEMU processes, network interfaces.
func hostState(t *testing.T, s *stack.Stack) string {
	t.Helper()
	domains, err := s.Node.Virsh(t.Context(), "list", "--all", "--uuid")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "domains: %s\nguests: %d\n", strings.Join(strings.Fields(string(domains)), " "), len(running(t, s)))
	links, err := s.Node.Exec(t.Context(), "ls", "/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "interfaces: %s\n", strings.Join(strings.Fields(string(links)), " "))
	for _, dir := range []string{"state", "run"} {
		_ = filepath.WalkDir(filepath.Join(s.Dir, dir), func(path string, d os.DirEntry, err error) error {
			switch {
			case err != nil:
			case path == filepath.Join(s.Dir, "run", "plugins"): // sockets of the plugins themselves
				return filepath.SkipDir
			case !d.IsDir():
				fmt.Fprintln(&b, path)
			}
			return nil
		})
	}
	return b.String()
}

// Stop, start, reboot, pause and resume do what they say, to the right process.
func TestLifecycle(t *testing.T) {
	s := common(t)
	lq(t, s, small("cycle", "nonce=one")...)
	defer lq(t, s, "vm", "delete", "cycle")
	id := strings.TrimSpace(field(t, s, "cycle", "id"))
	awaitConsole(t, s, "cycle", "GUEST-READY")
	first := running(t, s)[id]
	lq(t, s, "vm", "pause", "cycle")
	phase(t, s, "cycle", "VM_PHASE_PAUSED")
	lq(t, s, "vm", "resume", "cycle")
	phase(t, s, "cycle", "VM_PHASE_RUNNING")
	lq(t, s, "vm", "reboot", "cycle", "--force")
	if now := running(t, s)[id]; now.PID != first.PID || now.StartTime != first.StartTime {
		t.Errorf("a reboot replaced the process: %v, was %v", now, first)
	}
	err := stack.Until(t.Context(), bootLimit, "the guest has booted again", func() (bool, string) {
		out, err := s.LQCtl(t.Context(), "vm", "logs", "cycle")
		return err == nil && strings.Count(out, "GUEST-READY") == 2 && strings.Count(out, "NONCE one") == 2, out
	})
	if err != nil {
		t.Error(err)
	}
	lq(t, s, "vm", "stop", "cycle", "--force")
	phase(t, s, "cycle", "VM_PHASE_STOPPED")
	if g, ok := running(t, s)[id]; ok {
		t.Error("stopped, and runs:", g)
	}
	lq(t, s, "vm", "start", "cycle")
	if now := running(t, s)[id]; now.PID == 0 || now.PID == first.PID {
		t.Errorf("after stop and start: %v, was %v", now, first)
	}
}

func field(t *testing.T, s *stack.Stack, vm, name string) string {
	t.Helper()
	var out struct {
		VM struct {
			Meta   map[string]any `json:"meta"`
			Status map[string]any `json:"status"`
		} `json:"vm"`
	}
	if err := s.Call(t.Context(), "limiquantix.compute.v1.VMService/GetVM", map[string]string{"id": vm}, &out); err != nil {
		t.Fatal(err)
	}
	if v, ok := out.VM.Meta[name]; ok {
		return fmt.Sprint(v)
	}
	return fmt.Sprint(out.VM.Status[name])
}

func phase(t *testing.T, s *stack.Stack, vm, want string) {
	t.Helper()
	if got := field(t, s, vm, "phase"); got != want {
		t.Errorf("%s is %s, want %s", vm, got, want)
	}
}

// The console takes what is typed and shows the answer.
func TestConsole(t *testing.T) {
	s := common(t)
	lq(t, s, small("talks", "")...)
	defer lq(t, s, "vm", "delete", "talks")
	awaitConsole(t, s, "talks", "GUEST-READY")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := s.Command(ctx, "vm", "console", "talks")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if _, err := in.Write([]byte("\necho sum-$((40+2))\n")); err != nil {
		t.Fatal(err)
	}
	var seen strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(seen.String(), "sum-42") {
		n, err := out.Read(buf)
		seen.Write(buf[:n])
		if err != nil {
			t.Fatalf("%v after %q", err, seen.String())
		}
	}
}

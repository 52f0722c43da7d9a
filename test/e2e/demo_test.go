package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/test/lab"
	"github.com/limiquantix/limiquantix/test/stack"
)

var nonceBack = regexp.MustCompile(`the nonce came back from the guest: ([A-Z0-9]{20,})`)

// The demo works twice in a row, says what is missing when a plugin is, and leaves nothing; a libvirtd beside it, with a domain of its own as on a
// desktop, stays as it was throughout.
func TestDemo(t *testing.T) {
	root, err := stack.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "lqd")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	beside, err := lab.StartNode(t.Context(), filepath.Join(dir, "beside"), "desktop")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = beside.Stop() }()
	foreign := defineForeign(t, &stack.Stack{Options: stack.Options{Dir: dir}, Node: beside})
	home := filepath.Join(dir, "demo")
	demo := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "bin-demo"), args...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "LIMIQUANTIX_DEMO_DIR="+home)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "bin-demo"), "./test/cmd/demo")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer func() { // whatever failed, nothing of the demo outlives the test
		cmd := exec.CommandContext(context.WithoutCancel(t.Context()), filepath.Join(dir, "bin-demo"), "down")
		cmd.Dir, cmd.Env = root, append(os.Environ(), "LIMIQUANTIX_DEMO_DIR="+home)
		_ = cmd.Run()
	}()
	seen := map[string]bool{}
	for range 2 {
		out, err := demo("up")
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		m := nonceBack.FindStringSubmatch(out)
		if m == nil || seen[m[1]] {
			t.Fatalf("no new nonce:\n%s", out)
		}
		seen[m[1]] = true
		for _, process := range []string{"controller", "agent", "plugin kvm", "plugin local", "libvirtd", "QEMU"} {
			if !strings.Contains(out, process+" ") {
				t.Errorf("the demo does not show %s:\n%s", process, out)
			}
		}
	}
	s, err := stack.Running(home)
	if err != nil {
		t.Fatal(err)
	}
	pids := []int{s.PID("controller"), s.PID("agent"), s.Node.PID()}
	if out, err := demo("down"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, pid := range pids {
		if _, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil { // one that nobody has waited for has none
			t.Errorf("process %d of the demo lives", pid)
		}
	}
	if _, err := os.Stat(home); err == nil {
		t.Error("the demo's directory is there")
	}
	if now, err := beside.Virsh(t.Context(), "dumpxml", "precious"); err != nil || string(now) != foreign {
		t.Errorf("the foreign domain changed: %v\n%s", err, now)
	}
}

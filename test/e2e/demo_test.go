package e2e

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
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
	bin := binaries
	demo := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "bin-demo"), args...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "LIMIQUANTIX_DEMO_DIR="+home, stack.BinEnv+"="+bin)
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
	links := interfaces(t)
	bin = filepath.Join(dir, "b")
	if out, err := exec.CommandContext(t.Context(), "cp", "-r", binaries, bin).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Remove(filepath.Join(bin, "plugins", "kvm", "limiquantix-plugin-kvm")); err != nil {
		t.Fatal(err)
	}
	if out, err := demo("up"); err == nil || !strings.Contains(out, "PLUGIN_MISSING") || !strings.Contains(out, "plugins/kvm/limiquantix-plugin-kvm") {
		t.Errorf("without a plugin: %v\n%s", err, out)
	}
	bin = binaries
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
	if running := mentioning(t, home); len(running) < 5 {
		t.Errorf("of the demo run only %q", running)
	}
	if out, err := demo("down"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if left := mentioning(t, home); len(left) > 0 {
		t.Errorf("processes are left: %q", left)
	}
	if now := interfaces(t); now != links {
		t.Errorf("interfaces %s, were %s", now, links)
	}
	if _, err := os.Stat(home); err == nil {
		t.Error("the demo's directory is there")
	}
	if now, err := beside.Virsh(t.Context(), "dumpxml", "precious"); err != nil || string(now) != foreign {
		t.Errorf("the foreign domain changed: %v\n%s", err, now)
	}
}

// mentioning are the command lines of processes that name a folder.
func mentioning(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), dir) {
			out = append(out, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return out
}

// interfaces are the names of the machine's network interfaces.
func interfaces(t *testing.T) string {
	t.Helper()
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, len(links))
	for i, l := range links {
		names[i] = l.Name
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

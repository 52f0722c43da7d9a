package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/test/stack"
)

// With a plugin's binary missing, or broken, the node says so, and a VM waits with that reason; mended, it runs without a restart of anything.
func TestPluginMissing(t *testing.T) {
	plugins := filepath.Join(t.TempDir(), "plugins")
	if out, err := exec.Command("cp", "-r", filepath.Join(binaries, "plugins"), plugins).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	binary := filepath.Join(plugins, "kvm", "limiquantix-plugin-kvm")
	if err := os.Rename(binary, binary+".away"); err != nil {
		t.Fatal(err)
	}
	s := start(t, func(o *stack.Options) { o.Plugins = plugins })
	says := func(what string, args ...string) {
		t.Helper()
		err := stack.Until(t.Context(), 2*time.Minute, strings.Join(args, " ")+" says "+what, func() (bool, string) {
			out, err := s.LQCtl(t.Context(), args...)
			if err != nil {
				return false, err.Error()
			}
			return strings.Contains(out, what), out
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	says("PLUGIN_MISSING", "node", "show", s.Name)
	lq(t, s, "vm", "create", "waits", "--memory", "128M", "--disk", "name=blank,size=64M", "--no-wait")
	says("kvm", "vm", "explain", "waits")
	if err := os.WriteFile(binary, []byte("#!/bin/true\n"), 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	says("PLUGIN_INVALID", "node", "show", s.Name)
	if err := os.Rename(binary+".away", binary); err != nil {
		t.Fatal(err)
	}
	says("running", "vm", "list")
	lq(t, s, "vm", "delete", "waits")
}

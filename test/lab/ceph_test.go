package lab

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

// A cluster works without /etc/ceph, and its monitor can be stopped, killed and started again.
func TestCeph(t *testing.T) {
	dir, err := os.MkdirTemp("", "ceph")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := t.Context()
	c, err := StartCeph(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	}()
	if v, err := c.Version(ctx); err != nil || !strings.HasPrefix(v, "ceph version ") {
		t.Error(v, err)
	}
	key, err := c.CreateUser(ctx, "tester", "rbd")
	if err != nil || len(key) != 40 {
		t.Errorf("a key of %d characters, %v", len(key), err)
	}
	if _, err := c.RBD(ctx, "create", "--size", "8M", "rbd/one"); err != nil {
		t.Fatal(err)
	}
	for _, s := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
		if err := c.SignalMonitor(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.KillMonitor(); err != nil {
		t.Fatal(err)
	}
	if err := c.StartMonitor(ctx); err != nil {
		t.Fatal(err)
	}
	if out, err := c.RBD(ctx, "ls", "rbd"); err != nil || strings.TrimSpace(out) != "one" {
		t.Error(out, err)
	}
}

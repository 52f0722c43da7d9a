package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestBusyboxGuestLifeAndLibvirtdCrash(t *testing.T) {
	n := testNode(t, "a")
	ctx := bootContext(t)
	g, err := BusyboxGuest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	console := filepath.Join(n.Dir, "console")
	define(t, n, busyboxXML(g, "bb", console, "nonce=n0nce-17 labip=dhcp labtick=1"))
	virsh(t, n, "start", "bb")

	ready := waitLine(t, ctx, console, 0, "GUEST-READY")
	for _, want := range []string{"name=bb", "cpus=1", "ip=10.0.2.15/24", "disks= "} {
		if !strings.Contains(ready, want) {
			t.Errorf("ready line lacks %q: %s", want, ready)
		}
	}
	waitLine(t, ctx, console, 0, "NONCE n0nce-17")

	before, err := n.Guests()
	if err != nil {
		t.Fatal(err)
	}
	if len(before) != 1 || before[0].Name != "bb" || before[0].UUID != "7b0f7c1e-7a3a-4d5c-9a51-0d6c1c6f0a01" {
		t.Fatalf("guests: %+v", before)
	}
	if err := n.KillLibvirtd(); err != nil {
		t.Fatal(err)
	}
	if out, err := n.Virsh(ctx, "list"); err == nil {
		t.Errorf("libvirtd answers after it was killed: %s", out)
	}
	waitLine(t, ctx, console, size(t, console), "TICK") // the guest runs on without it
	if err := n.StartLibvirtd(ctx); err != nil {
		t.Fatal(err)
	}
	waitState(t, ctx, n, "bb", "running")
	after, err := n.Guests()
	if err != nil {
		t.Fatal(err)
	}
	if len(after) != 1 || after[0] != before[0] {
		t.Errorf("guests changed over libvirtd's crash: %+v, before %+v", after, before)
	}

	mark := size(t, console)
	virsh(t, n, "reboot", "bb")
	waitLine(t, ctx, console, mark, "GUEST-READY")
	virsh(t, n, "shutdown", "bb")
	waitState(t, ctx, n, "bb", "shut off")
	if left, err := n.Guests(); err != nil || len(left) != 0 {
		t.Errorf("guests after shutdown: %+v, %v", left, err)
	}
}

func TestStopLeavesNothing(t *testing.T) {
	n := testNode(t, "s")
	// A process that ignores what can be ignored must go too.
	if _, err := n.Exec(t.Context(), "bash", "-c", "trap '' HUP TERM; sleep 1000 >/dev/null 2>&1 & disown"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var procs []process
	names := map[string]bool{}
	for !names["sleep"] { // bash forks first and becomes sleep a little later
		var err error
		if procs, err = n.processes(); err != nil {
			t.Fatal(err)
		}
		for _, p := range procs {
			names[p.comm] = true
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			t.Fatalf("node runs no sleep: %+v", procs)
		}
	}
	for _, want := range []string{"libvirtd", "virtlogd"} {
		if !names[want] {
			t.Fatalf("node runs no %s: %+v", want, procs)
		}
	}
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", p.pid)); err == nil {
			t.Errorf("process %d %s is still there", p.pid, p.comm)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), n.Dir) {
		t.Errorf("mounts are left:\n%s", mounts)
	}
	if err := os.RemoveAll(n.Dir); err != nil {
		t.Error(err)
	}
	if err := n.Stop(); err != nil {
		t.Errorf("second stop: %v", err)
	}
}

func TestNodeRestartKeepsDefinitions(t *testing.T) {
	n := testNode(t, "r")
	define(t, n, busyboxXML(Guest{"/boot/k", "/boot/i"}, "kept", "/dev/null", ""))
	if _, err := StartNode(t.Context(), n.Dir, "r"); err == nil {
		t.Fatal("a second node started in the folder of a running one")
	}
	host := virsh(t, n, "capabilities")
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	again, err := StartNode(t.Context(), n.Dir, "r")
	if err != nil {
		t.Fatal(err)
	}
	defer again.Stop()
	waitState(t, t.Context(), again, "kept", "shut off")
	if now := virsh(t, again, "capabilities"); hostID(now) != hostID(host) {
		t.Errorf("host UUID changed from %s to %s", hostID(host), hostID(now))
	}
}

func hostID(capabilities string) string {
	_, rest, _ := strings.Cut(capabilities, "<uuid>")
	id, _, _ := strings.Cut(rest, "</uuid>")
	return id
}

// The starter is this test binary, run again, which kills itself.
func TestNodeDiesWithItsStarter(t *testing.T) {
	if dir := os.Getenv("LAB_TEST_STARTER"); dir != "" {
		if _, err := StartNode(t.Context(), dir, "orphan"); err != nil {
			t.Fatal(err)
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	probe := testNode(t, "p") // also provides a short folder
	dir := filepath.Join(filepath.Dir(probe.Dir), "o")
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestNodeDiesWithItsStarter$")
	child.Env = append(os.Environ(), "LAB_TEST_STARTER="+dir)
	out, err := child.CombinedOutput()
	if err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("starter: %v: %s", err, out)
	}
	for {
		if _, err := OpenNode(dir); err != nil {
			return
		}
		if err := pause(bootContext(t), 20e6); err != nil {
			t.Fatal(err)
		}
	}
}

package lab

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Command returns a command that will run inside the node, in all of its
// namespaces, and die with it. When ctx ends its whole process group is killed.
// The process that os/exec knows is nsenter, so a signal meant for the command
// goes to the group: syscall.Kill(-cmd.Process.Pid, sig).
func (n *Node) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	// -r: in a chroot the namespace's own root is not the node's.
	enter := []string{"-t", strconv.Itoa(n.pid), "-m", "-n", "-u", "-p", "-r", "--", name}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// Exec runs a command inside the node and returns its standard output. An
// error holds what it printed.
func (n *Node) Exec(ctx context.Context, name string, args ...string) (string, error) {
	out, err := output(n.Command(ctx, name, args...))
	if err != nil {
		return out, fmt.Errorf("node %s: %w", n.Name, err)
	}
	return out, nil
}

// Virsh runs virsh inside the node and returns its standard output.
func (n *Node) Virsh(ctx context.Context, args ...string) (string, error) {
	return n.Exec(ctx, "virsh", append([]string{"-q", "-c", "qemu:///system"}, args...)...)
}

// KillLibvirtd kills libvirtd as a crash would. Guests and virtlogd run on.
func (n *Node) KillLibvirtd() error {
	procs, err := n.processes()
	if err != nil {
		return err
	}
	found := false
	for _, p := range procs { // all of them: the daemon, and forks of it that have not become another program yet
		if p.comm != "libvirtd" {
			continue
		}
		found = true
		if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill libvirtd of node %s: %w", n.Name, err)
		}
		if err := waitGone(p.pid, p.start); err != nil {
			return err
		}
	}
	if found {
		return nil
	}
	return fmt.Errorf("node %s runs no libvirtd", n.Name)
}

// LibvirtdRuns reports whether the node has a libvirtd.
func (n *Node) LibvirtdRuns() (bool, error) {
	procs, err := n.processes()
	return slices.ContainsFunc(procs, func(p process) bool { return p.comm == "libvirtd" }), err
}

// StartLibvirtd starts libvirtd again after KillLibvirtd, and returns when it
// accepts connections; it then finds its guests by itself.
func (n *Node) StartLibvirtd(ctx context.Context) error {
	for deadline := time.Now().Add(10 * time.Second); ; {
		_, err := n.Exec(ctx, "/usr/sbin/libvirtd", "-l", "-d", "-p", "/run/libvirt/libvirtd.pid")
		if err == nil {
			return n.waitSocket(ctx)
		}
		// A fork of the killed one may hold its lock until it becomes another program.
		if !strings.Contains(err.Error(), "pidfile") || time.Now().After(deadline) {
			return err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

package lab

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

//go:embed node_inner.sh
var nodeScript string

// startTimeout bounds the start of a node's daemons on a loaded machine.
const startTimeout = 120 * time.Second

// Node is a hypervisor of its own: libvirtd, virtlogd and their guests in
// private mount, network, UTS and PID namespaces. Paths outside of libvirt's
// own folders are the machine's, so images and sockets can be shared by path.
// Its methods may be called from several goroutines.
type Node struct {
	Dir  string // absolute
	Name string // also its hostname

	pid   int       // of the namespaces' first process, as seen from outside
	start uint64    // that process's start time, against reuse of the PID
	cmd   *exec.Cmd // nil for a node that another process started
	hold  io.Closer // the pipe whose end ends the node; nil when detached
	ended chan struct{}
}

// NodeOption changes how a node starts.
type NodeOption func(*nodeOptions)

type nodeOptions struct{ detached, hostNetwork bool }

// Detached lets the node outlive the process that starts it; [OpenNode] finds
// it again. Without it the node dies with its starter, however that ends.
func Detached() NodeOption { return func(o *nodeOptions) { o.detached = true } }

// HostNetwork leaves the node in the network of its starter, where servers on
// 127.0.0.1 can be reached from its guests' disks.
func HostNetwork() NodeOption { return func(o *nodeOptions) { o.hostNetwork = true } }

// StartNode starts a node in dir, which it creates, and returns when its
// libvirtd answers. Starting again in the dir of a stopped node is a reboot of
// that node: definitions and images stay. ctx bounds the start only.
//
// dir should be short: a socket's path has at most 107 bytes.
func StartNode(ctx context.Context, dir, name string, opts ...NodeOption) (*Node, error) {
	var o nodeOptions
	for _, opt := range opts {
		opt(&o)
	}
	if err := EnsurePackages(ctx, NodePackages...); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", name, err)
	}
	n := &Node{Dir: dir, Name: name, ended: make(chan struct{})}
	if len(n.Socket()) > 107 {
		return nil, fmt.Errorf("node %s: path of its socket is longer than 107 bytes: %s", name, n.Socket())
	}
	if old, err := OpenNode(dir); err == nil {
		return nil, fmt.Errorf("node %s already runs in %s as process %d", old.Name, dir, old.pid)
	}
	if err := prepareDir(dir); err != nil {
		return nil, fmt.Errorf("prepare node %s: %w", name, err)
	}
	if err := loadCapabilities(dir); err != nil {
		return nil, fmt.Errorf("prepare node %s: %w", name, err)
	}
	if err := n.launch(o); err != nil {
		return nil, fmt.Errorf("start node %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errors.New("its libvirtd did not answer in time"))
	defer cancel()
	if err := n.waitSocket(ctx); err != nil {
		_ = n.Stop()
		log, _ := os.ReadFile(filepath.Join(dir, "inner.log"))
		return nil, fmt.Errorf("start node %s: %w: %s", name, err, lastLines(string(log), 15))
	}
	return n, nil
}

// launch starts the first process and begins to wait for its end.
func (n *Node) launch(o nodeOptions) error {
	log, err := os.Create(filepath.Join(n.Dir, "inner.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	mode := "attached"
	if o.detached {
		mode = "detached"
	}
	cmd := exec.Command("/bin/bash", filepath.Join(n.Dir, "inner.sh"), n.Dir, n.Name, mode)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=/root"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWPID,
		Setsid:     true, // a terminal's interrupt is for the test, which then stops the node
	}
	if o.hostNetwork {
		cmd.SysProcAttr.Cloneflags &^= syscall.CLONE_NEWNET
	}
	if !o.detached {
		if n.hold, err = cmd.StdinPipe(); err != nil {
			return err
		}
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("enter namespaces (needs root): %w", err)
	}
	n.cmd, n.pid = cmd, cmd.Process.Pid
	go func() { // ends with the node; Stop waits for it
		_ = cmd.Wait()
		close(n.ended)
	}()
	if n.start, err = startTime(n.pid); err != nil {
		_ = n.Stop()
		return err
	}
	return n.save()
}

// Socket is the path of libvirtd's socket, to be dialled from outside the node.
func (n *Node) Socket() string { return filepath.Join(n.Dir, "run/libvirt-sock") }

// URI is the connection URI for libvirt clients outside the node.
func (n *Node) URI() string { return "qemu+unix:///system?socket=" + n.Socket() }

// PID is the process, as seen from outside, whose namespaces are the node's.
func (n *Node) PID() int { return n.pid }

// waitSocket returns when libvirtd accepts connections.
func (n *Node) waitSocket(ctx context.Context) error {
	for {
		conn, err := net.Dial("unix", n.Socket())
		if err == nil {
			return conn.Close()
		}
		if !n.running() {
			return errors.New("its first process ended")
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// Stop kills the node: its daemons, guests and mounts are gone when it
// returns, and Dir may be removed or started again. Stopping a stopped node
// does nothing.
func (n *Node) Stop() error {
	saveCapabilities(n.Dir)
	if n.running() {
		if err := syscall.Kill(n.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("stop node %s: %w", n.Name, err)
		}
	}
	if n.cmd != nil {
		<-n.ended // reaped only after every other process of its PID namespace
		if n.hold != nil {
			_ = n.hold.Close()
		}
	} else {
		for n.running() {
			if err := pause(context.Background(), 20*time.Millisecond); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(n.stateFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("stop node %s: %w", n.Name, err)
	}
	return nil
}

// running tells whether the first process lives.
func (n *Node) running() bool {
	t, err := startTime(n.pid)
	return err == nil && t == n.start
}

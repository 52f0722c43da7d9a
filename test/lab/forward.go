package lab

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
)

// ForwardIn lets processes in the node's network reach a port on loopback of the network of whoever calls, at the same port of theirs. It ends with the node.
func (n *Node) ForwardIn(ctx context.Context, port int) error { return n.forward(ctx, port, true) }

// ForwardOut lets processes of the caller's network reach a port on loopback of the node's, at the same port of theirs. It ends with the node.
func (n *Node) ForwardOut(ctx context.Context, port int) error { return n.forward(ctx, port, false) }

// forward joins two namespaces by a unix socket, which knows none: one process listens on the one side, one dials on the other. Both are in the node's PID namespace.
func (n *Node) forward(ctx context.Context, port int, in bool) error {
	socket := filepath.Join(n.Dir, fmt.Sprintf("forward-%d", port))
	dial := []string{"socat", "UNIX-LISTEN:" + socket + ",fork,unlink-early", fmt.Sprintf("TCP:127.0.0.1:%d", port)}
	listen := []string{"socat", fmt.Sprintf("TCP-LISTEN:%d,bind=127.0.0.1,reuseaddr,fork", port), "UNIX-CONNECT:" + socket}
	outside := []string{"-t", strconv.Itoa(n.pid), "-p", "-r", "--"}
	inside := append([]string{"-n"}, outside...)
	dialFrom, listenIn := outside, inside
	if !in {
		dialFrom, listenIn = inside, outside
	}
	log, err := os.OpenFile(filepath.Join(n.Dir, "forward.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	start := func(enter, command []string) error {
		cmd := exec.Command("nsenter", append(append([]string{}, enter...), command...)...)
		cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return err
		}
		go func() { _ = cmd.Wait() }() // ends with the node
		return nil
	}
	if err := start(dialFrom, dial); err != nil {
		return fmt.Errorf("node %s: forward port %d: %w", n.Name, port, err)
	}
	if err := start(listenIn, listen); err != nil {
		return fmt.Errorf("node %s: forward port %d: %w", n.Name, port, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("nobody listens"))
	defer cancel()
	for {
		if _, err := os.Stat(socket); err == nil && n.listens(port, in) {
			return nil
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			said, _ := os.ReadFile(log.Name())
			return fmt.Errorf("node %s: forward port %d: %w: %s", n.Name, port, err, lastLines(string(said), 3))
		}
	}
}

// listens reports whether something listens on a TCP port, in the node's network or in the caller's.
func (n *Node) listens(port int, inNode bool) bool {
	file := "/proc/self/net/tcp"
	if inNode {
		file = fmt.Sprintf("/proc/%d/net/tcp", n.pid)
	}
	b, err := os.ReadFile(file)
	return err == nil && strings.Contains(string(b), fmt.Sprintf(":%04X 00000000:0000 0A", port))
}

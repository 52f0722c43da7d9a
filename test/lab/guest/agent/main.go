// Command agent runs in the lab guest: it runs commands and makes connections for the host, see package wire. The guest ends when it does.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/limiquantix/limiquantix/test/lab/guest/wire"
)

// linger is how long output is read after a command has ended: what it left behind may hold its pipes for ever.
const linger = 500 * time.Millisecond

func main() {
	log.SetPrefix("lab agent: ")
	port, err := openPort()
	if err != nil {
		log.Fatal(err)
	}
	session, err := yamux.Server(port, wire.Config(os.Stderr))
	if err != nil {
		log.Fatal(err)
	}
	for {
		s, err := session.AcceptStream()
		if err != nil {
			log.Fatal(err)
		}
		go serve(s) // ends with its stream
	}
}

// openPort opens the serial port by its name; no udev is there to do it.
func openPort() (*os.File, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if b, err := os.ReadFile(n); err == nil && strings.TrimSpace(string(b)) == wire.PortName {
			return os.OpenFile(filepath.Join("/dev", filepath.Base(filepath.Dir(n))), os.O_RDWR, 0)
		}
	}
	return nil, fmt.Errorf("no serial port called %s among %v", wire.PortName, names)
}

func serve(s net.Conn) {
	defer s.Close() //nolint:errcheck // the host sees it
	var req wire.Request
	if err := wire.ReadJSON(s, &req); err != nil {
		log.Print("request: ", err)
		return
	}
	if req.Files {
		serveFiles(s)
		return
	}
	if req.Address == "" {
		run(s, req)
		return
	}
	c, err := net.Dial(req.Network, req.Address)
	if err != nil {
		_ = wire.WriteJSON(s, wire.Reply{Error: err.Error()})
		return
	}
	if err := wire.WriteJSON(s, wire.Reply{}); err != nil {
		_ = c.Close()
		return
	}
	wire.Pipe(s, c)
}

// run runs a command until it ends or the stream does.
func run(s io.ReadWriter, req wire.Request) {
	out := wire.NewFrames(s)
	end := func(e wire.Exit) {
		b, _ := json.Marshal(e)
		_ = out.Send(wire.Ended, b)
	}
	if req.TempDir != "" {
		if err := os.MkdirAll(req.TempDir, 0o700); err != nil {
			end(wire.Exit{Code: -1, Error: err.Error()})
			return
		}
		defer os.RemoveAll(req.TempDir) //nolint:errcheck // in memory
	}
	cmd := exec.Command(req.Argv[0], req.Argv[1:]...) //nolint:gosec // its very purpose
	cmd.Env, cmd.Dir = req.Env, req.Dir
	cmd.Stdout, cmd.Stderr = out.Writer(wire.Stdout), out.Writer(wire.Stderr)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = linger
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		end(wire.Exit{Code: -1, Error: err.Error()})
		return
	}
	c := &command{stdin: stdin, pid: cmd.Process.Pid, group: -cmd.Process.Pid}
	if req.Alone {
		c.group = c.pid
	}
	go c.obey(s) // ends with the stream
	err = cmd.Wait()
	c.ended()
	if st, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && st.Signaled() {
		end(wire.Exit{Code: -1, Signal: int(st.Signal())})
		return
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		log.Print(req.Argv[0], ": ", err)
	}
	end(wire.Exit{Code: cmd.ProcessState.ExitCode()})
}

// command is a running one.
type command struct {
	stdin      io.WriteCloser
	pid, group int

	mu   sync.Mutex
	over bool
}

// ended is called when the command has been waited for: what it left behind in its group is meant to stay, and its id may be another's soon.
func (c *command) ended() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
}

func (c *command) signal(sig syscall.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		_ = syscall.Kill(c.group, sig)
	}
}

// obey does what the host says. When the host lets go of a command it is killed.
func (c *command) obey(s io.Reader) {
	for {
		k, b, err := wire.ReadFrame(s)
		switch {
		case err != nil:
			c.signal(syscall.SIGKILL)
			_ = c.stdin.Close()
			return
		case k == wire.Stdin && len(b) == 0:
			_ = c.stdin.Close()
		case k == wire.Stdin:
			_, _ = c.stdin.Write(b)
		case k == wire.Signal && len(b) == 1:
			c.signal(syscall.Signal(b[0]))
		}
	}
}

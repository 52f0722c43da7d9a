// Command relay stands on the host for a plugin that runs in the lab guest: whoever starts plugins starts it, and finds a plugin. The file relay.json
// beside it says where the guest's agent listens and what to run there. Standard input, output, signals and the end are the plugin's; its socket in the
// guest is reached by one on the host.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/limiquantix/limiquantix/test/lab/guest/wire"
)

// envSocketDir is where go-plugin makes a plugin's socket.
const envSocketDir = "PLUGIN_UNIX_SOCKET_DIR"

func main() {
	code, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab relay:", err)
		code = 1
	}
	os.Exit(code)
}

func run() (int, error) {
	b, err := os.ReadFile(filepath.Join(filepath.Dir(os.Args[0]), wire.RelayFile))
	if err != nil {
		return 0, err
	}
	var r wire.Relay
	if err := json.Unmarshal(b, &r); err != nil {
		return 0, err
	}
	hostDir := os.Getenv(envSocketDir)
	guestDir := fmt.Sprintf("/run/lab-plugins/%d", os.Getpid())
	req := wire.Request{Argv: append([]string{r.Path}, os.Args[1:]...), TempDir: guestDir, Alone: true, Dir: "/"}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, envSocketDir+"=") {
			req.Env = append(req.Env, kv)
		}
	}
	req.Env = append(req.Env, envSocketDir+"="+guestDir)
	s, err := net.Dial("unix", r.Agent)
	if err != nil {
		return 0, err
	}
	if err := wire.WriteJSON(s, req); err != nil {
		return 0, err
	}
	to := wire.NewFrames(s)
	go func() {
		_, _ = io.Copy(to.Writer(wire.Stdin), os.Stdin)
		_ = to.Send(wire.Stdin, nil)
	}()
	sigs := make(chan os.Signal, 8)
	signal.Notify(sigs, syscall.SIGTERM, syscall.SIGINT, syscall.SIGABRT)
	go func() {
		for sig := range sigs {
			if n, ok := sig.(syscall.Signal); ok {
				_ = to.Send(wire.Signal, []byte{byte(n)})
			}
		}
	}()
	stdout, lines := io.Pipe()
	go printed(stdout, func(socket string) (string, error) { return forward(hostDir, r.Agent, socket) })
	return frames(s, lines)
}

// frames passes on what the plugin prints, until it ends.
func frames(s io.Reader, stdout io.Writer) (int, error) {
	r := bufio.NewReader(s)
	for {
		k, b, err := wire.ReadFrame(r)
		if err != nil {
			return 0, fmt.Errorf("the guest is gone: %w", err)
		}
		switch k {
		case wire.Stdout:
			_, _ = stdout.Write(b)
		case wire.Stderr:
			_, _ = os.Stderr.Write(b)
		case wire.Ended:
			var e wire.Exit
			if err := json.Unmarshal(b, &e); err != nil {
				return 0, err
			}
			if e.Error != "" {
				return 0, fmt.Errorf("%s", e.Error)
			}
			if e.Signal != 0 { // end as the plugin did
				sig := syscall.Signal(e.Signal)
				signal.Reset(sig)
				_ = syscall.Kill(os.Getpid(), sig)
				return 128 + e.Signal, nil
			}
			return e.Code, nil
		}
	}
}

// printed copies standard output; in the handshake line (core|app|network|address|protocol|...) the address becomes one of the host.
func printed(r io.Reader, forward func(socket string) (string, error)) {
	in := bufio.NewReader(r)
	for shaken := false; ; {
		line, err := in.ReadString('\n')
		if f := strings.Split(line, "|"); !shaken && len(f) >= 5 && f[2] == "unix" {
			shaken = true
			path, ferr := forward(f[3])
			if ferr != nil {
				fmt.Fprintln(os.Stderr, "lab relay:", ferr)
			}
			f[3] = path
			line = strings.Join(f, "|")
		}
		_, _ = io.WriteString(os.Stdout, line)
		if err != nil {
			return
		}
	}
}

// forward listens on the host for a socket in the guest.
func forward(dir, agent, socket string) (string, error) {
	path := filepath.Join(dir, "plugin"+fmt.Sprint(serial.Add(1)))
	l, err := net.Listen("unix", path)
	if err != nil {
		return "", err
	}
	go func() { // until the process ends
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				g, err := wire.DialThrough(agent, "unix", socket)
				if err != nil {
					fmt.Fprintln(os.Stderr, "lab relay:", err)
					_ = c.Close()
					return
				}
				wire.Pipe(c, g)
			}()
		}
	}()
	return path, nil
}

var serial atomic.Int64

package guest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/limiquantix/limiquantix/test/lab/guest/wire"
)

// Cmd is a command in the guest.
type Cmd struct {
	Argv []string
	Env  []string // whole environment; empty = the agent's
	Dir  string
	// Stdin may be nil, as may be where output goes.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// ExitError is a command that failed.
type ExitError struct {
	Argv   []string
	Code   int            // -1 when a signal ended it
	Signal syscall.Signal // that signal
	Output string         // its end, from Run
}

// Error says which command, how, and what it printed.
func (e *ExitError) Error() string {
	how := fmt.Sprintf("exit status %d", e.Code)
	if e.Signal != 0 {
		how = "ended by " + e.Signal.String()
	}
	return strings.TrimSpace(fmt.Sprintf("%s: %s: %s", strings.Join(e.Argv, " "), how, e.Output))
}

// Run runs a command and returns what it printed, both outputs together. When ctx ends it is killed, with all that it started.
func (g *Guest) Run(ctx context.Context, argv ...string) (string, error) {
	var out bytes.Buffer
	err := g.Exec(ctx, Cmd{Argv: argv, Stdout: &out, Stderr: &out})
	var exit *ExitError
	if errors.As(err, &exit) {
		exit.Output = out.String()
	}
	return out.String(), err
}

// Sh runs a line of shell.
func (g *Guest) Sh(ctx context.Context, line string) (string, error) {
	return g.Run(ctx, "/bin/sh", "-ec", line)
}

// Exec runs a command. A failure of the command itself is an *ExitError.
func (g *Guest) Exec(ctx context.Context, c Cmd) error {
	s, err := g.session.OpenStream()
	if err != nil {
		return fmt.Errorf("%s: the guest is gone: %w", c.Argv[0], err)
	}
	defer s.Close()                                          //nolint:errcheck // its end kills the command
	stop := context.AfterFunc(ctx, func() { _ = s.Close() }) // the agent kills the command and says so
	defer stop()
	if err := wire.WriteJSON(s, wire.Request{Argv: c.Argv, Env: c.Env, Dir: c.Dir}); err != nil {
		return fmt.Errorf("%s: %w", c.Argv[0], err)
	}
	to := wire.NewFrames(s)
	if c.Stdin != nil {
		go func() { // ends with the stream, or when the caller's reader does
			_, _ = io.Copy(to.Writer(wire.Stdin), c.Stdin)
			_ = to.Send(wire.Stdin, nil)
		}()
	} else if err := to.Send(wire.Stdin, nil); err != nil {
		return fmt.Errorf("%s: %w", c.Argv[0], err)
	}
	exit, err := output(s, c)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", strings.Join(c.Argv, " "), context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("%s: the guest is gone: %w", c.Argv[0], err)
	case exit.Error != "":
		return fmt.Errorf("%s: %s", c.Argv[0], exit.Error)
	case exit.Code != 0:
		return &ExitError{Argv: c.Argv, Code: exit.Code, Signal: syscall.Signal(exit.Signal)}
	}
	return nil
}

func output(s io.Reader, c Cmd) (exit wire.Exit, err error) {
	in := bufio.NewReader(s)
	for {
		k, b, err := wire.ReadFrame(in)
		if err != nil {
			return exit, err
		}
		switch {
		case k == wire.Ended:
			return exit, json.Unmarshal(b, &exit)
		case k == wire.Stdout && c.Stdout != nil:
			_, _ = c.Stdout.Write(b)
		case k == wire.Stderr && c.Stderr != nil:
			_, _ = c.Stderr.Write(b)
		}
	}
}

// Dial connects to a socket in the guest: network and address as for net.Dial, for example "unix" and a path.
func (g *Guest) Dial(network, address string) (net.Conn, error) {
	s, err := g.session.OpenStream()
	if err != nil {
		return nil, fmt.Errorf("the guest is gone: %w", err)
	}
	return wire.Connect(s, network, address)
}

// Forward listens at a unix socket of the host and leads each connection to one in the guest, until the guest stops.
func (g *Guest) Forward(hostPath, guestPath string) error {
	l, err := net.Listen("unix", hostPath)
	if err != nil {
		return err
	}
	g.wg.Go(func() {
		<-g.session.CloseChan()
		_ = l.Close()
	})
	g.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			g.wg.Go(func() {
				s, err := g.Dial("unix", guestPath)
				if err != nil {
					_ = c.Close()
					return
				}
				wire.Pipe(c, s)
			})
		}
	})
	return nil
}

// Package connection keeps one connection to libvirtd, makes it anew when libvirtd restarts or hangs, and gives every call a deadline that go-libvirt
// itself does not know.
package connection

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/digitalocean/go-libvirt"
)

const (
	backoffMin = 200 * time.Millisecond // between attempts to connect
	backoffMax = 5 * time.Second

	pingInterval = 5 * time.Second
	answerLimit  = 15 * time.Second // a libvirtd that says nothing for so long hangs
)

// errSilent is why a connection to a libvirtd that hangs was given up.
var errSilent = errors.New("it does not answer")

// Hooks are told of the connection. They are called one at a time.
type Hooks struct {
	// Up is called after each connect, before calls are let through. Its ctx lives as long as the connection; its calls are cut when they take too long.
	Up func(ctx context.Context, l *libvirt.Libvirt) error
	// Ready is called when calls are let through.
	Ready func()
	// Down is called when the connection is lost or cannot be made.
	Down func(error)
}

// Connection is a connection to libvirtd that heals itself. Make one with New, run it with Run.
type Connection struct {
	socket, uri string
	hooks       Hooks

	tried chan struct{} // closed when the first attempt to connect has ended
	once  sync.Once

	mu      sync.Mutex
	current *link
	last    error
}

// New makes a connection; nothing happens before Run.
func New(socket, uri string, hooks Hooks) *Connection {
	return &Connection{socket: socket, uri: uri, hooks: hooks, tried: make(chan struct{}), last: errors.New("not connected yet")}
}

// Run keeps the connection until ctx ends.
func (c *Connection) Run(ctx context.Context) {
	wait := backoffMin
	for ctx.Err() == nil {
		was, err := c.session(ctx)
		c.set(nil, err)
		if ctx.Err() != nil {
			return
		}
		if was {
			wait = backoffMin
		}
		c.hooks.Down(err)
		slog.Warn("libvirt connection", "socket", c.socket, "error", err, "retry_in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		wait = min(2*wait, backoffMax)
	}
}

// session connects and returns when that connection has ended, and whether there was one.
func (c *Connection) session(ctx context.Context) (was bool, err error) {
	ctx, end := context.WithCancel(ctx)
	defer end()
	l, err := c.open(ctx)
	if err != nil {
		return false, err
	}
	defer l.close()
	c.set(l, nil)
	c.hooks.Ready()
	tick := time.NewTicker(pingInterval)
	defer tick.Stop()
	for {
		select {
		case <-l.libvirt.Disconnected():
			return true, errors.New("libvirtd closed the connection")
		case <-ctx.Done():
			return true, ctx.Err()
		case <-tick.C:
			if err := ping(ctx, l); err != nil {
				return true, err
			}
		}
	}
}

func (c *Connection) open(ctx context.Context) (*link, error) {
	short, cancel := context.WithTimeoutCause(ctx, answerLimit, errSilent)
	defer cancel()
	l, err := dial(short, c.socket, c.uri)
	if err != nil {
		return nil, err
	}
	stop := l.cutAtEnd(short)
	err = c.hooks.Up(ctx, l.libvirt)
	if !stop() && err == nil {
		err = context.Cause(short)
	}
	if err != nil {
		l.cut()
		return nil, err
	}
	return l, nil
}

// ping cuts a connection that does not answer.
func ping(ctx context.Context, l *link) error {
	short, cancel := context.WithTimeoutCause(ctx, answerLimit, errSilent)
	defer cancel()
	stop := l.cutAtEnd(short)
	_, err := l.libvirt.ConnectGetLibVersion()
	if !stop() {
		return context.Cause(short)
	}
	return err
}

func (c *Connection) set(l *link, err error) {
	c.mu.Lock()
	c.current, c.last = l, err
	c.mu.Unlock()
	c.once.Do(func() { close(c.tried) })
}

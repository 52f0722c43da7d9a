// Package connection keeps one connection to libvirtd, makes it anew when libvirtd restarts, and gives every call a deadline that go-libvirt itself
// does not know.
package connection

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Waits between attempts to connect.
const (
	backoffMin = 200 * time.Millisecond
	backoffMax = 5 * time.Second
)

// Connection is a connection to libvirtd that heals itself. Make one with New, run it with Run.
type Connection struct {
	socket, uri string
	up          func(*libvirt.Libvirt) // called after each connect, before calls are let through
	down        func(error)            // called when the connection is lost or cannot be made

	tried chan struct{} // closed when the first attempt to connect has ended
	once  sync.Once

	mu      sync.Mutex
	current *libvirt.Libvirt
	last    error
}

// New makes a connection; nothing happens before Run.
func New(socket, uri string, up func(*libvirt.Libvirt), down func(error)) *Connection {
	return &Connection{socket: socket, uri: uri, up: up, down: down, tried: make(chan struct{}), last: errors.New("not connected yet")}
}

// Run keeps the connection until ctx ends.
func (c *Connection) Run(ctx context.Context) {
	wait := backoffMin
	for ctx.Err() == nil {
		l := libvirt.NewWithDialer(dialers.NewLocal(dialers.WithSocket(c.socket), dialers.WithLocalTimeout(5*time.Second)))
		err := l.ConnectToURI(libvirt.ConnectURI(c.uri))
		if err == nil {
			wait = backoffMin
			c.up(l)
			c.set(l, nil)
			select {
			case <-l.Disconnected():
				err = errors.New("libvirtd closed the connection")
			case <-ctx.Done():
				c.set(nil, ctx.Err())
				_ = l.Disconnect()
				return
			}
		}
		c.set(nil, err)
		c.down(err)
		slog.Warn("libvirt connection", "socket", c.socket, "error", err, "retry_in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		wait = min(2*wait, backoffMax)
	}
}

func (c *Connection) set(l *libvirt.Libvirt, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current, c.last = l, err
	c.once.Do(func() { close(c.tried) })
}

// Do runs fn with the connection and returns when it does or ctx ends; then fn's outcome is unknown. fn must not touch what its caller uses afterwards.
func (c *Connection) Do(ctx context.Context, what string, fn func(*libvirt.Libvirt) error) error {
	select {
	case <-c.tried:
	case <-ctx.Done():
	}
	c.mu.Lock()
	l, last := c.current, c.last
	c.mu.Unlock()
	if l == nil {
		return fault.New(metav1.Reason_REASON_BACKEND_UNAVAILABLE, "%s: libvirtd at %s cannot be reached: %w", what, c.socket, last).WithRemedy("start libvirtd")
	}
	done := make(chan error, 1)
	go func() { done <- fn(l) }()
	select {
	case err := <-done:
		return classify(what, err)
	case <-ctx.Done():
		return fault.New(metav1.Reason_REASON_BACKEND_TIMEOUT, "%s: libvirt did not answer in time: %w", what, ctx.Err())
	}
}

// classify turns libvirt's error numbers into reasons.
func classify(what string, err error) error {
	if err == nil {
		return nil
	}
	var f *fault.Error
	if errors.As(err, &f) {
		return err
	}
	reason := metav1.Reason_REASON_BACKEND_FAILED
	var e libvirt.Error
	if !errors.As(err, &e) {
		return fault.New(metav1.Reason_REASON_BACKEND_UNAVAILABLE, "%s: %w", what, err)
	}
	switch libvirt.ErrorNumber(e.Code) {
	case libvirt.ErrNoDomain:
		reason = metav1.Reason_REASON_DOMAIN_NOT_FOUND
	case libvirt.ErrOperationInvalid:
		reason = metav1.Reason_REASON_WRONG_STATE
	case libvirt.ErrAgentUnresponsive:
		reason = metav1.Reason_REASON_GUEST_AGENT_UNAVAILABLE
	case libvirt.ErrXMLError, libvirt.ErrXMLDetail, libvirt.ErrConfigUnsupported, libvirt.ErrInvalidArg:
		reason = metav1.Reason_REASON_INVALID_FIELD
	case libvirt.ErrOperationTimeout:
		reason = metav1.Reason_REASON_BACKEND_TIMEOUT
	}
	return fault.New(reason, "%s: libvirt: %w", what, err)
}

package connection

import (
	"cmp"
	"context"
	"errors"
	"net"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// callLimit bounds a call whose context has no deadline.
const callLimit = 5 * time.Minute

// Do runs fn, which must be quick, on the connection that all share. It returns when fn does or ctx ends; then the outcome is unknown.
func Do[T any](ctx context.Context, c *Connection, what string, fn func(*libvirt.Libvirt) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	var zero T
	select {
	case <-c.tried:
	case <-ctx.Done():
	}
	c.mu.Lock()
	l, last := c.current, c.last
	c.mu.Unlock()
	if l == nil {
		return zero, c.unavailable(what, last)
	}
	type answer struct {
		value T
		err   error
	}
	done := make(chan answer, 1)
	go func() { // ends with the answer, or with the connection, which does not outlive a libvirtd that hangs
		v, err := fn(l.libvirt)
		done <- answer{v, err}
	}()
	select {
	case a := <-done:
		return a.value, classify(what, a.err)
	case <-ctx.Done():
		return zero, timedOut(what, ctx)
	}
}

// Alone runs fn on a connection of its own, which ends with ctx: libvirtd takes only a few calls at a time from each connection, and one that may take long must not
// hold up the others. When ctx ends first the outcome is unknown: libvirtd goes on with what it began.
func Alone[T any](ctx context.Context, c *Connection, what string, fn func(*libvirt.Libvirt) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	var zero T
	l, err := dial(ctx, c.socket, c.uri)
	if err != nil {
		var late net.Error
		if ctx.Err() != nil || errors.As(err, &late) && late.Timeout() { // the dialer's clock may be a little ahead of ctx's
			return zero, timedOut(what, ctx)
		}
		return zero, c.unavailable(what, err)
	}
	stop := l.cutAtEnd(ctx)
	v, err := fn(l.libvirt)
	if !stop() {
		return zero, timedOut(what, ctx)
	}
	l.close()
	return v, classify(what, err)
}

func (c *Connection) unavailable(what string, err error) error {
	return fault.New(metav1.Reason_REASON_BACKEND_UNAVAILABLE, "%s: libvirtd at %s cannot be reached: %w", what, c.socket, err).WithRemedy("start libvirtd")
}

func timedOut(what string, ctx context.Context) error {
	return fault.New(metav1.Reason_REASON_BACKEND_TIMEOUT, "%s: libvirt did not answer in time: %w", what, cmp.Or(ctx.Err(), context.DeadlineExceeded))
}

// reasons of libvirt's error numbers; others are BACKEND_FAILED.
var reasons = map[libvirt.ErrorNumber]metav1.Reason{
	libvirt.ErrNoDomain:           metav1.Reason_REASON_DOMAIN_NOT_FOUND,
	libvirt.ErrOperationInvalid:   metav1.Reason_REASON_WRONG_STATE,
	libvirt.ErrAgentUnresponsive:  metav1.Reason_REASON_GUEST_AGENT_UNAVAILABLE,
	libvirt.ErrAgentUnsynced:      metav1.Reason_REASON_GUEST_AGENT_UNAVAILABLE,
	libvirt.ErrAgentCommandFailed: metav1.Reason_REASON_GUEST_AGENT_UNAVAILABLE,
	libvirt.ErrXMLError:           metav1.Reason_REASON_INVALID_FIELD,
	libvirt.ErrXMLDetail:          metav1.Reason_REASON_INVALID_FIELD,
	libvirt.ErrConfigUnsupported:  metav1.Reason_REASON_INVALID_FIELD,
	libvirt.ErrInvalidArg:         metav1.Reason_REASON_INVALID_FIELD,
	libvirt.ErrOperationTimeout:   metav1.Reason_REASON_BACKEND_TIMEOUT,
}

// classify turns libvirt's error numbers into reasons. libvirt's own error stays within reach of errors.As.
func classify(what string, err error) error {
	var f *fault.Error
	if err == nil || errors.As(err, &f) {
		return err
	}
	var e libvirt.Error
	if !errors.As(err, &e) {
		return fault.New(metav1.Reason_REASON_BACKEND_UNAVAILABLE, "%s: %w", what, err)
	}
	reason, ok := reasons[libvirt.ErrorNumber(e.Code)]
	if !ok {
		reason = metav1.Reason_REASON_BACKEND_FAILED
	}
	return fault.New(reason, "%s: libvirt: %w", what, err)
}

// IsCode reports whether err comes from libvirt with that number.
func IsCode(err error, number libvirt.ErrorNumber) bool {
	var e libvirt.Error
	return errors.As(err, &e) && libvirt.ErrorNumber(e.Code) == number
}

// Package console connects a terminal, or a pipe, to the serial console of a VM.
package console

import (
	"context"
	"errors"
	"io"
	"time"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// Escape ends a session: Ctrl-].
const Escape = 0x1d

// chunk is the most that one message carries; the API takes up to 32 KiB.
const chunk = 8 << 10

// flushTime is how long the end of a session waits so that what was typed just before it is not cut off with the connection.
const flushTime = 250 * time.Millisecond

// Session is one connection.
type Session struct {
	In  io.Reader
	Out io.Writer
	// Escapes says that Ctrl-] in the input ends the session, as on a terminal.
	Escapes bool
	// Idle ends the session once the input has ended and nothing was printed for so long; 0 = go on.
	Idle time.Duration
	// Opened is called when the console is open; may be nil.
	Opened func()
}

// errEscape says that the user typed Ctrl-].
var errEscape = errors.New("escape")

type bidi = connect.BidiStreamForClient[computev1.OpenConsoleRequest, computev1.OpenConsoleResponse]

// Run connects until the user ends it or the console does; both are no error. In is read by a goroutine that may outlive the call: a read of a
// terminal cannot be broken off.
func (s Session) Run(ctx context.Context, c *api.Client, id, project string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream := c.VMs.OpenConsole(ctx)
	open := &computev1.OpenConsoleRequest{Message: &computev1.OpenConsoleRequest_Open{Open: &computev1.ConsoleTarget{Id: id, ProjectId: project}}}
	if err := stream.Send(open); err != nil {
		return sendError(stream, err)
	}
	if _, err := stream.Receive(); err != nil {
		return err
	}
	if s.Opened != nil {
		s.Opened()
	}
	printed, outcome, typed := make(chan struct{}, 1), make(chan error, 1), make(chan error, 1)
	go func() { outcome <- s.print(stream, printed) }() // ends with the stream
	go func() { typed <- s.typeIn(stream) }()           // ends with the input
	var idle <-chan time.Time
	leaving := false
	for {
		select {
		case err := <-outcome:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case err := <-typed:
			switch {
			case errors.Is(err, errEscape):
				leaving, idle = true, time.After(flushTime)
			case errors.Is(err, io.EOF): // the stream is broken; print says why
			case err != nil:
				return err
			case s.Idle > 0:
				idle = time.After(s.Idle)
			}
			typed = nil
		case <-printed:
			if idle != nil && !leaving {
				idle = time.After(s.Idle)
			}
		case <-idle:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s Session) print(stream *bidi, printed chan<- struct{}) error {
	for {
		msg, err := stream.Receive()
		if err != nil {
			return err
		}
		if _, err := s.Out.Write(msg.GetData()); err != nil {
			return err
		}
		select {
		case printed <- struct{}{}:
		default:
		}
	}
}

// typeIn sends the input to its end. nil: the input has ended.
func (s Session) typeIn(stream *bidi) error {
	buf := make([]byte, chunk)
	for {
		n, err := s.In.Read(buf)
		data, escaped := buf[:n], false
		if s.Escapes {
			data, escaped = untilEscape(data)
		}
		if len(data) > 0 {
			if err := stream.Send(&computev1.OpenConsoleRequest{Message: &computev1.OpenConsoleRequest_Data{Data: data}}); err != nil {
				return err
			}
		}
		switch {
		case escaped:
			return errors.Join(errEscape, stream.CloseRequest())
		case errors.Is(err, io.EOF):
			return stream.CloseRequest()
		case err != nil:
			return err
		}
	}
}

func untilEscape(data []byte) ([]byte, bool) {
	for i, b := range data {
		if b == Escape {
			return data[:i], true
		}
	}
	return data, false
}

// sendError is why a send failed: connect says only io.EOF when the answer holds the reason.
func sendError(stream *bidi, err error) error {
	if !errors.Is(err, io.EOF) {
		return err
	}
	if _, why := stream.Receive(); why != nil {
		return why
	}
	return err
}

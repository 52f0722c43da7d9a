package reference

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// chunk is the greatest part of a console's text in one message.
const chunk = 32 << 10

// OpenConsole echoes what is typed, as a terminal does, into the console's log as well.
func (c *computeDriver) OpenConsole(s grpc.BidiStreamingServer[driverv1.OpenConsoleRequest, driverv1.OpenConsoleResponse]) error {
	first, err := s.Recv()
	if err != nil {
		return err
	}
	target := first.GetOpen()
	if target == nil {
		return fault.Invalid(fault.Violation{Field: "open", Description: "the first message must name the domain"})
	}
	d, err := c.read(target.GetDomainId())
	if err != nil {
		return err
	}
	if err := mustRun(target.GetDomainId(), d); err != nil {
		return err
	}
	if err := s.Send(&driverv1.OpenConsoleResponse{}); err != nil {
		return err
	}
	at := len(c.text(d.GetDomainId()))
	typed := make(chan []byte)
	gone := make(chan error, 1)
	go func() { // ends with the stream
		for {
			m, err := s.Recv()
			if err != nil {
				gone <- err
				return
			}
			select {
			case typed <- m.GetData():
			case <-s.Context().Done():
				return
			}
		}
	}()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-gone:
			return nil // the other side has ended
		case <-s.Context().Done():
			return s.Context().Err()
		case b := <-typed:
			if err := c.print(d.GetDomainId(), b); err != nil {
				return err
			}
		case <-tick.C:
		}
		text := c.text(d.GetDomainId())
		if at > len(text) {
			return nil // deleted
		}
		for at < len(text) {
			part := text[at:min(len(text), at+chunk)]
			if err := s.Send(&driverv1.OpenConsoleResponse{Data: part}); err != nil {
				return err
			}
			at += len(part)
		}
	}
}

// ReadConsoleLog reads what was printed.
func (c *computeDriver) ReadConsoleLog(req *driverv1.ReadConsoleLogRequest, s grpc.ServerStreamingServer[driverv1.ReadConsoleLogResponse]) error {
	if _, err := c.read(req.GetDomainId()); err != nil {
		return err
	}
	at := int(req.GetOffset())
	if at < 0 {
		at = max(0, len(c.text(req.GetDomainId()))+at)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		text := c.text(req.GetDomainId())
		for at < len(text) {
			part := text[at:min(len(text), at+chunk)]
			if err := s.Send(&driverv1.ReadConsoleLogResponse{Offset: int64(at), Data: part}); err != nil {
				return err
			}
			at += len(part)
		}
		if !req.GetFollow() {
			return nil
		}
		select {
		case <-s.Context().Done():
			return s.Context().Err()
		case <-tick.C:
		}
	}
}

// text is all that a domain's console has printed.
func (c *computeDriver) text(id string) (text []byte) {
	_ = c.do(func(x *tx) error { // an unreadable journal shows in every other call
		text = x.bytes(consoleTable, id)
		return nil
	})
	return text
}

func (c *computeDriver) print(id string, b []byte) error {
	return c.change(context.Background(), func(x *tx) error {
		if x.has(domainTable, id) {
			x.putBytes(consoleTable, id, append(append([]byte(nil), x.bytes(consoleTable, id)...), b...))
		}
		return nil
	})
}

package driver

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/consolelog"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	typedMost   = 32 << 10 // bytes that come at once
	logChunk    = 32 << 10
	logInterval = 150 * time.Millisecond // between looks at a log that is followed
)

// OpenConsole connects to the serial console.
func (d *Driver) OpenConsole(stream driverv1.ComputeDriverService_OpenConsoleServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	id, ctx := first.GetOpen().GetDomainId(), stream.Context()
	if err := checkID(id); err != nil {
		return err
	}
	have, err := d.setting().find(ctx, id)
	if err != nil {
		return err
	}
	if have.live == nil || have.live.ConsoleSocket == "" {
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "domain %s does not run, or has no serial console", id)
	}
	con, err := d.consoles.Open(ctx, id, have.live.ConsoleSocket)
	if err != nil {
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "console of domain %s: %w", id, err)
	}
	defer con.Close()
	if err := stream.Send(&driverv1.OpenConsoleResponse{}); err != nil {
		return err
	}
	typed := make(chan error, 1)
	go func() { typed <- typeInto(con, stream) }() // ends with the stream: writing has a limit
	for {
		select {
		case b, ok := <-con.Output():
			if !ok {
				if err := con.Err(); err != nil {
					return fault.New(metav1.Reason_REASON_LIMIT_EXCEEDED, "console of domain %s: %w", id, err)
				}
				return nil
			}
			if err := stream.Send(&driverv1.OpenConsoleResponse{Data: b}); err != nil {
				return err
			}
		case err := <-typed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// typeInto passes on what is typed until the other side ends.
func typeInto(w io.Writer, stream driverv1.ComputeDriverService_OpenConsoleServer) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(m.GetData()) > typedMost {
			return fault.Invalid(fault.Violation{Field: "data", Description: "must have at most 32 KiB"})
		}
		if _, err := w.Write(m.GetData()); err != nil {
			return fault.New(metav1.Reason_REASON_WRONG_STATE, "%w", err)
		}
	}
}

// ReadConsoleLog reads the console's log files, which virtlogd writes.
func (d *Driver) ReadConsoleLog(req *driverv1.ReadConsoleLogRequest, stream driverv1.ComputeDriverService_ReadConsoleLogServer) error {
	id, ctx := req.GetDomainId(), stream.Context()
	if err := checkID(id); err != nil {
		return err
	}
	s := d.setting()
	have, err := s.find(ctx, id)
	if err != nil {
		return err
	}
	path := have.defined.ConsoleLog
	if path == "" {
		path = s.files(id).ConsoleLog // of a time when it had a console
	}
	log, err := consolelog.Open(path, req.GetOffset())
	if err != nil {
		return fault.New(metav1.Reason_REASON_BACKEND_FAILED, "domain %s: %w", id, err)
	}
	defer log.Close()
	if err := copyLog(ctx, log, req.GetFollow(), stream); err != nil {
		return err
	}
	return ctx.Err()
}

func copyLog(ctx context.Context, log *consolelog.Reader, follow bool, stream driverv1.ComputeDriverService_ReadConsoleLogServer) error {
	buf := make([]byte, logChunk)
	for ctx.Err() == nil {
		n, at, err := log.Read(buf)
		switch {
		case err != nil:
			return fault.New(metav1.Reason_REASON_BACKEND_FAILED, "%w", err)
		case n > 0:
			if err := stream.Send(&driverv1.ReadConsoleLogResponse{Offset: at, Data: buf[:n]}); err != nil {
				return err
			}
		case !follow || log.Gone():
			return nil
		default:
			_ = pause(ctx, logInterval)
		}
	}
	return nil
}

package tunnel

import (
	"context"
	"errors"
	"io"

	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// typedMost is how many typed bytes a driver takes at once.
const typedMost = 32 << 10

// console connects the controller with a VM's serial console. The first, empty message says that it is open.
func (t *Tunnels) console(ctx context.Context, s *stream, c *agentv1.ConsoleTunnel) error {
	driver, handle, err := t.node.Domain(c.GetVmId())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	con, err := t.plugins.Compute(driver).OpenConsole(ctx)
	if err != nil {
		return err
	}
	err = con.Send(&driverv1.OpenConsoleRequest{Message: &driverv1.OpenConsoleRequest_Open{
		Open: &driverv1.ConsoleTarget{DomainId: c.GetVmId(), Handle: handle},
	}})
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	typed := make(chan error, 1)
	t.wg.Go(func() {
		typed <- fromController(ctx, s, func(b []byte) error {
			for len(b) > 0 {
				part := b[:min(len(b), typedMost)]
				b = b[len(part):]
				if err := con.Send(&driverv1.OpenConsoleRequest{Message: &driverv1.OpenConsoleRequest_Data{Data: part}}); err != nil {
					return err
				}
			}
			return nil
		})
		cancel() // the controller's side is done: so is the console
	})
	for {
		m, err := con.Recv()
		if err != nil {
			select {
			case typedErr := <-typed: // ended from the controller's side
				if errors.Is(typedErr, io.EOF) {
					return nil
				}
				return typedErr
			default:
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fault.From(err)
		}
		if err := s.data(m.GetData(), 0); err != nil {
			return err
		}
	}
}

// consoleLog sends a VM's console log, and with follow goes on until the controller ends its side.
func (t *Tunnels) consoleLog(ctx context.Context, s *stream, c *agentv1.ConsoleLogTunnel) error {
	driver, handle, err := t.node.Domain(c.GetVmId())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	log, err := t.plugins.Compute(driver).ReadConsoleLog(ctx, &driverv1.ReadConsoleLogRequest{
		DomainId: c.GetVmId(), Handle: handle, Offset: c.GetOffset(), Follow: c.GetFollow(),
	})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	t.wg.Go(func() {
		ended <- fromController(ctx, s, func([]byte) error { return nil })
		cancel()
	})
	for {
		m, err := log.Recv()
		if err != nil {
			select {
			case endErr := <-ended:
				return endErr
			default:
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fault.From(err)
		}
		if err := s.data(m.GetData(), m.GetOffset()); err != nil {
			return err
		}
	}
}

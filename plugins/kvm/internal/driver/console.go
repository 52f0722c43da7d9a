package driver

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"sync"
	"time"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// consoles shares one connection to each domain's console socket, on which QEMU takes only one client, among all who look.
type consoles struct {
	mu   sync.Mutex
	open map[string]*console
}

// console is an open connection with its listeners.
type console struct {
	conn net.Conn
	mu   sync.Mutex
	to   map[chan []byte]struct{} // closed when the connection ends
}

// join connects, or shares the connection that is there.
func (c *consoles) join(ctx context.Context, id, socket string) (*console, chan []byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	con := c.open[id]
	if con == nil {
		conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", socket)
		if err != nil {
			return nil, nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "console of domain %s: %w", id, err).WithRemedy("is the domain running, with a serial console?")
		}
		con = &console{conn: conn, to: map[chan []byte]struct{}{}}
		c.open[id] = con
		go c.pump(id, con)
	}
	ch := make(chan []byte, 256)
	con.mu.Lock()
	con.to[ch] = struct{}{}
	con.mu.Unlock()
	return con, ch, nil
}

// pump hands what the guest prints to all listeners until the connection ends; a listener that does not keep up loses bytes, the guest never waits.
func (c *consoles) pump(id string, con *console) {
	buf := make([]byte, 32<<10)
	for {
		n, err := con.conn.Read(buf)
		con.mu.Lock()
		for ch := range con.to {
			select {
			case ch <- append([]byte(nil), buf[:n]...):
			default:
			}
		}
		if err != nil {
			for ch := range con.to {
				close(ch)
			}
			con.to = nil
		}
		con.mu.Unlock()
		if err != nil {
			_ = con.conn.Close()
			c.mu.Lock()
			if c.open[id] == con {
				delete(c.open, id)
			}
			c.mu.Unlock()
			return
		}
	}
}

// leave takes a listener away; the last one closes the connection.
func (c *consoles) leave(id string, con *console, ch chan []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	con.mu.Lock()
	defer con.mu.Unlock()
	if con.to == nil {
		return
	}
	delete(con.to, ch)
	if len(con.to) == 0 {
		_ = con.conn.Close()
		if c.open[id] == con {
			delete(c.open, id)
		}
	}
}

// drop closes a domain's connection.
func (c *consoles) drop(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if con := c.open[id]; con != nil {
		_ = con.conn.Close()
		delete(c.open, id)
	}
}

// OpenConsole connects to the serial console.
func (d *Driver) OpenConsole(stream driverv1.ComputeDriverService_OpenConsoleServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	id := first.GetOpen().GetDomainId()
	if err := checkID(id); err != nil {
		return err
	}
	ctx, s := stream.Context(), d.setting()
	if _, _, err := d.find(ctx, s, id); err != nil {
		return err
	}
	con, out, err := d.consoles.join(ctx, id, s.files(id).ConsoleSocket)
	if err != nil {
		return err
	}
	defer d.consoles.leave(id, con, out)
	if err := stream.Send(&driverv1.OpenConsoleResponse{}); err != nil {
		return err
	}
	typed := make(chan error, 1)
	go func() {
		for {
			m, err := stream.Recv()
			if err == nil {
				_, err = con.conn.Write(m.GetData())
			}
			if err != nil {
				typed <- err
				return
			}
		}
	}()
	for {
		select {
		case b, ok := <-out:
			if !ok {
				return nil
			}
			if len(b) > 0 {
				if err := stream.Send(&driverv1.OpenConsoleResponse{Data: b}); err != nil {
					return err
				}
			}
		case err := <-typed:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

const (
	logChunk    = 32 << 10
	logInterval = 150 * time.Millisecond
)

// ReadConsoleLog reads the console's log file, which virtlogd writes.
func (d *Driver) ReadConsoleLog(req *driverv1.ReadConsoleLogRequest, stream driverv1.ComputeDriverService_ReadConsoleLogServer) error {
	id := req.GetDomainId()
	if err := checkID(id); err != nil {
		return err
	}
	ctx, s := stream.Context(), d.setting()
	if _, _, err := d.find(ctx, s, id); err != nil {
		return err
	}
	path := s.files(id).ConsoleLog
	pos := req.GetOffset()
	if pos < 0 {
		if st, err := os.Stat(path); err == nil {
			pos = max(0, st.Size()+pos)
		} else {
			pos = 0
		}
	}
	buf := make([]byte, logChunk)
	for {
		n, err := readAt(path, buf, pos)
		if err != nil {
			return fault.New(metav1.Reason_REASON_BACKEND_FAILED, "console log of domain %s: %w", id, err)
		}
		if n > 0 {
			if err := stream.Send(&driverv1.ReadConsoleLogResponse{Offset: pos, Data: buf[:n]}); err != nil {
				return err
			}
			pos += int64(n)
			continue
		}
		if st, err := os.Stat(path); err == nil && st.Size() < pos {
			pos = 0 // rotated: begin again
			continue
		}
		if !req.GetFollow() {
			return nil
		}
		select {
		case <-time.After(logInterval):
		case <-ctx.Done():
			return nil
		}
	}
}

// readAt reads what stands at an offset; no file yet, or nothing there yet, is nothing.
func readAt(path string, buf []byte, pos int64) (int, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	n, err := f.ReadAt(buf, pos)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

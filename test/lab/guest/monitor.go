package guest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"time"
)

// monitor speaks QMP.
type monitor struct {
	mu   sync.Mutex
	conn net.Conn
	in   *bufio.Reader
}

func dialMonitor(ctx context.Context, path string, m *machine) (*monitor, error) {
	c, err := dialSoon(ctx, path, m)
	if err != nil {
		return nil, err
	}
	q := &monitor{conn: c, in: bufio.NewReader(c)}
	if _, err := q.in.ReadBytes('\n'); err != nil { // the greeting
		return nil, fmt.Errorf("QMP: %w", err)
	}
	return q, q.call(ctx, "qmp_capabilities", nil, nil)
}

// call runs a command and reads its answer into out, if that is not nil. Events are passed over.
func (q *monitor) call(ctx context.Context, command string, arguments map[string]any, out any) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	msg := map[string]any{"execute": command}
	if arguments != nil {
		msg["arguments"] = arguments
	}
	b, err := json.Marshal(msg)
	if err != nil {
		return err
	}
	if d, ok := ctx.Deadline(); ok {
		_ = q.conn.SetDeadline(d)
	} else {
		_ = q.conn.SetDeadline(time.Time{})
	}
	if _, err := q.conn.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	for {
		line, err := q.in.ReadBytes('\n')
		if err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
		var r struct {
			Return json.RawMessage
			Error  *struct{ Desc string }
		}
		if err := json.Unmarshal(line, &r); err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
		switch {
		case r.Error != nil:
			return fmt.Errorf("%s: %s", command, r.Error.Desc)
		case r.Return != nil && out != nil:
			return json.Unmarshal(r.Return, out)
		case r.Return != nil:
			return nil
		}
	}
}

func (q *monitor) close() { _ = q.conn.Close() }

package api

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// ErrStop ends a watch from its callback; the watch then returns nil.
var ErrStop = errors.New("stop")

// patience is how long a watch tries to reach a controller that went away before it gives up.
const patience = time.Minute

// event is what the watches of all kinds have in common.
type event interface {
	GetType() computev1.WatchEventType
	GetRevision() int64
}

// WatchVMs calls on for each event until it returns an error. A broken stream is resumed where it broke; when the controller no longer knows that
// revision, or is another one, it begins anew with all present VMs.
func (c *Client) WatchVMs(ctx context.Context, req *computev1.WatchVMsRequest, on func(*computev1.WatchVMsResponse) error) error {
	return watch(ctx, req.GetRevision(), func(ctx context.Context, revision int64) (stream[computev1.WatchVMsResponse], error) {
		again := proto.CloneOf(req)
		again.Revision = revision
		return c.VMs.WatchVMs(ctx, connect.NewRequest(again))
	}, on)
}

// WatchNodes does for nodes what WatchVMs does for VMs.
func (c *Client) WatchNodes(ctx context.Context, req *computev1.WatchNodesRequest, on func(*computev1.WatchNodesResponse) error) error {
	return watch(ctx, req.GetRevision(), func(ctx context.Context, revision int64) (stream[computev1.WatchNodesResponse], error) {
		again := proto.CloneOf(req)
		again.Revision = revision
		return c.Nodes.WatchNodes(ctx, connect.NewRequest(again))
	}, on)
}

type stream[T any] interface {
	Receive() bool
	Msg() *T
	Err() error
	Close() error
}

func watch[T any, P interface {
	*T
	event
}](ctx context.Context, revision int64, open func(context.Context, int64) (stream[T], error), on func(P) error,
) error {
	var lostSince time.Time
	heard := false
	wait := 200 * time.Millisecond
	for {
		err := follow(ctx, open, &revision, func(e P) error {
			heard, lostSince, wait = true, time.Time{}, 200*time.Millisecond
			return on(e)
		})
		switch {
		case errors.Is(err, ErrStop):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case Overdue(ctx, err):
			<-ctx.Done()
			return ctx.Err()
		case connect.CodeOf(err) == connect.CodeOutOfRange && revision != 0:
			revision = 0
			continue
		case err != nil && (!heard || connect.CodeOf(err) != connect.CodeUnavailable):
			return err
		}
		// Unavailable, or ended without an error: the controller goes away.
		if lostSince.IsZero() {
			lostSince = time.Now()
		}
		if time.Since(lostSince) > patience {
			if err == nil {
				err = connect.NewError(connect.CodeUnavailable, errors.New("the watch ended again and again"))
			}
			return err
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, 5*time.Second)
	}
}

// follow reads one stream to its end.
func follow[T any, P interface {
	*T
	event
}](ctx context.Context, open func(context.Context, int64) (stream[T], error), revision *int64, on func(P) error,
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := open(ctx, *revision)
	if err != nil {
		return err
	}
	defer s.Close()
	for s.Receive() {
		e := P(s.Msg())
		if err := on(e); err != nil {
			return err
		}
		// Events of the opening listing share a revision that only the bookmark makes good to resume from.
		if *revision != 0 || e.GetType() == computev1.WatchEventType_WATCH_EVENT_TYPE_BOOKMARK {
			*revision = e.GetRevision()
		}
	}
	return s.Err()
}

// pause waits, or returns when ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Overdue reports whether a call failed because its own time was over. The server knows the deadline too, and may say so a moment before ctx ends here.
func Overdue(ctx context.Context, err error) bool {
	deadline, ok := ctx.Deadline()
	return ok && connect.CodeOf(err) == connect.CodeDeadlineExceeded && time.Until(deadline) < 5*time.Second
}

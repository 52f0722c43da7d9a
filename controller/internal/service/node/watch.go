package node

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// bookmarkEvery is how often an idle watch says how far it is.
const bookmarkEvery = 30 * time.Second

// WatchNodes streams changes, in the order in which they were made.
func (s *Service) WatchNodes(ctx context.Context, req *connect.Request[computev1.WatchNodesRequest], stream *connect.ServerStream[computev1.WatchNodesResponse]) error {
	return s.watch(ctx, req.Msg, stream.Send)
}

func (s *Service) watch(ctx context.Context, m *computev1.WatchNodesRequest, send func(*computev1.WatchNodesResponse) error) error {
	var v domain.Violations
	sel := selector(&v, m.GetLabelSelector())
	if m.GetRevision() < 0 {
		v.Add("revision", "must not be negative")
	}
	if err := v.Err(); err != nil {
		return err
	}
	wants := func(r *state.Row) bool { return r != nil && r.Kind == state.KindNode && sel.Matches(r.Labels) }
	emit := func(kind computev1.WatchEventType, row *state.Row, revision int64) error {
		resp := &computev1.WatchNodesResponse{Type: kind, Revision: revision}
		if row != nil {
			resp.Node = s.view(row)
		}
		return send(resp)
	}
	from := m.GetRevision()
	if from == 0 {
		from = s.cfg.Cache.Revision()
	}
	sub, err := s.cfg.Cache.Resume(ctx, from)
	if err != nil {
		return err
	}
	if m.GetRevision() == 0 {
		page := s.cfg.Cache.Find(state.Query{Kind: state.KindNode, Selector: sel})
		for _, row := range page.Rows {
			if err := emit(computev1.WatchEventType_WATCH_EVENT_TYPE_UPDATED, row, page.Revision); err != nil {
				return err
			}
		}
		if err := emit(computev1.WatchEventType_WATCH_EVENT_TYPE_BOOKMARK, nil, page.Revision); err != nil {
			return err
		}
		from = page.Revision
	}
	for {
		wait, cancel := context.WithTimeout(ctx, bookmarkEvery)
		changes, _, err := sub.Next(wait)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			if err := emit(computev1.WatchEventType_WATCH_EVENT_TYPE_BOOKMARK, nil, sub.Revision()); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return request.Fault(err)
		}
		for _, c := range changes {
			kind := computev1.WatchEventType_WATCH_EVENT_TYPE_UPDATED
			switch {
			case c.Revision <= from:
				continue
			case wants(c.New):
			case wants(c.Old):
				kind = computev1.WatchEventType_WATCH_EVENT_TYPE_REMOVED
			default:
				continue
			}
			if err := emit(kind, c.Row(), c.Revision); err != nil {
				return err
			}
		}
	}
}

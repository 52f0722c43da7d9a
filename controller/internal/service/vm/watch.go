package vm

import (
	"context"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// WatchVMs streams changes, in the order in which they were made.
func (s *Service) WatchVMs(ctx context.Context, req *connect.Request[computev1.WatchVMsRequest], stream *connect.ServerStream[computev1.WatchVMsResponse]) error {
	return s.watch(ctx, req.Msg, stream.Send)
}

func (s *Service) watch(ctx context.Context, m *computev1.WatchVMsRequest, send func(*computev1.WatchVMsResponse) error) error {
	var v domain.Violations
	w := watcher{s: s, send: send, sel: selector(&v, m.GetLabelSelector()), project: m.GetProjectId(), id: m.GetId()}
	if m.GetRevision() < 0 {
		v.Add("revision", "must not be negative")
	}
	if m.GetId() != "" && !domain.IsID(m.GetId()) {
		v.Add("id", "must be a VM's id; to watch by name, get the VM first")
	}
	if err := v.Err(); err != nil {
		return err
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
		if from, err = w.present(); err != nil {
			return err
		}
	}
	return w.follow(ctx, sub, from)
}

// watcher sends what one caller selected.
type watcher struct {
	s       *Service
	send    func(*computev1.WatchVMsResponse) error
	sel     domain.Selector
	project string
	id      string
}

func (w *watcher) wants(r *state.Row) bool {
	return r != nil && r.Kind == state.KindVM && (w.id == "" || r.ID == w.id) && (w.project == "" || r.Project == w.project) && w.sel.Matches(r.Labels)
}

// present sends all that is, and a bookmark.
func (w *watcher) present() (int64, error) {
	page := w.s.cfg.Cache.Find(state.Query{Kind: state.KindVM, Project: w.project, Selector: w.sel, Keep: w.wants})
	for _, row := range page.Rows {
		if err := w.update(row, page.Revision); err != nil {
			return 0, err
		}
	}
	return page.Revision, w.bookmark(page.Revision)
}

// follow sends the changes after from; the subscription may begin earlier.
func (w *watcher) follow(ctx context.Context, sub *state.Subscription, from int64) error {
	for {
		wait, cancel := context.WithTimeout(ctx, w.s.cfg.Bookmark)
		changes, _, err := sub.Next(wait)
		idle := wait.Err() == context.DeadlineExceeded && ctx.Err() == nil
		cancel()
		switch {
		case err != nil && idle:
			// An idle watch that fell silent resumes from near the present, not from its last event.
			if err := w.bookmark(sub.Revision()); err != nil {
				return err
			}
			continue
		case err != nil:
			return request.Fault(err)
		}
		for _, c := range changes {
			if c.Revision <= from {
				continue
			}
			if err := w.change(c); err != nil {
				return err
			}
		}
	}
}

func (w *watcher) change(c state.Change) error {
	switch {
	case w.wants(c.New):
		return w.update(c.New, c.Revision)
	case w.wants(c.Old):
		return w.send(&computev1.WatchVMsResponse{
			Type: computev1.WatchEventType_WATCH_EVENT_TYPE_REMOVED, Vm: View(w.s.cfg.Cache, c.Row()), Revision: c.Revision,
		})
	case c.New != nil && c.New.Kind == state.KindNode && c.Old != nil && unheard(c.New) != unheard(c.Old):
		on := w.s.cfg.Cache.Find(state.Query{Kind: state.KindVM, Node: c.New.ID, Keep: w.wants})
		for _, row := range on.Rows {
			if err := w.update(row, c.Revision); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *watcher) update(row *state.Row, revision int64) error {
	return w.send(&computev1.WatchVMsResponse{
		Type: computev1.WatchEventType_WATCH_EVENT_TYPE_UPDATED, Vm: View(w.s.cfg.Cache, row), Revision: revision,
	})
}

func (w *watcher) bookmark(revision int64) error {
	return w.send(&computev1.WatchVMsResponse{Type: computev1.WatchEventType_WATCH_EVENT_TYPE_BOOKMARK, Revision: revision})
}

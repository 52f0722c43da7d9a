package etcd

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// watcher turns etcd's responses, which may hold several revisions, into
// batches of one. The client buffers for a slow consumer without bound, so that
// nothing is lost.
type watcher struct {
	s      *Store
	prefix string
	outer  context.Context // the one Watch was given
	cancel context.CancelFunc
	ch     clientv3.WatchChan
	ready  []store.Batch
	err    error // terminal
}

// watchContext makes a member that lost its leader end the watch instead of
// leaving it silent. Every call that concerns a watch must carry it, for the
// client has a stream for each set of metadata.
func watchContext(ctx context.Context) context.Context { return clientv3.WithRequireLeader(ctx) }

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, prefix string, from int64) (store.Watcher, error) {
	if s.ctx.Err() != nil {
		return nil, store.ErrClosed
	}
	if from == 0 {
		// A member may be behind: what it holds for now can be before a commit that was acknowledged.
		now, err := s.List(ctx, prefix, store.ListOptions{Limit: 1})
		if err != nil {
			return nil, fmt.Errorf("watch %s: %w", prefix, err)
		}
		from = now.Revision + 1
	}
	inner, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.ctx, cancel)
	w := &watcher{s: s, prefix: prefix, outer: ctx, cancel: func() { stop(); cancel() }}
	w.ch = s.watcher.Watch(watchContext(inner), max(prefix, "\x00"),
		clientv3.WithRange(rangeEnd(prefix)),
		clientv3.WithRev(from))
	if err := ctx.Err(); err != nil {
		w.cancel()
		return nil, err
	}
	return w, nil
}

// Close implements store.Watcher.
func (w *watcher) Close() { w.cancel() }

// Next implements store.Watcher.
func (w *watcher) Next(ctx context.Context) (store.Batch, error) {
	if w.s.ctx.Err() != nil {
		w.fail(fmt.Errorf("watch %s: %w", w.prefix, store.ErrClosed))
	}
	for len(w.ready) == 0 && w.err == nil {
		if err := ctx.Err(); err != nil {
			return store.Batch{}, err
		}
		select {
		case <-ctx.Done():
		case res, open := <-w.ch:
			w.take(res, open)
		}
	}
	if len(w.ready) == 0 {
		return store.Batch{}, w.err
	}
	batch := w.ready[0]
	w.ready = w.ready[1:]
	return batch, nil
}

func (w *watcher) fail(err error) {
	if w.err == nil {
		w.err = err
	}
	w.cancel()
}

// take reads one response into batches, or into the terminal error.
func (w *watcher) take(res clientv3.WatchResponse, open bool) {
	what := "watch " + w.prefix
	switch {
	case res.CompactRevision != 0:
		w.fail(fmt.Errorf("%s: %w up to revision %d", what, store.ErrCompacted, res.CompactRevision))
	case res.Err() != nil:
		w.fail(w.s.explain(w.outer, what, res.Err()))
	case !open && w.s.ctx.Err() != nil:
		w.fail(fmt.Errorf("%s: %w", what, store.ErrClosed))
	case !open && w.outer.Err() != nil:
		w.fail(w.outer.Err())
	case !open:
		w.fail(fmt.Errorf("%s: %w: the stream ended", what, store.ErrUnavailable))
	case res.IsProgressNotify():
		w.ready = append(w.ready, store.Batch{Revision: res.Header.Revision})
	default:
		w.ready = append(w.ready, split(res.Events)...)
	}
}

// split groups events by their revision.
func split(events []*clientv3.Event) []store.Batch {
	var batches []store.Batch
	for _, ev := range events {
		revision := ev.Kv.ModRevision
		if n := len(batches); n == 0 || batches[n-1].Revision != revision {
			batches = append(batches, store.Batch{Revision: revision})
		}
		last := &batches[len(batches)-1]
		last.Events = append(last.Events, store.Event{
			Deleted: ev.Type == clientv3.EventTypeDelete,
			KV:      fromKV(ev.Kv),
		})
	}
	return batches
}

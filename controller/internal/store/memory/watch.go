package memory

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"sync"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// watcher reads the history by itself, so it costs nothing while nobody asks.
type watcher struct {
	s      *Store
	prefix string
	ctx    context.Context
	cancel context.CancelFunc
	once   sync.Once

	next int64 // the revision to look at next
	told int64 // the last revision the consumer knows to be complete
	err  error // terminal
}

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, prefix string, from int64) (store.Watcher, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	if from <= 0 {
		from = s.revision + 1
	}
	w := &watcher{s: s, prefix: prefix, next: from, told: from - 1}
	w.ctx, w.cancel = context.WithCancel(ctx)
	return w, nil
}

// Close implements store.Watcher.
func (w *watcher) Close() { w.once.Do(w.cancel) }

// Next implements store.Watcher.
func (w *watcher) Next(ctx context.Context) (store.Batch, error) {
	silence := w.s.opts.Clock.After(w.s.opts.ProgressInterval)
	progress := false
	for w.err == nil {
		if err := ctx.Err(); err != nil {
			return store.Batch{}, err
		}
		batch, changed := w.look(progress)
		if batch.Revision != 0 || w.err != nil {
			return batch, w.err
		}
		select {
		case <-changed:
		case <-silence:
			progress = true
			silence = nil
		case <-ctx.Done():
		case <-w.ctx.Done():
			w.err = w.ended()
		case <-w.s.done:
			w.err = store.ErrClosed
		}
	}
	return store.Batch{}, w.err
}

func (w *watcher) ended() error {
	select {
	case <-w.s.done:
		return store.ErrClosed
	default:
		return w.ctx.Err()
	}
}

// look returns the next batch there is, or a progress notification if one is
// due, or else what to wait for.
func (w *watcher) look(progress bool) (store.Batch, <-chan struct{}) {
	s := w.s
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		w.err = store.ErrClosed
		return store.Batch{}, nil
	case w.ctx.Err() != nil:
		w.err = w.ctx.Err()
		return store.Batch{}, nil
	case w.next <= s.compacted:
		w.err = fmt.Errorf("watch %s from %d: %w", w.prefix, w.next, store.ErrCompacted)
		return store.Batch{}, nil
	}
	i := sort.Search(len(s.history), func(i int) bool { return s.history[i].Revision >= w.next })
	for ; i < len(s.history); i++ {
		w.next = s.history[i].Revision + 1
		if events := under(w.prefix, s.history[i].Events); len(events) > 0 {
			w.told = s.history[i].Revision
			return store.Batch{Revision: w.told, Events: events}, nil
		}
	}
	if progress && s.revision >= w.told {
		w.told = s.revision
		return store.Batch{Revision: w.told}, nil
	}
	return store.Batch{}, s.changed
}

func under(prefix string, events []store.Event) []store.Event {
	var match []store.Event
	for _, ev := range events {
		if strings.HasPrefix(ev.KV.Key, prefix) {
			match = append(match, ev)
		}
	}
	return match
}

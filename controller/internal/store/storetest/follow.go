package storetest

import (
	"context"
	"errors"
	"testing"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// Follower watches all that a history writes, through failures of the store.
type Follower struct {
	s       store.Store
	prefix  string
	done    chan struct{}
	end     context.CancelFunc
	err     error
	resumed int
	last    int64
	puts    map[string]int64 // value to revision
}

// lastKey is written when nothing else will be.
const lastKey = "last"

// Follow starts to watch the keys with a prefix.
func Follow(t *testing.T, s store.Store, prefix string) *Follower {
	t.Helper()
	list, err := s.List(within(t), prefix, store.ListOptions{})
	must(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	f := &Follower{
		s: s, prefix: prefix, done: make(chan struct{}), end: cancel, last: list.Revision,
		puts: map[string]int64{},
	}
	go func() {
		defer close(f.done)
		f.err = f.follow(ctx)
	}()
	t.Cleanup(func() { cancel(); <-f.done })
	return f
}

// follow watches until the last key was written.
func (f *Follower) follow(ctx context.Context) error {
	for {
		w, err := f.s.Watch(ctx, f.prefix, f.last+1)
		if err != nil {
			return err
		}
		over, err := f.read(ctx, w)
		w.Close()
		if over {
			return nil
		}
		if !errors.Is(err, store.ErrUnavailable) {
			return err
		}
		f.resumed++
	}
}

func (f *Follower) read(ctx context.Context, w store.Watcher) (over bool, err error) {
	for {
		batch, err := w.Next(ctx)
		if err != nil {
			return false, err
		}
		if batch.Revision < f.last || len(batch.Events) > 0 && batch.Revision == f.last {
			return false, errors.New("a watch went back, or split a revision")
		}
		f.last = batch.Revision
		for _, ev := range batch.Events {
			if ev.KV.ModRevision != batch.Revision {
				return false, errors.New("an event of another revision")
			}
			if ev.KV.Key == f.prefix+lastKey {
				over = true
			}
			if err := f.take(ev); err != nil {
				return false, err
			}
		}
		if over {
			return true, nil
		}
	}
}

func (f *Follower) take(ev store.Event) error {
	if ev.Deleted {
		return nil
	}
	if f.puts[string(ev.KV.Value)] != 0 {
		return errors.New("a value was written twice: " + string(ev.KV.Value))
	}
	f.puts[string(ev.KV.Value)] = ev.KV.ModRevision
	return nil
}

// CheckFollower writes the last key, waits for the follower to see it, and checks that it saw all that was acknowledged, at its revision, and
// nothing by half.
func (h *History) CheckFollower(t *testing.T, f *Follower) {
	t.Helper()
	put(t, f.s, f.prefix+lastKey, "the last")
	awaitDone(t, "the follower", f.done)
	must(t, f.err)
	h.mu.Lock()
	defer h.mu.Unlock()
	writes := 0
	for _, call := range h.calls {
		in, out := call.Input.(input), call.Output.(output) //nolint:forcetypeassert // ours
		if in.read != 0 {
			continue
		}
		revisions := map[int64]bool{}
		for _, o := range in.ops {
			if o.kind == opPut {
				revisions[f.puts[o.value]] = true
			}
		}
		switch {
		case len(revisions) > 1:
			t.Errorf("%v was seen at revisions %v: by half", in, revisions)
		case out.succeeded && len(revisions) == 1 && !revisions[out.revision]:
			t.Errorf("%v, acknowledged at %d, was seen at %v", in, out.revision, revisions)
		case out.err == nil && !out.succeeded && len(revisions) == 1 && !revisions[0]:
			t.Errorf("%v was refused, and seen at %v", in, revisions)
		}
		if out.succeeded {
			writes++
		}
	}
	t.Logf("evidence: %s | a watch told of %d acknowledged transactions, each once and whole; it began anew %d times", t.Name(), writes, f.resumed)
}

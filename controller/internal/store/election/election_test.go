package election_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/controller/internal/store/election"
	"github.com/limiquantix/limiquantix/controller/internal/store/memory"
)

const ttl = 9 * time.Second

// cutOff is a store that stops answering when told to, as one behind a broken
// network would.
type cutOff struct {
	store.Store
	broken atomic.Bool
}

func (c *cutOff) KeepAlive(ctx context.Context, id store.LeaseID) (time.Duration, error) {
	if c.broken.Load() {
		<-ctx.Done()
		return 0, store.ErrUnavailable
	}
	return c.Store.KeepAlive(ctx, id)
}

func (c *cutOff) Get(ctx context.Context, key string) (store.KV, error) {
	if c.broken.Load() {
		<-ctx.Done()
		return store.KV{}, store.ErrUnavailable
	}
	return c.Store.Get(ctx, key)
}

func (c *cutOff) Watch(ctx context.Context, prefix string, from int64) (store.Watcher, error) {
	w, err := c.Store.Watch(ctx, prefix, from)
	return cutOffWatcher{Watcher: w, cut: c}, err
}

type cutOffWatcher struct {
	store.Watcher
	cut *cutOff
}

func (w cutOffWatcher) Next(ctx context.Context) (store.Batch, error) {
	batch, err := w.Watcher.Next(ctx)
	if w.cut.broken.Load() {
		<-ctx.Done()
		return store.Batch{}, store.ErrUnavailable
	}
	return batch, err
}

// TestCutOffLeaderStopsInTime checks that a leader that cannot renew knows that
// it no longer leads before anyone else can.
func TestCutOffLeaderStopsInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &cutOff{Store: memory.Open(memory.Options{})}
		defer func() { _ = s.Close() }()
		l, err := election.Campaign(t.Context(), s, "n", "me", election.Options{TTL: ttl})
		if err != nil {
			t.Fatal(err)
		}
		next := make(chan time.Time, 1)
		go func() {
			other, err := election.Campaign(t.Context(), s.Store, "n", "other", election.Options{TTL: ttl})
			if err != nil {
				t.Error(err)
			}
			next <- time.Now()
			_ = other.Resign(t.Context())
		}()
		time.Sleep(100 * ttl) // synthetic: renewals keep it the leader
		select {
		case <-l.Done():
			t.Fatal("a healthy leader lost")
		default:
		}
		s.broken.Store(true)
		cut := time.Now()
		<-l.Done()
		stopped := time.Now()
		if took := stopped.Sub(cut); took > ttl {
			t.Errorf("stopped leading after %v", took)
		}
		if taken := <-next; taken.Before(stopped) {
			t.Errorf("replaced %v before it stopped", stopped.Sub(taken))
		}
	})
}

func TestStaleKeyIsRemovedAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := memory.Open(memory.Options{})
		defer func() { _ = s.Close() }()
		old, err := election.Campaign(t.Context(), s, "n", "old", election.Options{TTL: ttl})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		next, err := election.Campaign(t.Context(), s, "n", "new",
			election.Options{TTL: ttl, StaleBefore: old.Fence().Revision})
		if err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(began); waited > 0 {
			t.Errorf("waited %v for a key known to be stale", waited)
		}
		<-old.Done()
		if err := next.Resign(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// inStep lets many look at what is there before any of them goes on.
type inStep struct {
	store.Store
	looked sync.WaitGroup
}

func (s *inStep) Get(ctx context.Context, key string) (store.KV, error) {
	kv, err := s.Store.Get(ctx, key)
	s.looked.Done()
	s.looked.Wait()
	return kv, err
}

// Of many that campaign at once for what they all saw vacant, one wins.
func TestOneOfManyWins(t *testing.T) {
	s := memory.Open(memory.Options{ElectionTTL: time.Minute})
	defer func() { _ = s.Close() }()
	const many = 8
	ctx, cancel := context.WithCancel(t.Context())
	won := make(chan store.Leadership, many)
	step := &inStep{Store: s}
	step.looked.Add(many)
	var all, tried sync.WaitGroup
	tried.Add(many)
	for i := range many {
		all.Go(func() {
			first := &firstGet{Store: s, first: step, tried: sync.OnceFunc(tried.Done)}
			if l, err := election.Campaign(ctx, first, "one", fmt.Sprint(i), election.Options{TTL: time.Minute}); err == nil {
				won <- l
			}
		})
	}
	tried.Wait() // all of them have done what they meant to, which one of them may
	winner := <-won
	cancel()
	all.Wait()
	if len(won) > 0 {
		t.Errorf("%d more won", len(won))
	}
	if err := winner.Resign(t.Context()); err != nil {
		t.Error(err)
	}
}

// firstGet sends the first Get of one candidate to first.
type firstGet struct {
	store.Store
	first *inStep
	once  sync.Once
	tried func() // called when the first Commit is over
}

func (s *firstGet) Commit(ctx context.Context, txns []store.Txn) ([]store.Result, error) {
	defer s.tried()
	return s.Store.Commit(ctx, txns)
}

func (s *firstGet) Get(ctx context.Context, key string) (kv store.KV, err error) {
	asked := false
	s.once.Do(func() {
		kv, err = s.first.Get(ctx, key)
		asked = true
	})
	if asked {
		return kv, err
	}
	return s.Store.Get(ctx, key)
}

package memory_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/controller/internal/store/memory"
)

// manualClock moves when told to.
type manualClock struct {
	mu     sync.Mutex
	now    time.Time
	alarms map[chan time.Time]time.Time
}

func (c *manualClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *manualClock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan time.Time, 1)
	c.alarms[ch] = c.now.Add(d)
	return ch
}

func (c *manualClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	for ch, at := range c.alarms {
		if !at.After(c.now) {
			ch <- c.now
			delete(c.alarms, ch)
		}
	}
}

func commit(t *testing.T, s store.Store, ops ...store.Op) error {
	t.Helper()
	_, err := s.Commit(t.Context(), []store.Txn{{Ops: ops}})
	return err
}

func TestLeaseFollowsTheClock(t *testing.T) {
	t.Parallel()
	clock := &manualClock{now: time.Unix(0, 0), alarms: map[chan time.Time]time.Time{}}
	s := memory.Open(memory.Options{Clock: clock})
	defer func() { _ = s.Close() }()
	lease, err := s.Grant(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := commit(t, s, store.PutLeased("k", nil, lease.ID)); err != nil {
		t.Fatal(err)
	}
	clock.advance(59 * time.Minute)
	if _, err := s.KeepAlive(t.Context(), lease.ID); err != nil {
		t.Fatal(err)
	}
	clock.advance(59 * time.Minute)
	if _, err := s.Get(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	clock.advance(time.Minute)
	if _, err := s.KeepAlive(t.Context(), lease.ID); !errors.Is(err, store.ErrLeaseNotFound) {
		t.Fatalf("an hour after the renewal: %v", err)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	t.Parallel()
	s := memory.Open(memory.Options{History: 10})
	defer func() { _ = s.Close() }()
	for i := range 25 {
		if err := commit(t, s, store.Put("k", fmt.Append(nil, i)), store.Put(fmt.Sprint("k", i), nil)); err != nil {
			t.Fatal(err)
		}
	}
	kv, err := s.Get(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	for back, want := range map[int64]error{5: nil, 15: store.ErrCompacted} {
		w, err := s.Watch(t.Context(), "", kv.ModRevision-back)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Next(t.Context()); !errors.Is(err, want) {
			t.Errorf("watch from %d revisions ago: %v, want %v", back, err, want)
		}
		w.Close()
	}
	list, err := s.List(t.Context(), "", store.ListOptions{})
	if err != nil || len(list.KVs) != 26 {
		t.Fatalf("%d keys, %v", len(list.KVs), err)
	}
}

func TestQuota(t *testing.T) {
	t.Parallel()
	s := memory.Open(memory.Options{QuotaBytes: 100})
	defer func() { _ = s.Close() }()
	if err := commit(t, s, store.Put("k", make([]byte, 90))); err != nil {
		t.Fatal(err)
	}
	if err := commit(t, s, store.Put("l", make([]byte, 90))); !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("over the quota: %v", err)
	}
	if err := commit(t, s, store.Delete("k")); err != nil {
		t.Fatal(err)
	}
	if err := commit(t, s, store.Put("l", make([]byte, 90))); err != nil {
		t.Fatal(err)
	}
}

package storetest

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// Small is a fresh, empty store that holds no more than a few MiB.
type Small struct {
	Store store.Store
	// MakeRoom does what an operator must once data was deleted; nil for a store that needs nothing.
	MakeRoom func()
}

// RunFull fills a store, and checks what goes on, what is refused, and that all goes on when there is room, without a restart.
func RunFull(t *testing.T, open func(t *testing.T) Small) {
	t.Helper()
	small := open(t)
	s := small.Store
	watcher := watch(t, s, "fill/", 0)
	leader, err := s.Campaign(within(t), "full", "me")
	must(t, err)
	lease, err := s.Grant(within(t), time.Minute)
	must(t, err)
	_, err = commit(within(t), s, nil, store.PutLeased("leased", []byte("1"), lease.ID))
	must(t, err)

	revisions := fill(t, s)
	fullIsTold(t, s)
	fullServesOn(t, s, watcher, revisions, leader, lease)

	select {
	case <-leader.Done():
		t.Fatal("a full store cost the leader its leadership")
	default:
	}
	res, err := s.Commit(within(t), []store.Txn{
		{Ops: []store.Op{store.Put("new", make([]byte, fillBytes))}},
		{Conditions: []store.Condition{leader.Fence()}, Ops: []store.Op{store.DeletePrefix("fill/")}},
		{Ops: []store.Op{store.Delete("none")}},
		{Conditions: []store.Condition{store.KeyAbsent("leased")}, Ops: []store.Op{store.Delete("leased")}},
	})
	wantErr(t, "a write among deletions", err, store.ErrNoSpace)
	if !errors.Is(res[0].Err, store.ErrNoSpace) || !res[1].Succeeded || !res[2].Succeeded || res[3].Succeeded || res[3].Err != nil {
		t.Fatalf("a write among deletions: %+v", res)
	}
	wantAbsent(t, s, "new")
	if small.MakeRoom != nil {
		small.MakeRoom()
	}
	takesWritesAgain(t, s)
	for i := range fillBytes / 1000 { // and not just one
		put(t, s, fmt.Sprintf("again/%d", i), "x")
	}
	if l, err := s.Grant(within(t), time.Second); err != nil {
		t.Fatalf("a lease with room: %v", err)
	} else {
		must(t, s.Revoke(within(t), l.ID))
	}
	status, err := s.Status(within(t))
	must(t, err)
	if status.NoSpace || status.Reason != "" {
		t.Fatalf("status with room: %+v", status)
	}
	must(t, leader.Resign(within(t)))
}

const fillBytes = 50_000

// fill writes until the store refuses, and returns the revisions of what it took.
func fill(t *testing.T, s store.Store) []int64 {
	t.Helper()
	var revisions []int64
	for i := range 2000 { // some count what is written with some delay
		res, err := commit(within(t), s, nil, store.Put(fmt.Sprintf("fill/%04d", i), make([]byte, fillBytes)))
		if errors.Is(err, store.ErrNoSpace) {
			if len(revisions) < 3 {
				t.Fatalf("full after %d writes", len(revisions))
			}
			return revisions
		}
		must(t, err)
		revisions = append(revisions, res.Revision)
	}
	t.Fatal("the quota was never reached")
	return nil
}

// fullIsTold checks that a full store says so, with figures.
func fullIsTold(t *testing.T, s store.Store) {
	t.Helper()
	status, err := s.Status(within(t))
	must(t, err)
	if !status.NoSpace || !regexp.MustCompile(`\d+ of \d+ bytes`).MatchString(status.Reason) || status.QuotaBytes == 0 || status.SizeBytes == 0 {
		t.Fatalf("status of a full store: %+v", status)
	}
	for range 3 { // it stays so
		_, err := commit(within(t), s, nil, store.Put("more", make([]byte, fillBytes)))
		wantErr(t, "a write", err, store.ErrNoSpace)
	}
	wantAbsent(t, s, "more")
}

// fullServesOn checks that all but writing goes on.
func fullServesOn(t *testing.T, s store.Store, w store.Watcher, revisions []int64, leader store.Leadership, lease store.Lease) {
	t.Helper()
	list, err := s.List(within(t), "fill/", store.ListOptions{})
	must(t, err)
	if len(list.KVs) != len(revisions) {
		t.Fatalf("%d keys, %d were acknowledged", len(list.KVs), len(revisions))
	}
	for i, revision := range revisions {
		if kv := list.KVs[i]; kv.ModRevision != revision || len(kv.Value) != fillBytes {
			t.Fatalf("%s is of revision %d and %d bytes, want %d", kv.Key, kv.ModRevision, len(kv.Value), revision)
		}
		if batch := nextEvents(t, w); batch.Revision != revision {
			t.Fatalf("the watch gives %d, want %d", batch.Revision, revision)
		}
	}
	if _, err := s.KeepAlive(within(t), lease.ID); err != nil {
		t.Fatalf("keep alive: %v", err)
	}
	wantValue(t, s, "leased", "1")
	res, err := commit(within(t), s, []store.Condition{leader.Fence(), store.KeyExists("none")}, store.Delete("leased"))
	must(t, err)
	if unmet := res.Unmet(); res.Succeeded || len(unmet) != 1 || unmet[0].Condition.Key != "none" {
		t.Fatalf("a condition on a full store: %+v", res)
	}
}

// takesWritesAgain waits until a write is taken.
func takesWritesAgain(t *testing.T, s store.Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for {
		_, err := commit(ctx, s, nil, store.Put("room", make([]byte, fillBytes)))
		if err == nil {
			return
		}
		wantErr(t, "a write while room is made", err, store.ErrNoSpace)
		<-pause.C
	}
}

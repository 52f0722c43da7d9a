package storetest

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/controller/internal/store/election"
)

// leaderIsOne has candidates take turns and checks that they never overlap.
func leaderIsOne(t *testing.T, sub Subject) {
	s := sub.Store
	var leaders, terms atomic.Int32
	var candidates sync.WaitGroup
	for n := range 5 {
		candidates.Go(func() {
			l, err := s.Campaign(within(t), "one", string(rune('a'+n)))
			if err != nil {
				t.Error(err)
				return
			}
			if leaders.Add(1) != 1 {
				t.Error("two leaders at once")
			}
			res, err := commit(t.Context(), s, []store.Condition{l.Fence()}, store.Put("led/by", []byte{byte(n)}))
			if err != nil || !res.Succeeded {
				t.Errorf("the leader's write: %+v, %v", res, err)
			}
			terms.Add(1)
			leaders.Add(-1)
			if err := l.Resign(t.Context()); err != nil {
				t.Error(err)
			}
			awaitDone(t, "resigned leadership", l.Done())
		})
	}
	candidates.Wait()
	if terms.Load() != 5 {
		t.Fatalf("%d of 5 candidates led", terms.Load())
	}
	other, err := s.Campaign(within(t), "one-more", "x")
	must(t, err)
	must(t, other.Resign(within(t)))
}

func deposedLeaderIsFenced(t *testing.T, sub Subject) {
	s := sub.Store
	old, err := s.Campaign(within(t), "f", "old")
	must(t, err)
	fenced := func(l store.Leadership, value string) bool {
		res, err := commit(within(t), s, []store.Condition{l.Fence()}, store.Put("f/state", []byte(value)))
		must(t, err)
		return !res.Succeeded
	}
	if fenced(old, "1") {
		t.Fatal("the leader cannot write")
	}
	_, err = commit(within(t), s, nil, store.Delete(election.KeyPrefix+"f"))
	must(t, err)
	next, err := s.Campaign(within(t), "f", "next")
	must(t, err)
	if !fenced(old, "2") {
		t.Fatal("a deposed leader wrote")
	}
	awaitDone(t, "deposed leadership", old.Done())
	if fenced(next, "3") {
		t.Fatal("the next leader cannot write")
	}
	must(t, old.Resign(within(t)))
	if fenced(next, "4") {
		t.Fatal("the old leader's resignation deposed the next one")
	}
	wantValue(t, s, "f/state", "4")
	must(t, next.Resign(within(t)))
	if !fenced(next, "5") {
		t.Fatal("a leader that resigned wrote")
	}
}

// silentLeaderIsReplaced leaves a leader key behind, as a leader that died would.
func silentLeaderIsReplaced(t *testing.T, sub Subject) {
	s := sub.Store
	lease, err := s.Grant(within(t), time.Second)
	must(t, err)
	res, err := commit(within(t), s, nil, store.PutLeased(election.KeyPrefix+"s", []byte("dead"), lease.ID))
	must(t, err)
	dead := store.CreateRevisionEquals(election.KeyPrefix+"s", res.Revision)
	next, err := s.Campaign(within(t), "s", "next")
	must(t, err)
	_, err = s.KeepAlive(within(t), lease.ID)
	wantErr(t, "the dead leader's lease", err, store.ErrLeaseNotFound)
	if res, err := commit(within(t), s, []store.Condition{dead}, store.Put("s", nil)); err != nil || res.Succeeded {
		t.Fatalf("the dead leader wrote: %+v, %v", res, err)
	}
	must(t, next.Resign(within(t)))
}

func campaignCancelled(t *testing.T, sub Subject) {
	s := sub.Store
	leader, err := s.Campaign(within(t), "x", "leader")
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := s.Campaign(ctx, "x", "waiting")
		failed <- err
	}()
	cancel()
	wantErr(t, "campaign", <-failed, context.Canceled)
	select {
	case <-leader.Done():
		t.Fatal("the leader lost to one who gave up")
	default:
	}
	must(t, leader.Resign(within(t)))
	_, err = s.Campaign(within(t), "", "x")
	wantErr(t, "campaign without a name", err, store.ErrInvalid)
}

package storetest

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

func watchFromOldRevision(t *testing.T, sub Subject) {
	s := sub.Store
	put(t, s, "w/0", "before")
	first := put(t, s, "w/1", "a")
	second := put(t, s, "w/1", "b")
	res, err := commit(within(t), s, nil, store.Delete("w/1"))
	must(t, err)
	w := watch(t, s, "w/", first)
	later := put(t, s, "w/2", "c")
	want := []struct {
		revision int64
		deleted  bool
		key      string
		value    string
	}{{first, false, "w/1", "a"}, {second, false, "w/1", "b"}, {res.Revision, true, "w/1", ""}, {later, false, "w/2", "c"}}
	for _, x := range want {
		batch := nextEvents(t, w)
		if batch.Revision != x.revision || len(batch.Events) != 1 {
			t.Fatalf("got %+v, want %+v", batch, x)
		}
		ev := batch.Events[0]
		if ev.Deleted != x.deleted || ev.KV.Key != x.key || string(ev.KV.Value) != x.value || ev.KV.ModRevision != x.revision {
			t.Fatalf("got %+v, want %+v", ev, x)
		}
	}
}

func watchPrefixOnly(t *testing.T, sub Subject) {
	s := sub.Store
	w := watch(t, s, "a/", 0)
	put(t, s, "a", "")
	put(t, s, "b/1", "")
	res, err := commit(within(t), s, nil, store.Put("a/1", nil), store.Put("b/2", nil))
	must(t, err)
	batch := nextEvents(t, w)
	if batch.Revision != res.Revision || len(batch.Events) != 1 || batch.Events[0].KV.Key != "a/1" {
		t.Fatalf("got %+v, want a/1 at %d", batch, res.Revision)
	}
}

// watchProgress checks that a watch under which nothing happens still says how
// far it is.
func watchProgress(t *testing.T, sub Subject) {
	s := sub.Store
	w := watch(t, s, "quiet/", 0)
	revision := put(t, s, "loud/1", "")
	ctx := within(t)
	for range 2 {
		for {
			batch, err := w.Next(ctx)
			must(t, err)
			if len(batch.Events) > 0 {
				t.Fatalf("an event out of nothing: %+v", batch)
			}
			if batch.Revision >= revision {
				break
			}
		}
	}
}

const (
	watchWriters = 8
	watchWrites  = 40
)

// writeTriples has writers write three keys of a time in one transaction.
func writeTriples(t *testing.T, s store.Store) *sync.WaitGroup {
	var writers sync.WaitGroup
	for n := range watchWriters {
		writers.Go(func() {
			for i := range watchWrites {
				base := fmt.Sprintf("e/%d-%d/", n, i)
				res, err := commit(t.Context(), s, nil,
					store.Put(base+"a", nil), store.Put(base+"b", nil), store.Put(base+"c", nil))
				if err != nil || !res.Succeeded {
					t.Errorf("write %s: %+v, %v", base, res, err)
				}
			}
		})
	}
	return &writers
}

// ledger checks what a consumer is given.
type ledger struct {
	last int64
	seen map[string]int64
}

func (l *ledger) take(t *testing.T, batch store.Batch) {
	t.Helper()
	if len(batch.Events) == 0 {
		if batch.Revision < l.last {
			t.Fatalf("progress %d after revision %d", batch.Revision, l.last)
		}
		l.last = batch.Revision
		return
	}
	if batch.Revision <= l.last {
		t.Fatalf("revision %d after %d", batch.Revision, l.last)
	}
	l.last = batch.Revision
	parts := map[string]int{}
	for _, ev := range batch.Events {
		if _, twice := l.seen[ev.KV.Key]; twice || ev.KV.ModRevision != batch.Revision {
			t.Fatalf("%s again, or of revision %d in batch %d", ev.KV.Key, ev.KV.ModRevision, batch.Revision)
		}
		l.seen[ev.KV.Key] = batch.Revision
		parts[ev.KV.Key[:strings.LastIndex(ev.KV.Key, "/")]]++
	}
	for base, n := range parts {
		if n != 3 {
			t.Fatalf("batch %d has %d of the three keys of %s", batch.Revision, n, base)
		}
	}
}

func (l *ledger) complete() bool { return len(l.seen) == 3*watchWriters*watchWrites }

// watchLosesNothing reads while writers write, and again, slowly, once all is
// written.
func watchLosesNothing(t *testing.T, sub Subject) {
	s := sub.Store
	fast, slow := watch(t, s, "e/", 0), watch(t, s, "e/", 0)
	writers := writeTriples(t, s)
	book := &ledger{seen: map[string]int64{}}
	for !book.complete() {
		batch, err := fast.Next(within(t))
		must(t, err)
		book.take(t, batch)
	}
	writers.Wait()
	late := &ledger{seen: map[string]int64{}}
	for !late.complete() {
		late.take(t, nextEvents(t, slow))
	}
	for key, revision := range book.seen {
		if late.seen[key] != revision {
			t.Fatalf("%s: revision %d to one watcher, %d to the other", key, revision, late.seen[key])
		}
	}
}

// watchResumes stops and resumes after every few batches.
func watchResumes(t *testing.T, sub Subject) {
	s := sub.Store
	start := put(t, s, "start", "")
	writers := writeTriples(t, s)
	defer writers.Wait()
	book := &ledger{last: start, seen: map[string]int64{}}
	for !book.complete() {
		w, err := s.Watch(t.Context(), "e/", book.last+1)
		must(t, err)
		for i := 0; i < 5 && !book.complete(); i++ {
			batch, err := w.Next(within(t))
			must(t, err)
			book.take(t, batch)
		}
		w.Close()
	}
}

func watchCompacted(t *testing.T, sub Subject) {
	s := sub.Store
	compactor, ok := s.(store.Compactor)
	if !ok {
		t.Fatal("the store cannot compact")
	}
	old := put(t, s, "h/1", "a")
	put(t, s, "h/1", "b")
	put(t, s, "h/2", "c")
	cut := put(t, s, "h/3", "d")
	must(t, compactor.Compact(within(t), cut))
	must(t, compactor.Compact(within(t), cut))

	w, err := s.Watch(t.Context(), "h/", old)
	must(t, err)
	_, err = w.Next(within(t))
	wantErr(t, "watch what is compacted", err, store.ErrCompacted)
	_, err = w.Next(within(t))
	wantErr(t, "and again", err, store.ErrCompacted)
	w.Close()
	_, err = s.List(within(t), "h/", store.ListOptions{Revision: old})
	wantErr(t, "list what is compacted", err, store.ErrCompacted)

	list, err := s.List(within(t), "h/", store.ListOptions{})
	must(t, err)
	if got := keys(list.KVs); got != "[h/1 h/2 h/3]" || string(list.KVs[0].Value) != "b" {
		t.Fatalf("after compaction: %+v", list.KVs)
	}
	w = watch(t, s, "h/", list.Revision+1)
	next := put(t, s, "h/4", "e")
	if batch := nextEvents(t, w); batch.Revision != next {
		t.Fatalf("resumed at %d, want %d", batch.Revision, next)
	}
}

func leaseExpires(t *testing.T, sub Subject) {
	s := sub.Store
	lease, err := s.Grant(within(t), time.Second)
	must(t, err)
	if lease.TTL < time.Second {
		t.Fatalf("granted %v, asked for a second", lease.TTL)
	}
	granted := time.Now()
	w := watch(t, s, "lease/", 0)
	put(t, s, "lease/stays", "")
	_, err = commit(within(t), s, nil, store.PutLeased("lease/1", nil, lease.ID), store.PutLeased("lease/2", nil, lease.ID))
	must(t, err)
	put(t, s, "lease/2", "taken off the lease")
	_, err = commit(within(t), s, nil, store.PutLeased("lease/3", nil, lease.ID))
	must(t, err)
	if kv := wantValue(t, s, "lease/1", ""); kv.Lease != lease.ID {
		t.Fatalf("lease of key: %d, want %d", kv.Lease, lease.ID)
	}
	for {
		batch := nextEvents(t, w)
		if !batch.Events[0].Deleted {
			continue
		}
		if len(batch.Events) != 2 {
			t.Fatalf("the keys of a lease went one by one: %+v", batch)
		}
		break
	}
	if life := time.Since(granted); life < lease.TTL-100*time.Millisecond {
		t.Errorf("a lease of %v ended after %v", lease.TTL, life)
	}
	list, err := s.List(within(t), "lease/", store.ListOptions{})
	must(t, err)
	if got := keys(list.KVs); got != "[lease/2 lease/stays]" {
		t.Errorf("after the lease: %s", got)
	}
	_, err = s.KeepAlive(within(t), lease.ID)
	wantErr(t, "keep alive", err, store.ErrLeaseNotFound)
	must(t, s.Revoke(within(t), lease.ID))
}

func leaseKeptAliveAndRevoked(t *testing.T, sub Subject) {
	s := sub.Store
	lease, err := s.Grant(within(t), time.Second)
	must(t, err)
	_, err = commit(within(t), s, nil, store.PutLeased("lease/1", nil, lease.ID))
	must(t, err)
	renew := time.NewTicker(lease.TTL / 5)
	defer renew.Stop()
	for end := time.Now().Add(2*lease.TTL + lease.TTL/2); time.Now().Before(end); <-renew.C {
		ttl, err := s.KeepAlive(within(t), lease.ID)
		must(t, err)
		if ttl != lease.TTL {
			t.Fatalf("renewed for %v, want %v", ttl, lease.TTL)
		}
	}
	wantValue(t, s, "lease/1", "")
	must(t, s.Revoke(within(t), lease.ID))
	wantAbsent(t, s, "lease/1")
	_, err = s.KeepAlive(within(t), lease.ID)
	wantErr(t, "keep alive", err, store.ErrLeaseNotFound)
}

package storetest

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

func keyLife(t *testing.T, sub Subject) {
	s := sub.Store
	wantAbsent(t, s, "a/b")
	created := put(t, s, "a/b", "1")
	changed := put(t, s, "a/b", "2")
	if changed <= created {
		t.Fatalf("revision went from %d to %d", created, changed)
	}
	kv := wantValue(t, s, "a/b", "2")
	if kv.Key != "a/b" || kv.CreateRevision != created || kv.ModRevision != changed || kv.Version != 2 || kv.Lease != 0 {
		t.Fatalf("got %+v, want created at %d, changed at %d, version 2", kv, created, changed)
	}
	res, err := commit(within(t), s, nil, store.Delete("a/b"), store.Delete("a/none"))
	must(t, err)
	if !res.Succeeded || res.Revision <= changed {
		t.Fatalf("delete: %+v", res)
	}
	wantAbsent(t, s, "a/b")
	again := put(t, s, "a/b", "")
	if kv := wantValue(t, s, "a/b", ""); kv.CreateRevision != again || kv.Version != 1 {
		t.Fatalf("a key made anew has the past of the old one: %+v", kv)
	}
}

func deletePrefix(t *testing.T, sub Subject) {
	s := sub.Store
	for _, key := range []string{"p/1", "p/2", "p/2/x", "q/1"} {
		put(t, s, key, "v")
	}
	w := watch(t, s, "", 0)
	res, err := commit(within(t), s, nil, store.DeletePrefix("p/"), store.Put("q/2", nil))
	must(t, err)
	list, err := s.List(within(t), "", store.ListOptions{})
	must(t, err)
	if got := keys(list.KVs); got != "[q/1 q/2]" {
		t.Fatalf("left over: %s", got)
	}
	batch := nextEvents(t, w)
	deleted := 0
	for _, ev := range batch.Events {
		if ev.Deleted {
			deleted++
		}
		if ev.KV.ModRevision != res.Revision {
			t.Errorf("event %+v is not of revision %d", ev, res.Revision)
		}
	}
	if len(batch.Events) != 4 || deleted != 3 {
		t.Fatalf("got %+v, want three deletions and a put", batch)
	}
}

func listPages(t *testing.T, sub Subject) {
	s := sub.Store
	for _, key := range []string{"l/c", "l/a", "m/a", "l/b", "k/z", "l/a/1"} {
		put(t, s, key, key)
	}
	cases := []struct {
		prefix string
		opts   store.ListOptions
		want   string
		more   bool
	}{
		{"l/", store.ListOptions{}, "[l/a l/a/1 l/b l/c]", false},
		{"l/", store.ListOptions{Limit: 2}, "[l/a l/a/1]", true},
		{"l/", store.ListOptions{Limit: 4}, "[l/a l/a/1 l/b l/c]", false},
		{"l/", store.ListOptions{From: "l/b"}, "[l/b l/c]", false},
		{"l/", store.ListOptions{From: "k/"}, "[l/a l/a/1 l/b l/c]", false},
		{"l/", store.ListOptions{From: "m/"}, "[]", false},
		{"", store.ListOptions{Limit: 1}, "[k/z]", true},
		{"none/", store.ListOptions{Limit: 1}, "[]", false},
	}
	for _, c := range cases {
		list, err := s.List(within(t), c.prefix, c.opts)
		must(t, err)
		if got := keys(list.KVs); got != c.want || list.More != c.more || list.Revision == 0 {
			t.Errorf("list %q %+v: %s more=%v at %d, want %s more=%v", c.prefix, c.opts, got, list.More, list.Revision, c.want, c.more)
		}
	}
	_, err := s.List(within(t), "l/", store.ListOptions{Revision: 1 << 40})
	wantErr(t, "list the future", err, store.ErrInvalid)
}

// listAtOneRevision walks pages while writers move keys about: the walk must see
// exactly the keys of its first page's revision.
func listAtOneRevision(t *testing.T, sub Subject) {
	s := sub.Store
	const count = 60
	for i := range count {
		put(t, s, fmt.Sprintf("w/%03d", i), "first")
	}
	ctx, stop := context.WithCancel(within(t))
	var writers sync.WaitGroup
	for n := range 4 {
		writers.Go(func() {
			for i := n; ctx.Err() == nil; i++ {
				key := fmt.Sprintf("w/%03d", i%count)
				_, _ = commit(ctx, s, nil, store.Delete(key), store.Put(key+"/new", nil))
				_, _ = commit(ctx, s, nil, store.Put(key, []byte("later")), store.Delete(key+"/new"))
			}
		})
	}
	defer writers.Wait()
	defer stop()
	for range 5 {
		whole, err := s.List(ctx, "w/", store.ListOptions{})
		must(t, err)
		var walked []store.KV
		opts := store.ListOptions{Limit: 7, Revision: whole.Revision}
		for more := true; more; {
			page, err := s.List(ctx, "w/", opts)
			must(t, err)
			if page.Revision != whole.Revision {
				t.Fatalf("page of revision %d, asked for %d", page.Revision, whole.Revision)
			}
			walked = append(walked, page.KVs...)
			opts.From, more = page.Next, page.More
		}
		if keys(walked) != keys(whole.KVs) {
			t.Fatalf("at %d: walked %s, whole %s", whole.Revision, keys(walked), keys(whole.KVs))
		}
		for i, kv := range walked {
			if kv.ModRevision != whole.KVs[i].ModRevision || kv.ModRevision > whole.Revision {
				t.Fatalf("%s: walked revision %d, whole %d", kv.Key, kv.ModRevision, whole.KVs[i].ModRevision)
			}
		}
	}
}

func status(t *testing.T, sub Subject) {
	s := sub.Store
	revision := put(t, s, "s/1", "v")
	st, err := s.Status(within(t))
	must(t, err)
	if st.Revision < revision || st.SizeBytes <= 0 || st.NoSpace {
		t.Fatalf("status %+v after revision %d", st, revision)
	}
}

func cancelledContext(t *testing.T, sub Subject) {
	s := sub.Store
	w := watch(t, s, "x/", 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := commit(ctx, s, nil, store.Put("x/1", nil))
	wantErr(t, "commit", err, context.Canceled)
	_, err = s.Get(ctx, "x/1")
	wantErr(t, "get", err, context.Canceled)
	_, err = s.List(ctx, "x/", store.ListOptions{})
	wantErr(t, "list", err, context.Canceled)
	_, err = w.Next(ctx)
	wantErr(t, "next", err, context.Canceled)
	wantAbsent(t, s, "x/1")

	revision := put(t, s, "x/2", "v")
	if batch := nextEvents(t, w); batch.Revision != revision {
		t.Fatalf("after a cancelled Next: got revision %d, want %d", batch.Revision, revision)
	}
	ctx, cancel = context.WithCancel(t.Context())
	ended, err := s.Watch(ctx, "x/", 0)
	must(t, err)
	cancel()
	_, err = ended.Next(within(t))
	wantErr(t, "next of a watch whose ctx ended", err, context.Canceled)
}

func closed(t *testing.T, sub Subject) {
	s := sub.Store
	w := watch(t, s, "", 0)
	ctx := within(t)
	leadership, err := s.Campaign(ctx, "c", "me")
	must(t, err)
	must(t, s.Close())
	must(t, s.Close())
	_, err = commit(ctx, s, nil, store.Put("x", nil))
	wantErr(t, "commit", err, store.ErrClosed)
	_, err = s.Get(ctx, "x")
	wantErr(t, "get", err, store.ErrClosed)
	_, err = s.List(ctx, "", store.ListOptions{})
	wantErr(t, "list", err, store.ErrClosed)
	_, err = s.Watch(ctx, "", 0)
	wantErr(t, "watch", err, store.ErrClosed)
	_, err = s.Status(ctx)
	wantErr(t, "status", err, store.ErrClosed)
	_, err = s.Campaign(ctx, "c", "other")
	wantErr(t, "campaign", err, store.ErrClosed)
	for err = nil; err == nil; {
		_, err = w.Next(ctx)
	}
	wantErr(t, "next", err, store.ErrClosed)
	awaitDone(t, "leadership of a closed store", leadership.Done())
}

func restartKeepsEverything(t *testing.T, sub Subject) {
	if sub.Reopen == nil {
		return
	}
	s := sub.Store
	first := put(t, s, "r/1", "one")
	second := put(t, s, "r/1", "two")
	gone := put(t, s, "r/2", "x")
	_, err := commit(within(t), s, nil, store.Delete("r/2"))
	must(t, err)
	old, err := s.Campaign(within(t), "r", "me")
	must(t, err)

	s = sub.Reopen()
	kv := wantValue(t, s, "r/1", "two")
	if kv.CreateRevision != first || kv.ModRevision != second || kv.Version != 2 {
		t.Fatalf("got %+v, want created at %d, changed at %d", kv, first, second)
	}
	wantAbsent(t, s, "r/2")
	if batch := nextEvents(t, watch(t, s, "r/", gone)); batch.Revision != gone {
		t.Fatalf("history starts at %d, want %d", batch.Revision, gone)
	}
	if next := put(t, s, "r/3", "x"); next <= gone+1 {
		t.Fatalf("revision went back to %d", next)
	}
	next, err := s.Campaign(within(t), "r", "me")
	must(t, err)
	res, err := commit(within(t), s, []store.Condition{old.Fence()}, store.Put("r/1", []byte("stale")))
	must(t, err)
	if res.Succeeded {
		t.Fatal("the fence of the process before still holds")
	}
	must(t, next.Resign(within(t)))
}

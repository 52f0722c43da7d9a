package state_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/controller/internal/store/memory"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// open starts a cache on a store and waits until it is loaded. stop ends it.
func open(s store.Store) (c *state.Cache, stop func()) {
	c = state.NewCache(s, slog.New(slog.DiscardHandler), time.Now)
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { _ = c.Run(ctx) })
	<-c.Loaded()
	return c, func() { cancel(); run.Wait() }
}

func record(id, project, name, node string, phase computev1.VMPhase, labels map[string]string) []byte {
	rec := &statev1.VMRecord{Vm: &computev1.VM{
		Meta: &metav1.ObjectMeta{Id: id, ProjectId: project, Name: name, Labels: labels}, Status: &computev1.VMStatus{Phase: phase},
	}}
	if node != "" {
		rec.Vm.Status.VmPlacement = &computev1.VMPlacement{NodeId: node}
	}
	b, _ := proto.Marshal(rec)
	return b
}

func commit(t interface{ Fatal(...any) }, s store.Store, ops ...store.Op) int64 {
	res, err := s.Commit(context.Background(), []store.Txn{{Ops: ops}})
	if err != nil {
		t.Fatal(err)
	}
	return res[0].Revision
}

// What an index finds is what looking at every row finds, after any history; and a cache that loads what is there agrees with one that followed.
func TestFindIsExact(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := memory.Open(memory.Options{})
		defer func() { _ = s.Close() }()
		c, stop := open(s)
		defer stop()
		pick := func(what string, from ...string) string { return rapid.SampledFrom(from).Draw(t, what) }
		rev := int64(0)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			id := fmt.Sprintf("id-%02d", rapid.IntRange(0, 20).Draw(t, "id"))
			key := state.Key(state.KindVM, id)
			if rapid.IntRange(0, 3).Draw(t, "delete") == 0 {
				rev = max(rev, commit(t, s, store.Delete(key)))
				continue
			}
			labels := map[string]string{}
			for _, k := range []string{"a", "b"} {
				if v := pick("label", "", "1", "2"); v != "" {
					labels[k] = v
				}
			}
			rev = max(rev, commit(t, s, store.Put(key, record(id, pick("project", "p", "q"), pick("name", "x", "y"), pick("node", "", "n1", "n2"),
				computev1.VMPhase(rapid.IntRange(1, 3).Draw(t, "phase")), labels))))
		}
		if err := c.Wait(context.Background(), rev); err != nil {
			t.Fatal(err)
		}
		fresh, stopFresh := open(s)
		defer stopFresh()
		for range 10 {
			sel, err := domain.ParseSelector(pick("selector", "", "a=1", "a", "!a", "a!=1,b", "a=1,b=2"))
			if err != nil {
				t.Fatal(err)
			}
			q := state.Query{
				Kind: state.KindVM, Selector: sel, Project: pick("of project", "", "p"), Node: pick("on node", "", "n1"), Name: pick("named", "", "x"),
				Newest: rapid.Bool().Draw(t, "newest"), Limit: rapid.IntRange(0, 5).Draw(t, "limit"), After: pick("after", "", "id-07"),
			}
			if p := rapid.IntRange(0, 2).Draw(t, "phase"); p > 0 {
				q.Phases = []int32{int32(p)}
			}
			want := slow(c, q)
			for _, cache := range []*state.Cache{c, fresh} {
				if got := idsOf(cache.Find(q).Rows); !slices.Equal(got, want) {
					t.Fatalf("%+v finds %v, want %v", q, got, want)
				}
			}
		}
	})
}

// slow answers a query by looking at every row.
func slow(c *state.Cache, q state.Query) []string {
	var out []string
	rows := c.Find(state.Query{Kind: q.Kind, Newest: q.Newest}).Rows
	for _, r := range rows {
		after := q.After == "" || !q.Newest && r.ID > q.After || q.Newest && r.ID < q.After
		if after && q.Selector.Matches(r.Labels) && (q.Project == "" || r.Project == q.Project) && (q.Node == "" || slices.Contains(r.Nodes, q.Node)) &&
			(q.Name == "" || r.Name == q.Name) && (len(q.Phases) == 0 || slices.Contains(q.Phases, r.Phase)) && (q.Limit == 0 || len(out) < q.Limit) {
			out = append(out, r.ID)
		}
	}
	return out
}

func idsOf(rows []*state.Row) []string {
	var out []string
	for _, r := range rows {
		out = append(out, r.ID)
	}
	return out
}

// A subscription gives every change once, in order, from any revision that is still known; older ones are refused.
func TestSubscribe(t *testing.T) {
	t.Parallel()
	s := memory.Open(memory.Options{})
	defer func() { _ = s.Close() }()
	c, stop := open(s)
	defer stop()
	ctx := context.Background()
	var revs []int64
	for i := range 30 {
		revs = append(revs, commit(t, s, store.Put(state.Key(state.KindVM, fmt.Sprint(i)), record(fmt.Sprint(i), "p", "x", "", 1, nil))))
	}
	if err := c.Wait(ctx, revs[29]); err != nil {
		t.Fatal(err)
	}
	sub, err := c.Subscribe(revs[9])
	if err != nil {
		t.Fatal(err)
	}
	changes, rev, err := sub.Next(ctx)
	if err != nil || len(changes) != 20 || changes[0].Revision != revs[10] || rev < revs[29] {
		t.Fatalf("%d changes up to %d, %v", len(changes), rev, err)
	}
	soon, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	if _, _, err := sub.Next(soon); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("nothing new: %v", err)
	}
	rev = commit(t, s, store.Delete(state.Key(state.KindVM, "3")))
	changes, _, err = sub.Next(ctx)
	if err != nil || len(changes) != 1 || changes[0].New != nil || changes[0].Old.ID != "3" || changes[0].Revision != rev {
		t.Fatalf("deletion: %v, %v", changes, err)
	}
	for _, bad := range []int64{0, rev + 100} {
		if _, err := c.Subscribe(bad); !fault.Is(err, metav1.Reason_REASON_REVISION_COMPACTED) {
			t.Errorf("revision %d: %v", bad, err)
		}
	}
}

// A subscription that falls behind is told so, and the cache goes on.
func TestSlowSubscription(t *testing.T) {
	t.Parallel()
	s := memory.Open(memory.Options{})
	defer func() { _ = s.Close() }()
	c, stop := open(s)
	defer stop()
	sub, err := c.Subscribe(c.Revision())
	if err != nil {
		t.Fatal(err)
	}
	var rev int64
	for range 200 {
		ops := make([]store.Op, 120)
		for j := range ops {
			ops[j] = store.Put(state.Key(state.KindVM, fmt.Sprint(j)), record(fmt.Sprint(j), "p", "x", "", 1, nil))
		}
		rev = commit(t, s, ops...)
		if err := c.Wait(context.Background(), rev); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := sub.Next(context.Background()); !fault.Is(err, metav1.Reason_REASON_REVISION_COMPACTED) {
		t.Fatalf("fell behind by 24,000: %v", err)
	}
	if n := c.Count(state.Query{Kind: state.KindVM}); n != 120 {
		t.Fatalf("%d rows", n)
	}
}

// A record that changes wakes who waits for it.
func TestNotify(t *testing.T) {
	t.Parallel()
	s := memory.Open(memory.Options{})
	defer func() { _ = s.Close() }()
	c, stop := open(s)
	defer stop()
	changed, end := c.Notify(state.KindVM, "a")
	defer end()
	other, endOther := c.Notify(state.KindVM, "b")
	endOther()
	commit(t, s, store.Put(state.Key(state.KindVM, "a"), record("a", "p", "x", "", 1, nil)))
	rev := commit(t, s, store.Put(state.Key(state.KindVM, "b"), record("b", "p", "x", "", 1, nil)))
	<-changed
	if err := c.Wait(context.Background(), rev); err != nil {
		t.Fatal(err)
	}
	select {
	case <-other:
		t.Fatal("woken after it was ended")
	default:
	}
}

// lame is a store whose watches can be cut, and whose history is gone then.
type lame struct {
	store.Store
	mu       sync.Mutex
	watchers []store.Watcher
	err      error
}

func (l *lame) Watch(ctx context.Context, prefix string, from int64) (store.Watcher, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		err := l.err
		l.err = nil
		return nil, err
	}
	w, err := l.Store.Watch(ctx, prefix, from)
	if err == nil {
		l.watchers = append(l.watchers, w)
	}
	return w, err
}

// After a lost watch whose history is gone the cache reads everything anew, forgets what is gone, and refuses older revisions.
func TestReload(t *testing.T) {
	t.Parallel()
	l := &lame{Store: memory.Open(memory.Options{})}
	defer func() { _ = l.Close() }()
	c, stop := open(l)
	defer stop()
	first := commit(t, l, store.Put(state.Key(state.KindVM, "a"), record("a", "p", "x", "", 1, nil)), store.Put(state.NameKey("p", state.KindVM, "x"), []byte("a")))
	if err := c.Wait(context.Background(), first); err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	l.err = store.ErrCompacted
	for _, w := range l.watchers {
		w.Close()
	}
	l.mu.Unlock()
	last := commit(t, l, store.Delete(state.Key(state.KindVM, "a")), store.Delete(state.NameKey("p", state.KindVM, "x")),
		store.Put(state.Key(state.KindVM, "b"), record("b", "p", "y", "", 1, nil)))
	if err := c.Wait(context.Background(), last); err != nil {
		t.Fatal(err)
	}
	if c.Row(state.KindVM, "a") != nil || c.Row(state.KindVM, "b") == nil || c.ByName("p", state.KindVM, "x") != "" {
		t.Fatal("the cache is not what the store is")
	}
	if _, err := c.Subscribe(first - 1); !fault.Is(err, metav1.Reason_REASON_REVISION_COMPACTED) {
		t.Fatalf("an old revision: %v", err)
	}
	if err := c.Ready(); err != nil {
		t.Fatal(err)
	}
}

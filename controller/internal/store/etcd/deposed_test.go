package etcd_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/controller/internal/store/etcd"
	"github.com/limiquantix/limiquantix/controller/internal/store/etcd/etcdtest"
)

// TestCutOffLeaderIsDeposed cuts a leader off with the only member that it knows, while another leads through the rest: the first knows in time that
// it leads no more, and the write that it had under way is refused when the member comes back.
func TestCutOffLeaderIsDeposed(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.Start(t, etcdtest.Options{Members: 3})
	by := func(endpoints ...string) *etcd.Store {
		cfg := etcd.ExternalConfig{Endpoints: endpoints}
		cfg.ElectionTTL, cfg.RequestTimeout = 4*time.Second, 30*time.Second
		return openExternal(t, cfg)
	}
	ends := cluster.Endpoints()
	first, second := by(ends[0]), by(ends[1:]...)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	old, err := first.Campaign(ctx, "n", "first")
	if err != nil {
		t.Fatal(err)
	}
	write := func(s *etcd.Store, l store.Leadership, value string) (store.Result, error) {
		res, err := s.Commit(ctx, []store.Txn{{Conditions: []store.Condition{l.Fence()}, Ops: []store.Op{store.Put("state", []byte(value))}}})
		if err != nil {
			return store.Result{}, err
		}
		return res[0], nil
	}
	if res, err := write(first, old, "1"); err != nil || !res.Succeeded {
		t.Fatalf("the leader's write: %+v, %v", res, err)
	}

	cluster.Pause(0)
	type outcome struct {
		res store.Result
		err error
	}
	late := make(chan outcome, 1)
	go func() {
		res, err := write(first, old, "late")
		late <- outcome{res, err}
	}()
	next, err := second.Campaign(ctx, "n", "second")
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-old.Done():
	default:
		t.Error("another leads, and the first does not know")
	}
	if res, err := write(second, next, "2"); err != nil || !res.Succeeded {
		t.Fatalf("the next leader's write: %+v, %v", res, err)
	}
	cluster.Resume(0)
	if l := <-late; l.err != nil && !errors.Is(l.err, store.ErrUnavailable) || l.res.Succeeded {
		t.Fatalf("the write that was under way, where the next leader's term began at %d: %+v", next.Fence().Revision, l)
	}
	eventually(t, "an answer of the member that came back", func() bool {
		res, err := write(first, old, "later")
		if err != nil && !errors.Is(err, store.ErrUnavailable) || res.Succeeded {
			t.Fatalf("a write after it was deposed: %+v, %v", res, err)
		}
		return err == nil
	})
	if kv, err := first.Get(ctx, "state"); err != nil || string(kv.Value) != "2" {
		t.Fatalf("state: %+v, %v", kv, err)
	}
	if err := errors.Join(next.Resign(ctx), old.Resign(ctx)); err != nil {
		t.Fatal(err)
	}
}

package etcd_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/controller/internal/store/etcd"
	"github.com/limiquantix/limiquantix/controller/internal/store/etcd/etcdtest"
	"github.com/limiquantix/limiquantix/controller/internal/store/storetest"
)

// TestHistoryWhileServerDies kills and restarts the only member again and again while clients write: what they were told can be explained, and a
// watch misses nothing.
func TestHistoryWhileServerDies(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.Start(t, etcdtest.Options{})
	history(t, cluster, storetest.Count(t, 3), func(*rand.Rand) {
		cluster.Kill(0)
		cluster.Restart(0)
	})
}

// TestHistoryWhileMembersDie kills one of three members after the other, the leader among them, with the rest serving on.
func TestHistoryWhileMembersDie(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.Start(t, etcdtest.Options{Members: 3})
	dead := -1
	history(t, cluster, storetest.Count(t, 3), func(r *rand.Rand) {
		if dead >= 0 {
			cluster.Restart(dead)
		}
		dead = r.IntN(cluster.Size())
		cluster.Kill(dead)
	})
}

// TestHistoryWhileMembersStumble stops one of three members for a moment, again and again: it comes back with old data, and must not tell of it.
func TestHistoryWhileMembersStumble(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.Start(t, etcdtest.Options{Members: 3})
	history(t, cluster, storetest.Count(t, 10), func(r *rand.Rand) {
		i := r.IntN(cluster.Size())
		cluster.Pause(i)
		<-time.After(time.Duration(50+r.IntN(200)) * time.Millisecond)
		cluster.Resume(i)
	})
}

// TestHistoryWhileMemberHangs stops one of three members without ending its connections, as a host does that loses its power.
func TestHistoryWhileMemberHangs(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.Start(t, etcdtest.Options{Members: 3})
	hung := -1
	history(t, cluster, (storetest.Count(t, 1)+9)/10, func(r *rand.Rand) { // each takes a quarter of a minute
		if hung >= 0 {
			cluster.Resume(hung)
		}
		hung = r.IntN(cluster.Size())
		cluster.Pause(hung)
	})
}

// history records calls on a cluster that fails so many times, evenly spread over them.
func history(t *testing.T, cluster *etcdtest.Cluster, faults int, fail func(*rand.Rand)) {
	t.Helper()
	cfg := etcd.ExternalConfig{Endpoints: cluster.Endpoints()}
	cfg.Prefix, cfg.RequestTimeout, cfg.ElectionTTL = "/limiquantix/", 3*time.Second, 6*time.Second
	if os.Getenv(countEnv) == "" {
		cfg.ElectionTTL *= 10 // on a busy machine
	}
	s, second, third := openExternal(t, cfg), openExternal(t, cfg), openExternal(t, cfg)
	leader, err := s.Campaign(t.Context(), "n", "me")
	if err != nil {
		t.Fatal(err)
	}
	seed := storetest.Seed(t)
	h := storetest.NewHistory(storetest.HistoryOptions{Seed: seed, Calls: 100 * faults, Groups: 4 * faults, Faulty: true, Prefix: "lin/"})
	f := storetest.Follow(t, s, "lin/")
	over := make(chan struct{})
	go func() {
		defer close(over)
		h.Record(t, s, second, third)
	}()
	r := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // to be had again
	for i := range faults {
		due := h.Total() * (i + 1) / (faults + 1)
		eventually(t, "calls enough for the next fault", func() bool { return h.Done() >= due })
		fail(r)
	}
	<-over
	h.Check(t)
	h.CheckFollower(t, f)
	select {
	case <-leader.Done():
		t.Error("a leader that never fell silent lost its leadership")
	default:
	}
	led := []store.Txn{{Conditions: []store.Condition{leader.Fence()}, Ops: []store.Op{store.Put("led", nil)}}}
	if res, err := s.Commit(t.Context(), led); err != nil || !res[0].Succeeded {
		t.Errorf("the leader's write: %+v, %v", res, err)
	}
	if err := leader.Resign(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestSoonBackAfterOutage checks that a cluster is used soon after it came back, however long it was away.
func TestSoonBackAfterOutage(t *testing.T) {
	t.Parallel()
	cluster := etcdtest.Start(t, etcdtest.Options{})
	cfg := etcd.ExternalConfig{Endpoints: cluster.Endpoints()}
	cfg.RequestTimeout = time.Second
	s := openExternal(t, cfg)
	cluster.Kill(0)
	away := time.Now().Add(11 * time.Second) // by then the wait between tries has grown
	eventually(t, "the end of the outage", func() bool {
		if _, err := s.List(t.Context(), "", store.ListOptions{}); !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("from a dead cluster: %v", err)
		}
		return time.Now().After(away)
	})
	cluster.Restart(0)
	back := time.Now()
	eventually(t, "an answer", func() bool {
		_, err := s.List(t.Context(), "", store.ListOptions{})
		return err == nil
	})
	if took := time.Since(back); took > 3*time.Second {
		t.Errorf("used again %v after it was back", took)
	}
}

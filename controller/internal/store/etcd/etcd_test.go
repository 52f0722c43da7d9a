package etcd_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/controller/internal/store/etcd"
	"github.com/limiquantix/limiquantix/controller/internal/store/etcd/etcdtest"
	"github.com/limiquantix/limiquantix/controller/internal/store/storetest"
)

// countEnv says how often tests that count repeat what they do; unset is as often as a quick run needs.
const countEnv = "LIMIQUANTIX_TEST_COUNT"

func TestMain(m *testing.M) {
	etcdtest.Main()
	if on := os.Getenv(crashOn); on != "" {
		crashChild(on)
		return
	}
	goleak.VerifyTestMain(m)
}

func open(tb testing.TB, cfg etcd.EmbeddedConfig) *etcd.Store {
	tb.Helper()
	s, err := etcd.OpenEmbedded(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func TestConformanceEmbedded(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Subject {
		cfg := etcd.EmbeddedConfig{Dir: t.TempDir()}
		s := open(t, cfg)
		return storetest.Subject{Store: s, Reopen: func() store.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return open(t, cfg)
		}}
	})
}

// TestGroupCommit checks that transactions which have nothing to do with each other are made durable together.
func TestGroupCommit(t *testing.T) {
	t.Parallel()
	s := open(t, etcd.EmbeddedConfig{Dir: t.TempDir()})
	const n = 256
	txns := make([]store.Txn, n)
	for i := range txns {
		txns[i].Ops = []store.Op{store.Put(fmt.Sprintf("g/%d", i), nil)}
	}
	res, err := s.Commit(t.Context(), txns)
	if err != nil {
		t.Fatal(err)
	}
	revisions := map[int64]bool{}
	for _, r := range res {
		revisions[r.Revision] = true
	}
	if len(revisions) > n/32 {
		t.Fatalf("%d transactions took %d commits", n, len(revisions))
	}
}

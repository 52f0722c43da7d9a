package etcd

import (
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// On a full disk writes are refused with the figures, reads and deletions go on, and with room again so do writes, without a restart.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := OpenEmbedded(t.Context(), EmbeddedConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // the test is over
	var free atomic.Int64
	s.space.free = func(string) (int64, error) { return free.Load(), nil }
	put := []store.Txn{{Ops: []store.Op{store.Put("a", []byte("1"))}}}
	ballast := func() bool { _, err := os.Stat(filepath.Join(dir, ballastName)); return err == nil }

	free.Store(1 << 40)
	if _, err := s.Commit(t.Context(), put); err != nil || !ballast() {
		t.Fatalf("with room: %v, ballast %v", err, ballast())
	}
	free.Store(reserveBytes - 1)
	if _, err := s.Commit(t.Context(), put); !errors.Is(err, store.ErrNoSpace) || !ballast() {
		t.Fatalf("below the reserve: %v, ballast %v", err, ballast())
	}
	free.Store(ballastBytes - 1)
	res, err := s.Commit(t.Context(), append(put, store.Txn{Ops: []store.Op{store.Delete("none")}}))
	if !errors.Is(err, store.ErrNoSpace) || !errors.Is(res[0].Err, store.ErrNoSpace) || !res[1].Succeeded || ballast() {
		t.Fatalf("full: %+v, %v, ballast %v", res, err, ballast())
	}
	if _, err := s.Grant(t.Context(), time.Minute); !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("lease on a full disk: %v", err)
	}
	if kv, err := s.Get(t.Context(), "a"); err != nil || string(kv.Value) != "1" {
		t.Fatalf("read: %+v, %v", kv, err)
	}
	if st, err := s.Status(t.Context()); err != nil || !st.NoSpace || st.Reason == "" {
		t.Fatalf("status: %+v, %v", st, err)
	}
	free.Store(1 << 40)
	if _, err := s.Commit(t.Context(), put); err != nil || !ballast() {
		t.Fatalf("with room again: %v, ballast %v", err, ballast())
	}
	if st, err := s.Status(t.Context()); err != nil || st.NoSpace {
		t.Fatalf("status: %+v, %v", st, err)
	}
}

package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/controller/internal/store/etcd"
	"github.com/limiquantix/limiquantix/controller/internal/store/storetest"
)

func TestNothingListens(t *testing.T) {
	s := open(t, etcd.EmbeddedConfig{Dir: t.TempDir()})
	if _, err := s.Commit(t.Context(), []store.Txn{{Ops: []store.Op{store.Put("k", nil)}}}); err != nil {
		t.Fatal(err)
	}
	if found := listeners(t); len(found) > 0 {
		t.Fatalf("sockets that listen: %q", found)
	}
	// The check must be able to find what it looks for.
	for _, network := range [][2]string{{"tcp", "127.0.0.1:0"}, {"unix", filepath.Join(t.TempDir(), "s")}, {"unix", "@store-test"}} {
		l, err := net.Listen(network[0], network[1])
		if err != nil {
			t.Fatal(err)
		}
		if found := listeners(t); len(found) != 1 {
			t.Errorf("listening on %v: found %q", network, found)
		}
		_ = l.Close()
	}
}

// listeners reads from /proc which sockets of this process accept connections.
func listeners(t *testing.T) []string {
	t.Helper()
	ours := map[string]bool{}
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		target, _ := os.Readlink(fd)
		if inode, ok := strings.CutPrefix(target, "socket:["); ok {
			ours[strings.TrimSuffix(inode, "]")] = true
		}
	}
	tables := []struct {
		file         string
		state, inode int
		listening    string
	}{
		{file: "tcp", state: 3, inode: 9, listening: "0A"},
		{file: "tcp6", state: 3, inode: 9, listening: "0A"},
		{file: "unix", state: 3, inode: 6, listening: "00010000"},
	}
	var found []string
	for _, table := range tables {
		data, err := os.ReadFile("/proc/self/net/" + table.file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) > table.inode && f[table.state] == table.listening && ours[f[table.inode]] {
				found = append(found, table.file+" "+strings.TrimSpace(line))
			}
		}
	}
	return found
}

func TestDirectoryIsPrivateAndLocked(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "b")
	s := open(t, etcd.EmbeddedConfig{Dir: dir})
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("directory: %v, %v", info.Mode(), err)
	}
	if _, err := etcd.OpenEmbedded(t.Context(), etcd.EmbeddedConfig{Dir: dir}); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("second open: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	open(t, etcd.EmbeddedConfig{Dir: dir})
	t.Logf("opened again after %v", time.Since(began))
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("directory after the second open: %v, %v", info.Mode(), err)
	}
	if _, err := etcd.OpenEmbedded(t.Context(), etcd.EmbeddedConfig{}); !errors.Is(err, store.ErrInvalid) {
		t.Fatalf("without a directory: %v", err)
	}
}

// TestRestartLeadsAtOnce checks that nobody waits for the lease of a leader that
// cannot live any more: the one of the process before.
func TestRestartLeadsAtOnce(t *testing.T) {
	t.Parallel()
	cfg := etcd.EmbeddedConfig{Dir: t.TempDir()}
	cfg.ElectionTTL = time.Hour
	s := open(t, cfg)
	if _, err := s.Campaign(t.Context(), "n", "before"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l, err := open(t, cfg).Campaign(ctx, "n", "after")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestFullEmbedded checks that the store makes room by itself of what was deleted.
func TestFullEmbedded(t *testing.T) {
	t.Parallel()
	storetest.RunFull(t, func(t *testing.T) storetest.Small {
		return storetest.Small{Store: open(t, etcd.EmbeddedConfig{Dir: t.TempDir(), QuotaBytes: 8 << 20})}
	})
}

// TestFullOfHistory fills the store with what nobody needs any more: it makes room by itself, without any deletion.
func TestFullOfHistory(t *testing.T) {
	t.Parallel()
	s := open(t, etcd.EmbeddedConfig{Dir: t.TempDir(), QuotaBytes: 6 << 20})
	refused := 0
	for writes := 0; writes < 400 || refused == 0; writes++ {
		_, err := s.Commit(t.Context(), []store.Txn{{Ops: []store.Op{store.Put("same", make([]byte, 50_000))}}})
		switch {
		case errors.Is(err, store.ErrNoSpace):
			refused++
			eventually(t, "room again", func() bool {
				_, err := s.Commit(t.Context(), []store.Txn{{Ops: []store.Op{store.Put("same", nil)}}})
				return err == nil
			})
		case err != nil:
			t.Fatal(err)
		}
	}
}

// TestFullThenStarted checks that a store that was closed full takes deletions after a start, and then writes.
func TestFullThenStarted(t *testing.T) {
	t.Parallel()
	cfg := etcd.EmbeddedConfig{Dir: t.TempDir(), QuotaBytes: 6 << 20}
	s := open(t, cfg)
	put := func(i int) error {
		_, err := s.Commit(t.Context(), []store.Txn{{Ops: []store.Op{store.Put(fmt.Sprintf("fill/%d", i), make([]byte, 50_000))}}})
		return err
	}
	for i := 0; ; i++ {
		if err := put(i); errors.Is(err, store.ErrNoSpace) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, cfg)
	if err := put(1000); !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("still full: %v", err)
	}
	if _, err := s.Commit(t.Context(), []store.Txn{{Ops: []store.Op{store.DeletePrefix("fill/")}}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "room after the deletion", func() bool { return put(0) == nil })
}

func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for deadline := time.Now().Add(30 * time.Second); !so(); <-pause.C {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}

func TestDefragmentAtStart(t *testing.T) {
	t.Parallel()
	cfg := etcd.EmbeddedConfig{Dir: t.TempDir(), DefragThresholdBytes: 2 << 20}
	s := open(t, cfg)
	for i := range 8 {
		if _, err := s.Commit(t.Context(), []store.Txn{{Ops: []store.Op{store.Put("same", make([]byte, 900_000))}}}); err != nil {
			t.Fatal(i, err)
		}
	}
	kv, err := s.Get(t.Context(), "same")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Compact(t.Context(), kv.ModRevision); err != nil {
		t.Fatal(err)
	}
	before, err := s.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	after, err := open(t, cfg).Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if after.SizeBytes > before.SizeBytes/2 {
		t.Fatalf("size was %d, and is %d after a start", before.SizeBytes, after.SizeBytes)
	}
}

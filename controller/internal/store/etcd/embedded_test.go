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

// TestNoSpace fills the store, and checks that it still reads and deletes, and
// that it takes writes again once there is space and it was started anew.
func TestNoSpace(t *testing.T) {
	cfg := etcd.EmbeddedConfig{Dir: t.TempDir(), QuotaBytes: 6 << 20}
	s := open(t, cfg)
	fill := func(i int) store.Txn {
		return store.Txn{Ops: []store.Op{store.Put(fmt.Sprintf("fill/%d", i), make([]byte, 50_000))}}
	}
	full := -1
	for i := range 1000 { // etcd counts what it has written back, with some delay
		if _, err := s.Commit(t.Context(), []store.Txn{fill(i)}); err != nil {
			if !errors.Is(err, store.ErrNoSpace) {
				t.Fatal(err)
			}
			full = i
			break
		}
	}
	if full < 1 {
		t.Fatal("the quota was never reached")
	}
	status, err := s.Status(t.Context())
	if err != nil || !status.NoSpace || status.QuotaBytes != cfg.QuotaBytes {
		t.Fatalf("status of a full store: %+v, %v", status, err)
	}
	if _, err := s.Get(t.Context(), "fill/0"); err != nil {
		t.Fatalf("a full store does not read: %v", err)
	}
	res, err := s.Commit(t.Context(), []store.Txn{
		fill(1000),
		{Ops: []store.Op{store.DeletePrefix("fill/")}},
		{Ops: []store.Op{store.Delete("none")}},
	})
	if !errors.Is(err, store.ErrNoSpace) || !errors.Is(res[0].Err, store.ErrNoSpace) || !res[1].Succeeded || !res[2].Succeeded {
		t.Fatalf("a full store: %+v, %v", res, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, cfg)
	if _, err := s.Commit(t.Context(), []store.Txn{fill(0)}); err != nil {
		t.Fatalf("after making space: %v", err)
	}
	if status, err := s.Status(t.Context()); err != nil || status.NoSpace {
		t.Fatalf("status with space: %+v, %v", status, err)
	}
}

func TestDefragmentAtStart(t *testing.T) {
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

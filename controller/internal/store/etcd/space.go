package etcd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

const (
	// reserveBytes is the default of EmbeddedConfig.ReserveBytes: more than etcd takes at once, which is a log segment of 64 MB beside a step of its
	// database of 16 MiB.
	reserveBytes = 128 << 20
	// ballastBytes is held back in a file and let go when the disk is all but full, for what etcd writes unasked: the end of a lease, a compaction.
	ballastBytes = 16 << 20
	ballastName  = "ballast"
)

// space keeps an embedded etcd from running into a full disk, which it would not survive: it ends the process when its log cannot be written. Writes
// are refused while there is still room for what it writes of its own accord, and are taken again as soon as there is room.
type space struct {
	dir     string
	reserve int64
	free    func(dir string) (int64, error) // may be called from several goroutines
	ballast atomic.Bool                     // the file is there
	busy    atomic.Bool                     // somebody makes or removes it
}

func newSpace(dir string, reserve int64) *space {
	s := &space{dir: dir, reserve: reserve, free: freeBytes}
	_, err := os.Stat(s.file())
	s.ballast.Store(err == nil)
	return s
}

func freeBytes(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil //nolint:gosec // no file system has so many blocks
}

func (s *space) file() string { return filepath.Join(s.dir, ballastName) }

// check returns ErrNoSpace, with the figures, when too little is free. A nil space never does.
func (s *space) check() error {
	if s == nil {
		return nil
	}
	free, err := s.free(s.dir)
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	s.trim(free)
	if free >= s.reserve {
		return nil
	}
	return fmt.Errorf("%w: the disk of %s has %d MiB free, and %d MiB are kept back", store.ErrNoSpace, s.dir, free>>20, s.reserve>>20)
}

// trim lets the ballast go, or takes it up again.
func (s *space) trim(free int64) {
	has := s.ballast.Load()
	drop, take := has && free < ballastBytes, !has && free >= s.reserve+2*ballastBytes
	if !drop && !take || !s.busy.CompareAndSwap(false, true) {
		return
	}
	defer s.busy.Store(false)
	if drop {
		if err := os.Remove(s.file()); err == nil || errors.Is(err, fs.ErrNotExist) {
			s.ballast.Store(false)
		}
		return
	}
	f, err := os.OpenFile(s.file(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return // only a comfort
	}
	err = syscall.Fallocate(int(f.Fd()), 0, 0, ballastBytes)
	if errors.Join(err, f.Close()) != nil {
		_ = os.Remove(s.file())
		return
	}
	s.ballast.Store(true)
}

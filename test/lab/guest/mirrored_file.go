package guest

import (
	"context"
	"net/rpc"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/limiquantix/limiquantix/test/lab/guest/wire"
)

const (
	mostAhead = 512 << 10   // bytes
	aheadFor  = time.Second // a plugin in the guest may change the file
)

// opened is an open file. Who boots from it reads small pieces in order, and each trip to the guest takes milliseconds: so more is fetched than asked for.
type opened struct {
	c      *rpc.Client
	handle uint64
	writes *atomic.Uint64

	mu    sync.Mutex
	next  int64 // where reading in order goes on
	size  int   // to fetch then
	ahead window
}

// window is a part of a file as it was at a time.
type window struct {
	data   []byte
	at     int64
	taken  time.Time
	writes uint64
}

// Read reads at an offset.
func (o *opened) Read(_ context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	o.mu.Lock()
	seen := o.writes.Load()
	w := o.ahead
	if from := off - w.at; w.writes == seen && time.Since(w.taken) < aheadFor && from >= 0 && from+int64(len(dest)) <= int64(len(w.data)) {
		o.next = off + int64(len(dest))
		o.mu.Unlock()
		return fuse.ReadResultData(w.data[from : from+int64(len(dest))]), 0
	}
	o.size = min(2*o.size, mostAhead)
	if off != o.next {
		o.size = 0
	}
	o.size = max(o.size, len(dest))
	o.next = off + int64(len(dest))
	size := o.size
	o.mu.Unlock()

	w = window{at: off, taken: time.Now(), writes: seen}
	r, errno := call(o.c, wire.FileCall{Op: wire.FileRead, Handle: o.handle, Offset: off, Size: size})
	if errno != 0 {
		return nil, errno
	}
	w.data = r.Data
	o.mu.Lock()
	o.ahead = w
	o.mu.Unlock()
	return fuse.ReadResultData(r.Data[:min(len(r.Data), len(dest))]), 0
}

// Write writes at an offset.
func (o *opened) Write(_ context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	r, errno := call(o.c, wire.FileCall{Op: wire.FileWrite, Handle: o.handle, Offset: off, Data: data})
	o.writes.Add(1)
	return uint32(r.Size), errno //nolint:gosec // at most what was given
}

// Fsync lets the guest write to its disk.
func (o *opened) Fsync(context.Context, uint32) syscall.Errno {
	_, errno := call(o.c, wire.FileCall{Op: wire.FileSync, Handle: o.handle})
	return errno
}

// Release closes.
func (o *opened) Release(context.Context) syscall.Errno {
	_, errno := call(o.c, wire.FileCall{Op: wire.FileClose, Handle: o.handle})
	return errno
}

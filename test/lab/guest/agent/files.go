package main

import (
	"errors"
	"io"
	"log"
	"net/rpc"
	"os"
	"sync"
	"syscall"

	"github.com/limiquantix/limiquantix/test/lab/guest/wire"
)

// files does to the guest's files what the host asks for. What is open is closed with the stream.
type files struct {
	mu   sync.Mutex
	last uint64
	open map[uint64]*os.File
}

func serveFiles(s io.ReadWriteCloser) {
	f := &files{open: map[uint64]*os.File{}}
	defer func() {
		for _, o := range f.open {
			_ = o.Close()
		}
	}()
	srv := rpc.NewServer()
	if err := srv.RegisterName(wire.FileService, f); err != nil {
		log.Print(err)
		return
	}
	srv.ServeConn(s)
}

// Do does one thing; it is called many times at once.
func (f *files) Do(c wire.FileCall, r *wire.FileReply) error {
	if err := f.do(c, r); err != nil {
		errno := syscall.EIO
		_ = errors.As(err, &errno)
		r.Errno = int(errno)
	}
	return nil
}

func (f *files) do(c wire.FileCall, r *wire.FileReply) error {
	switch c.Op {
	case wire.FileStat:
		return stat(c.Path, &r.Attr)
	case wire.FileList:
		entries, err := os.ReadDir(c.Path)
		for _, e := range entries {
			r.Names = append(r.Names, e.Name())
		}
		return err
	case wire.FileOpen:
		o, err := os.OpenFile(c.Path, c.Flags&(os.O_RDWR|os.O_WRONLY|os.O_TRUNC), 0)
		if err != nil {
			return err
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.last++
		r.Handle, f.open[f.last] = f.last, o
		return nil
	case wire.FileTruncate:
		return truncate(c.Path, c.Offset)
	case wire.FileChmod:
		return syscall.Chmod(c.Path, c.Mode)
	case wire.FileChown:
		return syscall.Chown(c.Path, c.UID, c.GID)
	}
	f.mu.Lock()
	o := f.open[c.Handle]
	if c.Op == wire.FileClose {
		delete(f.open, c.Handle)
	}
	f.mu.Unlock()
	if o == nil {
		return syscall.EBADF
	}
	switch c.Op {
	case wire.FileClose:
		return o.Close()
	case wire.FileRead:
		r.Data = make([]byte, c.Size)
		n, err := o.ReadAt(r.Data, c.Offset)
		r.Data = r.Data[:n]
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return err
	case wire.FileWrite:
		n, err := o.WriteAt(c.Data, c.Offset)
		r.Size = n
		return err
	case wire.FileSync:
		return o.Sync()
	default:
		return syscall.ENOSYS
	}
}

// stat shows a block device as a file of its size.
func stat(path string, a *wire.FileAttr) error {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return err
	}
	*a = wire.FileAttr{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Nlink: uint32(st.Nlink), Ino: st.Ino, Size: st.Size, Mtime: st.Mtim.Nano()} //nolint:gosec // few links
	if st.Mode&syscall.S_IFMT != syscall.S_IFBLK {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	a.Mode = a.Mode&^syscall.S_IFMT | syscall.S_IFREG
	a.Size, err = f.Seek(0, io.SeekEnd)
	return err
}

// truncate sets a file's size. A block device has the size that it has.
func truncate(path string, size int64) error {
	var a wire.FileAttr
	if err := stat(path, &a); err != nil {
		return err
	}
	if a.Size == size {
		return nil
	}
	return syscall.Truncate(path, size)
}

package guest

import (
	"context"
	"errors"
	"fmt"
	"net/rpc"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/limiquantix/limiquantix/test/lab/guest/wire"
)

// letGo is how long the end of a mirror waits for the kernel.
const letGo = 5 * time.Second

// Mirror shows a folder of the guest on the host at dir, which must be there, by FUSE: what is mounted below it in the guest is seen too, block devices are
// regular files of their size, and nothing is kept but, for a second, what lies behind what is read in order. So a hypervisor on the host opens what a plugin in the guest has made. Files cannot be made or
// removed there. Who runs in a mount namespace of his own sees it if that was made afterwards. Call unmount when nothing has a file open, before the guest's end.
func (g *Guest) Mirror(guestDir, dir string) (unmount func() error, err error) {
	s, err := g.session.OpenStream()
	if err != nil {
		return nil, fmt.Errorf("the guest is gone: %w", err)
	}
	if err := wire.WriteJSON(s, wire.Request{Files: true}); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	c := rpc.NewClient(s)
	var none time.Duration
	srv, err := fs.Mount(dir, &mirrored{c: c, root: guestDir, writes: new(atomic.Uint64)}, &fs.Options{
		AttrTimeout: &none, EntryTimeout: &none,
		MountOptions: fuse.MountOptions{DirectMountStrict: true, AllowOther: true, FsName: "lab:" + guestDir, Name: "lab", DisableXAttrs: true, MaxWrite: 128 << 10},
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mirror %s of the guest at %s: %w", guestDir, dir, err), c.Close())
	}
	return func() error {
		err := syscall.Unmount(dir, syscall.MNT_DETACH)
		if err == nil {
			ended := make(chan struct{})
			go func() { srv.Wait(); close(ended) }()
			select {
			case <-ended:
			case <-time.After(letGo): // somebody made a mount namespace of his own meanwhile and holds a copy; what he reads there fails from now on
			}
		}
		return errors.Join(err, c.Close())
	}, nil
}

// mirrored is a file or folder of the guest.
type mirrored struct {
	fs.Inode
	c      *rpc.Client
	root   string
	writes *atomic.Uint64 // how often something was changed by way of the mirror
}

var (
	_ fs.NodeLookuper  = (*mirrored)(nil)
	_ fs.NodeGetattrer = (*mirrored)(nil)
	_ fs.NodeSetattrer = (*mirrored)(nil)
	_ fs.NodeReaddirer = (*mirrored)(nil)
	_ fs.NodeOpener    = (*mirrored)(nil)
	_ fs.FileReader    = (*opened)(nil)
	_ fs.FileWriter    = (*opened)(nil)
	_ fs.FileFsyncer   = (*opened)(nil)
	_ fs.FileReleaser  = (*opened)(nil)
)

func call(client *rpc.Client, c wire.FileCall) (*wire.FileReply, syscall.Errno) {
	var r wire.FileReply
	if err := client.Call(wire.FileService+".Do", c, &r); err != nil {
		return &r, syscall.EIO
	}
	return &r, syscall.Errno(r.Errno) //nolint:gosec // it was one
}

func (m *mirrored) path() string { return filepath.Join(m.root, m.Path(nil)) }

func fill(a wire.FileAttr, out *fuse.Attr) {
	out.Mode, out.Size, out.Ino, out.Nlink, out.Blocks = a.Mode, uint64(a.Size), a.Ino, a.Nlink, uint64(a.Size+511)/512 //nolint:gosec // not negative
	out.Owner = fuse.Owner{Uid: a.UID, Gid: a.GID}
	t := time.Unix(0, a.Mtime)
	out.SetTimes(&t, &t, &t)
}

// Lookup finds a name in a folder.
func (m *mirrored) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	r, errno := call(m.c, wire.FileCall{Op: wire.FileStat, Path: filepath.Join(m.path(), name)})
	if errno != 0 {
		return nil, errno
	}
	fill(r.Attr, &out.Attr)
	// Several file systems of the guest are seen through one: their inode numbers may be alike, and the name is what counts.
	return m.NewInode(ctx, &mirrored{c: m.c, root: m.root, writes: m.writes}, fs.StableAttr{Mode: r.Attr.Mode & syscall.S_IFMT}), 0
}

// Getattr asks the guest each time: a volume may have grown.
func (m *mirrored) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	r, errno := call(m.c, wire.FileCall{Op: wire.FileStat, Path: m.path()})
	fill(r.Attr, &out.Attr)
	return errno
}

// Setattr sets size, mode and owner.
func (m *mirrored) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	var calls []wire.FileCall
	if size, ok := in.GetSize(); ok {
		calls = append(calls, wire.FileCall{Op: wire.FileTruncate, Offset: int64(size)}) //nolint:gosec // a size
	}
	if mode, ok := in.GetMode(); ok {
		calls = append(calls, wire.FileCall{Op: wire.FileChmod, Mode: mode & 0o7777})
	}
	own := wire.FileCall{Op: wire.FileChown, UID: -1, GID: -1}
	if uid, ok := in.GetUID(); ok {
		own.UID = int(uid)
	}
	if gid, ok := in.GetGID(); ok {
		own.GID = int(gid)
	}
	if own.UID >= 0 || own.GID >= 0 {
		calls = append(calls, own)
	}
	defer m.writes.Add(1)
	for _, c := range calls {
		c.Path = m.path()
		if _, errno := call(m.c, c); errno != 0 {
			return errno
		}
	}
	return m.Getattr(ctx, f, out)
}

// Readdir lists a folder.
func (m *mirrored) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	r, errno := call(m.c, wire.FileCall{Op: wire.FileList, Path: m.path()})
	entries := make([]fuse.DirEntry, 0, len(r.Names))
	for _, n := range r.Names {
		entries = append(entries, fuse.DirEntry{Name: n})
	}
	return fs.NewListDirStream(entries), errno
}

// Open opens a file; the host's kernel keeps nothing of it.
func (m *mirrored) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	r, errno := call(m.c, wire.FileCall{Op: wire.FileOpen, Path: m.path(), Flags: int(flags)})
	return &opened{c: m.c, handle: r.Handle, writes: m.writes}, fuse.FOPEN_DIRECT_IO, errno
}

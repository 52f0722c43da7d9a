package lvpool

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	blockBytes = 64 << 10 // the unit in which zeros are told from data
	wipeBytes  = 64 << 20 // zeroed at once: a call can be cancelled between two
	ioBytes    = 1 << 20
	// tidyTimeout bounds what has to be done after a call, even one that was cancelled.
	tidyTimeout = 2 * time.Minute
)

var zeroBlock [blockBytes]byte

// tidy is the context for what has to be done although ctx may be over.
func tidy(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), tidyTimeout)
}

// device is a logical volume that we have active and open for ourselves.
type device struct {
	*os.File
	p    *Pool
	name string
	stop bool // deactivate it in the end
	fill bool // zeros must be written: what lies there is not known to be zero
}

// open activates an object and opens its device. Several may have one open.
func (p *Pool) open(ctx context.Context, o object, flag int) (*device, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := &device{p: p, name: o.Name, stop: true, fill: !p.thin()}
	if p.held[o.Name] == 0 {
		_, err := os.Lstat(p.note(o.Name))
		switch noted := err == nil; {
		case o.Active && !noted: // an attached image, say: it stays active
			d.stop = false
		default:
			if err := os.WriteFile(p.note(o.Name), nil, 0o600); err != nil {
				return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "note %s: %w", o.Name, err)
			}
			if _, err := p.tool.Run(ctx, "lvchange", "-ay", "-K", p.path(o.Name)); err != nil {
				return nil, errors.Join(err, p.release(ctx, o.Name))
			}
		}
	}
	f, err := os.OpenFile(p.device(o.Name), flag|syscall.O_CLOEXEC, 0)
	if err != nil {
		err = deviceError("open "+p.device(o.Name), err)
		if d.stop && p.held[o.Name] == 0 {
			err = errors.Join(err, p.release(ctx, o.Name))
		}
		return nil, err
	}
	if d.stop {
		p.held[o.Name]++
	}
	d.File = f
	return d, nil
}

// done closes the device and deactivates it when nobody else of us has it open. It works after ctx has ended, too.
func (d *device) done(ctx context.Context) error {
	err := d.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	if !d.stop {
		return nil
	}
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	if d.p.held[d.name]--; d.p.held[d.name] > 0 {
		return nil
	}
	delete(d.p.held, d.name)
	if _, err := os.Lstat(d.p.note(d.name)); err != nil { // attached meanwhile: it is not ours alone any more
		return nil
	}
	return d.p.release(ctx, d.name)
}

// release deactivates what we activated and removes the note of it. Needs mu.
func (p *Pool) release(ctx context.Context, name string) error {
	ctx, cancel := tidy(ctx)
	defer cancel()
	if _, err := p.tool.Run(ctx, "lvchange", "-an", p.path(name)); err != nil && !fault.Is(err, metav1.Reason_REASON_NOT_FOUND) {
		return err
	}
	return p.unnote(name)
}

func (p *Pool) unnote(name string) error {
	if err := os.Remove(p.note(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fault.New(metav1.Reason_REASON_BACKEND_FAILED, "note %s: %w", name, err)
	}
	return nil
}

// zero makes a range read as zeros; the kernel writes them where the device cannot do it faster.
func (d *device) zero(ctx context.Context, from, to int64) error {
	for from < to {
		if err := ctx.Err(); err != nil {
			return fault.New(metav1.Reason_REASON_BACKEND_TIMEOUT, "zero %s: %w", d.Name(), context.Cause(ctx))
		}
		n := min(to-from, wipeBytes)
		r := [2]uint64{uint64(from), uint64(n)} //nolint:gosec // not negative
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, d.Fd(), unix.BLKZEROOUT, uintptr(unsafe.Pointer(&r))); e != 0 {
			return deviceError("zero "+d.Name(), e)
		}
		from += n
	}
	return nil
}

// flush brings what was written to the disk.
func (d *device) flush() error {
	if err := d.Sync(); err != nil {
		return deviceError("write "+d.Name(), err)
	}
	return nil
}

// writer writes a device in order, zeros as ranges: not at all in a thin pool, where what was never written is zero.
type writer struct {
	d       *device
	ctx     context.Context //nolint:containedctx // of the call that writes
	pos     int64
	pending int64 // zeros before pos that are not written yet
}

func (w *writer) Write(b []byte) (int, error) {
	for done := 0; done < len(b); {
		n := min(len(b)-done, blockBytes-int(w.pos%blockBytes))
		part := b[done : done+n]
		if bytes.Equal(part, zeroBlock[:n]) {
			w.pos, w.pending, done = w.pos+int64(n), w.pending+int64(n), done+n
			continue
		}
		if err := w.zeros(); err != nil {
			return done, err
		}
		if _, err := w.d.WriteAt(part, w.pos); err != nil {
			return done, deviceError("write "+w.d.Name(), err)
		}
		w.pos, done = w.pos+int64(n), done+n
	}
	return len(b), nil
}

// skip goes over a hole.
func (w *writer) skip(n int64) { w.pos, w.pending = w.pos+n, w.pending+n }

// zeros writes what zeros are pending, to whole sectors: what is beyond is not written yet, or is zero itself.
func (w *writer) zeros() error {
	if w.pending == 0 || !w.d.fill {
		w.pending = 0
		return nil
	}
	from, to := w.pos-w.pending, w.pos
	w.pending = 0
	for _, edge := range [][2]int64{{from, min(to, roundTo(from, 512))}, {max(from, to/512*512), to}} {
		if n := edge[1] - edge[0]; n > 0 && n < 512 {
			if _, err := w.d.WriteAt(zeroBlock[:n], edge[0]); err != nil {
				return deviceError("write "+w.d.Name(), err)
			}
		}
	}
	return w.d.zero(w.ctx, roundTo(from, 512), to/512*512)
}

// finish ends the content: what follows up to size is zero.
func (w *writer) finish(size int64) error {
	w.skip(size - w.pos)
	if err := w.zeros(); err != nil {
		return err
	}
	return w.d.flush()
}

func roundTo(n, to int64) int64 { return (n + to - 1) / to * to }

// copyContent writes the first bytes of src to dst, then zeros up to size.
func copyContent(ctx context.Context, dst, src *device, length, size int64) error {
	w := &writer{d: dst, ctx: ctx}
	buf := make([]byte, ioBytes)
	for w.pos < length {
		if ctx.Err() != nil {
			return fault.New(metav1.Reason_REASON_BACKEND_TIMEOUT, "copy %s: %w", src.Name(), context.Cause(ctx))
		}
		n, err := src.ReadAt(buf[:min(int64(len(buf)), length-w.pos)], w.pos)
		if n == 0 && err != nil {
			return deviceError("read "+src.Name(), err)
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
	}
	return w.finish(size)
}

// deviceError classifies an operating system's error.
func deviceError(what string, err error) error {
	reason := metav1.Reason_REASON_BACKEND_FAILED
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return fault.New(metav1.Reason_REASON_NO_SPACE, "%s: %w", what, err).WithRemedy("extend the thin pool (lvextend), or delete volumes")
	case errors.Is(err, syscall.EBUSY):
		reason = metav1.Reason_REASON_VOLUME_IN_USE
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		reason = metav1.Reason_REASON_ACCESS_DENIED
	case errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO), errors.Is(err, os.ErrNotExist), errors.Is(err, io.ErrUnexpectedEOF):
		reason = metav1.Reason_REASON_DEVICE_MISSING
	}
	return fault.New(reason, "%s: %w", what, err)
}

package rbdpool

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/limiquantix/limiquantix/plugins/kit/digest"
	"github.com/limiquantix/limiquantix/plugins/kit/qcow2"
	"github.com/limiquantix/limiquantix/plugins/kit/qemuimg"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// checked is content that is counted and summed up as it is copied.
type checked struct {
	r      io.Reader
	sum    *digest.Writer
	taken  int64
	limit  int64
	header *driverv1.ImportImageHeader
}

// pour copies all of it, once.
func (c *checked) pour(w io.Writer) (err error) {
	limit := c.limit
	if want := c.header.GetContentBytes(); want > 0 {
		limit = min(limit, want)
	}
	c.sum = digest.NewWriter(w)
	c.taken, err = digest.CopyMost(c.sum, c.r, limit+1)
	switch {
	case err != nil:
		return err //nolint:wrapcheck // both sides give reasons
	case c.taken > limit && limit == c.header.GetContentBytes():
		return fault.Invalid(fault.Violation{Field: "content_bytes", Description: "more bytes came than announced"})
	case c.taken > limit:
		return fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "the content is larger than %d bytes, the most that is taken", limit)
	}
	return nil
}

// sumHex is the sum of what was poured.
func (c *checked) sumHex() string { return c.sum.Hex() }

// verify checks content of which all has been read.
func (c *checked) verify() error {
	switch want, got := c.header.GetSha256(), c.sumHex(); {
	case c.taken == 0:
		return fault.New(metav1.Reason_REASON_IMAGE_REFUSED, "the content is empty")
	case c.header.GetContentBytes() > 0 && c.taken != c.header.GetContentBytes():
		return fault.Invalid(fault.Violation{Field: "content_bytes", Description: "fewer bytes came than announced"})
	case want != "" && got != want:
		return fault.New(metav1.Reason_REASON_CHECKSUM_MISMATCH, "image %s: the content has SHA-256 %s, declared was %s", c.header.GetImageId(), got, want)
	}
	return nil
}

func (c *checked) sizeHint() int64 { return c.header.GetContentBytes() }

func (c *checked) copyTo(w *writer) (int64, error) {
	if err := c.pour(w); err != nil {
		return 0, err
	}
	return c.taken, c.verify()
}

// spooled is a qcow2 image from outside, converted into a sparse file.
type spooled struct {
	ctx       context.Context
	dir, path string
	size      int64
}

// spoolQcow2 stores qcow2 content in a file, checks it, and converts it. Clusters of a qcow2 image lie in any order, so it cannot be streamed.
func (s *Session) spoolQcow2(c *checked, id string) (*spooled, error) {
	if err := os.MkdirAll(s.spool, 0o700); err != nil {
		return nil, fileError("make the spool", err)
	}
	dir, err := os.MkdirTemp(s.spool, id+".")
	if err != nil {
		return nil, fileError("make the spool", err)
	}
	out := &spooled{ctx: s.ctx, dir: dir, path: filepath.Join(dir, "raw")}
	c.limit = s.limits.Spool
	if err := out.take(c, filepath.Join(dir, "qcow2"), s.limits.Spool); err != nil {
		out.remove()
		return nil, err
	}
	return out, nil
}

func (f *spooled) take(c *checked, path string, limit int64) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fileError("spool an image", err)
	}
	defer func() { _ = file.Close() }()
	if err := c.pour(struct{ io.Writer }{file}); err != nil {
		return fileError("spool an image", err)
	}
	if err := c.verify(); err != nil {
		return err
	}
	h, err := qcow2.Read(file)
	if err == nil {
		err = h.CheckForeign(c.taken)
	}
	if err != nil {
		return fault.New(metav1.Reason_REASON_IMAGE_REFUSED, "image %s: %w", c.header.GetImageId(), err)
	}
	if f.size = int64(h.VirtualSize); f.size > MaxBytes {
		return fault.New(metav1.Reason_REASON_IMAGE_REFUSED, "image %s: its disk of %d bytes is larger than %d", c.header.GetImageId(), f.size, int64(MaxBytes))
	}
	if err := qemuimg.Convert(f.ctx, path, driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2, f.path, driverv1.VolumeFormat_VOLUME_FORMAT_RAW); err != nil {
		return err //nolint:wrapcheck // it has its reason
	}
	var st syscall.Stat_t
	if err := syscall.Stat(f.path, &st); err != nil {
		return fileError("spool an image", err)
	}
	if st.Blocks*512 > limit {
		return fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "image %s: its content is larger than %d bytes, the most that is converted", c.header.GetImageId(), limit).
			WithRemedy("raise spool_bytes in the plugin's configuration, or convert it to raw beforehand")
	}
	return nil
}

func (f *spooled) remove() { _ = os.RemoveAll(f.dir) } // else it is swept when the plugin starts again

func (f *spooled) sizeHint() int64 { return f.size }

// copyTo copies what the sparse file holds.
func (f *spooled) copyTo(w *writer) (int64, error) {
	file, err := os.Open(f.path)
	if err != nil {
		return 0, fileError("read the spool", err)
	}
	defer func() { _ = file.Close() }()
	const seekData, seekHole = 3, 4
	buf := make([]byte, 1<<20)
	for at := int64(0); ; {
		from, err := file.Seek(at, seekData)
		if errors.Is(err, syscall.ENXIO) { // only a hole is left
			st, err := file.Stat()
			if err != nil {
				return 0, fileError("read the spool", err)
			}
			return st.Size(), w.skip(st.Size() - at)
		}
		if err != nil {
			return 0, fileError("read the spool", err)
		}
		if err := w.skip(from - at); err != nil {
			return 0, err
		}
		to, err := file.Seek(from, seekHole)
		if err != nil {
			return 0, fileError("read the spool", err)
		}
		for part := io.NewSectionReader(file, from, to-from); ; {
			if f.ctx.Err() != nil {
				return 0, ended(f.ctx)
			}
			n, err := part.Read(buf)
			if _, werr := w.Write(buf[:n]); werr != nil {
				return 0, werr
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return 0, fileError("read the spool", err)
			}
		}
		at = to
	}
}

// fileError classifies an error of the node's own files; those with a reason keep it.
func fileError(what string, err error) error {
	var known *fault.Error
	if errors.As(err, &known) {
		return err
	}
	reason := metav1.Reason_REASON_BACKEND_FAILED
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		reason = metav1.Reason_REASON_NO_SPACE
	}
	return fault.New(reason, "%s: %w", what, err)
}

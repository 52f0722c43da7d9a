package filepool

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/limiquantix/limiquantix/plugins/kit/qemuimg"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// partBytes is how much one part of a stream holds at most.
const partBytes = 1 << 20

// Export reads the content of a volume that nobody has open, of a snapshot or of an image copy, raw and in order, and hands it to send.
func (p *Pool) Export(ctx context.Context, req *driverv1.ExportVolumeRequest, send func(*driverv1.ExportVolumeResponse) error) error {
	src, err := p.exported(req)
	if err != nil {
		return err
	}
	if src.chain, err = p.chain(src); err != nil {
		return err
	}
	if o := req.GetOffset(); o < 0 || o > src.size {
		return fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "offset %d is outside 0 to %d", o, src.size)
	}
	s := &sender{send: send, pos: req.GetOffset(), end: src.size}
	if src.format == driverv1.VolumeFormat_VOLUME_FORMAT_RAW {
		if err := s.file(src.path); err != nil {
			return err
		}
		return s.zeros(src.size)
	}
	packed, err := s.mapped(ctx, src)
	if err == nil && packed {
		err = p.unpacked(ctx, s, src)
	}
	if err != nil {
		return err
	}
	return s.zeros(src.size)
}

func (p *Pool) exported(req *driverv1.ExportVolumeRequest) (source, error) {
	switch x := req.GetSubject().(type) {
	case *driverv1.ExportVolumeRequest_VolumeId:
		return p.source(volumeRecord{VolumeID: x.VolumeId})
	case *driverv1.ExportVolumeRequest_SnapshotId:
		return p.source(volumeRecord{SnapshotID: x.SnapshotId})
	case *driverv1.ExportVolumeRequest_ImageId:
		return p.source(volumeRecord{ImageID: x.ImageId})
	}
	return source{}, fault.Invalid(fault.Violation{Field: "subject", Description: "must be a volume_id, a snapshot_id or an image_id"})
}

// chain are the files of a source, the first that a read looks at first.
func (p *Pool) chain(src source) (files []string, err error) {
	for _, l := range src.layers {
		files = append(files, p.layerPath(l))
	}
	if src.image != "" {
		img, err := p.readImage(src.image)
		if err != nil {
			return nil, err
		}
		files = append(files, p.abs(imagesDir+"/"+src.image+extension(img.Format)))
	}
	return files, nil
}

// mapped sends what qemu-img says to lie where in which file. packed says that it stopped at compressed data, which lies nowhere as it is.
func (s *sender) mapped(ctx context.Context, src source) (packed bool, err error) {
	files := make([]*os.File, len(src.chain))
	defer func() {
		for _, f := range files {
			if f != nil {
				_ = f.Close()
			}
		}
	}()
	err = qemuimg.Map(ctx, src.path, src.format, func(e qemuimg.Extent) error {
		if e.Start+e.Length <= s.pos {
			return nil
		}
		if e.Zero || !e.Data {
			return s.zeros(min(e.Start+e.Length, s.end))
		}
		if e.Offset == nil || e.Compressed {
			packed = true
			return io.EOF
		}
		if e.Depth >= len(files) {
			return fault.New(metav1.Reason_REASON_BACKEND_FAILED, "%s rests on more files than its record names", src.path)
		}
		if files[e.Depth] == nil {
			if files[e.Depth], err = os.Open(src.chain[e.Depth]); err != nil {
				return ioError("export", err)
			}
		}
		return s.data(files[e.Depth], s.pos-e.Start+*e.Offset, min(e.Start+e.Length, s.end))
	})
	if packed && errors.Is(err, io.EOF) {
		err = nil
	}
	return packed, err
}

// unpacked sends the rest by way of a raw copy.
func (p *Pool) unpacked(ctx context.Context, s *sender, src source) error {
	const raw = driverv1.VolumeFormat_VOLUME_FORMAT_RAW
	tmp := p.tmp("export", raw)
	defer func() { _ = p.root.Remove(tmp) }()
	if err := qemuimg.Convert(ctx, src.path, src.format, p.abs(tmp), raw); err != nil {
		return err
	}
	return s.file(p.abs(tmp))
}

// sender sends content in order, from pos to end.
type sender struct {
	send     func(*driverv1.ExportVolumeResponse) error
	pos, end int64
}

// zeros sends a hole up to a position.
func (s *sender) zeros(to int64) error {
	if to <= s.pos {
		return nil
	}
	err := s.send(&driverv1.ExportVolumeResponse{Offset: s.pos, HoleBytes: to - s.pos})
	s.pos = to
	return err
}

// data sends what a file holds from an offset on, up to a position of the content.
func (s *sender) data(f io.ReaderAt, offset, to int64) error {
	for s.pos < to {
		buf := make([]byte, min(to-s.pos, partBytes)) // the receiver may keep it
		n, err := f.ReadAt(buf, offset)
		if n == 0 && errors.Is(err, io.EOF) {
			return s.zeros(to) // a file may end before the last cluster does
		}
		if n == 0 && err != nil {
			return ioError("export", err)
		}
		if err := s.send(&driverv1.ExportVolumeResponse{Offset: s.pos, Data: buf[:n]}); err != nil {
			return err
		}
		s.pos, offset = s.pos+int64(n), offset+int64(n)
	}
	return nil
}

// file sends a raw file, its holes as holes.
func (s *sender) file(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return ioError("export", err)
	}
	defer func() { _ = f.Close() }()
	for s.pos < s.end {
		data, err := f.Seek(s.pos, unix.SEEK_DATA)
		if err != nil { // nothing but a hole, or a file system that cannot tell
			if errors.Is(err, unix.ENXIO) {
				return s.zeros(s.end)
			}
			data = s.pos
		}
		if err := s.zeros(min(data, s.end)); err != nil {
			return err
		}
		hole, err := f.Seek(s.pos, unix.SEEK_HOLE)
		if err != nil {
			hole = s.end
		}
		if err := s.data(f, s.pos, min(hole, s.end)); err != nil {
			return err
		}
	}
	return nil
}

// ImportVolume makes a volume from parts as Export gives them; next returns io.EOF after the last. Already complete: nothing is read.
func (p *Pool) ImportVolume(ctx context.Context, req *driverv1.CreateVolumeRequest, next func() (*driverv1.ExportVolumeResponse, error)) (*driverv1.Volume, error) {
	rec, err := p.asked(req)
	if err != nil {
		return nil, err
	}
	id := req.GetVolumeId()
	rec.ImageID, rec.SnapshotID, rec.VolumeID, rec.Imported = "", "", "", true
	if have, err := p.volume(id); err == nil {
		if !have.sameSpec(rec) {
			return nil, fault.New(metav1.Reason_REASON_SPEC_CONFLICT, "volume %s exists with another size, format or source", id)
		}
		return p.again(id, have)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, ioError("read volume", err)
	}
	if rec.SizeBytes == 0 {
		return nil, fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "size_bytes must be more than 0")
	}
	return p.make(id, &rec, func(path string) error {
		const raw = driverv1.VolumeFormat_VOLUME_FORMAT_RAW
		if rec.Format == raw {
			return p.store(path, rec.SizeBytes, req.GetSizeBytes(), next)
		}
		tmp := p.tmp(id, raw)
		defer func() { _ = p.root.Remove(tmp) }()
		if err := p.store(p.abs(tmp), rec.SizeBytes, req.GetSizeBytes(), next); err != nil {
			return err
		}
		return qemuimg.Convert(ctx, p.abs(tmp), raw, path, rec.Format)
	})
}

// store writes parts to a new raw file of a size, of which so many bytes must come.
func (p *Pool) store(path string, size, asked int64, next func() (*driverv1.ExportVolumeResponse, error)) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return ioError("import volume", err)
	}
	defer func() { _ = f.Close() }()
	w := &sparseWriter{file: f}
	for {
		part, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		length := int64(len(part.GetData())) + part.GetHoleBytes()
		if part.GetOffset() != w.pos || part.GetHoleBytes() < 0 || len(part.GetData()) > 0 && part.GetHoleBytes() > 0 || length > asked-w.pos {
			return fault.New(metav1.Reason_REASON_INVALID_FIELD, "a part of %d bytes at %d follows what ends at %d of %d", length, part.GetOffset(), w.pos, asked)
		}
		if _, err := w.Write(part.GetData()); err != nil {
			return ioError("import volume", err)
		}
		w.pos += part.GetHoleBytes()
	}
	if w.pos != asked {
		return fault.New(metav1.Reason_REASON_INVALID_FIELD, "the content ends at %d of %d bytes", w.pos, asked)
	}
	if err := f.Truncate(size); err != nil {
		return ioError("import volume", err)
	}
	if err := f.Sync(); err != nil {
		return ioError("import volume", err)
	}
	return nil
}

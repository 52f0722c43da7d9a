package rbdpool

import (
	"errors"
	"io"

	"github.com/ceph/go-ceph/rbd"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	partBytes   = 1 << 20 // of content in one message
	holeBytes   = 1 << 30 // of zeros in one message
	windowBytes = 1 << 30 // asked for what is there at once: 256 objects
)

// Export sends the content of a detached volume, of a snapshot or of an image copy, from offset on.
func (s *Session) Export(req *driverv1.ExportVolumeRequest, send func(*driverv1.ExportVolumeResponse) error) error {
	image, snapshot, err := s.exported(req)
	if err != nil {
		return err
	}
	return s.withReadOnly(image, snapshot, func(img *rbd.Image) error {
		n, err := img.GetSize()
		if err != nil {
			return err //nolint:wrapcheck // withReadOnly does
		}
		size := int64(n)
		if req.GetOffset() < 0 || req.GetOffset() > size {
			return fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "offset %d is outside the %d bytes", req.GetOffset(), size)
		}
		e := &exporter{s: s, img: img, at: req.GetOffset(), send: send, buf: make([]byte, blockBytes)}
		for from := e.at; from < size; {
			to := min(size, (from/windowBytes+1)*windowBytes)
			if err := e.window(from, to); err != nil {
				return err
			}
			from = to
		}
		return e.flushHole()
	})
}

// exported finds what is to be read.
func (s *Session) exported(req *driverv1.ExportVolumeRequest) (image, snapshot string, err error) {
	switch sub := req.GetSubject().(type) {
	case *driverv1.ExportVolumeRequest_VolumeId:
		r, err := s.record(sub.VolumeId)
		if err != nil {
			return "", "", err
		}
		for node := range r.Attachments {
			return "", "", fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is attached to node %s", sub.VolumeId, node).
				WithRemedy("detach it, or take a snapshot and export that").WithMetadata("node", node)
		}
		return r.Image, rbd.NoSnapshot, nil
	case *driverv1.ExportVolumeRequest_SnapshotId:
		r, err := s.snapshotRecord(sub.SnapshotId)
		if err != nil {
			return "", "", err
		}
		return r.Image, snapshotName(sub.SnapshotId), nil
	case *driverv1.ExportVolumeRequest_ImageId:
		r, err := s.imageRecord(sub.ImageId)
		if err != nil {
			return "", "", err
		}
		return r.Image, imageSnapshot, nil
	}
	return "", "", fault.Invalid(fault.Violation{Field: "subject", Description: "a volume, a snapshot or an image is required"})
}

// exporter sends an RBD image's bytes in order; zeros become holes.
type exporter struct {
	s    *Session
	img  *rbd.Image
	at   int64 // sent so far, the hole that is not sent yet left out
	hole int64
	send func(*driverv1.ExportVolumeResponse) error
	buf  []byte
}

type extent struct{ from, to int64 }

// window sends [from, to).
func (e *exporter) window(from, to int64) error {
	var there []extent
	err := e.img.DiffIterate(rbd.DiffIterateConfig{ // since the beginning = all that holds data
		Offset: uint64(from), Length: uint64(to - from), IncludeParent: rbd.IncludeParent, WholeObject: rbd.EnableWholeObject,
		Callback: func(offset, length uint64, exists int, _ any) int {
			if exists != 0 {
				there = append(there, extent{int64(offset), int64(offset + length)})
			}
			return 0
		},
	})
	if err != nil {
		return backend(err, "ask what the RBD image holds")
	}
	for _, x := range there {
		x.from, x.to = max(x.from, from), min(x.to, to)
		if x.from >= x.to {
			continue
		}
		e.hole += x.from - from
		for from = x.from; from < x.to; {
			n := min(int64(len(e.buf)), x.to-from)
			if err := e.read(from, e.buf[:n]); err != nil {
				return err
			}
			from += n
		}
	}
	e.hole += to - from
	return nil
}

// read sends the bytes at an offset.
func (e *exporter) read(offset int64, b []byte) error {
	if err := e.s.alive(); err != nil {
		return err
	}
	if n, err := e.img.ReadAt(b, offset); err != nil || n != len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return backend(err, "read the RBD image at %d", offset)
	}
	for start := 0; start < len(b); {
		end := start
		for end < len(b) && end-start < partBytes && !allZero(b[end:min(end+zeroBytes, len(b))]) {
			end = min(end+zeroBytes, len(b))
		}
		if end == start {
			end = min(start+zeroBytes, len(b))
			e.hole += int64(end - start)
		} else {
			if err := e.flushHole(); err != nil {
				return err
			}
			if err := e.send(&driverv1.ExportVolumeResponse{Offset: e.at, Data: b[start:end]}); err != nil {
				return err
			}
			e.at += int64(end - start)
		}
		start = end
	}
	return nil
}

// flushHole sends the zeros before what comes next.
func (e *exporter) flushHole() error {
	for e.hole > 0 {
		n := min(e.hole, holeBytes)
		if err := e.send(&driverv1.ExportVolumeResponse{Offset: e.at, HoleBytes: n}); err != nil {
			return err
		}
		e.at += n
		e.hole -= n
	}
	return nil
}

// ImportVolume makes a volume of parts as Export sends them. next returns io.EOF after the last one.
func (s *Session) ImportVolume(req *driverv1.CreateVolumeRequest, next func() (*driverv1.ExportVolumeResponse, error)) (*driverv1.Volume, error) {
	req.Source = nil
	rec, err := s.checkVolume(req)
	if err != nil {
		return nil, err
	}
	return s.makeVolume(req.GetVolumeId(), rec, nil, func(image string, rec *volumeRecord) (entries, error) {
		rec.SizeBytes = rec.AskedBytes
		if err := s.createImage(image, rec.SizeBytes); err != nil {
			return nil, err
		}
		return nil, s.withImage(image, func(img *rbd.Image) error {
			w := newWriter(img, rec.SizeBytes, rec.SizeBytes)
			if err := takeParts(w, req.GetSizeBytes(), next); err != nil {
				w.abandon()
				return err
			}
			return w.finish(rec.SizeBytes)
		})
	})
}

// takeParts writes parts, which must come in order and to the end.
func takeParts(w *writer, size int64, next func() (*driverv1.ExportVolumeResponse, error)) error {
	bad := func(field, what string) error {
		return fault.Invalid(fault.Violation{Field: "part." + field, Description: what})
	}
	for {
		part, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		switch hole, data := part.GetHoleBytes(), int64(len(part.GetData())); {
		case part.GetOffset() != w.at:
			return bad("offset", "parts must come in order and without gaps")
		case hole < 0 || hole > 0 && data > 0:
			return bad("hole_bytes", "a part is either data or a hole")
		case data > partBytes:
			return bad("data", "at most 1 MiB")
		case hole > size-w.at || data > size-w.at:
			return bad("offset", "more came than the size of the volume")
		case data > 0:
			_, err = w.Write(part.GetData())
		default:
			err = w.skip(hole)
		}
		if err != nil {
			return err
		}
	}
	if w.at != size {
		return bad("offset", "the content ends before the size of the volume")
	}
	return nil
}

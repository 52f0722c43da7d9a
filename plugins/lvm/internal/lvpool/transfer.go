package lvpool

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"

	"github.com/limiquantix/limiquantix/plugins/lvm/internal/lvm"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// maxHole is how long one hole of a stream is at most.
const maxHole = 1 << 30

// Export reads the content of a volume that is not attached, of a snapshot or of an image copy, in order, and hands it to send.
func (p *Pool) Export(ctx context.Context, req *driverv1.ExportVolumeRequest, send func(*driverv1.ExportVolumeResponse) error) (err error) {
	o, err := p.exported(ctx, req)
	if err != nil {
		return err
	}
	end := o.SizeBytes
	if o.kind == anImage {
		end = o.tags.Number("virtual")
	}
	if at := req.GetOffset(); at < 0 || at > end {
		return fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "offset %d is outside 0 to %d", at, end)
	}
	d, err := p.open(ctx, o, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.done(ctx)) }()
	s := &sender{send: send, pos: req.GetOffset()}
	for s.pos+s.hole < end {
		if ctx.Err() != nil {
			return fault.New(metav1.Reason_REASON_CANCELLED, "export of %s: %w", o.id, context.Cause(ctx))
		}
		buf := make([]byte, min(ioBytes, end-s.pos-s.hole)) // the receiver may keep it
		n, err := d.ReadAt(buf, s.pos+s.hole)
		if n == 0 && err != nil {
			return deviceError("read "+d.Name(), err)
		}
		if err := s.part(buf[:n]); err != nil {
			return err
		}
	}
	return s.flush()
}

func (p *Pool) exported(ctx context.Context, req *driverv1.ExportVolumeRequest) (object, error) {
	switch x := req.GetSubject().(type) {
	case *driverv1.ExportVolumeRequest_VolumeId:
		o, err := p.need(ctx, aVolume, x.VolumeId)
		if err == nil && p.attached(o) {
			err = fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is attached", x.VolumeId).WithRemedy("detach it, or take a snapshot and export that")
		}
		return o, err
	case *driverv1.ExportVolumeRequest_SnapshotId:
		return p.need(ctx, aSnapshot, x.SnapshotId)
	case *driverv1.ExportVolumeRequest_ImageId:
		return p.need(ctx, anImage, x.ImageId)
	}
	return object{}, fault.Invalid(fault.Violation{Field: "subject", Description: "must be a volume_id, a snapshot_id or an image_id"})
}

// sender sends content in order; zeros are saved up to be one hole.
type sender struct {
	send func(*driverv1.ExportVolumeResponse) error
	pos  int64 // of what comes next, without
	hole int64 // what is saved up
}

// part sends a part, its zero blocks as holes.
func (s *sender) part(b []byte) error {
	for len(b) > 0 {
		zero := leading(b, true)
		s.hole, b = s.hole+int64(zero), b[zero:]
		if s.hole >= maxHole {
			if err := s.flush(); err != nil {
				return err
			}
		}
		data := leading(b, false)
		if data == 0 {
			continue
		}
		if err := s.flush(); err != nil {
			return err
		}
		if err := s.send(&driverv1.ExportVolumeResponse{Offset: s.pos, Data: b[:data]}); err != nil {
			return err
		}
		s.pos, b = s.pos+int64(data), b[data:]
	}
	return nil
}

func (s *sender) flush() error {
	for s.hole > 0 {
		n := min(s.hole, maxHole)
		if err := s.send(&driverv1.ExportVolumeResponse{Offset: s.pos, HoleBytes: n}); err != nil {
			return err
		}
		s.pos, s.hole = s.pos+n, s.hole-n
	}
	return nil
}

// leading is how many bytes at the beginning are in blocks that are all zero, or in blocks that are not.
func leading(b []byte, zero bool) (n int) {
	for n < len(b) {
		block := b[n:min(len(b), n+blockBytes)]
		if bytes.Equal(block, zeroBlock[:len(block)]) != zero {
			break
		}
		n += len(block)
	}
	return n
}

// ImportVolume makes a volume from parts as Export gives them; next returns io.EOF after the last. Already complete: nothing is read.
func (p *Pool) ImportVolume(ctx context.Context, req *driverv1.CreateVolumeRequest, next func() (*driverv1.ExportVolumeResponse, error)) (*driverv1.Volume, error) {
	a, err := p.asked(req)
	if err != nil {
		return nil, err
	}
	if a.size == 0 {
		return nil, fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "size_bytes must be more than 0")
	}
	a.src = imported
	return p.create(ctx, a, func() (int64, error) {
		name, size, tags := p.name(aVolume, a.id), p.roundUp(a.size), a.tags()
		tags["state"] = making
		if err := p.blank(ctx, name, size, a.mark, tags); err != nil {
			return 0, err
		}
		err := p.store(ctx, name, size, a.size, next)
		if err == nil {
			err = p.retag(ctx, name, "--deltag", lvm.Tag("state", making))
		}
		if err != nil {
			return 0, p.undo(ctx, name, p.fullInstead(ctx, err))
		}
		return size, nil
	})
}

// store writes parts to an object of a size, of which so many bytes must come.
func (p *Pool) store(ctx context.Context, name string, size, asked int64, next func() (*driverv1.ExportVolumeResponse, error)) (err error) {
	d, err := p.open(ctx, object{LV: lvm.LV{Name: name}}, os.O_RDWR)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.done(ctx)) }()
	w := &writer{d: d, ctx: ctx}
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
			return err
		}
		w.skip(part.GetHoleBytes())
	}
	if w.pos != asked {
		return fault.New(metav1.Reason_REASON_INVALID_FIELD, "the content ends at %d of %d bytes", w.pos, asked)
	}
	return w.finish(size)
}

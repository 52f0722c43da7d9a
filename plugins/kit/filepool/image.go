package filepool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/limiquantix/limiquantix/plugins/kit/digest"
	"github.com/limiquantix/limiquantix/plugins/kit/qcow2"
	"github.com/limiquantix/limiquantix/plugins/kit/qemuimg"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// imageRecord is <id>.json of an image copy.
type imageRecord struct {
	SchemaVersion    int                   `json:"schema_version"`
	Mark             mark                  `json:"mark"`
	Format           driverv1.VolumeFormat `json:"format"`
	VirtualSizeBytes int64                 `json:"virtual_size_bytes"`
	ContentBytes     int64                 `json:"content_bytes"`
	SHA256           string                `json:"sha256"`
}

// ImportImage stores content as an image copy once it has proved whole and safe. Already complete: OK, the content is not read. Memory stays
// small whatever the size.
func (p *Pool) ImportImage(ctx context.Context, h *driverv1.ImportImageHeader, content io.Reader) (*driverv1.Image, error) {
	id := h.GetImageId()
	if err := CheckID("image_id", id); err != nil {
		return nil, err
	}
	if h.GetMark().GetObjectId() != id || !p.ours(markOf(h.GetMark())) {
		return nil, fault.Invalid(fault.Violation{Field: "header.mark", Description: "must carry this cluster, this node and the image's id"})
	}
	if _, err := qemuimg.FormatName(h.GetFormat()); err != nil {
		return nil, err
	}
	if s := h.GetSha256(); s != "" && (len(s) != 64 || strings.Trim(s, "0123456789abcdef") != "") {
		return nil, fault.Invalid(fault.Violation{Field: "header.sha256", Description: "must be 64 lower-case hex digits"})
	}
	if have, err := p.readImage(id); err == nil {
		if have.Format != h.GetFormat() || h.GetSha256() != "" && h.GetSha256() != have.SHA256 {
			return nil, fault.New(metav1.Reason_REASON_SPEC_CONFLICT, "image %s exists with another format or checksum", id)
		}
		return p.describeImage(id, have), nil
	} else if !fault.Is(err, metav1.Reason_REASON_IMAGE_NOT_FOUND) {
		return nil, err
	}
	tmp := p.tmp(id, h.GetFormat())
	rec, err := p.receive(ctx, tmp, h, content)
	if err != nil {
		_ = p.root.Remove(tmp)
		return nil, err
	}
	if err := p.place(tmp, imagesDir+"/"+id+extension(h.GetFormat()), 0o644); err != nil {
		return nil, err
	}
	if err := p.writeRecord(imagesDir, id, rec); err != nil {
		return nil, err
	}
	return p.describeImage(id, rec), nil
}

// receive writes content to tmp and checks it.
func (p *Pool) receive(ctx context.Context, tmp string, h *driverv1.ImportImageHeader, content io.Reader) (imageRecord, error) {
	var rec imageRecord
	f, err := p.root.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return rec, ioError("import image", err)
	}
	defer func() { _ = f.Close() }()
	limit := h.GetContentBytes()
	if limit == 0 {
		limit = MaxSize
	}
	w := &sparseWriter{file: f}
	sum := digest.NewWriter(w)
	n, err := digest.CopyMost(sum, content, limit+1)
	if err == nil {
		err = w.finish()
	}
	switch {
	case err != nil && fault.From(err).Reason != metav1.Reason_REASON_INTERNAL:
		return rec, err // the stream broke, with its own reason
	case err != nil:
		return rec, ioError("import image", err)
	case n > limit || h.GetContentBytes() != 0 && n < h.GetContentBytes():
		return rec, fault.New(metav1.Reason_REASON_IMAGE_REFUSED, "content has another length than the %d bytes declared", h.GetContentBytes())
	case n == 0:
		return rec, fault.New(metav1.Reason_REASON_IMAGE_REFUSED, "content is empty")
	}
	got := sum.Hex()
	if want := h.GetSha256(); want != "" && want != got {
		return rec, fault.New(metav1.Reason_REASON_CHECKSUM_MISMATCH, "content has SHA-256 %s, declared was %s", got, want).WithRemedy("transfer it again, or correct the checksum")
	}
	rec = imageRecord{SchemaVersion: 1, Mark: markOf(h.GetMark()), Format: h.GetFormat(), ContentBytes: n, VirtualSizeBytes: n, SHA256: got}
	if h.GetFormat() == driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2 {
		if rec.VirtualSizeBytes, err = checkQcow2(ctx, f, p.abs(tmp), n); err != nil {
			return rec, err
		}
	}
	return rec, nil
}

// checkQcow2 refuses an image that could reach beyond itself or does not hold together, first by its header, then by qemu-img under limits.
func checkQcow2(ctx context.Context, f *os.File, path string, size int64) (virtualSize int64, err error) {
	refuse := func(err error) error {
		return fault.New(metav1.Reason_REASON_IMAGE_REFUSED, "image refused: %w", err).WithRemedy("make a plain copy with: qemu-img convert -O qcow2 IN OUT")
	}
	header, err := qcow2.Read(f)
	if err == nil {
		err = header.CheckForeign(size)
	}
	if err != nil {
		return 0, refuse(err)
	}
	info, err := qemuimg.ReadInfo(ctx, path, driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2)
	if err != nil {
		if fault.Is(err, metav1.Reason_REASON_BACKEND_FAILED) {
			return 0, refuse(err)
		}
		return 0, err
	}
	if info.BackingFile != "" || info.FormatSpecific.Data.DataFile != "" {
		return 0, refuse(errors.New("the image refers to another file"))
	}
	if info.VirtualSize > MaxSize {
		return 0, refuse(fmt.Errorf("a guest would see %d bytes, more than %d", info.VirtualSize, int64(MaxSize)))
	}
	return info.VirtualSize, nil
}

func (p *Pool) readImage(id string) (rec imageRecord, err error) {
	if err := CheckID("image_id", id); err != nil {
		return rec, err
	}
	switch err := p.readRecord(imagesDir, id, &rec); {
	case errors.Is(err, fs.ErrNotExist):
		return rec, fault.New(metav1.Reason_REASON_IMAGE_NOT_FOUND, "no copy of image %s in pool %s", id, p.id)
	case err != nil:
		return rec, ioError("read image", err)
	case !p.ours(rec.Mark):
		return rec, fault.New(metav1.Reason_REASON_NOT_OURS, "image %s carries another cluster's or node's mark", id)
	}
	return rec, nil
}

func (p *Pool) describeImage(id string, r imageRecord) *driverv1.Image {
	return &driverv1.Image{
		PoolId: p.id, ImageId: id, Mark: r.Mark.proto(), VirtualSizeBytes: r.VirtualSizeBytes, ContentBytes: r.ContentBytes, Format: r.Format, Sha256: r.SHA256,
	}
}

// GetImage reads an image copy.
func (p *Pool) GetImage(id string) (*driverv1.Image, error) {
	rec, err := p.readImage(id)
	if err != nil {
		return nil, err
	}
	return p.describeImage(id, rec), nil
}

// ListImages returns up to limit of our image copies with ids after the given one.
func (p *Pool) ListImages(after string, limit int) (out []*driverv1.Image, next string, err error) {
	ids, err := p.ids(imagesDir, after)
	if err != nil {
		return nil, "", err
	}
	for _, id := range ids {
		rec, err := p.readImage(id)
		if fault.Is(err, metav1.Reason_REASON_IMAGE_NOT_FOUND) || fault.Is(err, metav1.Reason_REASON_NOT_OURS) {
			continue
		}
		if err != nil {
			return nil, "", err
		}
		if len(out) == limit {
			return out, out[limit-1].GetImageId(), nil
		}
		out = append(out, p.describeImage(id, rec))
	}
	return out, "", nil
}

// DeleteImage removes an image copy on which no volume depends; absent is fine.
func (p *Pool) DeleteImage(id string) error {
	if _, err := p.readImage(id); fault.Is(err, metav1.Reason_REASON_IMAGE_NOT_FOUND) {
		return p.remove(imagesDir, id)
	} else if err != nil {
		return err
	}
	user, err := p.userOfImage(id)
	if err != nil {
		return err
	}
	if user != "" {
		return fault.New(metav1.Reason_REASON_IMAGE_IN_USE, "%s rests on image %s", user, id).WithRemedy("delete it first")
	}
	return p.remove(imagesDir, id)
}

// AttachImage says where an image copy's file is, to be read only.
func (p *Pool) AttachImage(id string) (*driverv1.DiskSource, error) {
	rec, err := p.readImage(id)
	if err != nil {
		return nil, err
	}
	return fileSource(p.abs(imagesDir+"/"+id+extension(rec.Format)), rec.Format), nil
}

package lvpool

import (
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/limiquantix/limiquantix/plugins/kit/digest"
	"github.com/limiquantix/limiquantix/plugins/kit/qcow2"
	"github.com/limiquantix/limiquantix/plugins/kit/qemuimg"
	"github.com/limiquantix/limiquantix/plugins/lvm/internal/lvm"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	raw    = driverv1.VolumeFormat_VOLUME_FORMAT_RAW
	packed = driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2

	// firstRoom is how large a logical volume is at first for content of unknown length; then it doubles.
	firstRoom = 256 << 20
)

// received is what is known of content once it has been written.
type received struct {
	length int64
	sum    string
}

// ImportImage stores content as an image copy, raw whatever it was, once it has proved whole and safe. Already complete: OK, the content is not read.
func (p *Pool) ImportImage(ctx context.Context, h *driverv1.ImportImageHeader, content io.Reader) (*driverv1.Image, error) {
	id := h.GetImageId()
	if err := checkID("image_id", id); err != nil {
		return nil, err
	}
	if err := p.checkMark("header.mark", h.GetMark(), id); err != nil {
		return nil, err
	}
	if f := h.GetFormat(); f != raw && f != packed {
		return nil, fault.Invalid(fault.Violation{Field: "header.format", Description: "must be RAW or QCOW2"})
	}
	if s := h.GetSha256(); s != "" && (len(s) != 64 || strings.Trim(s, "0123456789abcdef") != "") {
		return nil, fault.Invalid(fault.Violation{Field: "header.sha256", Description: "must be 64 lower-case hex digits"})
	}
	if n := h.GetContentBytes(); n < 0 || n > MaxSize {
		return nil, fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "content_bytes %d is outside 0 to %d", n, int64(MaxSize))
	}
	for _, k := range []kind{anImage, incoming} {
		o, ok, err := p.find(ctx, k, id)
		switch {
		case err != nil:
			return nil, err
		case ok && o.live():
			if o.tags["format"] != h.GetFormat().String() || h.GetSha256() != "" && h.GetSha256() != o.tags["sha256"] {
				return nil, fault.New(metav1.Reason_REASON_SPEC_CONFLICT, "image %s exists with another format or checksum", id)
			}
			return p.describeImage(o), nil
		case ok:
			if err := p.destroy(ctx, o); err != nil {
				return nil, err
			}
		case h.GetFormat() == raw:
			return p.importRaw(ctx, h, content)
		}
	}
	return p.importPacked(ctx, h, content)
}

// importRaw writes content where it stays.
func (p *Pool) importRaw(ctx context.Context, h *driverv1.ImportImageHeader, content io.Reader) (*driverv1.Image, error) {
	name := p.name(anImage, h.GetImageId())
	got, err := p.receive(ctx, name, h, content)
	if err == nil {
		return p.complete(ctx, h, got, roundTo(got.length, 512))
	}
	return nil, p.undo(ctx, name, err)
}

// importPacked writes content beside, checks it, and unpacks it where it stays.
func (p *Pool) importPacked(ctx context.Context, h *driverv1.ImportImageHeader, content io.Reader) (*driverv1.Image, error) {
	beside, name := p.name(incoming, h.GetImageId()), p.name(anImage, h.GetImageId())
	got, err := p.receive(ctx, beside, h, content)
	if err != nil {
		return nil, p.undo(ctx, beside, err)
	}
	img, err := p.unpack(ctx, h, got)
	if err != nil {
		return nil, p.undo(ctx, beside, p.undo(ctx, name, err))
	}
	o, ok, err := p.find(ctx, incoming, h.GetImageId())
	if err == nil && ok {
		err = p.destroy(ctx, o)
	}
	return img, err
}

func (p *Pool) unpack(ctx context.Context, h *driverv1.ImportImageHeader, got received) (img *driverv1.Image, err error) {
	id := h.GetImageId()
	o, _, err := p.find(ctx, incoming, id)
	if err != nil {
		return nil, err
	}
	from, err := p.open(ctx, o, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, from.done(ctx)) }()
	virtual, err := checkPacked(ctx, from, got.length)
	if err != nil {
		return nil, err
	}
	name, size := p.name(anImage, id), p.roundUp(virtual)
	if err := p.blank(ctx, name, size, h.GetMark(), lvm.Tags{"state": making}); err != nil {
		return nil, err
	}
	if err := p.unpackTo(ctx, from, name, virtual, size); err != nil {
		return nil, err
	}
	return p.complete(ctx, h, got, virtual)
}

func (p *Pool) unpackTo(ctx context.Context, from *device, name string, virtual, size int64) (err error) {
	to, err := p.open(ctx, object{LV: lvm.LV{Name: name}}, os.O_RDWR)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.done(ctx)) }()
	if err := qemuimg.Convert(ctx, from.Name(), packed, to.Name(), raw); err != nil {
		return p.fullInstead(ctx, err)
	}
	w := &writer{d: to, ctx: ctx, pos: virtual}
	return w.finish(size)
}

// checkPacked refuses an image that could reach beyond itself or does not hold together, by its header and then by qemu-img under limits.
func checkPacked(ctx context.Context, d *device, length int64) (virtual int64, err error) {
	refuse := func(err error) error {
		return fault.New(metav1.Reason_REASON_IMAGE_REFUSED, "image refused: %w", err).WithRemedy("make a plain copy with: qemu-img convert -O qcow2 IN OUT")
	}
	header, err := qcow2.Read(d)
	if err == nil {
		err = header.CheckForeign(length)
	}
	if err != nil {
		return 0, refuse(err)
	}
	info, err := qemuimg.ReadInfo(ctx, d.Name(), packed)
	if err != nil {
		if fault.Is(err, metav1.Reason_REASON_BACKEND_FAILED) {
			return 0, refuse(err)
		}
		return 0, err
	}
	if info.BackingFile != "" || info.FormatSpecific.Data.DataFile != "" {
		return 0, refuse(errors.New("it rests on another file"))
	}
	return int64(header.VirtualSize), nil //nolint:gosec // CheckForeign bounds it
}

// receive writes content to a new object and checks its length and checksum.
func (p *Pool) receive(ctx context.Context, name string, h *driverv1.ImportImageHeader, content io.Reader) (got received, err error) {
	room := p.roundUp(h.GetContentBytes())
	if room == 0 {
		room = firstRoom
	}
	if err := p.blank(ctx, name, room, h.GetMark(), lvm.Tags{"state": making}); err != nil {
		return got, err
	}
	d, err := p.open(ctx, object{LV: lvm.LV{Name: name}}, os.O_RDWR)
	if err != nil {
		return got, err
	}
	defer func() { err = errors.Join(err, d.done(ctx)) }()
	w := &writer{d: d, ctx: ctx}
	sum := digest.NewWriter(w)
	limit := h.GetContentBytes()
	if limit == 0 {
		limit = MaxSize
	}
	in := io.LimitReader(content, limit+1)
	for {
		n, err := digest.Copy(sum, io.LimitReader(in, min(room, limit)-got.length))
		got.length += n
		if err != nil {
			return got, p.fullInstead(ctx, err)
		}
		if got.length < room || room >= limit {
			break
		}
		room *= 2
		if _, err := p.tool.Run(ctx, "lvextend", "-y", "-L", bytesArg(room), p.path(name)); err != nil {
			return got, err
		}
	}
	more, err := io.CopyN(io.Discard, in, 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return got, err
	}
	switch {
	case more > 0 || h.GetContentBytes() != 0 && got.length < h.GetContentBytes():
		return got, fault.New(metav1.Reason_REASON_IMAGE_REFUSED, "content has another length than the %d bytes declared", h.GetContentBytes())
	case got.length == 0:
		return got, fault.New(metav1.Reason_REASON_IMAGE_REFUSED, "content is empty")
	}
	got.sum = sum.Hex()
	if want := h.GetSha256(); want != "" && want != got.sum {
		return got, fault.New(metav1.Reason_REASON_CHECKSUM_MISMATCH, "content has SHA-256 %s, declared was %s", got.sum, want).WithRemedy("transfer it again, or correct the checksum")
	}
	size := p.roundUp(got.length)
	if err := w.finish(size); err != nil {
		return got, p.fullInstead(ctx, err)
	}
	if size == room {
		return got, nil
	}
	_, err = p.tool.Run(ctx, "lvreduce", "-y", "-f", "-L", bytesArg(size), p.path(name))
	return got, err
}

// complete makes an image copy visible.
func (p *Pool) complete(ctx context.Context, h *driverv1.ImportImageHeader, got received, virtual int64) (*driverv1.Image, error) {
	tags := lvm.Tags{
		"virtual": strconv.FormatInt(virtual, 10), "content": strconv.FormatInt(got.length, 10), "sha256": got.sum, "format": h.GetFormat().String(),
	}
	args := []string{"-pr", "--deltag", lvm.Tag("state", making)}
	for k, v := range tags {
		args = append(args, "--addtag", lvm.Tag(k, v))
	}
	if err := p.retag(ctx, p.name(anImage, h.GetImageId()), args...); err != nil {
		return nil, err
	}
	return p.describeImage(p.made(anImage, p.roundUp(virtual), h.GetMark(), tags)), nil
}

// fullInstead says of a failed write that the thin pool is full, if it is: the kernel may only say that the write failed.
func (p *Pool) fullInstead(ctx context.Context, err error) error {
	r := fault.From(err).Reason
	if !p.thin() || r != metav1.Reason_REASON_BACKEND_FAILED && r != metav1.Reason_REASON_INTERNAL {
		return err
	}
	ctx, cancel := tidy(ctx)
	defer cancel()
	lv, ok, lerr := p.tool.LV(ctx, p.p.VG, p.p.ThinPool)
	if lerr != nil || !ok || lv.Health != "out_of_data" && lv.DataPercent < 100 {
		return err
	}
	return fault.New(metav1.Reason_REASON_NO_SPACE, "thin pool %s is full: %w", p.path(p.p.ThinPool), err).WithRemedy("extend it (lvextend -L +SIZE), or delete volumes")
}

func (p *Pool) describeImage(o object) *driverv1.Image {
	return &driverv1.Image{
		PoolId: p.id, ImageId: o.id, Mark: o.mark(), VirtualSizeBytes: o.tags.Number("virtual"), ContentBytes: o.tags.Number("content"),
		Format: driverv1.VolumeFormat(driverv1.VolumeFormat_value[o.tags["format"]]), Sha256: o.tags["sha256"],
	}
}

// GetImage reads an image copy.
func (p *Pool) GetImage(ctx context.Context, id string) (*driverv1.Image, error) {
	o, err := p.need(ctx, anImage, id)
	if err != nil {
		return nil, err
	}
	return p.describeImage(o), nil
}

// ListImages returns up to limit of our image copies with ids after the given one.
func (p *Pool) ListImages(ctx context.Context, after string, limit int) (out []*driverv1.Image, next string, err error) {
	objects, next, err := p.listed(ctx, anImage, after, limit, nil)
	for _, o := range objects {
		out = append(out, p.describeImage(o))
	}
	return out, next, err
}

// DeleteImage removes an image copy; absent is fine. Volumes made from it stay whole.
func (p *Pool) DeleteImage(ctx context.Context, id string) error {
	return p.remove(ctx, anImage, id, func(o object) error {
		if o.Open {
			return fault.New(metav1.Reason_REASON_IMAGE_IN_USE, "image %s is open", id).WithRemedy("detach it from the machines that have it first")
		}
		return nil
	})
}

// AttachImage activates an image copy, which is read-only, and says where its device is.
func (p *Pool) AttachImage(ctx context.Context, id string) (*driverv1.DiskSource, error) {
	o, err := p.need(ctx, anImage, id)
	if err != nil {
		return nil, err
	}
	return p.activate(ctx, o)
}

package lvpool

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/limiquantix/limiquantix/plugins/lvm/internal/lvm"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// imported is the source of a volume that came as a stream.
const imported = "stream:"

// ask is what a request wants, as it stands on the volume: a repetition is told from another spec by it.
type ask struct {
	id   string
	size int64 // as asked, 0 = the source's
	src  string
	mark *driverv1.OwnershipMark
}

func (p *Pool) asked(req *driverv1.CreateVolumeRequest) (ask, error) {
	id := req.GetVolumeId()
	if err := checkID("volume_id", id); err != nil {
		return ask{}, err
	}
	if err := p.checkMark("mark", req.GetMark(), id); err != nil {
		return ask{}, err
	}
	if f := req.GetFormat(); f != driverv1.VolumeFormat_VOLUME_FORMAT_UNSPECIFIED && f != driverv1.VolumeFormat_VOLUME_FORMAT_RAW {
		return ask{}, fault.Invalid(fault.Violation{Field: "format", Description: "logical volumes are raw"})
	}
	if size := req.GetSizeBytes(); size < 0 || size > MaxSize {
		return ask{}, fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "size_bytes %d is outside 0 to %d", size, int64(MaxSize))
	}
	return ask{id: id, size: req.GetSizeBytes(), src: sourceText(req.GetSource()), mark: req.GetMark()}, nil
}

func (a ask) tags() lvm.Tags {
	return lvm.Tags{"asked": strconv.FormatInt(a.size, 10), "source": a.src}
}

// same reports whether an object is what is asked for.
func (a ask) same(o object) bool {
	return o.tags.Number("asked") == a.size && o.tags["source"] == a.src
}

func sourceText(s *driverv1.VolumeSource) string {
	switch x := s.GetSource().(type) {
	case *driverv1.VolumeSource_ImageId:
		return "image:" + x.ImageId
	case *driverv1.VolumeSource_SnapshotId:
		return "snapshot:" + x.SnapshotId
	case *driverv1.VolumeSource_VolumeId:
		return "volume:" + x.VolumeId
	}
	return ""
}

func sourceOf(text string) *driverv1.VolumeSource {
	switch k, id, _ := strings.Cut(text, ":"); k {
	case "image":
		return &driverv1.VolumeSource{Source: &driverv1.VolumeSource_ImageId{ImageId: id}}
	case "snapshot":
		return &driverv1.VolumeSource{Source: &driverv1.VolumeSource_SnapshotId{SnapshotId: id}}
	case "volume":
		return &driverv1.VolumeSource{Source: &driverv1.VolumeSource_VolumeId{VolumeId: id}}
	}
	return nil
}

// CreateVolume makes a volume, blank or from an image copy, a snapshot or a volume of this pool.
func (p *Pool) CreateVolume(ctx context.Context, req *driverv1.CreateVolumeRequest) (*driverv1.Volume, error) {
	a, err := p.asked(req)
	if err != nil {
		return nil, err
	}
	if a.src == "" && a.size == 0 {
		return nil, fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "size_bytes must be more than 0 for a blank volume")
	}
	return p.create(ctx, a, func() (int64, error) {
		if a.src == "" {
			return p.roundUp(a.size), p.blank(ctx, p.name(aVolume, a.id), p.roundUp(a.size), a.mark, a.tags())
		}
		return p.createFrom(ctx, a)
	})
}

// create has a volume made. LVM itself says whether it is there already, so that nothing is asked beforehand: a command of LVM takes longer than all else.
func (p *Pool) create(ctx context.Context, a ask, make func() (size int64, err error)) (*driverv1.Volume, error) {
	for range 2 {
		size, err := make()
		if err == nil {
			return p.describe(p.made(aVolume, size, a.mark, a.tags())), nil
		}
		if !fault.Is(err, metav1.Reason_REASON_SPEC_CONFLICT) {
			return nil, err
		}
		o, ok, ferr := p.find(ctx, aVolume, a.id)
		switch {
		case ferr != nil:
			return nil, ferr
		case ok && o.live() && !a.same(o):
			return nil, fault.New(metav1.Reason_REASON_SPEC_CONFLICT, "volume %s exists with another size or source", a.id)
		case ok && o.live():
			return p.describe(o), nil
		case ok: // what an earlier call did not finish
			if err := p.destroy(ctx, o); err != nil {
				return nil, err
			}
		}
	}
	return nil, fault.New(metav1.Reason_REASON_BUSY, "volume %s is being made and removed by others", a.id)
}

// createFrom makes a volume from a source and returns its size.
func (p *Pool) createFrom(ctx context.Context, a ask) (int64, error) {
	all, err := p.all(ctx)
	if err != nil {
		return 0, err
	}
	if _, there := all[p.name(aVolume, a.id)]; there {
		return 0, fault.New(metav1.Reason_REASON_SPEC_CONFLICT, "volume %s exists", a.id)
	}
	k, id, _ := strings.Cut(a.src, ":")
	src, err := p.from(all, map[string]kind{"image": anImage, "snapshot": aSnapshot, "volume": aVolume}[k], id)
	if err != nil {
		return 0, err
	}
	if src.kind == aVolume && p.attached(src) {
		return 0, fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is attached", id).WithRemedy("detach it, or take a snapshot and make a volume from that")
	}
	length := src.SizeBytes
	if src.kind == anImage {
		length = src.tags.Number("virtual")
	}
	size := p.roundUp(max(a.size, length))
	if a.size != 0 && a.size < length {
		return 0, fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "size_bytes %d is less than the source's %d", a.size, length)
	}
	return size, p.copyOf(ctx, src, length, p.name(aVolume, a.id), size, a.mark, a.tags(), "", "rw")
}

func (p *Pool) describe(o object) *driverv1.Volume {
	v := &driverv1.Volume{
		PoolId: p.id, VolumeId: o.id, Mark: o.mark(), SizeBytes: o.SizeBytes, AllocationBytes: o.SizeBytes,
		Format: driverv1.VolumeFormat_VOLUME_FORMAT_RAW, Source: sourceOf(o.tags["source"]), Attached: p.attached(o),
	}
	if o.ThinPool != "" {
		v.AllocationBytes = -1 // known only while it is active
		if o.DataPercent >= 0 {
			v.AllocationBytes = int64(o.DataPercent / 100 * float64(o.SizeBytes))
		}
	}
	return v
}

// GetVolume reads a volume.
func (p *Pool) GetVolume(ctx context.Context, id string) (*driverv1.Volume, error) {
	o, err := p.need(ctx, aVolume, id)
	if err != nil {
		return nil, err
	}
	return p.describe(o), nil
}

// listed are up to limit of our whole objects of a kind that want wants, ordered by id, after the given one, all from one command.
func (p *Pool) listed(ctx context.Context, k kind, after string, limit int, want func(object) bool) (out []object, next string, err error) {
	all, err := p.all(ctx)
	if err != nil {
		return nil, "", err
	}
	for _, o := range all {
		if o.kind == k && o.live() && p.ours(o) && o.id > after && (want == nil || want(o)) {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b object) int { return strings.Compare(a.id, b.id) })
	if len(out) > limit {
		return out[:limit], out[limit-1].id, nil
	}
	return out, "", nil
}

// ListVolumes returns up to limit of our volumes with ids after the given one.
func (p *Pool) ListVolumes(ctx context.Context, after string, limit int) (out []*driverv1.Volume, next string, err error) {
	objects, next, err := p.listed(ctx, aVolume, after, limit, nil)
	for _, o := range objects {
		out = append(out, p.describe(o))
	}
	return out, next, err
}

// DeleteVolume removes a volume that has no snapshots; absent is fine. Volumes made from it stay whole.
func (p *Pool) DeleteVolume(ctx context.Context, id string) error {
	if err := checkID("volume_id", id); err != nil {
		return err
	}
	all, err := p.all(ctx)
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.kind == aSnapshot && s.live() && p.ours(s) && s.tags["volume"] == id {
			return fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s has snapshot %s", id, s.id).WithRemedy("delete its snapshots first")
		}
	}
	o, ok := all[p.name(aVolume, id)]
	if !ok {
		return nil
	}
	if err := p.checkOurs(o); err != nil {
		return err
	}
	if o.live() && p.attached(o) {
		return fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is attached", id).WithRemedy("detach it first")
	}
	return p.destroy(ctx, o)
}

// remove removes an object unless refuse has something against it; absent is fine.
func (p *Pool) remove(ctx context.Context, k kind, id string, refuse func(object) error) error {
	if err := checkID(fieldOf[k], id); err != nil {
		return err
	}
	o, ok, err := p.find(ctx, k, id)
	if err != nil || !ok {
		return err
	}
	if o.live() && refuse != nil {
		if err := refuse(o); err != nil {
			return err
		}
	}
	return p.destroy(ctx, o)
}

// ResizeVolume grows a volume, also one in use.
func (p *Pool) ResizeVolume(ctx context.Context, id string, size int64) (*driverv1.Volume, error) {
	o, err := p.need(ctx, aVolume, id)
	if err != nil {
		return nil, err
	}
	if size > MaxSize || p.roundUp(size) < o.SizeBytes {
		return nil, fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "size_bytes %d is outside %d to %d: volumes only grow", size, o.SizeBytes, int64(MaxSize))
	}
	if want := p.roundUp(size); want > o.SizeBytes {
		if _, err := p.tool.Run(ctx, "lvextend", "-y", "-L", bytesArg(want), p.path(o.Name)); err != nil {
			return nil, err
		}
		o.SizeBytes = want
	}
	return p.describe(o), nil
}

// AttachVolume activates a volume and says where its device is. The pool is this node's alone, so there is no other attachment.
func (p *Pool) AttachVolume(ctx context.Context, id string) (*driverv1.DiskSource, error) {
	o, err := p.need(ctx, aVolume, id)
	if err != nil {
		return nil, err
	}
	return p.activate(ctx, o)
}

func (p *Pool) activate(ctx context.Context, o object) (*driverv1.DiskSource, error) {
	if !p.attached(o) {
		p.mu.Lock() // an image may be read by us at the same time
		defer p.mu.Unlock()
		if _, err := p.tool.Run(ctx, "lvchange", "-ay", "-K", p.path(o.Name)); err != nil {
			return nil, err
		}
		if err := p.unnote(o.Name); err != nil {
			return nil, err
		}
	}
	return &driverv1.DiskSource{Source: &driverv1.DiskSource_BlockDevice{BlockDevice: &driverv1.BlockDeviceSource{Path: p.device(o.Name)}}}, nil
}

// DetachVolume deactivates a volume; not attached or absent is fine.
func (p *Pool) DetachVolume(ctx context.Context, id string) error {
	if err := checkID("volume_id", id); err != nil {
		return err
	}
	o, ok, err := p.find(ctx, aVolume, id)
	if fault.Is(err, metav1.Reason_REASON_NOT_OURS) {
		return err
	}
	if err != nil || !ok || !p.attached(o) {
		return err
	}
	_, err = p.tool.Run(ctx, "lvchange", "-an", p.path(o.Name))
	return err
}

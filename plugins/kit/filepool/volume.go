package filepool

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/limiquantix/limiquantix/plugins/kit/qemuimg"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Granularity of volume sizes, bytes: what QEMU's qcow2 and raw drivers share.
const Granularity = 512

// MaxSize of a volume, bytes: 64 TiB.
const MaxSize = 64 << 40

// volumeRecord is <id>.json of a volume.
type volumeRecord struct {
	SchemaVersion int                   `json:"schema_version"`
	Mark          mark                  `json:"mark"`
	Format        driverv1.VolumeFormat `json:"format"`
	SizeBytes     int64                 `json:"size_bytes"`
	AskedBytes    int64                 `json:"asked_bytes"` // as CreateVolume said, to tell a repetition from another spec
	ImageID       string                `json:"image_id,omitempty"`
	Attached      bool                  `json:"attached,omitempty"`
	AttachedNode  string                `json:"attached_node,omitempty"`
}

func extension(f driverv1.VolumeFormat) string {
	if f == driverv1.VolumeFormat_VOLUME_FORMAT_RAW {
		return ".raw"
	}
	return ".qcow2"
}

func (p *Pool) abs(name string) string { return filepath.Join(p.path, name) }

// CreateVolume makes a volume, blank or from an image copy of this pool. See the driver contract for repetition.
func (p *Pool) CreateVolume(ctx context.Context, req *driverv1.CreateVolumeRequest) (*driverv1.Volume, error) {
	id := req.GetVolumeId()
	if err := CheckID("volume_id", id); err != nil {
		return nil, err
	}
	if req.GetMark().GetObjectId() != id || !p.ours(markOf(req.GetMark())) {
		return nil, fault.Invalid(fault.Violation{Field: "mark", Description: "must carry this cluster, this node and the volume's id"})
	}
	if req.GetSource().GetSnapshotId() != "" || req.GetSource().GetVolumeId() != "" {
		return nil, fault.New(metav1.Reason_REASON_NO_CAPABILITY, "volumes from snapshots or volumes are not offered by this driver")
	}
	format := req.GetFormat()
	if format == driverv1.VolumeFormat_VOLUME_FORMAT_UNSPECIFIED {
		format = driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2
	}
	if _, err := qemuimg.FormatName(format); err != nil {
		return nil, err
	}
	if size := req.GetSizeBytes(); size < 0 || size > MaxSize {
		return nil, fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "size_bytes %d is outside 0 to %d", size, int64(MaxSize))
	}
	image := req.GetSource().GetImageId()
	if have, err := p.volume(id); err == nil {
		if have.Format != format || have.AskedBytes != req.GetSizeBytes() || have.ImageID != image {
			return nil, fault.New(metav1.Reason_REASON_SPEC_CONFLICT, "volume %s exists with another size, format or source", id)
		}
		return p.describe(id, have), nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, ioError("read volume", err)
	}
	rec := volumeRecord{
		SchemaVersion: 1, Mark: markOf(req.GetMark()), Format: format, AskedBytes: req.GetSizeBytes(), ImageID: image,
		SizeBytes: (req.GetSizeBytes() + Granularity - 1) / Granularity * Granularity,
	}
	var src imageRecord
	if image != "" {
		var err error
		if src, err = p.readImage(image); err != nil {
			return nil, err
		}
		if rec.SizeBytes == 0 {
			rec.SizeBytes = (src.VirtualSizeBytes + Granularity - 1) / Granularity * Granularity
		}
		if rec.SizeBytes < src.VirtualSizeBytes {
			return nil, fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "size_bytes %d is less than the image's %d", rec.SizeBytes, src.VirtualSizeBytes)
		}
	}
	if rec.SizeBytes == 0 {
		return nil, fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "size_bytes must be more than 0 for a blank volume")
	}
	tmp := tmpDir + "/" + id + "-" + randomName() + extension(format)
	if err := p.fill(ctx, tmp, rec, src); err != nil {
		_ = p.root.Remove(tmp)
		return nil, err
	}
	if err := p.place(tmp, volumesDir+"/"+id+extension(format), 0o600); err != nil {
		return nil, err
	}
	if err := p.writeRecord(volumesDir, id, rec); err != nil {
		return nil, err
	}
	return p.describe(id, rec), nil
}

// fill writes a volume's content to tmp.
func (p *Pool) fill(ctx context.Context, tmp string, rec volumeRecord, src imageRecord) error {
	path := p.abs(tmp)
	if rec.ImageID == "" {
		return qemuimg.CreateBlank(ctx, path, rec.Format, rec.SizeBytes)
	}
	from := p.abs(imagesDir + "/" + rec.ImageID + extension(src.Format))
	if rec.Format == driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2 {
		return qemuimg.CreateOverlay(ctx, path, from, src.Format, rec.SizeBytes)
	}
	if err := qemuimg.Convert(ctx, from, src.Format, path, rec.Format); err != nil {
		return err
	}
	if rec.SizeBytes > src.VirtualSizeBytes {
		return qemuimg.Resize(ctx, path, rec.Format, rec.SizeBytes)
	}
	return nil
}

// place syncs a finished file and renames it to where it belongs.
func (p *Pool) place(tmp, name string, perm fs.FileMode) error {
	f, err := p.root.OpenFile(tmp, os.O_RDWR, 0)
	if err != nil {
		return ioError("place "+name, err)
	}
	err = errors.Join(f.Chmod(perm), f.Sync(), f.Close())
	if err == nil {
		err = p.rename(tmp, name)
	}
	if err != nil {
		_ = p.root.Remove(tmp)
		return ioError("place "+name, err)
	}
	return nil
}

func (p *Pool) volume(id string) (rec volumeRecord, err error) {
	err = p.readRecord(volumesDir, id, &rec)
	return rec, err
}

// ourVolume reads a volume's record and refuses a foreign one.
func (p *Pool) ourVolume(id string) (volumeRecord, error) {
	if err := CheckID("volume_id", id); err != nil {
		return volumeRecord{}, err
	}
	rec, err := p.volume(id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return rec, fault.New(metav1.Reason_REASON_VOLUME_NOT_FOUND, "no volume %s in pool %s", id, p.id)
	case err != nil:
		return rec, ioError("read volume", err)
	case !p.ours(rec.Mark):
		return rec, fault.New(metav1.Reason_REASON_NOT_OURS, "volume %s carries another cluster's or node's mark", id)
	}
	return rec, nil
}

func (p *Pool) describe(id string, rec volumeRecord) *driverv1.Volume {
	v := &driverv1.Volume{
		PoolId: p.id, VolumeId: id, Mark: rec.Mark.proto(), SizeBytes: rec.SizeBytes, AllocationBytes: -1, Format: rec.Format, Attached: rec.Attached,
	}
	if rec.ImageID != "" {
		v.Source = &driverv1.VolumeSource{Source: &driverv1.VolumeSource_ImageId{ImageId: rec.ImageID}}
	}
	if st, err := p.root.Lstat(volumesDir + "/" + id + extension(rec.Format)); err == nil {
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			v.AllocationBytes = sys.Blocks * 512
		}
	}
	return v
}

// GetVolume reads a volume.
func (p *Pool) GetVolume(id string) (*driverv1.Volume, error) {
	rec, err := p.ourVolume(id)
	if err != nil {
		return nil, err
	}
	return p.describe(id, rec), nil
}

// DeleteVolume removes a volume; absent is fine.
func (p *Pool) DeleteVolume(id string) error {
	rec, err := p.ourVolume(id)
	if fault.Is(err, metav1.Reason_REASON_VOLUME_NOT_FOUND) {
		return p.remove(volumesDir, id) // content without a record, if any
	}
	if err != nil {
		return err
	}
	if rec.Attached {
		return fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is attached", id).WithRemedy("detach it first")
	}
	return p.remove(volumesDir, id)
}

// ListVolumes returns up to limit of our volumes with ids after the given one.
func (p *Pool) ListVolumes(after string, limit int) (out []*driverv1.Volume, next string, err error) {
	ids, err := p.ids(volumesDir, after)
	if err != nil {
		return nil, "", err
	}
	for _, id := range ids {
		rec, err := p.volume(id)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, "", ioError("read volume", err)
		}
		if !p.ours(rec.Mark) {
			continue
		}
		if len(out) == limit {
			return out, out[limit-1].GetVolumeId(), nil
		}
		out = append(out, p.describe(id, rec))
	}
	return out, "", nil
}

// ResizeVolume grows a detached volume.
func (p *Pool) ResizeVolume(ctx context.Context, id string, size int64) (*driverv1.Volume, error) {
	rec, err := p.ourVolume(id)
	if err != nil {
		return nil, err
	}
	want := (size + Granularity - 1) / Granularity * Granularity
	switch {
	case size > MaxSize || want < rec.SizeBytes:
		return nil, fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "size_bytes %d is outside %d to %d: volumes only grow", size, rec.SizeBytes, int64(MaxSize))
	case want == rec.SizeBytes:
		return p.describe(id, rec), nil
	case rec.Attached:
		return nil, fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is attached", id).WithRemedy("detach it first")
	}
	if err := qemuimg.Resize(ctx, p.abs(volumesDir+"/"+id+extension(rec.Format)), rec.Format, want); err != nil {
		return nil, err
	}
	rec.SizeBytes = want
	if err := p.writeRecord(volumesDir, id, rec); err != nil {
		return nil, err
	}
	return p.describe(id, rec), nil
}

// AttachVolume marks a volume used by this node and says where its file is.
func (p *Pool) AttachVolume(req *driverv1.AttachVolumeRequest) (*driverv1.DiskSource, error) {
	rec, err := p.ourVolume(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if rec.Attached && rec.AttachedNode != p.owner.NodeID && !req.GetShared() {
		return nil, fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is attached by node %s", req.GetVolumeId(), rec.AttachedNode)
	}
	if !rec.Attached || rec.AttachedNode != p.owner.NodeID {
		rec.Attached, rec.AttachedNode = true, p.owner.NodeID
		if err := p.writeRecord(volumesDir, req.GetVolumeId(), rec); err != nil {
			return nil, err
		}
	}
	return fileSource(p.abs(volumesDir+"/"+req.GetVolumeId()+extension(rec.Format)), rec.Format), nil
}

// DetachVolume ends this node's use; not attached or absent is fine.
func (p *Pool) DetachVolume(id string) error {
	rec, err := p.ourVolume(id)
	if fault.Is(err, metav1.Reason_REASON_VOLUME_NOT_FOUND) {
		return nil
	}
	if err != nil || !rec.Attached || rec.AttachedNode != p.owner.NodeID {
		return err
	}
	rec.Attached, rec.AttachedNode = false, ""
	return p.writeRecord(volumesDir, id, rec)
}

func fileSource(path string, f driverv1.VolumeFormat) *driverv1.DiskSource {
	return &driverv1.DiskSource{Source: &driverv1.DiskSource_File{File: &driverv1.FileSource{Path: path, Format: f}}}
}

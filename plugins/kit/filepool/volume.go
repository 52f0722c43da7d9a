package filepool

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
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
	AskedBytes    int64                 `json:"asked_bytes"`           // as CreateVolume said, to tell a repetition from another spec
	ImageID       string                `json:"image_id,omitempty"`    // source
	SnapshotID    string                `json:"snapshot_id,omitempty"` // source
	VolumeID      string                `json:"volume_id,omitempty"`   // source
	Imported      bool                  `json:"imported,omitempty"`    // source: a stream
	Attached      bool                  `json:"attached,omitempty"`
	AttachedNode  string                `json:"attached_node,omitempty"`
	// Layers are the files of the volume, the one that is written first; each rests on the next, the last on Image, if set. None = one file, named
	// after the volume: records of version 0.1.
	Layers []layer `json:"layers,omitempty"`
	// Image is the copy that the last layer rests on.
	Image string `json:"image,omitempty"`
	// Pending is the snapshot whose overlay is made and not yet the volume.
	Pending string `json:"pending,omitempty"`

	here bool // whether this node has it attached, in a shared pool
}

func extension(f driverv1.VolumeFormat) string {
	if f == driverv1.VolumeFormat_VOLUME_FORMAT_RAW {
		return ".raw"
	}
	return ".qcow2"
}

func (p *Pool) abs(name string) string { return filepath.Join(p.path, name) }

// backing is how an overlay names the file that it rests on. In a shared pool the name leads from a folder of the pool to another, since a node may have the pool
// elsewhere than the node that made the overlay.
func (p *Pool) backing(path string) string {
	if rel, ok := strings.CutPrefix(path, p.path+"/"); ok && p.owner.Shared {
		return "../" + rel
	}
	return path
}

// CreateVolume makes a volume, blank or from an image copy of this pool. See the driver contract for repetition.
func (p *Pool) CreateVolume(ctx context.Context, req *driverv1.CreateVolumeRequest) (*driverv1.Volume, error) {
	id := req.GetVolumeId()
	rec, err := p.asked(req)
	if err != nil {
		return nil, err
	}
	if have, err := p.volume(id); err == nil {
		if !have.sameSpec(rec) {
			return nil, fault.New(metav1.Reason_REASON_SPEC_CONFLICT, "volume %s exists with another size, format or source", id)
		}
		return p.again(id, have)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, ioError("read volume", err)
	}
	src, err := p.source(rec)
	if err != nil {
		return nil, err
	}
	if rec.SizeBytes == 0 {
		rec.SizeBytes = roundUp(src.size)
	}
	if rec.SizeBytes < src.size {
		return nil, fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "size_bytes %d is less than the source's %d", rec.SizeBytes, src.size)
	}
	if rec.SizeBytes == 0 {
		return nil, fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "size_bytes must be more than 0 for a blank volume")
	}
	return p.make(id, &rec, func(path string) error { return p.fill(ctx, path, &rec, src) })
}

// asked checks a request and is the record that it asks for.
func (p *Pool) asked(req *driverv1.CreateVolumeRequest) (volumeRecord, error) {
	id := req.GetVolumeId()
	if err := CheckID("volume_id", id); err != nil {
		return volumeRecord{}, err
	}
	if req.GetMark().GetObjectId() != id || !p.ours(markOf(req.GetMark())) {
		return volumeRecord{}, fault.Invalid(fault.Violation{Field: "mark", Description: "must carry this cluster, this node and the volume's id"})
	}
	format := req.GetFormat()
	if format == driverv1.VolumeFormat_VOLUME_FORMAT_UNSPECIFIED {
		format = driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2
	}
	if _, err := qemuimg.FormatName(format); err != nil {
		return volumeRecord{}, err
	}
	if size := req.GetSizeBytes(); size < 0 || size > MaxSize {
		return volumeRecord{}, fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "size_bytes %d is outside 0 to %d", size, int64(MaxSize))
	}
	return volumeRecord{
		SchemaVersion: 1, Mark: markOf(req.GetMark()), Format: format, AskedBytes: req.GetSizeBytes(), SizeBytes: roundUp(req.GetSizeBytes()),
		ImageID: req.GetSource().GetImageId(), SnapshotID: req.GetSource().GetSnapshotId(), VolumeID: req.GetSource().GetVolumeId(),
	}, nil
}

func roundUp(size int64) int64 { return (size + Granularity - 1) / Granularity * Granularity }

func (r volumeRecord) sameSpec(o volumeRecord) bool {
	return r.Format == o.Format && r.AskedBytes == o.AskedBytes && r.ImageID == o.ImageID && r.SnapshotID == o.SnapshotID && r.VolumeID == o.VolumeID && r.Imported == o.Imported
}

// make has a volume's first file written under tmp, puts it in place and writes the record, which says from then on that the volume exists. write may complete rec.
func (p *Pool) make(id string, rec *volumeRecord, write func(path string) error) (*driverv1.Volume, error) {
	own := layer{File: id + extension(rec.Format), Format: rec.Format}
	tmp := p.tmp(id, rec.Format)
	if err := write(p.abs(tmp)); err != nil {
		_ = p.root.Remove(tmp)
		return nil, err
	}
	if err := p.place(tmp, volumesDir+"/"+own.File, 0o600); err != nil {
		return nil, err
	}
	rec.Layers = append([]layer{own}, rec.Layers...)
	if err := p.writeRecord(volumesDir, id, rec); err != nil {
		return nil, err
	}
	return p.describe(id, *rec), nil
}

// source is what a volume is made from: a file that does not change meanwhile.
type source struct {
	path   string // empty = blank
	format driverv1.VolumeFormat
	size   int64
	layers []layer // what a volume that rests on path has below itself
	image  string
	chain  []string // files, set for an export
	linked bool     // a volume may rest on it; otherwise it is copied
}

func (p *Pool) source(rec volumeRecord) (source, error) {
	switch {
	case rec.ImageID != "":
		img, err := p.readImage(rec.ImageID)
		if err != nil {
			return source{}, err
		}
		return source{path: p.abs(imagesDir + "/" + rec.ImageID + extension(img.Format)), format: img.Format, size: img.VirtualSizeBytes, image: rec.ImageID, linked: true}, nil
	case rec.SnapshotID != "":
		snap, err := p.ourSnapshot(rec.SnapshotID)
		if err != nil {
			return source{}, err
		}
		if snap.Pending {
			return source{}, fault.New(metav1.Reason_REASON_SNAPSHOT_NOT_FOUND, "snapshot %s is not taken yet", rec.SnapshotID)
		}
		return source{path: p.layerPath(snap.Layers[0]), format: snap.Layers[0].Format, size: snap.SizeBytes, layers: snap.Layers, image: snap.Image, linked: true}, nil
	case rec.VolumeID != "":
		vol, err := p.ourVolume(rec.VolumeID)
		if err != nil {
			return source{}, err
		}
		if vol.Attached {
			return source{}, fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is attached", rec.VolumeID).WithRemedy("detach it, or take a snapshot and make a volume from that")
		}
		layers := vol.layers(rec.VolumeID)
		return source{path: p.layerPath(layers[0]), format: layers[0].Format, size: vol.SizeBytes, layers: layers, image: vol.imageBelow()}, nil
	}
	return source{}, nil
}

// fill writes a volume's content to path.
func (p *Pool) fill(ctx context.Context, path string, rec *volumeRecord, src source) error {
	if src.path == "" {
		return qemuimg.CreateBlank(ctx, path, rec.Format, rec.SizeBytes, p.preallocation)
	}
	if src.linked && rec.Format == driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2 {
		rec.Layers, rec.Image = src.layers, src.image
		return qemuimg.CreateOverlay(ctx, path, p.backing(src.path), src.format, rec.SizeBytes)
	}
	if err := p.copyFile(ctx, src, path, rec.Format); err != nil {
		return err
	}
	if rec.SizeBytes > src.size {
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
	return rec, p.settleHolders(id, &rec)
}

// again is the answer to a repeated creation.
func (p *Pool) again(id string, have volumeRecord) (*driverv1.Volume, error) {
	if err := p.settleHolders(id, &have); err != nil {
		return nil, err
	}
	return p.describe(id, have), nil
}

// attachedHere says whether this node has the volume attached.
func (p *Pool) attachedHere(r volumeRecord) bool {
	if p.owner.Shared {
		return r.here
	}
	return r.Attached && r.AttachedNode == p.owner.NodeID
}

func (p *Pool) describe(id string, rec volumeRecord) *driverv1.Volume {
	v := &driverv1.Volume{
		PoolId: p.id, VolumeId: id, Mark: rec.Mark.proto(), SizeBytes: rec.SizeBytes, AllocationBytes: -1, Format: rec.Format, Attached: p.attachedHere(rec),
	}
	switch {
	case rec.ImageID != "":
		v.Source = &driverv1.VolumeSource{Source: &driverv1.VolumeSource_ImageId{ImageId: rec.ImageID}}
	case rec.SnapshotID != "":
		v.Source = &driverv1.VolumeSource{Source: &driverv1.VolumeSource_SnapshotId{SnapshotId: rec.SnapshotID}}
	case rec.VolumeID != "":
		v.Source = &driverv1.VolumeSource{Source: &driverv1.VolumeSource_VolumeId{VolumeId: rec.VolumeID}}
	}
	head := rec.layers(id)[0]
	if st, err := p.root.Lstat(volumesDir + "/" + head.File); err == nil {
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			v.AllocationBytes = sys.Blocks * 512
		}
	}
	if v.GetAttached() { // the hypervisor may have grown it
		v.SizeBytes = max(v.SizeBytes, p.grown(head))
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
		return p.collectStrays(id+".", "") // content without a record, if any
	}
	if err != nil {
		return err
	}
	if rec.Attached {
		return fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is attached", id).WithRemedy("detach it first")
	}
	layers := rec.layers(id)
	if len(layers) > 1 {
		snaps, err := p.snapshotsOf(id)
		if err != nil {
			return err
		}
		if len(snaps) > 0 {
			return fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s has %d snapshots, %s among them", id, len(snaps), snaps[0]).WithRemedy("delete its snapshots first")
		}
	}
	// What is written to is nobody else's; without it the volume is no more, and what is below it may be. The record goes last: it says what there is to remove.
	if err := p.removeFiles(volumesDir, layers[0].File); err != nil {
		return err
	}
	strays, err := p.named(id+".", "")
	if err != nil {
		return err
	}
	if err := p.collectBut(id, append(strays, layers[1:]...)); err != nil {
		return err
	}
	return p.removeFiles(volumesDir, id+".json")
}

// ListVolumes returns up to limit of our volumes with ids after the given one.
func (p *Pool) ListVolumes(after string, limit int) (out []*driverv1.Volume, next string, err error) {
	ids, err := p.ids(volumesDir, after)
	if err != nil {
		return nil, "", err
	}
	var attached map[string]holders
	if p.owner.Shared {
		if attached, err = p.allHolders(""); err != nil {
			return nil, "", err
		}
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
		p.heldOf(&rec, attached, id)
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
	want := roundUp(size)
	switch {
	case size > MaxSize || want < rec.SizeBytes:
		return nil, fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "size_bytes %d is outside %d to %d: volumes only grow", size, rec.SizeBytes, int64(MaxSize))
	case want == rec.SizeBytes:
		return p.describe(id, rec), nil
	case rec.Attached:
		return nil, fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is attached", id).WithRemedy("detach it first")
	}
	if err := p.settle(id, &rec); err != nil {
		return nil, err
	}
	head := rec.layers(id)[0]
	if err := qemuimg.Resize(ctx, p.layerPath(head), head.Format, want); err != nil {
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
	id := req.GetVolumeId()
	rec, err := p.ourVolume(id)
	if err != nil {
		return nil, err
	}
	if p.owner.Shared {
		if err := p.takeShared(req, &rec); err != nil {
			return nil, err
		}
	} else if !rec.Attached || rec.AttachedNode != p.owner.NodeID {
		if rec.Attached && rec.AttachedNode != req.GetFencedNodeId() {
			return nil, fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is attached by node %s", id, rec.AttachedNode)
		}
		if err := p.settle(id, &rec); err != nil { // of an attachment that is void
			return nil, err
		}
		rec.Attached, rec.AttachedNode = true, p.owner.NodeID
		if err := p.writeRecord(volumesDir, id, rec); err != nil {
			return nil, err
		}
	}
	head := rec.layers(id)[0]
	return fileSource(p.layerPath(head), head.Format), nil
}

// DetachVolume ends this node's use; not attached or absent is fine.
func (p *Pool) DetachVolume(id string) error {
	rec, err := p.ourVolume(id)
	if fault.Is(err, metav1.Reason_REASON_VOLUME_NOT_FOUND) {
		return nil
	}
	if err != nil || !p.attachedHere(rec) {
		return err
	}
	if !p.owner.Shared || rec.AttachedNode == p.owner.NodeID { // nobody else has it open
		if err := p.settle(id, &rec); err != nil {
			return err
		}
		rec.SizeBytes = max(rec.SizeBytes, p.grown(rec.layers(id)[0]))
		rec.Attached, rec.AttachedNode = false, ""
		if err := p.writeRecord(volumesDir, id, rec); err != nil {
			return err
		}
	}
	if p.owner.Shared {
		return p.give(id)
	}
	return nil
}

func fileSource(path string, f driverv1.VolumeFormat) *driverv1.DiskSource {
	return &driverv1.DiskSource{Source: &driverv1.DiskSource_File{File: &driverv1.FileSource{Path: path, Format: f}}}
}

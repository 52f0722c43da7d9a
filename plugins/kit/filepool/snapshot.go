package filepool

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/plugins/kit/qemuimg"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// snapshotRecord is <id>.json of a snapshot. Its bytes are the volume's layers at that time; the volume goes on in an overlay.
type snapshotRecord struct {
	SchemaVersion int       `json:"schema_version"`
	Mark          mark      `json:"mark"`
	VolumeID      string    `json:"volume_id"`
	SizeBytes     int64     `json:"size_bytes"`
	Time          time.Time `json:"time"`
	Layers        []layer   `json:"layers"`
	Image         string    `json:"image,omitempty"`
	// Pending says that the overlay is not yet the volume; Overlay is that overlay, kept only until then. The volume's record has the last word.
	Pending bool    `json:"pending,omitempty"`
	Overlay []layer `json:"overlay,omitempty"`
	// Gone says that the snapshot is deleted, and that its layers are still being collected.
	Gone bool `json:"gone,omitempty"`
}

// overlayOf is the layer in which a volume goes on once a snapshot is taken.
func overlayOf(volume, snapshot string) layer {
	return layer{File: volume + "." + snapshot + ".qcow2", Format: driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2}
}

func (p *Pool) ourSnapshot(id string) (rec snapshotRecord, err error) {
	if err := CheckID("snapshot_id", id); err != nil {
		return rec, err
	}
	switch err := p.readRecord(snapsDir, id, &rec); {
	case errors.Is(err, fs.ErrNotExist):
		return rec, fault.New(metav1.Reason_REASON_SNAPSHOT_NOT_FOUND, "no snapshot %s in pool %s", id, p.id)
	case err != nil:
		return rec, ioError("read snapshot", err)
	case !p.ours(rec.Mark):
		return rec, fault.New(metav1.Reason_REASON_NOT_OURS, "snapshot %s carries another cluster's or node's mark", id)
	case rec.Gone:
		return rec, fault.New(metav1.Reason_REASON_SNAPSHOT_NOT_FOUND, "snapshot %s of pool %s is being deleted", id, p.id)
	}
	over := overlayOf(rec.VolumeID, id)
	switch vol, err := p.volume(rec.VolumeID); {
	case err != nil:
	case vol.Pending == id: // a commit that was cut short
		rec.Pending, rec.Overlay = true, []layer{over}
	case slices.Contains(vol.layers(rec.VolumeID), over):
		rec.Pending = false
	}
	return rec, nil
}

func (p *Pool) describeSnapshot(id string, r snapshotRecord) *driverv1.Snapshot {
	return &driverv1.Snapshot{
		PoolId: p.id, SnapshotId: id, VolumeId: r.VolumeID, Mark: r.Mark.proto(), SizeBytes: r.SizeBytes, CreateTime: timestamppb.New(r.Time), Pending: r.Pending,
	}
}

// CreateSnapshot freezes a volume's layers and lets the volume go on in an overlay: at once when nobody has it open; else the snapshot is pending, and the overlay
// is returned for the hypervisor to switch to.
func (p *Pool) CreateSnapshot(ctx context.Context, req *driverv1.CreateSnapshotRequest) (*driverv1.Snapshot, *driverv1.DiskSource, error) {
	id, volume := req.GetSnapshotId(), req.GetVolumeId()
	if err := CheckID("snapshot_id", id); err != nil {
		return nil, nil, err
	}
	if req.GetMark().GetObjectId() != id || !p.ours(markOf(req.GetMark())) {
		return nil, nil, fault.Invalid(fault.Violation{Field: "mark", Description: "must carry this cluster, this node and the snapshot's id"})
	}
	rec, err := p.ourSnapshot(id)
	switch {
	case err == nil && rec.VolumeID != volume:
		return nil, nil, fault.New(metav1.Reason_REASON_SPEC_CONFLICT, "snapshot %s exists, of volume %s", id, rec.VolumeID)
	case err == nil && !rec.Pending:
		return p.describeSnapshot(id, rec), nil, nil
	case err != nil && !fault.Is(err, metav1.Reason_REASON_SNAPSHOT_NOT_FOUND):
		return nil, nil, err
	}
	vol, verr := p.ourVolume(volume)
	if verr != nil {
		return nil, nil, verr
	}
	if vol.Attached && vol.AttachedNode != p.owner.NodeID {
		return nil, nil, fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is attached by node %s, which alone can snapshot it", volume, vol.AttachedNode)
	}
	if rec.Gone {
		return nil, nil, err
	}
	if err != nil { // it is new
		if vol.Pending != "" && vol.Pending != id {
			return nil, nil, fault.New(metav1.Reason_REASON_BUSY, "snapshot %s of volume %s is being taken", vol.Pending, volume)
		}
		layers := vol.layers(volume)
		if len(layers) >= maxLayers {
			return nil, nil, fault.New(metav1.Reason_REASON_LIMIT_EXCEEDED, "volume %s rests on %d layers, as many as there may be", volume, len(layers)).WithRemedy("delete snapshots of it while it is detached")
		}
		overlay := overlayOf(volume, id)
		size := vol.SizeBytes
		if vol.Attached {
			size = max(size, p.grown(layers[0]))
		}
		tmp := p.tmp(id, overlay.Format)
		if err := qemuimg.CreateOverlay(ctx, p.abs(tmp), p.backing(p.layerPath(layers[0])), layers[0].Format, size); err != nil {
			_ = p.root.Remove(tmp)
			return nil, nil, err
		}
		if err := p.place(tmp, volumesDir+"/"+overlay.File, 0o600); err != nil {
			return nil, nil, err
		}
		rec = snapshotRecord{
			SchemaVersion: 1, Mark: markOf(req.GetMark()), VolumeID: volume, SizeBytes: size, Time: time.Now().UTC(),
			Layers: layers, Image: vol.imageBelow(), Pending: true, Overlay: []layer{overlay},
		}
		if err := p.writeRecord(snapsDir, id, rec); err != nil {
			return nil, nil, err
		}
	}
	if vol.Pending != id {
		vol.Pending = id
		if err := p.writeRecord(volumesDir, volume, vol); err != nil {
			return nil, nil, err
		}
	}
	if vol.Attached {
		return p.describeSnapshot(id, rec), fileSource(p.layerPath(rec.Overlay[0]), rec.Overlay[0].Format), nil
	}
	rec, err = p.commit(id, rec, volume, &vol)
	if err != nil {
		return nil, nil, err
	}
	return p.describeSnapshot(id, rec), nil, nil
}

// imageBelow is the image copy that the last layer rests on.
func (r volumeRecord) imageBelow() string {
	if len(r.Layers) == 0 && r.Format == driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2 {
		return r.ImageID // of version 0.1
	}
	return r.Image
}

// commit makes the overlay of a pending snapshot the volume. The volume's record comes last: until it is written the snapshot counts as pending, and after it nothing
// is left to be done, so that it is never done a second time over what the volume has become since.
func (p *Pool) commit(id string, rec snapshotRecord, volume string, vol *volumeRecord) (snapshotRecord, error) {
	rec.Pending, rec.Overlay = false, nil
	if err := p.writeRecord(snapsDir, id, rec); err != nil || vol.Pending != id {
		return rec, err
	}
	now := *vol
	now.Image, now.Layers, now.Pending = rec.Image, append([]layer{overlayOf(volume, id)}, rec.Layers...), ""
	if err := p.writeRecord(volumesDir, volume, now); err != nil {
		return rec, err
	}
	*vol = now
	return rec, nil
}

// settle commits what is pending of a volume that nothing has open, or whose domain writes to the overlay.
func (p *Pool) settle(volume string, vol *volumeRecord) error {
	if vol.Pending == "" {
		return nil
	}
	rec, err := p.ourSnapshot(vol.Pending)
	if err != nil {
		return err
	}
	_, err = p.commit(vol.Pending, rec, volume, vol)
	return err
}

// CommitSnapshot makes the overlay of a pending snapshot the volume; not pending is fine.
func (p *Pool) CommitSnapshot(id string) (*driverv1.Snapshot, error) {
	rec, err := p.ourSnapshot(id)
	if err != nil {
		return nil, err
	}
	if rec.Pending {
		vol, err := p.ourVolume(rec.VolumeID)
		if err != nil {
			return nil, err
		}
		if rec, err = p.commit(id, rec, rec.VolumeID, &vol); err != nil {
			return nil, err
		}
	}
	return p.describeSnapshot(id, rec), nil
}

// DeleteSnapshot removes a snapshot; volumes made from it stay whole, absent is fine. If nobody has the volume open, it takes over what was the snapshot's alone.
func (p *Pool) DeleteSnapshot(ctx context.Context, id string) error {
	rec, err := p.ourSnapshot(id)
	if fault.Is(err, metav1.Reason_REASON_SNAPSHOT_NOT_FOUND) && !rec.Gone {
		return p.collectStrays("", "."+id+".qcow2") // of a snapshot that was not begun in earnest
	}
	if err != nil && !rec.Gone {
		return err
	}
	if rec.Pending && !rec.Gone {
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "snapshot %s is being taken", id).WithRemedy("commit it first")
	}
	if !rec.Gone { // first: what is deleted in part is no snapshot, and is deleted to its end
		rec.Gone = true
		if err := p.writeRecord(snapsDir, id, rec); err != nil {
			return err
		}
	}
	if err := p.collect(rec.Layers); err != nil {
		return err
	}
	if err := p.removeFiles(snapsDir, id+".json"); err != nil {
		return err
	}
	vol, err := p.ourVolume(rec.VolumeID)
	if err != nil || vol.Attached {
		return nil //nolint:nilerr // the snapshot is gone; what it left is nobody's loss
	}
	return p.shorten(ctx, rec.VolumeID, &vol)
}

// shorten merges layers that only this volume needs into the one that is written. The content stays the same at every moment.
func (p *Pool) shorten(ctx context.Context, id string, vol *volumeRecord) error {
	for layers := vol.layers(id); len(layers) > 1; layers = vol.layers(id) {
		shared := false
		err := p.walk(func(other string, r volumeRecord) {
			shared = shared || other != id && slices.Contains(r.layers(other), layers[1])
		}, func(_ string, r snapshotRecord) {
			shared = shared || !r.Gone && slices.Contains(r.Layers, layers[1])
		})
		if err != nil || shared {
			return err
		}
		below, format := "", driverv1.VolumeFormat_VOLUME_FORMAT_UNSPECIFIED
		switch {
		case len(layers) > 2:
			below, format = p.layerPath(layers[2]), layers[2].Format
		case vol.imageBelow() != "":
			img, err := p.readImage(vol.imageBelow())
			if err != nil {
				return err
			}
			below, format = p.abs(imagesDir+"/"+vol.imageBelow()+extension(img.Format)), img.Format
		}
		if err := qemuimg.Rebase(ctx, p.layerPath(layers[0]), p.backing(below), format); err != nil {
			return err
		}
		vol.Layers = append([]layer{layers[0]}, layers[2:]...)
		if err := p.writeRecord(volumesDir, id, vol); err != nil {
			return err
		}
		if err := p.removeFiles(volumesDir, layers[1].File); err != nil {
			return err
		}
	}
	return nil
}

// ListSnapshots returns up to limit of our snapshots with ids after the given one, of one volume if that is set.
func (p *Pool) ListSnapshots(volume, after string, limit int) (out []*driverv1.Snapshot, next string, err error) {
	ids, err := p.ids(snapsDir, after)
	if err != nil {
		return nil, "", err
	}
	for _, id := range ids {
		rec, err := p.ourSnapshot(id)
		if fault.Is(err, metav1.Reason_REASON_SNAPSHOT_NOT_FOUND) || fault.Is(err, metav1.Reason_REASON_NOT_OURS) {
			continue
		}
		if err != nil {
			return nil, "", err
		}
		if rec.Pending || volume != "" && rec.VolumeID != volume {
			continue
		}
		if len(out) == limit {
			return out, out[limit-1].GetSnapshotId(), nil
		}
		out = append(out, p.describeSnapshot(id, rec))
	}
	return out, "", nil
}

// RestoreSnapshot sets a volume that nobody has open back: it goes on in a new overlay on the snapshot, and what it had since is removed. It keeps its size.
func (p *Pool) RestoreSnapshot(ctx context.Context, id, volume string) (*driverv1.Volume, error) {
	rec, err := p.ourSnapshot(id)
	if err != nil {
		return nil, err
	}
	vol, err := p.ourVolume(volume)
	if err != nil {
		return nil, err
	}
	switch {
	case rec.VolumeID != volume:
		return nil, fault.Invalid(fault.Violation{Field: "volume_id", Description: "snapshot " + id + " is of volume " + rec.VolumeID})
	case vol.Attached:
		return nil, fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is attached by node %s", volume, vol.AttachedNode).WithRemedy("stop the VM, or detach the volume")
	case rec.Pending:
		return nil, fault.New(metav1.Reason_REASON_SNAPSHOT_NOT_FOUND, "snapshot %s is not taken yet", id)
	}
	if err := p.settle(volume, &vol); err != nil {
		return nil, err
	}
	was := vol.layers(volume)
	overlay := layer{File: volume + "." + randomName() + ".qcow2", Format: driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2}
	tmp := p.tmp(volume, overlay.Format)
	if err := qemuimg.CreateOverlay(ctx, p.abs(tmp), p.backing(p.layerPath(rec.Layers[0])), rec.Layers[0].Format, max(vol.SizeBytes, rec.SizeBytes)); err != nil {
		_ = p.root.Remove(tmp)
		return nil, err
	}
	if err := p.place(tmp, volumesDir+"/"+overlay.File, 0o600); err != nil {
		return nil, err
	}
	vol.Layers, vol.Image = append([]layer{overlay}, rec.Layers...), rec.Image
	if err := p.writeRecord(volumesDir, volume, vol); err != nil {
		return nil, err
	}
	if err := p.collect(was); err != nil {
		return nil, err
	}
	return p.describe(volume, vol), nil
}

// VolumeOf is the volume of a snapshot; empty if there is none of ours.
func (p *Pool) VolumeOf(snapshot string) string {
	rec, err := p.ourSnapshot(snapshot)
	if err != nil && !rec.Gone {
		return ""
	}
	return rec.VolumeID
}

package rbdpool

import (
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ceph/go-ceph/rbd"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// snapshotRecord finds a snapshot of ours.
func (s *Session) snapshotRecord(id string) (*snapshotRecord, error) {
	if err := CheckID("snapshot_id", id); err != nil {
		return nil, err
	}
	found, _, err := s.x.read(keySnapshot + id)
	if err != nil {
		return nil, err
	}
	r, err := decode[snapshotRecord](found[keySnapshot+id])
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, fault.New(metav1.Reason_REASON_SNAPSHOT_NOT_FOUND, "pool %s has no snapshot %s", s.id, id)
	}
	return r, s.checkOurs("snapshot", id, r.Mark)
}

// CreateSnapshot takes a snapshot, also of a volume that a guest has open: RBD has whoever holds the image write out what it sent before.
func (s *Session) CreateSnapshot(req *driverv1.CreateSnapshotRequest) (*driverv1.Snapshot, error) {
	id, volumeID := req.GetSnapshotId(), req.GetVolumeId()
	if err := CheckID("snapshot_id", id); err != nil {
		return nil, err
	}
	if err := CheckID("volume_id", volumeID); err != nil {
		return nil, err
	}
	if err := s.checkMark(id, req.GetMark()); err != nil {
		return nil, err
	}
	if old, err := s.snapshotRecord(id); err == nil {
		if old.VolumeID != volumeID {
			return nil, fault.New(metav1.Reason_REASON_SPEC_CONFLICT, "snapshot %s exists, of volume %s", id, old.VolumeID)
		}
		return s.snapshot(id, old), nil
	} else if !fault.Is(err, metav1.Reason_REASON_SNAPSHOT_NOT_FOUND) {
		return nil, err
	}
	vol, err := s.record(volumeID)
	if err != nil {
		return nil, err
	}
	if err := s.alive(); err != nil {
		return nil, err
	}
	rec := snapshotRecord{Image: vol.Image, VolumeID: volumeID, Mark: recordOf(req.GetMark()), Depth: vol.Depth}
	err = s.withImage(vol.Image, func(img *rbd.Image) error {
		rec.CreateTime = time.Now().UTC()
		_, err := img.CreateSnapshot(snapshotName(id))
		if is(err, syscall.EEXIST) { // of a call that was cut short: it has no record, so nothing rests on it, and it is older than this call
			if _, err = removeSnapshot(img, snapshotName(id)); err == nil {
				rec.CreateTime = time.Now().UTC()
				_, err = img.CreateSnapshot(snapshotName(id))
			}
		}
		if err == nil {
			rec.SizeBytes, err = snapshotSize(img, snapshotName(id))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	err = s.x.update(s.ctx, []string{keyVolume + volumeID}, func(found entries) (entries, error) {
		vol, err := s.volumeIn(found, volumeID)
		if err != nil {
			return nil, err
		}
		if vol.Snapshots == nil {
			vol.Snapshots = map[string]bool{}
		}
		vol.Snapshots[id] = true
		return entries{keyVolume + volumeID: encode(vol), keySnapshot + id: encode(rec)}, nil
	})
	if err != nil {
		return nil, err
	}
	return s.snapshot(id, &rec), nil
}

// snapshotSize is the size that a volume had.
func snapshotSize(img *rbd.Image, name string) (int64, error) {
	all, err := img.GetSnapshotNames()
	if err != nil {
		return 0, err //nolint:wrapcheck // withImage does
	}
	i := slices.IndexFunc(all, func(i rbd.SnapInfo) bool { return i.Name == name })
	if i < 0 {
		return 0, rbd.ErrNotFound
	}
	return int64(all[i].Size), nil
}

// DeleteSnapshot removes a snapshot. While volumes made from it rest on it the RBD snapshot stays, unlisted.
func (s *Session) DeleteSnapshot(id string) error {
	r, err := s.snapshotRecord(id)
	if fault.Is(err, metav1.Reason_REASON_SNAPSHOT_NOT_FOUND) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.alive(); err != nil {
		return err
	}
	err = s.x.update(s.ctx, []string{keyVolume + r.VolumeID}, func(found entries) (entries, error) {
		change := entries{keySnapshot + id: nil, keyHidden + r.Image + "/" + snapshotName(id): encode(hiddenRecord{})}
		vol, err := decode[volumeRecord](found[keyVolume+r.VolumeID])
		if err != nil {
			return nil, err
		}
		if vol != nil {
			delete(vol.Snapshots, id)
			change[keyVolume+r.VolumeID] = encode(vol)
		}
		return change, nil
	})
	if err != nil {
		return err
	}
	_, err = s.removeHidden(r.Image, snapshotName(id))
	return err
}

// ListSnapshots returns a page of snapshots, of one volume or of all, and the token of the next one.
func (s *Session) ListSnapshots(volumeID, after string, n int) (list []*driverv1.Snapshot, next string, err error) {
	add := func(id string, r *snapshotRecord) {
		if s.ours(r.Mark) {
			list = append(list, s.snapshot(id, r))
		}
	}
	if volumeID == "" {
		next, err = pages(s, keySnapshot, after, n, add)
		return list, next, err
	}
	vol, err := s.record(volumeID)
	if fault.Is(err, metav1.Reason_REASON_VOLUME_NOT_FOUND) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	var keys []string
	for id := range vol.Snapshots {
		if id > after {
			keys = append(keys, keySnapshot+id)
		}
	}
	slices.Sort(keys)
	if n = min(n, pageLimit); len(keys) > n {
		keys = keys[:n]
		next = strings.TrimPrefix(keys[n-1], keySnapshot)
	}
	if len(keys) == 0 {
		return nil, "", nil
	}
	found, _, err := s.x.read(keys...)
	if err != nil {
		return nil, "", err
	}
	for _, k := range keys {
		r, err := decode[snapshotRecord](found[k])
		if err != nil {
			return nil, "", err
		}
		if r != nil {
			add(strings.TrimPrefix(k, keySnapshot), r)
		}
	}
	return list, next, nil
}

// RestoreSnapshot sets a volume back, its size too.
func (s *Session) RestoreSnapshot(id, volumeID string) (*driverv1.Volume, error) {
	r, err := s.snapshotRecord(id)
	if err != nil {
		return nil, err
	}
	vol, err := s.record(volumeID)
	if err != nil {
		return nil, err
	}
	if r.VolumeID != volumeID {
		return nil, fault.Invalid(fault.Violation{Field: "volume_id", Description: "the snapshot was taken of volume " + r.VolumeID})
	}
	for node := range vol.Attachments {
		return nil, fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is attached to node %s", volumeID, node).WithRemedy("detach it first").WithMetadata("node", node)
	}
	if err := s.wantUnwatched(volumeID, vol.Image); err != nil {
		return nil, err
	}
	if err := s.alive(); err != nil {
		return nil, err
	}
	size := max(vol.SizeBytes, r.SizeBytes)
	err = s.withImage(vol.Image, func(img *rbd.Image) error {
		if err := img.GetSnapshot(snapshotName(id)).Rollback(); err != nil {
			return err
		}
		if size == r.SizeBytes {
			return nil
		}
		return img.Resize(uint64(size)) //nolint:gosec // a rollback takes the snapshot's size too, and a volume that has grown since keeps its own
	})
	if err != nil {
		return nil, err
	}
	vol, err = s.changeVolume(volumeID, func(v *volumeRecord) error {
		v.SizeBytes, v.Depth = size, max(v.Depth, r.Depth)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.volume(volumeID, vol), nil
}

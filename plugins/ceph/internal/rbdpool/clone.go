package rbdpool

import (
	"syscall"

	"github.com/ceph/go-ceph/rbd"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// origin is what a volume is cloned from.
type origin struct {
	image    string // RBD image
	snapshot string // of it; empty = one is taken for this clone alone
	size     int64
	depth    int
}

// cloneVolume makes a volume from an image copy, a snapshot or another volume.
func (s *Session) cloneVolume(req *driverv1.CreateVolumeRequest, rec volumeRecord) (*driverv1.Volume, error) {
	found, _, err := s.x.read(keyVolume + req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if v, err := s.existing(req.GetVolumeId(), rec, found[keyVolume+req.GetVolumeId()]); v != nil || err != nil {
		return v, err // whatever became of the source since
	}
	from, err := s.origin(req.GetSource())
	if err != nil {
		return nil, err
	}
	if rec.AskedBytes != 0 && rec.AskedBytes < from.size {
		return nil, fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "the source has %d bytes, more than the %d asked for", from.size, rec.AskedBytes)
	}
	intend := func(image string) entries {
		if from.snapshot != "" {
			return nil
		}
		return entries{keyHidden + from.image + "/" + cloneName(image): encode(hiddenRecord{Intent: s.intentKey(image)})}
	}
	return s.makeVolume(req.GetVolumeId(), rec, intend, func(image string, rec *volumeRecord) (entries, error) {
		snapshot := from.snapshot
		if snapshot == "" {
			snapshot = cloneName(image)
		}
		if err := s.prepareParent(from, snapshot); err != nil {
			return nil, err
		}
		if err := s.alive(); err != nil {
			return nil, err
		}
		rec.SizeBytes, rec.Depth = max(rec.AskedBytes, from.size), from.depth+1
		flatten := rec.Depth > maxDepth
		if flatten {
			rec.Depth = 0
		}
		if err := s.cloneImage(from.image, snapshot, image, rec.SizeBytes, flatten); err != nil {
			return nil, err
		}
		if from.snapshot == "" { // nothing is about to clone it any more
			return entries{keyHidden + from.image + "/" + snapshot: encode(hiddenRecord{})}, nil
		}
		return nil, nil
	})
}

// prepareParent makes the protected snapshot that is cloned.
func (s *Session) prepareParent(from origin, snapshot string) error {
	if snapshot == imageSnapshot {
		return nil
	}
	return s.withImage(from.image, func(img *rbd.Image) error {
		if from.snapshot == "" {
			if _, err := img.CreateSnapshot(snapshot); err != nil && !is(err, syscall.EEXIST) {
				return err //nolint:wrapcheck // withImage does
			}
		}
		return protect(img, snapshot)
	})
}

// origin finds what a volume is to be cloned from.
func (s *Session) origin(src *driverv1.VolumeSource) (origin, error) {
	switch src := src.GetSource().(type) {
	case *driverv1.VolumeSource_ImageId:
		r, err := s.imageRecord(src.ImageId)
		if err != nil {
			return origin{}, err
		}
		return origin{r.Image, imageSnapshot, r.VirtualBytes, 0}, nil
	case *driverv1.VolumeSource_SnapshotId:
		r, err := s.snapshotRecord(src.SnapshotId)
		if err != nil {
			return origin{}, err
		}
		return origin{r.Image, snapshotName(src.SnapshotId), r.SizeBytes, r.Depth}, nil
	case *driverv1.VolumeSource_VolumeId:
		r, err := s.record(src.VolumeId)
		if err != nil {
			return origin{}, err
		}
		for node := range r.Attachments {
			return origin{}, fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is attached to node %s", src.VolumeId, node).
				WithRemedy("detach it, or take a snapshot and clone that").WithMetadata("node", node)
		}
		return origin{r.Image, "", r.SizeBytes, r.Depth}, nil
	}
	return origin{}, fault.Invalid(fault.Violation{Field: "source", Description: "names nothing"})
}

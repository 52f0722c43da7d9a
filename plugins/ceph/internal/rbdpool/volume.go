package rbdpool

import (
	"errors"

	"github.com/ceph/go-ceph/rbd"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// maxDepth is how many RBD images a volume may rest on: a read of what nobody wrote looks at each of them. What would be deeper is flattened when it is made.
const maxDepth = 6

// checkVolume reads the spec of a creation.
func (p *Pool) checkVolume(req *driverv1.CreateVolumeRequest) (volumeRecord, error) {
	rec := volumeRecord{Mark: recordOf(req.GetMark()), Source: sourceName(req.GetSource())}
	if err := CheckID("volume_id", req.GetVolumeId()); err != nil {
		return rec, err
	}
	if err := p.checkMark(req.GetVolumeId(), req.GetMark()); err != nil {
		return rec, err
	}
	if f := req.GetFormat(); f != driverv1.VolumeFormat_VOLUME_FORMAT_UNSPECIFIED && f != driverv1.VolumeFormat_VOLUME_FORMAT_RAW {
		return rec, fault.Invalid(fault.Violation{Field: "format", Description: "must be RAW or unset: Ceph's volumes have no other"})
	}
	if req.GetSizeBytes() != 0 || rec.Source == "" {
		if err := checkSize(req.GetSizeBytes()); err != nil {
			return rec, err
		}
	}
	rec.AskedBytes = roundUp(req.GetSizeBytes())
	return rec, nil
}

// existing answers a repeated creation; nil, nil = there is none.
func (s *Session) existing(id string, want volumeRecord, found []byte) (*driverv1.Volume, error) {
	r, err := decode[volumeRecord](found)
	if err != nil || r == nil {
		return nil, err
	}
	if err := s.checkOurs("volume", id, r.Mark); err != nil {
		return nil, err
	}
	if r.AskedBytes != want.AskedBytes || r.Source != want.Source {
		return nil, fault.New(metav1.Reason_REASON_SPEC_CONFLICT, "volume %s exists, made with %d bytes from %q, and is asked for with %d bytes from %q",
			id, r.AskedBytes, r.Source, want.AskedBytes, want.Source)
	}
	return s.volume(id, r), nil
}

// CreateVolume makes a volume.
func (s *Session) CreateVolume(req *driverv1.CreateVolumeRequest) (*driverv1.Volume, error) {
	rec, err := s.checkVolume(req)
	if err != nil {
		return nil, err
	}
	if rec.Source == "" {
		return s.makeVolume(req.GetVolumeId(), rec, nil, func(image string, rec *volumeRecord) (entries, error) {
			rec.SizeBytes = rec.AskedBytes
			return nil, s.createImage(image, rec.SizeBytes)
		})
	}
	return s.cloneVolume(req, rec)
}

// makeVolume makes a volume's RBD image by fill, unless the volume is there already.
func (s *Session) makeVolume(id string, rec volumeRecord, intend func(image string) entries, fill func(image string, rec *volumeRecord) (entries, error)) (*driverv1.Volume, error) {
	key := keyVolume + id
	found, _, err := s.x.read(key)
	if err != nil {
		return nil, err
	}
	if v, err := s.existing(id, rec, found[key]); v != nil || err != nil {
		return v, err
	}
	err = s.build("volume", id, key, intend, func(image string) (made, error) {
		rec.Image = image
		also, err := fill(image, &rec)
		return made{rec, also}, err
	})
	if errors.Is(err, errLost) {
		if found, _, err = s.x.read(key); err != nil {
			return nil, err
		}
		v, err := s.existing(id, rec, found[key])
		if v == nil && err == nil {
			err = fault.New(metav1.Reason_REASON_BUSY, "volume %s is being made and deleted elsewhere", id).WithRemedy("retry soon")
		}
		return v, err
	}
	if err != nil {
		return nil, err
	}
	return s.volume(id, &rec), nil
}

// record finds a volume of ours.
func (s *Session) record(id string) (*volumeRecord, error) {
	if err := CheckID("volume_id", id); err != nil {
		return nil, err
	}
	found, _, err := s.x.read(keyVolume + id)
	if err != nil {
		return nil, err
	}
	return s.volumeIn(found, id)
}

func (p *Pool) volumeIn(found entries, id string) (*volumeRecord, error) {
	r, err := decode[volumeRecord](found[keyVolume+id])
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, fault.New(metav1.Reason_REASON_VOLUME_NOT_FOUND, "pool %s has no volume %s", p.id, id)
	}
	return r, p.checkOurs("volume", id, r.Mark)
}

// changeVolume changes a volume's record.
func (s *Session) changeVolume(id string, change func(*volumeRecord) error) (*volumeRecord, error) {
	if err := CheckID("volume_id", id); err != nil {
		return nil, err
	}
	var now *volumeRecord
	err := s.x.update(s.ctx, []string{keyVolume + id}, func(found entries) (entries, error) {
		r, err := s.volumeIn(found, id)
		if err == nil {
			err = change(r)
		}
		if err != nil {
			return nil, err
		}
		now = r
		return entries{keyVolume + id: encode(r)}, nil
	})
	return now, err
}

// GetVolume reads a volume.
func (s *Session) GetVolume(id string) (*driverv1.Volume, error) {
	r, err := s.record(id)
	if err != nil {
		return nil, err
	}
	return s.volume(id, r), nil
}

// ListVolumes returns a page of volumes and the token of the next one.
func (s *Session) ListVolumes(after string, n int) (list []*driverv1.Volume, next string, err error) {
	next, err = pages(s, keyVolume, after, n, func(id string, r *volumeRecord) {
		if s.ours(r.Mark) {
			list = append(list, s.volume(id, r))
		}
	})
	return list, next, err
}

// pages reads one page of records; the token is the last id.
func pages[R any](s *Session, prefix, after string, n int, each func(string, *R)) (next string, err error) {
	if after != "" && !uuid.MatchString(after) {
		return "", fault.New(metav1.Reason_REASON_BAD_PAGE_TOKEN, "%q is not a page token of this list", after)
	}
	found, more, err := s.x.page(prefix, after, n)
	if err != nil {
		return "", err
	}
	for _, e := range found {
		r, err := decode[R](e.value)
		if err != nil {
			return "", err
		}
		each(e.key, r)
	}
	if more {
		next = found[len(found)-1].key
	}
	return next, nil
}

// DeleteVolume removes a volume. While clones rest on it its RBD image stays, unlisted; what was in it is in no later volume either way.
func (s *Session) DeleteVolume(id string) error {
	if err := CheckID("volume_id", id); err != nil {
		return err
	}
	r, err := s.record(id)
	if fault.Is(err, metav1.Reason_REASON_VOLUME_NOT_FOUND) {
		return s.finishRemoval("volume", id)
	}
	if err != nil {
		return err
	}
	if err := removable(id, r); err != nil {
		return err
	}
	if err := s.wantUnwatched(id, r.Image); err != nil && !is(err, 2) { // ENOENT: the RBD image is gone already
		return err
	}
	if err := s.alive(); err != nil {
		return err
	}
	err = s.x.update(s.ctx, []string{keyVolume + id}, func(found entries) (entries, error) {
		r, err := s.volumeIn(found, id)
		if err == nil {
			err = removable(id, r)
		}
		if err != nil {
			return nil, err
		}
		return entries{keyVolume + id: nil, keyRemove + r.Image: {}}, nil
	})
	if err != nil {
		return err
	}
	_, err = s.removeImage(r.Image)
	return err
}

// removable refuses a volume that is used.
func removable(id string, r *volumeRecord) error {
	for node := range r.Attachments {
		return fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is attached to node %s", id, node).WithRemedy("detach it first").WithMetadata("node", node)
	}
	for snap := range r.Snapshots {
		return fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s has snapshot %s", id, snap).WithRemedy("delete its snapshots first")
	}
	return nil
}

// finishRemoval removes what an earlier call that was cut short left of an object.
func (s *Session) finishRemoval(kind, id string) error {
	prefix := keyRemove + "lq-" + kind + "-" + id + "."
	left, err := s.x.all(prefix)
	for _, e := range left {
		if _, err := s.removeImage(prefix[len(keyRemove):] + e.key); err != nil {
			return err
		}
	}
	return err
}

// ResizeVolume grows a volume, also one that a guest has open: RBD hands the change to whoever holds the image.
func (s *Session) ResizeVolume(id string, size int64) (*driverv1.Volume, error) {
	r, err := s.record(id)
	if err != nil {
		return nil, err
	}
	if err := checkSize(size); err != nil {
		return nil, err
	}
	size = roundUp(size)
	if size < r.SizeBytes {
		return nil, fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "volume %s has %d bytes and cannot shrink to %d", id, r.SizeBytes, size)
	}
	if size > r.SizeBytes {
		if err := s.alive(); err != nil {
			return nil, err
		}
		err := s.withImage(r.Image, func(img *rbd.Image) error {
			have, err := img.GetSize()
			if err == nil && int64(have) < size {
				err = img.Resize(uint64(size))
			}
			return err //nolint:wrapcheck // withImage does
		})
		if err != nil {
			return nil, err
		}
		if r, err = s.changeVolume(id, func(r *volumeRecord) error {
			r.SizeBytes = max(r.SizeBytes, size)
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return s.volume(id, r), nil
}

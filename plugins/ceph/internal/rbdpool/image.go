package rbdpool

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"strings"

	"github.com/ceph/go-ceph/rbd"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// imageRecord finds an image copy of ours.
func (s *Session) imageRecord(id string) (*imageRecord, error) {
	if err := CheckID("image_id", id); err != nil {
		return nil, err
	}
	found, _, err := s.x.read(keyImage + id)
	if err != nil {
		return nil, err
	}
	r, err := decode[imageRecord](found[keyImage+id])
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, fault.New(metav1.Reason_REASON_IMAGE_NOT_FOUND, "pool %s has no image %s", s.id, id)
	}
	return r, s.checkOurs("image", id, r.Mark)
}

// checkImage reads the header of an import.
func (p *Pool) checkImage(h *driverv1.ImportImageHeader) error {
	if err := CheckID("image_id", h.GetImageId()); err != nil {
		return err
	}
	if err := p.checkMark(h.GetImageId(), h.GetMark()); err != nil {
		return err
	}
	var bad []fault.Violation
	if f := h.GetFormat(); f != driverv1.VolumeFormat_VOLUME_FORMAT_RAW && f != driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2 {
		bad = append(bad, fault.Violation{Field: "format", Description: "must be RAW or QCOW2"})
	}
	if b, err := hex.DecodeString(h.GetSha256()); h.GetSha256() != "" && (err != nil || len(b) != sha256.Size || strings.ToLower(h.GetSha256()) != h.GetSha256()) {
		bad = append(bad, fault.Violation{Field: "sha256", Description: "must be 64 hex digits in lower case, or empty"})
	}
	if bad != nil {
		return fault.Invalid(bad...)
	}
	if n := h.GetContentBytes(); n != 0 {
		return checkSize(n)
	}
	return nil
}

// ImportImage stores content as an image copy. It exists when all of it is written and checked; content that is refused leaves nothing.
func (s *Session) ImportImage(h *driverv1.ImportImageHeader, content io.Reader) (*driverv1.Image, error) {
	if err := s.checkImage(h); err != nil {
		return nil, err
	}
	if done, err := s.imported(h); done != nil || err != nil {
		return done, err
	}
	id := h.GetImageId()
	rec := imageRecord{Mark: recordOf(h.GetMark()), Format: strings.TrimPrefix(h.GetFormat().String(), "VOLUME_FORMAT_")}
	c := &checked{r: content, limit: MaxBytes, header: h}
	var raw rawSource = c
	if h.GetFormat() == driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2 {
		file, err := s.spoolQcow2(c, id) // before anything is made in the pool
		if err != nil {
			return nil, err
		}
		defer file.remove()
		raw = file
	}
	err := s.build("image", id, keyImage+id, nil, func(image string) (made, error) {
		rec.Image = image
		size, err := s.fillImage(image, raw)
		if err != nil {
			return made{}, err
		}
		rec.VirtualBytes, rec.ContentBytes, rec.SHA256 = size, c.taken, c.sumHex()
		return made{record: rec}, nil
	})
	if errors.Is(err, errLost) {
		if done, err := s.imported(h); done != nil || err != nil {
			return done, err
		}
		err = fault.New(metav1.Reason_REASON_BUSY, "image %s is being imported and deleted elsewhere", id).WithRemedy("retry soon")
	}
	if err != nil {
		return nil, err
	}
	return s.image(id, &rec), nil
}

// imported answers a repeated import; nil, nil = there is no such image yet.
func (s *Session) imported(h *driverv1.ImportImageHeader) (*driverv1.Image, error) {
	r, err := s.imageRecord(h.GetImageId())
	if fault.Is(err, metav1.Reason_REASON_IMAGE_NOT_FOUND) {
		return nil, nil //nolint:nilnil // absent
	}
	if err != nil {
		return nil, err
	}
	img := s.image(h.GetImageId(), r)
	if h.GetSha256() != "" && h.GetSha256() != r.SHA256 || h.GetFormat() != img.GetFormat() {
		return nil, fault.New(metav1.Reason_REASON_SPEC_CONFLICT, "image %s exists, as %s with SHA-256 %s", h.GetImageId(), r.Format, r.SHA256)
	}
	return img, nil
}

// rawSource is the content of an image as a guest sees it.
type rawSource interface {
	// sizeHint is the size if it is known beforehand, else 0.
	sizeHint() int64
	// copyTo writes all of it, checks it, and returns its size.
	copyTo(w *writer) (int64, error)
}

// fillImage makes the RBD image with its snapshot, and returns its size.
func (s *Session) fillImage(image string, raw rawSource) (size int64, err error) {
	first := roundUp(raw.sizeHint())
	if err := s.createImage(image, max(first, Granularity)); err != nil {
		return 0, err
	}
	return size, s.withImage(image, func(img *rbd.Image) error {
		w := newWriter(img, max(first, Granularity), MaxBytes)
		n, err := raw.copyTo(w)
		if err != nil {
			w.abandon()
			return err
		}
		size = roundUp(n)
		if err := w.finish(size); err != nil {
			return err
		}
		if err := s.alive(); err != nil {
			return err
		}
		if _, err := img.CreateSnapshot(imageSnapshot); err != nil {
			return err //nolint:wrapcheck // withImage does
		}
		return protect(img, imageSnapshot)
	})
}

// GetImage reads an image copy.
func (s *Session) GetImage(id string) (*driverv1.Image, error) {
	r, err := s.imageRecord(id)
	if err != nil {
		return nil, err
	}
	return s.image(id, r), nil
}

// ListImages returns a page of image copies and the token of the next one.
func (s *Session) ListImages(after string, n int) (list []*driverv1.Image, next string, err error) {
	next, err = pages(s, keyImage, after, n, func(id string, r *imageRecord) {
		if s.ours(r.Mark) {
			list = append(list, s.image(id, r))
		}
	})
	return list, next, err
}

// DeleteImage removes an image copy that no volume rests on.
func (s *Session) DeleteImage(id string) error {
	r, err := s.imageRecord(id)
	if fault.Is(err, metav1.Reason_REASON_IMAGE_NOT_FOUND) {
		return s.finishRemoval("image", id)
	}
	if err != nil {
		return err
	}
	if err := s.alive(); err != nil {
		return err
	}
	// Unprotecting is what tells: from then on nothing can be cloned from it, and it fails while something is.
	err = s.withImage(r.Image, func(img *rbd.Image) error {
		gone, err := removeSnapshot(img, imageSnapshot)
		if err == nil && !gone {
			if err = s.clearLeftovers(id, r.Image); err == nil {
				gone, err = removeSnapshot(img, imageSnapshot)
			}
		}
		if err == nil && !gone {
			err = imageInUse(id)
		}
		return err
	})
	if err != nil && !is(err, 2) { // ENOENT: an earlier call got that far
		return err
	}
	if err := s.x.put(entries{keyImage + id: nil, keyRemove + r.Image: {}}); err != nil {
		return err
	}
	_, err = s.removeImage(r.Image)
	return err
}

func imageInUse(id string) error {
	return fault.New(metav1.Reason_REASON_IMAGE_IN_USE, "volumes rest on image %s", id).WithRemedy("delete the volumes made from it first")
}

// clearLeftovers removes what rests on an image copy and is no volume any more. It refuses with IMAGE_IN_USE while a volume does, and with BUSY while a leftover is still open somewhere.
func (s *Session) clearLeftovers(id, image string) error {
	var children []string
	err := s.withReadOnly(image, imageSnapshot, func(img *rbd.Image) (err error) {
		_, children, err = img.ListChildren()
		return err //nolint:wrapcheck // withReadOnly does
	})
	if err != nil {
		return err
	}
	for _, c := range children {
		found, _, err := s.x.read(keyRemove + c)
		if err != nil {
			return err
		}
		if found[keyRemove+c] == nil {
			return imageInUse(id)
		}
	}
	for _, c := range children {
		if _, _, clear, err := s.emptied(c); err != nil {
			return err
		} else if !clear { // a volume rests on the leftover
			return imageInUse(id)
		}
		gone, err := s.removeImage(c)
		if err != nil {
			return err
		}
		if !gone {
			return fault.New(metav1.Reason_REASON_BUSY, "RBD image %s, left of a deleted volume, rests on image %s and is open still", c, id).
				WithRemedy("retry soon: of a client that died the cluster forgets it within half a minute")
		}
	}
	return nil
}

// AttachImage says where the hypervisor finds an image copy.
func (s *Session) AttachImage(id string) (*driverv1.DiskSource, error) {
	r, err := s.imageRecord(id)
	if err != nil {
		return nil, err
	}
	return s.source(r.Image), nil
}

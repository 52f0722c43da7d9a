package rbdpool

import (
	"crypto/rand"
	"encoding/hex"
	"slices"
	"strings"
	"syscall"

	"github.com/ceph/go-ceph/rbd"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// features of our RBD images: what cloning needs, and maps of objects, so that removal and export look only at what is there.
const features = rbd.FeatureLayering | rbd.FeatureExclusiveLock | rbd.FeatureObjectMap | rbd.FeatureFastDiff | rbd.FeatureDeepFlatten

func imageOptions() (*rbd.ImageOptions, error) {
	o := rbd.NewRbdImageOptions()
	if err := o.SetUint64(rbd.ImageOptionFeatures, features); err != nil {
		o.Destroy()
		return nil, backend(err, "prepare an RBD image")
	}
	return o, nil
}

// newName is a name for an RBD image that was never used before.
func newName(kind, id string) string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return "lq-" + kind + "-" + id + "." + hex.EncodeToString(b[:])
}

func (s *Session) createImage(name string, size int64) error {
	o, err := imageOptions()
	if err != nil {
		return err
	}
	defer o.Destroy()
	return backend(rbd.CreateImage(s.conn.io, name, uint64(size), o), "create RBD image %s", name)
}

// cloneImage makes an RBD image that rests on a protected snapshot, of at least size bytes.
func (s *Session) cloneImage(parent, snapshot, name string, size int64, flatten bool) error {
	o, err := imageOptions()
	if err != nil {
		return err
	}
	defer o.Destroy()
	if err := rbd.CloneImage(s.conn.io, parent, snapshot, s.conn.io, name, o); err != nil {
		if is(err, syscall.ENOENT, syscall.EINVAL) { // it is going away just now
			return fault.New(metav1.Reason_REASON_BUSY, "snapshot %s of RBD image %s cannot be cloned: %w", snapshot, parent, err).WithRemedy("retry soon")
		}
		return backend(err, "clone snapshot %s of RBD image %s", snapshot, parent)
	}
	return s.withImage(name, func(img *rbd.Image) error {
		have, err := img.GetSize()
		if err == nil && int64(have) < size {
			err = img.Resize(uint64(size))
		}
		if err == nil && flatten {
			err = img.Flatten()
		}
		return err
	})
}

// withImage opens an RBD image for changes.
func (s *Session) withImage(name string, f func(*rbd.Image) error) error {
	img, err := rbd.OpenImage(s.conn.io, name, rbd.NoSnapshot)
	if err != nil {
		return backend(err, "open RBD image %s", name)
	}
	err = f(img)
	if closing := img.Close(); err == nil {
		err = closing
	}
	return backend(err, "RBD image %s", name)
}

// withReadOnly opens an RBD image, or a snapshot of it, for reading: it does not become a watcher.
func (s *Session) withReadOnly(name, snapshot string, f func(*rbd.Image) error) error {
	img, err := rbd.OpenImageReadOnly(s.conn.io, name, snapshot)
	if err != nil {
		return backend(err, "open RBD image %s", name)
	}
	err = f(img)
	if closing := img.Close(); err == nil {
		err = closing
	}
	return backend(err, "RBD image %s", name)
}

// openAt are the addresses of clients that have an RBD image open, this one's too.
func (s *Session) openAt(name string) (addrs []string, err error) {
	err = s.withReadOnly(name, rbd.NoSnapshot, func(img *rbd.Image) error {
		found, err := img.ListWatchers()
		for _, w := range found {
			addrs = append(addrs, w.Addr)
		}
		return err //nolint:wrapcheck // withReadOnly does
	})
	return addrs, err
}

// watchers are those without this client's.
func (s *Session) watchers(name string) ([]string, error) {
	addrs, err := s.openAt(name)
	return slices.DeleteFunc(addrs, func(a string) bool { return a == s.conn.addr }), err
}

// wantUnwatched refuses an RBD image that a client has open, whoever it is: that is told apart from BUSY, where a call of ours is under way.
func (s *Session) wantUnwatched(volumeID, name string) error {
	addrs, err := s.watchers(name)
	if err != nil || len(addrs) == 0 {
		return err
	}
	return watched(volumeID, name, addrs)
}

func watched(volumeID, name string, addrs []string) error {
	list := strings.Join(addrs, ", ")
	return fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "RBD image %s of volume %s is open at %s", name, volumeID, list).
		WithRemedy("end its use there; of a client that died the cluster forgets it within half a minute").WithMetadata("watchers", list)
}

// protect makes a snapshot one that can be cloned.
func protect(img *rbd.Image, snapshot string) error {
	if err := img.GetSnapshot(snapshot).Protect(); err != nil && !is(err, syscall.EBUSY) { // EBUSY: it is already
		return err //nolint:wrapcheck // withImage does
	}
	return nil
}

// removeSnapshot removes a snapshot unless something rests on it.
func removeSnapshot(img *rbd.Image, snapshot string) (gone bool, err error) {
	snap := img.GetSnapshot(snapshot)
	protected, err := snap.IsProtected()
	if err == nil && protected {
		err = snap.Unprotect()
	}
	if err == nil {
		err = snap.Remove()
	}
	switch {
	case is(err, syscall.EBUSY):
		return false, nil
	case is(err, syscall.ENOENT):
		return true, nil
	}
	return err == nil, err //nolint:wrapcheck // withImage does
}

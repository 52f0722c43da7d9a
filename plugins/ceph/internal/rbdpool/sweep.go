package rbdpool

import (
	"context"
	"log/slog"
	"strings"
	"syscall"
	"time"

	"github.com/ceph/go-ceph/rbd"
)

// Leftovers come of crashes, of clients that kept an RBD image open, and of a cluster that did not answer.
const (
	sweepInterval = 5 * time.Minute
	sweepSoon     = 35 * time.Second // after something was left: the cluster forgets a client that does not answer within 30 s
)

// sweepEvery finishes what calls left, at once, soon after a call said so, and now and then.
func (p *Pool) sweepEvery(ctx context.Context) {
	t := time.NewTicker(sweepInterval)
	defer t.Stop()
	for {
		s, end, err := p.begin(ctx, p.slots)
		if err == nil {
			if err = guarded(s.sweep); err != nil {
				p.left()
			}
			end(err)
		}
		if err != nil && ctx.Err() == nil {
			slog.Warn("sweeping leftovers", "pool", p.id, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		case <-p.again:
			select {
			case <-ctx.Done():
				return
			case <-time.After(sweepSoon):
			}
		}
	}
}

// left says that something stays which can be removed soon.
func (p *Pool) left() {
	select {
	case p.again <- struct{}{}:
	default:
	}
}

// sweep removes what intents of this node name, since the process that wrote them is gone, and then all that is noted for removal and that nothing rests on.
func (s *Session) sweep() error {
	prefix := keyIntent + s.owner.NodeID + "/"
	intents, err := s.x.all(prefix)
	if err != nil {
		return err
	}
	for _, e := range intents {
		s.mu.Lock()
		busy := s.making[e.key]
		s.mu.Unlock()
		if busy {
			continue
		}
		err := s.x.update(s.ctx, []string{prefix + e.key}, func(found entries) (entries, error) {
			if found[prefix+e.key] == nil {
				return nil, nil // committed meanwhile
			}
			return entries{prefix + e.key: nil, keyRemove + e.key: {}}, nil
		})
		if err != nil {
			return err
		}
	}
	return s.tidy()
}

// tidy removes what is noted for removal, until nothing more can be.
func (s *Session) tidy() error {
	for again := true; again; {
		again = false
		hidden, err := s.x.all(keyHidden)
		if err != nil {
			return err
		}
		for _, e := range hidden {
			if err := s.alive(); err != nil {
				return err
			}
			image, snapshot, _ := strings.Cut(e.key, "/")
			gone, err := s.removeHidden(image, snapshot)
			if err != nil {
				return err
			}
			again = again || gone
		}
		images, err := s.x.all(keyRemove)
		if err != nil {
			return err
		}
		for _, e := range images {
			if err := s.alive(); err != nil {
				return err
			}
			gone, err := s.removeImage(e.key)
			if err != nil {
				return err
			}
			again = again || gone
		}
	}
	return nil
}

// removeHidden removes an unlisted snapshot unless something rests on it or is about to.
func (s *Session) removeHidden(image, snapshot string) (gone bool, err error) {
	key := keyHidden + image + "/" + snapshot
	found, _, err := s.x.read(key)
	if err != nil {
		return false, err
	}
	r, err := decode[hiddenRecord](found[key])
	if err != nil || r == nil {
		return false, err
	}
	if r.Intent != "" {
		if found, _, err = s.x.read(r.Intent); err != nil || found[r.Intent] != nil {
			return false, err
		}
	}
	img, err := rbd.OpenImage(s.conn.io, image, rbd.NoSnapshot)
	if is(err, syscall.ENOENT) {
		return true, s.x.put(entries{key: nil})
	}
	if err != nil {
		return false, backend(err, "open RBD image %s", image)
	}
	gone, err = removeSnapshot(img, snapshot)
	if closing := img.Close(); err == nil {
		err = closing
	}
	if err != nil || !gone {
		return false, backend(err, "remove snapshot %s of RBD image %s", snapshot, image)
	}
	return true, s.x.put(entries{key: nil})
}

// removeImage removes an RBD image that is noted for removal, unless something rests on it or has it open, and then what it rested on if nobody else needs that.
func (s *Session) removeImage(image string) (gone bool, err error) {
	parent, parentSnapshot, clear, err := s.emptied(image)
	if err != nil || !clear {
		return false, err
	}
	if err := rbd.RemoveImage(s.conn.io, image); is(err, syscall.EBUSY) {
		at, err := s.openAt(image)
		slog.Warn("an RBD image that is to be removed is open", "image", image, "at", at, "error", err)
		s.left()
		return false, nil
	} else if err != nil && !is(err, syscall.ENOENT) {
		return false, backend(err, "remove RBD image %s", image)
	}
	change := entries{keyRemove + image: nil}
	hidden, err := s.x.all(keyHidden + image + "/")
	if err != nil {
		return false, err
	}
	for _, e := range hidden {
		change[keyHidden+image+"/"+e.key] = nil
	}
	if err := s.x.put(change); err != nil || parent == "" {
		return err == nil, err
	}
	if _, err := s.removeHidden(parent, parentSnapshot); err != nil {
		return true, err
	}
	found, _, err := s.x.read(keyRemove + parent)
	if err == nil && found[keyRemove+parent] != nil {
		_, err = s.removeImage(parent)
	}
	return true, err
}

// emptied removes the snapshots of an RBD image and says what it rests on; clear is false while something rests on one of them.
func (s *Session) emptied(image string) (parent, parentSnapshot string, clear bool, err error) {
	img, err := rbd.OpenImage(s.conn.io, image, rbd.NoSnapshot)
	if is(err, syscall.ENOENT) {
		return "", "", true, nil // not made yet, or removed in part: RemoveImage finishes that
	}
	if err != nil {
		return "", "", false, backend(err, "open RBD image %s", image)
	}
	clear, err = func() (bool, error) {
		snapshots, err := img.GetSnapshotNames()
		if err != nil {
			return false, err //nolint:wrapcheck // below
		}
		all := true
		for _, snap := range snapshots {
			gone, err := removeSnapshot(img, snap.Name)
			if err != nil {
				return false, err
			}
			all = all && gone
		}
		if info, err := img.GetParent(); err == nil {
			parent, parentSnapshot = info.Image.ImageName, info.Snap.SnapName
		} else if !is(err, syscall.ENOENT) {
			return false, err //nolint:wrapcheck // below
		}
		return all, nil
	}()
	if closing := img.Close(); err == nil {
		err = closing
	}
	return parent, parentSnapshot, clear, backend(err, "empty RBD image %s", image)
}

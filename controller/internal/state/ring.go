package state

import (
	"context"
	"time"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// maxRingEvents is how many changes can be resumed from.
const maxRingEvents = 16384

// Change is one change of one record. New is nil when it is gone, Old when it is new.
type Change struct {
	Revision int64
	Old, New *Row
}

// Row is the record after the change, or, when it is gone, the last one known.
func (c Change) Row() *Row {
	if c.New != nil {
		return c.New
	}
	return c.Old
}

// ring holds the latest changes in order. floor is the revision after which every change is in it.
type ring struct {
	changes []Change
	first   int64 // sequence number of changes[0]
	floor   int64
}

func (r *ring) add(cs []Change) {
	r.changes = append(r.changes, cs...)
	excess := len(r.changes) - maxRingEvents
	if excess < maxRingEvents/4 { // cut in lumps
		return
	}
	for excess < len(r.changes) && r.changes[excess].Revision == r.changes[excess-1].Revision {
		excess++ // never cut a revision in two
	}
	r.floor = r.changes[excess-1].Revision
	r.first += int64(excess)
	r.changes = append([]Change(nil), r.changes[excess:]...)
}

// reset forgets everything up to revision.
func (r *ring) reset(revision int64) {
	r.first += int64(len(r.changes)) + 1 // no cursor of before is valid
	r.changes = nil
	r.floor = revision
}

// Subscription follows changes. It is for one goroutine.
type Subscription struct {
	cache *Cache
	next  int64 // sequence number
	rev   int64
}

// Subscribe follows the changes after revision. Too old, or of the future: REVISION_COMPACTED.
func (c *Cache) Subscribe(revision int64) (*Subscription, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if revision < c.ring.floor || revision > c.revision {
		return nil, compacted(revision, c.ring.floor)
	}
	i := len(c.ring.changes)
	for i > 0 && c.ring.changes[i-1].Revision > revision {
		i--
	}
	return &Subscription{cache: c, next: c.ring.first + int64(i), rev: revision}, nil
}

// resumeWait is how far this controller may be behind the one that a client came from.
const resumeWait = 5 * time.Second

// Resume is Subscribe for who got the revision from another controller, which may have known it earlier: it waits a while until it is known here too.
func (c *Cache) Resume(ctx context.Context, revision int64) (*Subscription, error) {
	wait, cancel := context.WithTimeout(ctx, resumeWait)
	defer cancel()
	_ = c.Wait(wait, revision) // one that does not come is of the future, and refused as such
	return c.Subscribe(revision)
}

// Next waits for changes, and returns all there are with the revision up to which that is all. The changes are shared: do not change the slice.
// Fallen too far behind: REVISION_COMPACTED, for ever.
func (s *Subscription) Next(ctx context.Context) ([]Change, int64, error) {
	for {
		changes, rev, wait, err := s.poll()
		if err != nil || len(changes) > 0 {
			return changes, rev, err
		}
		select {
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		case <-wait:
		}
	}
}

func (s *Subscription) poll() ([]Change, int64, <-chan struct{}, error) {
	c := s.cache
	c.mu.RLock()
	defer c.mu.RUnlock()
	if s.next < c.ring.first {
		return nil, 0, nil, compacted(s.rev, c.ring.floor)
	}
	out := c.ring.changes[s.next-c.ring.first:]
	s.next += int64(len(out))
	s.rev = c.revision
	return out[:len(out):len(out)], c.revision, c.changed, nil
}

func compacted(revision, floor int64) error {
	return fault.New(metav1.Reason_REASON_REVISION_COMPACTED, "revision %d cannot be watched from: history begins after %d", revision, floor).
		WithRemedy("list again, and watch from the revision of that list")
}

// Revision is the revision up to which Next has returned everything.
func (s *Subscription) Revision() int64 { return s.rev }

// TryNext is Next without waiting: it may return nothing.
func (s *Subscription) TryNext() ([]Change, error) {
	changes, _, _, err := s.poll()
	return changes, err
}

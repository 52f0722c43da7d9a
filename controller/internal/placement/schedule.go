package placement

import (
	"context"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/scheduler"
	"github.com/limiquantix/limiquantix/controller/internal/state"
)

const (
	// roundSize is how many VMs are worked on at once.
	roundSize = 256
	// noteDelay is how long a VM waits before "nothing fits" is written down: most that wait are placed before.
	noteDelay = 500 * time.Millisecond
	// noteEvery is how often a changed reason is written down again.
	noteEvery = 30 * time.Second
)

// queue holds the VMs that need something of the scheduler.
type queue struct {
	ready  []string            // to be tried, oldest first
	queued map[string]struct{} // those in ready
	parked map[string]struct{} // nothing fits until something changes
	notes  map[string]string   // reasons not yet written down
	noted  map[string]time.Time
	due    time.Time // of the notes; zero = none
}

func newQueue() *queue {
	return &queue{queued: map[string]struct{}{}, parked: map[string]struct{}{}, notes: map[string]string{}, noted: map[string]time.Time{}}
}

func (q *queue) push(id string) {
	delete(q.parked, id)
	if _, in := q.queued[id]; !in {
		q.queued[id] = struct{}{}
		q.ready = append(q.ready, id)
	}
}

func (q *queue) take(n int) []string {
	n = min(n, len(q.ready))
	ids := q.ready[:n:n]
	q.ready = q.ready[n:]
	for _, id := range ids {
		delete(q.queued, id)
	}
	return ids
}

func (q *queue) forget(id string) {
	delete(q.parked, id)
	delete(q.notes, id)
	delete(q.noted, id)
}

// wake tries all that are parked again, the oldest first: ids sort by creation.
func (q *queue) wake() {
	for _, id := range slices.Sorted(maps.Keys(q.parked)) {
		q.push(id)
	}
}

// schedule places VMs and adjusts claims. It rests while nothing changes.
func (w *worker) schedule(ctx context.Context) error {
	q := newQueue()
	sub, err := w.Cache.Subscribe(w.Cache.Revision())
	if err != nil {
		return err
	}
	for _, row := range w.Cache.Find(state.Query{Kind: state.KindVM}).Rows {
		if unplaced(row) || len(row.Nodes) > 0 && claimOff(row.VM()) {
			q.push(row.ID)
		}
	}
	for {
		for len(q.ready) > 0 {
			if err := w.round(ctx, q); err != nil {
				return err
			}
			changes, err := sub.TryNext()
			if err != nil {
				return err
			}
			w.sort(q, changes)
		}
		changes, err := w.await(ctx, q, sub)
		if err != nil {
			return err
		}
		w.sort(q, changes)
	}
}

// await waits for changes, or until notes are due and written.
func (w *worker) await(ctx context.Context, q *queue, sub *state.Subscription) ([]state.Change, error) {
	if q.due.IsZero() {
		changes, _, err := sub.Next(ctx)
		return changes, err
	}
	wait, cancel := context.WithDeadline(ctx, q.due)
	defer cancel()
	changes, _, err := sub.Next(wait)
	if wait.Err() == nil || ctx.Err() != nil {
		return changes, err
	}
	return changes, w.writeNotes(ctx, q) // changes may have come at the last moment, and come but once
}

// sort puts what changed where it belongs.
func (w *worker) sort(q *queue, changes []state.Change) {
	room := false
	for _, c := range changes {
		switch row := c.Row(); row.Kind {
		case state.KindVM:
			switch {
			case c.New == nil || c.New.Deleting:
				q.forget(row.ID)
				room = room || len(row.Nodes) > 0 // it may have kept others away, or have been waited for
			case unplaced(c.New):
				if _, parked := q.parked[row.ID]; !parked || !sameWish(c) {
					q.push(row.ID)
				}
			case len(c.New.Nodes) > 0 && claimOff(c.New.VM()):
				if _, parked := q.parked[row.ID]; !parked || !sameWish(c) {
					q.push(row.ID)
				}
			default:
				room = room || c.Old != nil && len(c.Old.Nodes) == 0 && w.drawsOthers(q)
				q.forget(row.ID)
			}
			if c.Old != nil && c.New != nil && len(c.New.Nodes) > 0 && (!maps.Equal(c.Old.Labels, c.New.Labels) || len(q.parked) > 0 && otherPorts(c)) {
				room = true // others may be drawn to it, or kept away no longer
			}
		case state.KindNode:
			room = room || makesRoom(c)
		case state.KindPool, state.KindImage:
			room = true
		case state.KindNetwork: // its status does not matter
			room = room || c.New != nil && c.Old.Network().GetNetwork().GetMeta().GetGeneration() != c.New.Network().GetNetwork().GetMeta().GetGeneration()
		}
	}
	if room {
		q.wake()
	}
}

// sameWish reports whether nothing changed that placement goes by: a note of ours, or a status.
func sameWish(c state.Change) bool {
	if c.Old == nil {
		return false
	}
	return c.Old.VM().GetVm().GetMeta().GetGeneration() == c.New.VM().GetVm().GetMeta().GetGeneration() && maps.Equal(c.Old.Labels, c.New.Labels)
}

// otherPorts reports whether a VM takes other ports of its node than before.
func otherPorts(c state.Change) bool {
	return !slices.Equal(scheduler.HostPorts(c.Old.VM().GetVm().GetSpec()), scheduler.HostPorts(c.New.VM().GetVm().GetSpec()))
}

// drawsOthers reports whether a parked VM may want to be where another has just come.
func (w *worker) drawsOthers(q *queue) bool {
	for id := range q.parked {
		if len(w.Cache.Row(state.KindVM, id).VM().GetVm().GetSpec().GetPlacement().GetAffinity()) > 0 {
			return true
		}
	}
	return false
}

// makesRoom reports whether something may fit now that did not before: anything about a node but growing claims.
func makesRoom(c state.Change) bool {
	if c.Old == nil || c.New == nil {
		return true
	}
	was, is := c.Old.Node(), c.New.Node()
	if is.GetClaimedMemoryBytes() < was.GetClaimedMemoryBytes() || is.GetClaimedVcpus() < was.GetClaimedVcpus() {
		return true
	}
	was.ClaimedMemoryBytes, was.ClaimedVcpus = is.GetClaimedMemoryBytes(), is.GetClaimedVcpus()
	return !proto.Equal(was, is)
}

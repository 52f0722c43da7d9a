package sdk

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// EventsKept is how many events an EventLog keeps for resumption.
const EventsKept = 1024

// EventLog keeps the latest events and replays them to watchers. A watcher that is too slow, or comes back with a cursor of another process or of an event that
// is gone, gets a resync. All methods may be called at once; Publish never blocks.
type EventLog struct {
	life string // another for each process: cursors of an earlier one are unknown
	keep int

	mu      sync.Mutex
	events  []*driverv1.WatchEventsResponse // the last keep events, the last one has number last
	last    uint64
	changed chan struct{} // closed and replaced at each event
}

// NewEventLog makes a log that keeps the last keep events; 0 = EventsKept.
func NewEventLog(keep int) *EventLog {
	if keep <= 0 {
		keep = EventsKept
	}
	return &EventLog{life: rand.Text()[:10], keep: keep, changed: make(chan struct{})}
}

// Publish gives the event a cursor, and a time unless it has one, and hands it to all watchers. The event must not be changed afterwards.
func (l *EventLog) Publish(e *driverv1.WatchEventsResponse) {
	e = proto.CloneOf(e)
	if e.GetEventTime() == nil {
		e.EventTime = timestamppb.Now()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	e.Cursor = l.cursor(l.last)
	l.events = append(l.events, e)
	if len(l.events) > l.keep {
		l.events = append(l.events[:0:0], l.events[len(l.events)-l.keep:]...)
	}
	l.wake()
}

// Domain publishes a domain's event.
func (l *EventLog) Domain(id string, typ driverv1.DomainEventType, state driverv1.DomainState, detail string) {
	l.Publish(&driverv1.WatchEventsResponse{Event: &driverv1.WatchEventsResponse_Domain{
		Domain: &driverv1.DomainEvent{DomainId: id, Type: typ, State: state, Detail: detail},
	}})
}

// Pool publishes that a pool's health or capacity changed.
func (l *EventLog) Pool(id string) {
	l.Publish(&driverv1.WatchEventsResponse{Event: &driverv1.WatchEventsResponse_Pool{Pool: &driverv1.PoolEvent{PoolId: id}}})
}

// NetworkDrift publishes that somebody else changed a network object of ours.
func (l *EventLog) NetworkDrift(objectID, detail string) {
	l.Publish(&driverv1.WatchEventsResponse{Event: &driverv1.WatchEventsResponse_NetworkDrift{
		NetworkDrift: &driverv1.NetworkDriftEvent{ObjectId: objectID, Detail: detail},
	}})
}

// Resync tells all watchers that events may have been missed, for example because the backend restarted. Events before it are forgotten.
func (l *EventLog) Resync() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++ // no cursor given so far is after this
	l.events = nil
	l.wake()
}

// Watch sends events after cursor (empty: from now on) until ctx ends or send fails.
func (l *EventLog) Watch(ctx context.Context, cursor string, send func(*driverv1.WatchEventsResponse) error) error {
	l.mu.Lock()
	next, known := l.last+1, true
	if cursor != "" {
		next, known = l.after(cursor)
	}
	l.mu.Unlock()
	for {
		l.mu.Lock()
		oldest := l.last + 1 - uint64(len(l.events))
		var batch []*driverv1.WatchEventsResponse
		if !known || next < oldest {
			batch = append(batch, &driverv1.WatchEventsResponse{Cursor: l.cursor(l.last), Resync: true, EventTime: timestamppb.Now()})
		} else {
			batch = append(batch, l.events[next-oldest:]...)
		}
		known, next = true, l.last+1
		changed := l.changed
		l.mu.Unlock()
		for _, e := range batch {
			if err := send(e); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// after is the number of the first event after a cursor; false when the cursor is not of this process. Needs mu.
func (l *EventLog) after(cursor string) (uint64, bool) {
	life, num, ok := strings.Cut(cursor, ".")
	n, err := strconv.ParseUint(num, 10, 64)
	if !ok || err != nil || life != l.life || n > l.last {
		return 0, false
	}
	return n + 1, true
}

func (l *EventLog) cursor(n uint64) string { return fmt.Sprintf("%s.%d", l.life, n) }

// wake tells watchers. Needs mu.
func (l *EventLog) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

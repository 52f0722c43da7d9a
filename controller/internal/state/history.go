package state

import (
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
)

const (
	eventsPerVM = 100
	eventsInAll = 20_000
)

// History remembers what happened to VMs, in this process only: events for people, and the phases that realisation passed.
type History struct {
	mu     sync.Mutex
	events map[string][]*computev1.VMEvent
	order  []string // VM of each event, oldest first
	phases map[string][]phase
}

type phase struct {
	name  string
	start time.Time
}

// NewHistory makes an empty one.
func NewHistory() *History {
	return &History{events: map[string][]*computev1.VMEvent{}, phases: map[string][]phase{}}
}

// Add notes an event of a VM. The event belongs to the history from then on.
func (h *History) Add(vmID string, ev *computev1.VMEvent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := append(h.events[vmID], ev)
	if len(list) > eventsPerVM {
		list = slices.Delete(list, 0, 1)
	}
	h.events[vmID] = list
	h.order = append(h.order, vmID)
	for len(h.order) > eventsInAll {
		oldest := h.order[0]
		h.order = h.order[1:]
		if l := h.events[oldest]; len(l) > 1 {
			h.events[oldest] = l[1:]
		} else {
			delete(h.events, oldest)
		}
	}
}

// Events are a VM's events, newest last. They are shared: do not change them.
func (h *History) Events(vmID string) []*computev1.VMEvent {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.events[vmID])
}

// Step notes that a VM's realisation entered a phase; the same one again changes nothing.
func (h *History) Step(vmID, name string, now time.Time) {
	if name == "" {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	ps := h.phases[vmID]
	if len(ps) > 0 && ps[len(ps)-1].name == name || len(ps) >= 32 {
		return
	}
	h.phases[vmID] = append(ps, phase{name, now})
}

// Phases are the phases passed since an operation began; end is zero while the last one runs.
func (h *History) Phases(vmID string, since, end time.Time) []*operationv1.OperationPhase {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []*operationv1.OperationPhase
	ps := h.phases[vmID]
	for i, p := range ps {
		if p.start.Before(since) {
			continue
		}
		o := &operationv1.OperationPhase{Name: p.name, StartTime: timestamppb.New(p.start)}
		switch {
		case i+1 < len(ps):
			o.Duration = durationpb.New(ps[i+1].start.Sub(p.start))
		case !end.IsZero():
			o.Duration = durationpb.New(end.Sub(p.start))
		}
		out = append(out, o)
	}
	return out
}

// EndPhases forgets a VM's phases.
func (h *History) EndPhases(vmID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.phases, vmID)
}

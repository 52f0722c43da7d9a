package state

import (
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
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
	phases map[string]passed
}

// passed is what a node passed with a generation of a VM.
type passed struct {
	generation int64
	list       []*operationv1.OperationPhase
}

// NewHistory makes an empty one.
func NewHistory() *History {
	return &History{events: map[string][]*computev1.VMEvent{}, phases: map[string]passed{}}
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

// SetPhases notes the phases that a node passed with a generation of a VM. They belong to the history from then on.
func (h *History) SetPhases(vmID string, generation int64, list []*operationv1.OperationPhase) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if old := h.phases[vmID]; old.generation > generation || len(list) == 0 {
		return
	}
	h.phases[vmID] = passed{generation, list}
}

// Phases are the phases of an operation on a VM: the controller's own, then those of its node. placed is when a node was chosen, zero = none is; end is
// zero while the operation runs. A node's clock may differ from ours, so no phase of ours is shorter than nothing.
func (h *History) Phases(op *operationv1.Operation, placed, end time.Time) []*operationv1.OperationPhase {
	h.mu.Lock()
	p := h.phases[op.GetObjectId()]
	h.mu.Unlock()
	begin := op.GetCreateTime().AsTime()
	var out []*operationv1.OperationPhase
	if placed.IsZero() {
		return append(out, newPhase("queued", begin, end))
	}
	if placed.After(begin) {
		out = append(out, newPhase("queued", begin, placed))
		begin = placed
	}
	if p.generation < op.GetGeneration() || len(p.list) == 0 {
		return append(out, newPhase("assigned", begin, end))
	}
	first := p.list[0].GetStartTime().AsTime()
	if first.Before(begin) {
		first = begin
	}
	out = append(out, newPhase("assigned", begin, first))
	for _, one := range p.list {
		one = proto.CloneOf(one)
		if one.GetEndTime() == nil && !end.IsZero() {
			one = newPhase(one.GetName(), one.GetStartTime().AsTime(), end)
		}
		out = append(out, one)
	}
	if last := p.list[len(p.list)-1].GetEndTime(); last != nil && op.GetObjectKind() == "VM" && op.GetVerb() == "DeleteVM" {
		out = append(out, newPhase("cleanup", last.AsTime(), end)) // its volumes, and the records
	}
	return out
}

func newPhase(name string, begin, end time.Time) *operationv1.OperationPhase {
	p := &operationv1.OperationPhase{Name: name, StartTime: timestamppb.New(begin)}
	if !end.IsZero() {
		if end.Before(begin) {
			end = begin
		}
		p.EndTime, p.Duration = timestamppb.New(end), durationpb.New(end.Sub(begin))
	}
	return p
}

// EndPhases forgets a VM's phases.
func (h *History) EndPhases(vmID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.phases, vmID)
}

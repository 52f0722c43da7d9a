package placement

import (
	"context"

	"github.com/limiquantix/limiquantix/controller/internal/scheduler"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// Stepper is a leader whose loops take one step when they are told to, so that a test decides what comes between.
type Stepper struct {
	w   *worker
	q   *queue
	sub *state.Subscription
}

// NewStepper begins a term.
func NewStepper(ctx context.Context, cfg Config, fence store.Condition) (*Stepper, error) {
	s := &Stepper{w: &worker{Config: cfg, fence: fence, since: cfg.Now()}, q: newQueue()}
	if err := s.w.begin(ctx); err != nil {
		return nil, err
	}
	var err error
	if s.sub, err = cfg.Cache.Subscribe(cfg.Cache.Revision()); err != nil {
		return nil, err
	}
	for _, row := range cfg.Cache.Find(state.Query{Kind: state.KindVM}).Rows {
		s.q.push(row.ID)
	}
	return s, nil
}

// Schedule places and adjusts all that can be.
func (s *Stepper) Schedule(ctx context.Context) error {
	for {
		changes, err := s.sub.TryNext()
		if err != nil {
			return err
		}
		s.w.sort(s.q, changes)
		if len(s.q.ready) == 0 {
			return nil
		}
		if err := s.w.round(ctx, s.q); err != nil {
			return err
		}
	}
}

// Notes writes down why VMs wait.
func (s *Stepper) Notes(ctx context.Context) error { return s.w.writeNotes(ctx, s.q) }

// Monitor looks for silent nodes.
func (s *Stepper) Monitor(ctx context.Context) error { return s.w.look(ctx) }

// Finish completes deletions and empties nodes that were declared off.
func (s *Stepper) Finish(ctx context.Context) error {
	var rows []*state.Row
	for _, kind := range []state.Kind{state.KindVM, state.KindImage, state.KindNode} {
		rows = append(rows, s.w.Cache.Find(state.Query{Kind: kind, Keep: func(r *state.Row) bool { return r.Deleting }}).Rows...)
	}
	return s.w.finishAll(ctx, rows)
}

// End ends operations.
func (s *Stepper) End(ctx context.Context) error {
	return s.w.settle(ctx, s.w.Cache.Find(state.Query{Kind: state.KindOperation, Phases: []int32{opRunning}}).Rows)
}

// ScheduleOnly decides about one VM as Schedule does, with something that happens after the index was read.
func (s *Stepper) ScheduleOnly(id string, between func()) error {
	s.w.Index.catchUp()
	between()
	r := &round{w: s.w, q: s.q, plans: map[string]*plan{}, full: map[string]string{}}
	r.place(s.w.Cache.Row(state.KindVM, id))
	return r.commit(context.Background())
}

// Assume chooses a node for a VM as a round does that has not committed yet.
func (s *Stepper) Assume(id string) (node string, ok bool) {
	s.w.Index.catchUp()
	rec := s.w.Cache.Row(state.KindVM, id).VM()
	d, _, ok := s.w.Index.place(newRequest(s.w.Cache, rec, nil), rec.GetVm().GetSpec().GetPlacement().GetAffinity())
	return d.NodeID, ok
}

// Settle ends what Assume began.
func (s *Stepper) Settle(id string) { s.w.Index.settle(id) }

// Findings are what the audit finds now.
func (s *Stepper) Findings() []Finding {
	b, ok := s.w.recount()
	if !ok {
		return []Finding{{Kind: "no recount"}}
	}
	return findings(b)
}

// Audit runs the audit until ctx ends.
func (s *Stepper) Audit(ctx context.Context) { _ = s.w.audit(ctx) }

// AuditPause is how long after a wrong is made the audit has certainly said so.
const AuditPause = auditEvery + 2*auditAgain

// FindKinds are all kinds of findings.
var FindKinds = findKinds

// Miscount makes the index count what is not there.
func (x *Index) Miscount(nodeID string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sched.UpsertVM(scheduler.VMInfo{ID: "nobody", NodeID: nodeID, VCPUs: 1})
}

package agent

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/service/caller"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	maxTries = 16
	// absentBatch is how many VMs of a node leave in one transaction; each also changes the node's claims.
	absentBatch = 50
)

// item is one part of a report: it works out from the cache what to write; nil when there is nothing to write.
type item func() *state.Writer

// ReportStatus takes in what the calling node says about its own objects. Only what changed is written, all in one go; what was overtaken is worked
// out again. A report that came before, or late, changes nothing.
func (s *Service) ReportStatus(ctx context.Context, req *agentv1.ReportStatusRequest) (*agentv1.ReportStatusResponse, error) {
	nodeID := caller.Node(ctx)
	fence, err := s.cfg.Leader.Fence()
	if err != nil {
		return nil, err
	}
	done, err := s.turn(ctx, nodeID)
	if err != nil {
		return nil, err
	}
	defer done()
	if !s.isNews(nodeID, req.GetSessionId(), req.GetSequence()) {
		return &agentv1.ReportStatusResponse{}, nil
	}
	s.cfg.Seen.Note(nodeID, req.GetSessionId(), req.GetVms())
	r := &report{s: s, node: nodeID, req: req, before: map[string]computev1.VMPhase{}}
	r.phases() // before the write: an operation that it ends takes them along
	if err := s.write(ctx, fence, r.items()); err != nil {
		return nil, err
	}
	r.remember()
	s.keepTold(nodeID, req)
	s.taken(nodeID, req.GetSessionId(), req.GetSequence())
	return &agentv1.ReportStatusResponse{}, nil
}

// write commits items until each has been written or has nothing to write.
func (s *Service) write(ctx context.Context, fence store.Condition, items []item) error {
	for range maxTries {
		var txns []store.Txn
		var pending []item
		for _, it := range items {
			w := it()
			if w == nil {
				continue
			}
			w.Require(fence)
			txn, err := w.Txn()
			if err != nil {
				return request.Fault(err)
			}
			txns, pending = append(txns, txn), append(pending, it)
		}
		if len(txns) == 0 {
			return nil
		}
		results, err := s.cfg.Store.Commit(ctx, txns)
		if err != nil {
			return request.Fault(err)
		}
		items = items[:0:0]
		var newest int64
		for i, res := range results {
			newest = max(newest, res.Revision)
			if res.Succeeded {
				continue
			}
			items = append(items, pending[i])
			for _, c := range res.Unmet() {
				if c.Condition.Key == fence.Key {
					return fault.New(metav1.Reason_REASON_NOT_LEADER, "this controller leads no longer").WithRemedy("report to the leader")
				}
			}
		}
		if err := s.cfg.Cache.Wait(ctx, newest); err != nil {
			return request.Fault(err)
		}
	}
	return fault.New(metav1.Reason_REASON_BUSY, "the report was overtaken again and again").WithRemedy("send it again")
}

// report is one report under way.
type report struct {
	s    *Service
	node string
	req  *agentv1.ReportStatusRequest
	// before is the phase of each VM when the report came.
	before map[string]computev1.VMPhase
}

func (r *report) items() []item {
	var out []item
	var gone []*agentv1.VMReport
	for _, v := range r.req.GetVms() {
		if v.GetAbsent() {
			gone = append(gone, v)
			continue
		}
		if row := r.ownVM(v.GetVmId(), v.GetEpoch()); row != nil {
			r.before[row.ID] = computev1.VMPhase(row.Phase)
			out = append(out, func() *state.Writer { return r.vm(v) })
			for _, vol := range r.s.cfg.Cache.Find(state.Query{Kind: state.KindVolume, Ref: state.RefVM(row.ID)}).Rows {
				out = append(out, func() *state.Writer { return r.attachment(v, vol.ID) })
			}
		}
	}
	for len(gone) > 0 {
		batch := gone[:min(len(gone), absentBatch)]
		gone = gone[len(batch):]
		out = append(out, func() *state.Writer { return r.vmsAbsent(batch) })
	}
	for _, v := range r.req.GetVolumes() {
		out = append(out, func() *state.Writer { return r.volume(v) })
	}
	for _, v := range r.req.GetVolumeSnapshots() {
		out = append(out, func() *state.Writer { return r.snapshot(v) })
	}
	for _, p := range r.req.GetPools() {
		out = append(out, func() *state.Writer { return r.pool(p) })
	}
	for _, i := range r.req.GetImages() {
		out = append(out, func() *state.Writer { return r.image(i) })
	}
	for _, n := range r.req.GetNetworks() {
		out = append(out, func() *state.Writer { return r.network(n) })
	}
	for _, p := range r.req.GetPorts() {
		out = append(out, func() *state.Writer { return r.port(p) })
	}
	for _, g := range r.req.GetRuleSets() {
		out = append(out, func() *state.Writer { return r.ruleSet(g) })
	}
	if r.ofOrphans() {
		out = append(out, r.orphansGone)
	}
	if len(r.req.GetDrivers()) > 0 || r.req.GetOrphansKnown() {
		out = append(out, r.nodeFacts)
	}
	return out
}

// phases keeps which phases VMs passed on the node.
func (r *report) phases() {
	for _, v := range r.req.GetVms() {
		if row := r.ownVM(v.GetVmId(), v.GetEpoch()); row != nil {
			r.s.cfg.History.SetPhases(row.ID, v.GetAttemptedGeneration(), v.GetPhases())
		}
	}
}

// remember keeps what is not stored: events.
func (r *report) remember() {
	now := r.s.cfg.Now()
	for _, v := range r.req.GetVms() {
		row := r.ownVM(v.GetVmId(), v.GetEpoch())
		if row == nil {
			continue
		}
		if word := transition(r.before[row.ID], computev1.VMPhase(row.Phase)); word != "" {
			st := v.GetStatus()
			r.s.cfg.History.Add(row.ID, &computev1.VMEvent{
				Time: timestamppb.New(now), Type: word, Reason: st.GetReason(), Message: st.GetMessage(), NodeId: r.node,
			})
		}
	}
	for _, ev := range r.req.GetEvents() {
		row := r.s.cfg.Cache.Row(state.KindVM, ev.GetVmId())
		if row == nil || len(row.Nodes) == 0 || row.Nodes[0] != r.node {
			continue
		}
		r.s.cfg.History.Add(row.ID, &computev1.VMEvent{
			Time: ev.GetTime(), Type: ev.GetType(), Reason: ev.GetReason(), Message: ev.GetMessage(), NodeId: r.node,
		})
	}
}

// transition is the word for a change of phase that people want to see; "" for the rest.
func transition(was, is computev1.VMPhase) string {
	switch {
	case was == is || was == computev1.VMPhase_VM_PHASE_UNSPECIFIED:
		return ""
	case is == computev1.VMPhase_VM_PHASE_RUNNING && was == computev1.VMPhase_VM_PHASE_PAUSED:
		return "Resumed"
	case is == computev1.VMPhase_VM_PHASE_RUNNING:
		return "Started"
	case is == computev1.VMPhase_VM_PHASE_PAUSED:
		return "Paused"
	case is == computev1.VMPhase_VM_PHASE_STOPPED:
		return "Stopped"
	case is == computev1.VMPhase_VM_PHASE_FAILED:
		return "Failing"
	}
	return ""
}

// ownVM is the row of a VM that is placed on the reporting node under an epoch; nil otherwise.
func (r *report) ownVM(id string, epoch int64) *state.Row {
	row := r.s.cfg.Cache.Row(state.KindVM, id)
	if row == nil || len(row.Nodes) == 0 || row.Nodes[0] != r.node {
		return nil
	}
	if row.VM().GetVm().GetStatus().GetVmPlacement().GetEpoch() != epoch {
		return nil
	}
	return row
}

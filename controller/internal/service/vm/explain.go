package vm

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/controller/internal/state"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// ExplainVM says why a VM is as it is, and where it is or could be.
func (s *Service) ExplainVM(_ context.Context, req *connect.Request[computev1.ExplainVMRequest]) (*connect.Response[computev1.ExplainVMResponse], error) {
	row, err := s.find(req.Msg.GetId(), req.Msg.GetProjectId())
	if err != nil {
		return nil, err
	}
	rec := row.VM()
	e := s.cfg.Explain.Explain(rec, s.volumes(rec))
	resp := &computev1.ExplainVMResponse{
		Summary: e.Summary, NodeCount: int32(e.NodeCount), FeasibleCount: int32(e.FeasibleCount), Suggestion: e.Suggestion,
	}
	for _, p := range e.Predicates {
		resp.Predicates = append(resp.Predicates, &computev1.PredicateResult{Predicate: p.Name, FailedCount: int32(p.Failed), Example: p.Example})
	}
	for _, n := range e.Nodes {
		resp.Nodes = append(resp.Nodes, &computev1.NodeVerdict{
			NodeId: n.NodeID, NodeName: n.NodeName, Feasible: n.Feasible, Score: n.Score, FailedPredicates: n.Failed, Message: n.Message,
		})
	}
	if p := rec.GetVm().GetStatus().GetVmPlacement(); p != nil {
		vm := view(s.cfg.Cache, rec, row.Revision)
		resp.Summary = fmt.Sprintf("is on node %s, %s", p.GetNodeName(), phaseName(vm.GetStatus().GetPhase()))
		if m := vm.GetStatus().GetMessage(); m != "" {
			resp.Summary += ": " + m
		}
		resp.Suggestion = ""
	}
	resp.Explanation = s.why(row, e)
	return connect.NewResponse(resp), nil
}

func (s *Service) volumes(rec *statev1.VMRecord) []*statev1.VolumeRecord {
	var out []*statev1.VolumeRecord
	for _, d := range rec.GetDiskVolumes() {
		if v := s.cfg.Cache.Row(state.KindVolume, d.GetVolumeId()).Volume(); v != nil {
			out = append(out, v)
		}
	}
	return out
}

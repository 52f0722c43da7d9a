package vm

import (
	"context"
	"slices"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// GetVM reads a VM from the cache.
func (s *Service) GetVM(_ context.Context, req *connect.Request[computev1.GetVMRequest]) (*connect.Response[computev1.GetVMResponse], error) {
	row, err := s.find(req.Msg.GetId(), req.Msg.GetProjectId())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&computev1.GetVMResponse{Vm: View(s.cfg.Cache, row)}), nil
}

// ListVMs answers a page.
func (s *Service) ListVMs(_ context.Context, req *connect.Request[computev1.ListVMsRequest]) (*connect.Response[computev1.ListVMsResponse], error) {
	m := req.Msg
	var v domain.Violations
	q := state.Query{Kind: state.KindVM, Project: m.GetProjectId(), Name: m.GetName(), Limit: domain.PageSize(&v, m.GetPageSize())}
	q.Selector = selector(&v, m.GetLabelSelector())
	if n := m.GetNode(); n != "" {
		q.Node = n
		if row := s.cfg.Cache.Resolve(state.KindNode, "", n); row != nil {
			q.Node = row.ID
		} else if !domain.IsID(n) {
			v.Add("node", "there is no node %q", n)
		}
	}
	if err := v.Err(); err != nil {
		return nil, err
	}
	s.byPhase(&q, m.GetPhases())
	query := proto.CloneOf(m)
	query.PageSize, query.PageToken = 0, ""
	var err error
	if q.After, err = domain.ReadPageToken(query, m.GetPageToken()); err != nil {
		return nil, err
	}
	page := s.cfg.Cache.Find(q)
	resp := &computev1.ListVMsResponse{Revision: page.Revision}
	for _, row := range page.Rows {
		resp.Vms = append(resp.Vms, View(s.cfg.Cache, row))
	}
	if page.More {
		resp.NextPageToken = domain.PageToken(query, page.Rows[len(page.Rows)-1].ID)
	}
	return connect.NewResponse(resp), nil
}

// byPhase selects by the phases that clients see: a VM on an unheard node is UNKNOWN, whatever its record says.
func (s *Service) byPhase(q *state.Query, phases []computev1.VMPhase) {
	if len(phases) == 0 {
		return
	}
	unknown := map[string]bool{}
	nodes := s.cfg.Cache.Find(state.Query{Kind: state.KindNode, Phases: []int32{int32(computev1.NodePhase_NODE_PHASE_UNKNOWN)}})
	for _, n := range nodes.Rows {
		unknown[n.ID] = true
	}
	wantUnknown := slices.Contains(phases, computev1.VMPhase_VM_PHASE_UNKNOWN)
	if !wantUnknown {
		for _, p := range phases {
			q.Phases = append(q.Phases, int32(p))
		}
	}
	q.Keep = func(r *state.Row) bool {
		phase := computev1.VMPhase(r.Phase)
		if len(r.Nodes) > 0 && unknown[r.Nodes[0]] && !r.Deleting {
			phase = computev1.VMPhase_VM_PHASE_UNKNOWN
		}
		return slices.Contains(phases, phase)
	}
}

func selector(v *domain.Violations, text string) domain.Selector {
	sel, err := domain.ParseSelector(text)
	if err != nil {
		v.Add("label_selector", "%v", err)
	}
	return sel
}

// ListVMEvents answers from memory.
func (s *Service) ListVMEvents(_ context.Context, req *connect.Request[computev1.ListVMEventsRequest]) (*connect.Response[computev1.ListVMEventsResponse], error) {
	row, err := s.find(req.Msg.GetId(), req.Msg.GetProjectId())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&computev1.ListVMEventsResponse{Events: s.cfg.History.Events(row.ID)}), nil
}

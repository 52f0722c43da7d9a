// Package port serves PortService: places of NICs in networks, with their addresses and security groups.
package port

import (
	"context"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/service/seam"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1/networkv1connect"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// Config is what the service needs.
type Config struct {
	Cache  *state.Cache
	Runner *request.Runner
	Nodes  seam.Nodes // nil: what nodes count is not known
	Now    func() time.Time
}

// Service implements networkv1connect.PortServiceHandler.
type Service struct{ cfg Config }

var _ networkv1connect.PortServiceHandler = (*Service)(nil)

// New makes the service.
func New(cfg Config) *Service {
	if cfg.Nodes == nil {
		cfg.Nodes = seam.NoNodes{}
	}
	return &Service{cfg: cfg}
}

// find is the row of the port that a request names. None: NOT_FOUND.
func (s *Service) find(id, project string) (*state.Row, error) {
	if id == "" {
		return nil, fault.Invalid(fault.Violation{Field: "id", Description: "is required: a port's id or name"})
	}
	row := s.cfg.Cache.Resolve(state.KindPort, domain.Project(project), id)
	if row == nil {
		return nil, fault.New(metav1.Reason_REASON_NOT_FOUND, "there is no port %q in project %q", id, domain.Project(project)).
			WithRemedy("list ports to see which there are; one that lives with a VM is named by its id")
	}
	return row, nil
}

// View is a port as clients see it: with its etag, and as unknown while its node does not report. revision 0 = none yet.
func View(cache *state.Cache, rec *statev1.PortRecord, revision int64) *networkv1.Port {
	p := proto.CloneOf(rec.GetPort())
	if revision > 0 {
		p.Meta.Etag = domain.Etag(revision)
	}
	if p.Status == nil {
		p.Status = &networkv1.PortStatus{}
	}
	on := p.GetStatus().GetBinding().GetNodeId()
	if on == "" {
		return p
	}
	row := cache.Row(state.KindNode, on)
	if row == nil || computev1.NodePhase(row.Phase) != computev1.NodePhase_NODE_PHASE_UNKNOWN {
		return p
	}
	st := p.GetStatus()
	st.Reason, st.Message = fault.ReasonName(metav1.Reason_REASON_NODE_UNREACHABLE), "waits: node "+row.Name+" does not report"
	if p.GetMeta().GetDeleteTime() == nil {
		st.Phase, st.Message = networkv1.PortPhase_PORT_PHASE_UNKNOWN, "node "+row.Name+" does not report; the port may well be up"
	}
	return p
}

// GetPort reads a port.
func (s *Service) GetPort(_ context.Context, req *connect.Request[networkv1.GetPortRequest]) (*connect.Response[networkv1.GetPortResponse], error) {
	row, err := s.find(req.Msg.GetId(), req.Msg.GetProjectId())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&networkv1.GetPortResponse{Port: View(s.cfg.Cache, row.Port(), row.Revision)}), nil
}

// ListPorts answers a page.
func (s *Service) ListPorts(_ context.Context, req *connect.Request[networkv1.ListPortsRequest]) (*connect.Response[networkv1.ListPortsResponse], error) {
	m := req.Msg
	var v domain.Violations
	q := state.Query{Kind: state.KindPort, Project: m.GetProjectId(), Name: m.GetName(), Limit: domain.PageSize(&v, m.GetPageSize())}
	var err error
	if q.Selector, err = domain.ParseSelector(m.GetLabelSelector()); err != nil {
		v.Add("label_selector", "%v", err)
	}
	var refs []string
	if n := m.GetNetwork(); n != "" {
		if row := s.cfg.Cache.Resolve(state.KindNetwork, domain.Project(m.GetProjectId()), n); row != nil {
			refs = append(refs, state.RefNetwork(row.ID))
		} else {
			v.Add("network", "there is no network %q in project %q", n, domain.Project(m.GetProjectId()))
		}
	}
	if n := m.GetNode(); n != "" {
		if row := s.cfg.Cache.Resolve(state.KindNode, "", n); row != nil {
			q.Node = row.ID
		} else {
			v.Add("node", "there is no node %q", n)
		}
	}
	if vm := m.GetVm(); vm != "" {
		if q.Owner = vm; !domain.IsID(vm) {
			v.Add("vm", "must be the VM's id")
		}
	}
	if g := m.GetSecurityGroup(); g != "" {
		if refs = append(refs, state.RefSecurityGroup(g)); !domain.IsID(g) {
			v.Add("security_group", "must be the group's id")
		}
	}
	if err := v.Err(); err != nil {
		return nil, err
	}
	if len(refs) > 0 {
		q.Ref = refs[0]
		q.Keep = func(r *state.Row) bool { return slices.Contains(r.Refs, refs[len(refs)-1]) }
	}
	query := proto.CloneOf(m)
	query.PageSize, query.PageToken = 0, ""
	if q.After, err = domain.ReadPageToken(query, m.GetPageToken()); err != nil {
		return nil, err
	}
	page := s.cfg.Cache.Find(q)
	resp := &networkv1.ListPortsResponse{Revision: page.Revision}
	for _, row := range page.Rows {
		resp.Ports = append(resp.Ports, View(s.cfg.Cache, row.Port(), row.Revision))
	}
	if page.More {
		resp.NextPageToken = domain.PageToken(query, page.Rows[len(page.Rows)-1].ID)
	}
	return connect.NewResponse(resp), nil
}

// write writes a port with a new operation, which has ended already where no node has anything to do.
func (s *Service) write(w *state.Writer, rec *statev1.PortRecord, verb string) *operationv1.Operation {
	now, p := s.cfg.Now(), rec.GetPort()
	op := &operationv1.Operation{
		Id: domain.NewID(now), ProjectId: p.GetMeta().GetProjectId(), Verb: verb, ObjectKind: domain.KindPort, ObjectId: p.GetMeta().GetId(),
		ObjectName: p.GetMeta().GetName(), Generation: p.GetMeta().GetGeneration(),
		State: operationv1.OperationState_OPERATION_STATE_RUNNING, CreateTime: timestamppb.New(now),
	}
	if o := domain.PortOutcome(op, rec); o.Ended() {
		domain.EndOperation(op, o, now)
	}
	rec.OperationId = op.GetId()
	w.Put(state.Key(state.KindPort, p.GetMeta().GetId()), rec)
	w.Put(state.Key(state.KindOperation, op.GetId()), &statev1.OperationRecord{SchemaVersion: 1, Operation: op})
	return op
}

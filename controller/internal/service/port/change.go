package port

import (
	"context"
	"slices"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1/networkv1connect"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// change describes a mutation of one port's spec or meta.
type change struct {
	call              request.Call
	verb              string
	id, project, etag string
	// apply changes the record, which is its own copy.
	apply func(m *Maker, rec *statev1.PortRecord) error
}

func mutate[R proto.Message](ctx context.Context, s *Service, c change, answer func(*networkv1.Port, *operationv1.Operation) R) (R, error) {
	return request.Do(ctx, s.cfg.Runner, c.call, func(context.Context) (*request.Plan[R], error) {
		row, err := s.find(c.id, c.project)
		if err != nil {
			return nil, err
		}
		if row.Deleting {
			return nil, fault.New(metav1.Reason_REASON_BEING_DELETED, "port %s (%s) is being deleted", row.Name, row.ID)
		}
		if err := domain.CheckEtag(c.etag, row.Revision); err != nil {
			return nil, err
		}
		rec, now := row.Port(), s.cfg.Now()
		was := proto.CloneOf(rec.GetPort())
		var w state.Writer
		if err := c.apply(NewMaker(s.cfg.Cache, &w, row.Project, now), rec); err != nil {
			return nil, err
		}
		p := rec.GetPort()
		if Realise(was, p) {
			p.Meta.Generation++
		}
		if !proto.Equal(was, p) {
			p.Meta.UpdateTime = timestamppb.New(now)
		}
		w.Same(row)
		op := s.write(&w, rec, c.verb)
		txn, err := w.Txn()
		return &request.Plan[R]{
			Txn: txn, Response: answer(View(s.cfg.Cache, rec, 0), op), ObjectID: row.ID, OperationID: op.GetId(), Refused: staleEtag(row, c.etag),
		}, request.Fault(err)
	})
}

// Realise reports whether a node has anything to do about a change of a port.
func Realise(was, is *networkv1.Port) bool {
	a, b := proto.CloneOf(was.GetSpec()), proto.CloneOf(is.GetSpec())
	a.DeleteProtection, b.DeleteProtection = false, false // nobody's business but ours
	return !proto.Equal(a, b) || !slices.Equal(was.GetStatus().GetIpAddresses(), is.GetStatus().GetIpAddresses())
}

// UpdatePort changes exactly what the mask names.
func (s *Service) UpdatePort(ctx context.Context, req *connect.Request[networkv1.UpdatePortRequest]) (*connect.Response[networkv1.UpdatePortResponse], error) {
	m := req.Msg
	meta := m.GetPort().GetMeta()
	name := meta.GetId()
	if name == "" {
		name = meta.GetName()
	}
	resp, err := mutate(ctx, s, change{
		call: request.Call{Method: networkv1connect.PortServiceUpdatePortProcedure, Body: m, RequestID: m.GetRequestId()},
		verb: domain.VerbUpdatePort, id: name, project: meta.GetProjectId(), etag: meta.GetEtag(),
		apply: func(mk *Maker, rec *statev1.PortRecord) error {
			p := rec.GetPort()
			var v domain.Violations
			domain.ApplyMask(&v, p, m.GetPort(), m.GetUpdateMask(), domain.PortPathAllowed)
			if err := v.Err(); err != nil {
				return err
			}
			if p.Spec == nil {
				p.Spec = &networkv1.PortSpec{}
			}
			domain.ValidatePort(&v, p)
			if err := v.Err(); err != nil {
				return err
			}
			f := FieldsOf("port.spec")
			if named(m, "spec.security_group_ids") {
				p.Spec.SecurityGroupIds = mk.Groups(&v, f.Groups, p.GetSpec().GetSecurityGroupIds())
			}
			if err := v.Err(); err != nil || !named(m, "spec.ip_addresses") {
				return err
			}
			return mk.Readdress(f, rec)
		},
	}, func(p *networkv1.Port, op *operationv1.Operation) *networkv1.UpdatePortResponse {
		return &networkv1.UpdatePortResponse{Port: p, Operation: op}
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

func named(m *networkv1.UpdatePortRequest, path string) bool {
	return slices.Contains(m.GetUpdateMask().GetPaths(), path)
}

// SetSecurityGroups sets a port's groups, whole.
func (s *Service) SetSecurityGroups(ctx context.Context, req *connect.Request[networkv1.SetSecurityGroupsRequest]) (*connect.Response[networkv1.SetSecurityGroupsResponse], error) {
	m := req.Msg
	var v domain.Violations
	domain.CheckPortGroups(&v, "security_group_ids", m.GetSecurityGroupIds())
	if err := v.Err(); err != nil {
		return nil, err
	}
	resp, err := mutate(ctx, s, change{
		call: request.Call{Method: networkv1connect.PortServiceSetSecurityGroupsProcedure, Body: m, RequestID: m.GetRequestId()},
		verb: domain.VerbSetSecurityGroups, id: m.GetId(), project: m.GetProjectId(), etag: m.GetEtag(),
		apply: func(mk *Maker, rec *statev1.PortRecord) error {
			var v domain.Violations
			rec.Port.Spec.SecurityGroupIds = mk.Groups(&v, "security_group_ids", m.GetSecurityGroupIds())
			return v.Err()
		},
	}, func(p *networkv1.Port, op *operationv1.Operation) *networkv1.SetSecurityGroupsResponse {
		return &networkv1.SetSecurityGroupsResponse{Port: p, Operation: op}
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

// DeletePort marks a port that no VM uses; it is gone, and its addresses are free, when no node has it.
func (s *Service) DeletePort(ctx context.Context, req *connect.Request[networkv1.DeletePortRequest]) (*connect.Response[networkv1.DeletePortResponse], error) {
	m, now := req.Msg, s.cfg.Now()
	resp, err := request.Do(ctx, s.cfg.Runner, request.Call{
		Method: networkv1connect.PortServiceDeletePortProcedure, Body: m, RequestID: m.GetRequestId(),
	}, func(context.Context) (*request.Plan[*networkv1.DeletePortResponse], error) {
		row, err := s.find(m.GetId(), m.GetProjectId())
		switch {
		case err != nil && domain.IsID(m.GetId()):
			return &request.Plan[*networkv1.DeletePortResponse]{Response: &networkv1.DeletePortResponse{}}, nil
		case err != nil:
			return nil, err
		case row.Deleting:
			rec := row.Port()
			resp := &networkv1.DeletePortResponse{Port: View(s.cfg.Cache, rec, row.Revision), Operation: s.cfg.Cache.Row(state.KindOperation, rec.GetOperationId()).Operation().GetOperation()}
			return &request.Plan[*networkv1.DeletePortResponse]{Response: resp}, nil
		}
		if err := domain.CheckEtag(m.GetEtag(), row.Revision); err != nil {
			return nil, err
		}
		rec := row.Port()
		if err := s.mayDelete(row, rec); err != nil {
			return nil, err
		}
		var w state.Writer
		w.Same(row)
		MarkDeleted(&w, rec, now)
		op := s.write(&w, rec, domain.VerbDeletePort)
		txn, err := w.Txn()
		return &request.Plan[*networkv1.DeletePortResponse]{
			Txn: txn, Response: &networkv1.DeletePortResponse{Port: View(s.cfg.Cache, rec, 0), Operation: op}, ObjectID: row.ID, OperationID: op.GetId(),
			Refused: staleEtag(row, m.GetEtag()),
		}, request.Fault(err)
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

func (s *Service) mayDelete(row *state.Row, rec *statev1.PortRecord) error {
	if rec.GetPort().GetSpec().GetDeleteProtection() {
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "port %s is protected from deletion", row.Name).WithRemedy("set spec.delete_protection to false first")
	}
	if vm := s.cfg.Cache.Row(state.KindVM, row.Owner); vm != nil && domain.HasPort(vm.VM(), row.ID) {
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "port %s is NIC %s of VM %s", row.Name, rec.GetPort().GetStatus().GetBinding().GetNicName(), vm.Name).
			WithRemedy("take the NIC out of the VM, or delete the VM")
	}
	return nil
}

func staleEtag(row *state.Row, etag string) func(store.Check) error {
	key := state.Key(row.Kind, row.ID)
	return func(c store.Check) error {
		if c.Condition.Key != key || c.Current == nil {
			return nil
		}
		return domain.CheckEtag(etag, c.Current.ModRevision)
	}
}

package securitygroup

import (
	"context"
	"slices"
	"time"

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

// CreateSecurityGroup accepts a group in one commit: the group, its name and its operation.
func (s *Service) CreateSecurityGroup(ctx context.Context, req *connect.Request[networkv1.CreateSecurityGroupRequest]) (*connect.Response[networkv1.CreateSecurityGroupResponse], error) {
	now, given := s.cfg.Now(), req.Msg.GetSecurityGroup()
	id := domain.NewID(now)
	resp, err := request.Do(ctx, s.cfg.Runner, request.Call{
		Method: networkv1connect.SecurityGroupServiceCreateSecurityGroupProcedure, Body: req.Msg, RequestID: req.Msg.GetRequestId(),
	}, func(context.Context) (*request.Plan[*networkv1.CreateSecurityGroupResponse], error) {
		g := &networkv1.SecurityGroup{
			Meta: domain.NewMeta(id, given.GetMeta().GetName(), domain.Project(given.GetMeta().GetProjectId()), given.GetMeta().GetLabels(), given.GetMeta().GetAnnotations()),
			Spec: proto.CloneOf(given.GetSpec()), Status: &networkv1.SecurityGroupStatus{},
		}
		if g.Spec == nil {
			g.Spec = &networkv1.SecurityGroupSpec{}
		}
		if g.Spec.EgressDefault == networkv1.EgressDefault_EGRESS_DEFAULT_UNSPECIFIED {
			g.Spec.EgressDefault = networkv1.EgressDefault_EGRESS_DEFAULT_ALLOW
		}
		g.Meta.CreateTime, g.Meta.UpdateTime = timestamppb.New(now), timestamppb.New(now)
		refs := s.refsOf(g)
		var v domain.Violations
		domain.ValidateSecurityGroup(&v, g)
		refs.settle(&v, "security_group.spec.rules", g.GetSpec().GetRules(), nil)
		if err := v.Err(); err != nil {
			return nil, err
		}
		meta := g.GetMeta()
		nameKey := state.NameKey(meta.GetProjectId(), state.KindSecurityGroup, meta.GetName())
		if other := s.cfg.Cache.ByName(meta.GetProjectId(), state.KindSecurityGroup, meta.GetName()); other != "" {
			return nil, nameTaken(meta, other)
		}
		op := newOperation(domain.VerbCreateSecurityGroup, g, now)
		domain.EndOperation(op, domain.Outcome{State: operationv1.OperationState_OPERATION_STATE_DONE}, now) // it has no ports yet
		rec := &statev1.SecurityGroupRecord{SchemaVersion: 1, SecurityGroup: g, OperationId: op.GetId()}
		var w state.Writer
		w.Require(store.KeyAbsent(nameKey))
		if err := refs.hold(&w, g.GetSpec().GetRules(), nil); err != nil {
			return nil, err
		}
		w.PutSecurityGroup(rec)
		w.Put(state.Key(state.KindOperation, op.GetId()), &statev1.OperationRecord{SchemaVersion: 1, Operation: op})
		w.PutText(nameKey, meta.GetId())
		txn, err := w.Txn()
		return &request.Plan[*networkv1.CreateSecurityGroupResponse]{
			Txn: txn, Response: &networkv1.CreateSecurityGroupResponse{SecurityGroup: s.view(rec, 0), Operation: op}, ObjectID: meta.GetId(), OperationID: op.GetId(),
			Refused: func(c store.Check) error {
				if c.Condition.Key == nameKey && c.Current != nil {
					return nameTaken(meta, string(c.Current.Value))
				}
				return nil
			},
		}, request.Fault(err)
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

// UpdateSecurityGroup changes exactly what the mask names.
func (s *Service) UpdateSecurityGroup(ctx context.Context, req *connect.Request[networkv1.UpdateSecurityGroupRequest]) (*connect.Response[networkv1.UpdateSecurityGroupResponse], error) {
	m := req.Msg
	meta := m.GetSecurityGroup().GetMeta()
	name := meta.GetId()
	if name == "" {
		name = meta.GetName()
	}
	resp, err := mutate(ctx, s, change{
		call: request.Call{Method: networkv1connect.SecurityGroupServiceUpdateSecurityGroupProcedure, Body: m, RequestID: m.GetRequestId()},
		verb: domain.VerbUpdateSecurityGroup, id: name, project: meta.GetProjectId(), etag: meta.GetEtag(), dryRun: m.GetDryRun(),
		apply: func(g *networkv1.SecurityGroup, refs refs) error {
			present := g.GetSpec().GetRules()
			given := proto.CloneOf(m.GetSecurityGroup()) // every try settles its own
			var v domain.Violations
			domain.ApplyMask(&v, g, given, m.GetUpdateMask(), domain.SecurityGroupPathAllowed)
			if g.GetSpec().GetEgressDefault() == networkv1.EgressDefault_EGRESS_DEFAULT_UNSPECIFIED {
				g.Spec.EgressDefault = networkv1.EgressDefault_EGRESS_DEFAULT_ALLOW
			}
			if len(v) == 0 {
				domain.ValidateSecurityGroup(&v, g)
			}
			if slices.Contains(m.GetUpdateMask().GetPaths(), "spec.rules") {
				refs.settle(&v, "security_group.spec.rules", g.GetSpec().GetRules(), present)
			}
			return v.Err()
		},
	}, func(p plan) *networkv1.UpdateSecurityGroupResponse {
		return &networkv1.UpdateSecurityGroupResponse{SecurityGroup: p.group, Operation: p.op, AffectedPortIds: p.ports, AffectedPortCount: p.count}
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

// DeleteSecurityGroup marks a group that nothing uses. It is gone once it is certain that no port took it meanwhile.
func (s *Service) DeleteSecurityGroup(ctx context.Context, req *connect.Request[networkv1.DeleteSecurityGroupRequest]) (*connect.Response[networkv1.DeleteSecurityGroupResponse], error) {
	m, now := req.Msg, s.cfg.Now()
	resp, err := request.Do(ctx, s.cfg.Runner, request.Call{
		Method: networkv1connect.SecurityGroupServiceDeleteSecurityGroupProcedure, Body: m, RequestID: m.GetRequestId(),
	}, func(context.Context) (*request.Plan[*networkv1.DeleteSecurityGroupResponse], error) {
		row, err := s.find(m.GetId(), m.GetProjectId())
		switch {
		case err != nil && domain.IsID(m.GetId()):
			return &request.Plan[*networkv1.DeleteSecurityGroupResponse]{Response: &networkv1.DeleteSecurityGroupResponse{}}, nil
		case err != nil:
			return nil, err
		case row.Deleting:
			rec := row.SecurityGroup()
			return &request.Plan[*networkv1.DeleteSecurityGroupResponse]{Response: &networkv1.DeleteSecurityGroupResponse{
				SecurityGroup: s.view(rec, row.Revision), Operation: s.cfg.Cache.Row(state.KindOperation, rec.GetOperationId()).Operation().GetOperation(),
			}}, nil
		}
		if err := domain.CheckEtag(m.GetEtag(), row.Revision); err != nil {
			return nil, err
		}
		if err := s.checkUnused(row); err != nil {
			return nil, err
		}
		rec := row.SecurityGroup()
		g := rec.GetSecurityGroup()
		g.Meta.DeleteTime = timestamppb.New(now)
		g.Meta.Generation++
		op := newOperation(domain.VerbDeleteSecurityGroup, g, now)
		rec.OperationId = op.GetId()
		var w state.Writer
		w.Same(row)
		w.PutSecurityGroup(rec)
		w.Delete(state.NameKey(row.Project, state.KindSecurityGroup, row.Name))
		w.Put(state.Key(state.KindOperation, op.GetId()), &statev1.OperationRecord{SchemaVersion: 1, Operation: op})
		txn, err := w.Txn()
		return &request.Plan[*networkv1.DeleteSecurityGroupResponse]{
			Txn: txn, Response: &networkv1.DeleteSecurityGroupResponse{SecurityGroup: s.view(rec, 0), Operation: op}, ObjectID: row.ID, OperationID: op.GetId(),
			Refused: staleEtag(row, m.GetEtag()),
		}, request.Fault(err)
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

// checkUnused refuses while a port has the group or another group refers to it.
func (s *Service) checkUnused(row *state.Row) error {
	if row.Name == domain.DefaultSecurityGroupName {
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "security group %s is the default of project %s", row.Name, row.Project).
			WithRemedy("change its rules instead; ports that shall not have it name another group")
	}
	if ports := s.cfg.Cache.Find(state.Query{Kind: state.KindPort, Ref: state.RefSecurityGroup(row.ID), Limit: 1}).Rows; len(ports) > 0 {
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "security group %s is used by port %s (%s)", row.Name, ports[0].Name, ports[0].ID).
			WithRemedy("give its ports other groups first; list ports by security group to see them")
	}
	others := s.cfg.Cache.Find(state.Query{
		Kind: state.KindSecurityGroup, Ref: state.RefSecurityGroup(row.ID), Limit: 1, Keep: func(r *state.Row) bool { return r.ID != row.ID },
	}).Rows
	if len(others) > 0 {
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "rules of security group %s (%s) refer to security group %s", others[0].Name, others[0].ID, row.Name).
			WithRemedy("remove those rules first")
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

func nameTaken(meta *metav1.ObjectMeta, other string) error {
	return fault.New(metav1.Reason_REASON_NAME_TAKEN, "a security group named %q exists in project %q (%s)", meta.GetName(), meta.GetProjectId(), other).
		WithRemedy("choose another name, or delete that group").WithMetadata("id", other)
}

// newOperation begins an operation that follows the group's present generation.
func newOperation(verb string, g *networkv1.SecurityGroup, now time.Time) *operationv1.Operation {
	return &operationv1.Operation{
		Id: domain.NewID(now), ProjectId: g.GetMeta().GetProjectId(), Verb: verb, ObjectKind: domain.KindSecurityGroup, ObjectId: g.GetMeta().GetId(),
		ObjectName: g.GetMeta().GetName(), Generation: g.GetMeta().GetGeneration(),
		State: operationv1.OperationState_OPERATION_STATE_RUNNING, CreateTime: timestamppb.New(now),
	}
}

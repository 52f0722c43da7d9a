package securitygroup

import (
	"context"
	"slices"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1/networkv1connect"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// maxAffected is how many ports an answer names.
const maxAffected = 1000

// change describes a mutation of one group.
type change struct {
	call              request.Call
	verb              string
	id, project, etag string
	dryRun            bool
	// apply changes the group.
	apply func(g *networkv1.SecurityGroup, refs refs) error
	// idle says that a change without effect has no operation.
	idle bool
}

// plan is what a mutation answers.
type plan struct {
	group *networkv1.SecurityGroup
	op    *operationv1.Operation
	ports []string
	count int64
}

func mutate[R proto.Message](ctx context.Context, s *Service, c change, answer func(plan) R) (R, error) {
	if c.dryRun {
		c.call.RequestID = "" // nothing is stored
	}
	return request.Do(ctx, s.cfg.Runner, c.call, func(context.Context) (*request.Plan[R], error) {
		row, err := s.find(c.id, c.project)
		if err != nil {
			return nil, err
		}
		if row.Deleting {
			return nil, fault.New(metav1.Reason_REASON_BEING_DELETED, "security group %s (%s) is being deleted", row.Name, row.ID)
		}
		if err := domain.CheckEtag(c.etag, row.Revision); err != nil {
			return nil, err
		}
		rec, now := row.SecurityGroup(), s.cfg.Now()
		g := rec.GetSecurityGroup()
		was, refs := proto.CloneOf(g), s.refsOf(g)
		if err := c.apply(g, refs); err != nil {
			return nil, err
		}
		changed, specChanged := !proto.Equal(was, g), !proto.Equal(was.GetSpec(), g.GetSpec())
		out := plan{}
		if specChanged {
			g.Meta.Generation++
			rec.Refusals = nil
			out.ports, out.count = s.affected(row.ID)
		}
		if c.dryRun || !changed && c.idle {
			out.group = s.view(rec, row.Revision)
			return &request.Plan[R]{Response: answer(out)}, nil
		}
		out.op = newOperation(c.verb, g, now)
		if changed && !specChanged {
			domain.EndOperation(out.op, domain.Outcome{State: operationv1.OperationState_OPERATION_STATE_DONE}, now)
		}
		var w state.Writer
		w.Same(row)
		if changed {
			if err := refs.hold(&w, g.GetSpec().GetRules(), row); err != nil {
				return nil, err
			}
			g.Meta.UpdateTime, rec.OperationId = timestamppb.New(now), out.op.GetId()
			w.PutSecurityGroup(rec)
		}
		w.Put(state.Key(state.KindOperation, out.op.GetId()), &statev1.OperationRecord{SchemaVersion: 1, Operation: out.op})
		txn, err := w.Txn()
		if out.group = s.view(rec, 0); !changed {
			out.group.Meta.Etag = domain.Etag(row.Revision)
		}
		return &request.Plan[R]{Txn: txn, Response: answer(out), ObjectID: row.ID, OperationID: out.op.GetId(), Refused: staleEtag(row, c.etag)}, request.Fault(err)
	})
}

// affected are the ports that have a group, some of them by id.
func (s *Service) affected(id string) ([]string, int64) {
	rows := s.cfg.Cache.GroupPorts(id)
	var out []string
	for _, r := range rows[:min(len(rows), maxAffected)] {
		out = append(out, r.ID)
	}
	return out, int64(len(rows))
}

// AddRule adds one rule, unless one that allows the same is there.
func (s *Service) AddRule(ctx context.Context, req *connect.Request[networkv1.AddRuleRequest]) (*connect.Response[networkv1.AddRuleResponse], error) {
	m := req.Msg
	var rule *networkv1.SecurityRule
	resp, err := mutate(ctx, s, change{
		call: request.Call{Method: networkv1connect.SecurityGroupServiceAddRuleProcedure, Body: m, RequestID: m.GetRequestId()},
		verb: domain.VerbAddRule, id: m.GetId(), project: m.GetProjectId(), etag: m.GetEtag(), dryRun: m.GetDryRun(),
		apply: func(g *networkv1.SecurityGroup, refs refs) error {
			var v domain.Violations
			rule = proto.CloneOf(m.GetRule())
			if domain.CheckRule(&v, "rule", rule, refs.known); len(v) > 0 {
				return v.Err()
			}
			rule.Id = ""
			domain.SettleRules(&v, "rule", []*networkv1.SecurityRule{rule}, nil, refs.id, s.cfg.Now())
			if have := domain.SameRule(g.GetSpec().GetRules(), rule); have != nil {
				rule = have
				return nil
			}
			if len(g.GetSpec().GetRules()) >= domain.MaxRules {
				return fault.New(metav1.Reason_REASON_LIMIT_EXCEEDED, "security group %s has %d rules, as many as it can have", g.GetMeta().GetName(), domain.MaxRules).
					WithRemedy("remove rules, or put this one into another group")
			}
			g.Spec.Rules = append(g.Spec.Rules, rule)
			return nil
		},
	}, func(p plan) *networkv1.AddRuleResponse {
		return &networkv1.AddRuleResponse{SecurityGroup: p.group, Operation: p.op, Rule: proto.CloneOf(rule), AffectedPortIds: p.ports, AffectedPortCount: p.count}
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

// RemoveRule removes one rule. One that is absent already is no error, and has no operation.
func (s *Service) RemoveRule(ctx context.Context, req *connect.Request[networkv1.RemoveRuleRequest]) (*connect.Response[networkv1.RemoveRuleResponse], error) {
	m := req.Msg
	if m.GetRuleId() == "" {
		return nil, fault.Invalid(fault.Violation{Field: "rule_id", Description: "is required"})
	}
	resp, err := mutate(ctx, s, change{
		call: request.Call{Method: networkv1connect.SecurityGroupServiceRemoveRuleProcedure, Body: m, RequestID: m.GetRequestId()},
		verb: domain.VerbRemoveRule, id: m.GetId(), project: m.GetProjectId(), etag: m.GetEtag(), dryRun: m.GetDryRun(), idle: true,
		apply: func(g *networkv1.SecurityGroup, _ refs) error {
			g.Spec.Rules = slices.DeleteFunc(g.Spec.Rules, func(r *networkv1.SecurityRule) bool { return r.GetId() == m.GetRuleId() })
			return nil
		},
	}, func(p plan) *networkv1.RemoveRuleResponse {
		return &networkv1.RemoveRuleResponse{SecurityGroup: p.group, Operation: p.op, AffectedPortIds: p.ports, AffectedPortCount: p.count}
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

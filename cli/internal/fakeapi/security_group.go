package fakeapi

import (
	"context"
	"fmt"
	"slices"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1/networkv1connect"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
)

type groups struct {
	networkv1connect.UnimplementedSecurityGroupServiceHandler
	*Server
}

func (s *Server) group(id, project string) (*networkv1.SecurityGroup, error) {
	return named(s.Groups, id, project, metav1.Reason_REASON_NOT_FOUND, "security group")
}

// groupIDs are the ids of groups by id or name; none stands for the project's default group, which is made when it is first needed. Called under Lock.
func (s *Server) groupIDs(names []string, project string) ([]string, error) {
	if len(names) == 0 {
		g, err := s.group("default", project)
		if err != nil {
			g, err = s.addGroup(&networkv1.SecurityGroup{Meta: &metav1.ObjectMeta{Name: "default", ProjectId: project}, Spec: &networkv1.SecurityGroupSpec{
				Rules: []*networkv1.SecurityRule{{
					Direction: networkv1.RuleDirection_RULE_DIRECTION_INGRESS, Description: "From members of this group.", Remote: &networkv1.SecurityRule_SecurityGroupId{SecurityGroupId: "default"},
				}},
			}})
		}
		return []string{g.GetMeta().GetId()}, err
	}
	var out []string
	for _, name := range names {
		g, err := s.group(name, project)
		if err != nil {
			return nil, err
		}
		out = append(out, g.GetMeta().GetId())
	}
	return out, nil
}

func (s *Server) addGroup(in *networkv1.SecurityGroup) (*networkv1.SecurityGroup, error) {
	meta, err := admitNew(s, s.Groups, in.GetMeta(), "security group")
	if err != nil {
		return nil, err
	}
	g := &networkv1.SecurityGroup{Meta: meta, Spec: &networkv1.SecurityGroupSpec{}, Status: &networkv1.SecurityGroupStatus{Phase: networkv1.SecurityGroupPhase_SECURITY_GROUP_PHASE_READY, ObservedGeneration: 1}}
	s.Groups = append(s.Groups, g)
	spec := proto.CloneOf(in.GetSpec())
	if spec == nil {
		spec = &networkv1.SecurityGroupSpec{}
	}
	if err := s.prepare(spec, meta.GetProjectId(), nil); err != nil {
		s.Groups = without(s.Groups, meta.GetId())
		return nil, err
	}
	g.Spec = spec
	return g, nil
}

// prepare gives rules their ids, fills in what is left out, and turns names of groups into ids. Called under Lock.
func (s *Server) prepare(spec *networkv1.SecurityGroupSpec, project string, before []*networkv1.SecurityRule) error {
	for i, r := range spec.GetRules() {
		if r.GetPortLast() > 65535 || r.GetPortLast() < r.GetPortFirst() && r.GetPortLast() != 0 {
			return fault.Invalid(fault.Violation{Field: fmt.Sprintf("security_group.spec.rules[%d].port_last", i), Description: "must be port_first-65535"})
		}
		if r.GetProtocol() == "" {
			r.Protocol = "any"
		}
		if r.GetPortLast() == 0 {
			r.PortLast = r.GetPortFirst()
		}
		if name := r.GetSecurityGroupId(); name != "" {
			other, err := s.group(name, project)
			if err != nil {
				return err
			}
			r.Remote = &networkv1.SecurityRule_SecurityGroupId{SecurityGroupId: other.GetMeta().GetId()}
		}
		if !slices.ContainsFunc(before, func(b *networkv1.SecurityRule) bool { return b.GetId() == r.GetId() }) {
			s.made++
			r.Id = fmt.Sprintf("rule-%d", s.made)
		}
	}
	return nil
}

// affected are the ports that have a group. Called under Lock.
func (s *Server) affected(g *networkv1.SecurityGroup) []string {
	var out []string
	for _, p := range s.Ports {
		if slices.Contains(p.GetSpec().GetSecurityGroupIds(), g.GetMeta().GetId()) {
			out = append(out, p.GetMeta().GetId())
		}
	}
	return out
}

// viewGroup is a group with what is counted of it. Called under Lock.
func (s *Server) viewGroup(g *networkv1.SecurityGroup) *networkv1.SecurityGroup {
	out := proto.CloneOf(g)
	out.Status.PortCount, out.Status.ObservedGeneration = int64(len(s.affected(g))), g.GetMeta().GetGeneration()
	for _, o := range s.Groups {
		if o != g && slices.ContainsFunc(o.GetSpec().GetRules(), func(r *networkv1.SecurityRule) bool { return r.GetSecurityGroupId() == g.GetMeta().GetId() }) {
			out.Status.ReferringSecurityGroupIds = append(out.Status.ReferringSecurityGroupIds, o.GetMeta().GetId())
		}
	}
	return out
}

func (g groups) CreateSecurityGroup(_ context.Context, req *connect.Request[networkv1.CreateSecurityGroupRequest]) (*connect.Response[networkv1.CreateSecurityGroupResponse], error) {
	g.Lock()
	defer g.Unlock()
	made, err := g.addGroup(req.Msg.GetSecurityGroup())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&networkv1.CreateSecurityGroupResponse{SecurityGroup: g.viewGroup(made), Operation: g.operate("CreateSecurityGroup", "SecurityGroup", made.GetMeta())}), nil
}

func (g groups) GetSecurityGroup(_ context.Context, req *connect.Request[networkv1.GetSecurityGroupRequest]) (*connect.Response[networkv1.GetSecurityGroupResponse], error) {
	g.Lock()
	defer g.Unlock()
	found, err := g.group(req.Msg.GetId(), req.Msg.GetProjectId())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&networkv1.GetSecurityGroupResponse{SecurityGroup: g.viewGroup(found)}), nil
}

func (g groups) ListSecurityGroups(_ context.Context, req *connect.Request[networkv1.ListSecurityGroupsRequest]) (*connect.Response[networkv1.ListSecurityGroupsResponse], error) {
	g.Lock()
	defer g.Unlock()
	var all []*networkv1.SecurityGroup
	for _, o := range g.Groups {
		if matches(o.GetMeta(), req.Msg.GetProjectId(), req.Msg.GetLabelSelector(), req.Msg.GetName()) && (req.Msg.GetPort() == "" || slices.Contains(g.affected(o), req.Msg.GetPort())) {
			all = append(all, g.viewGroup(o))
		}
	}
	items, next := page(all, req.Msg.GetPageToken())
	return connect.NewResponse(&networkv1.ListSecurityGroupsResponse{SecurityGroups: items, NextPageToken: next}), nil
}

// change makes a spec a group's, or only says what that would be. Called under Lock.
func (s *Server) change(g *networkv1.SecurityGroup, spec *networkv1.SecurityGroupSpec, labels map[string]string, verb, etag string, dryRun bool) (*networkv1.SecurityGroup, *operationv1.Operation, []string, error) {
	if err := s.prepare(spec, g.GetMeta().GetProjectId(), g.GetSpec().GetRules()); err != nil {
		return nil, nil, nil, err
	}
	var about []string
	if !proto.Equal(spec, g.GetSpec()) {
		about = s.affected(g)
	}
	if dryRun {
		would := s.viewGroup(g)
		would.Spec = spec
		return would, nil, about, nil
	}
	if err := changed(g.GetMeta(), etag, !proto.Equal(spec, g.GetSpec())); err != nil {
		return nil, nil, nil, err
	}
	g.Spec, g.Meta.Labels = spec, labels
	return s.viewGroup(g), s.operate(verb, "SecurityGroup", g.GetMeta()), about, nil
}

func (g groups) UpdateSecurityGroup(_ context.Context, req *connect.Request[networkv1.UpdateSecurityGroupRequest]) (*connect.Response[networkv1.UpdateSecurityGroupResponse], error) {
	g.Lock()
	defer g.Unlock()
	in := req.Msg.GetSecurityGroup()
	have, err := g.group(either(in.GetMeta()), in.GetMeta().GetProjectId())
	if err != nil {
		return nil, err
	}
	spec, labels := proto.CloneOf(have.GetSpec()), have.GetMeta().GetLabels()
	for _, path := range req.Msg.GetUpdateMask().GetPaths() {
		switch path {
		case "spec.description":
			spec.Description = in.GetSpec().GetDescription()
		case "spec.egress_default":
			spec.EgressDefault = in.GetSpec().GetEgressDefault()
		case "spec.rules":
			spec.Rules = in.GetSpec().GetRules()
		case "meta.labels":
			labels = in.GetMeta().GetLabels()
		default:
			return nil, fault.Invalid(fault.Violation{Field: "update_mask", Description: path + " cannot change"})
		}
	}
	out, op, about, err := g.change(have, spec, labels, "UpdateSecurityGroup", in.GetMeta().GetEtag(), req.Msg.GetDryRun())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&networkv1.UpdateSecurityGroupResponse{SecurityGroup: out, Operation: op, AffectedPortIds: about, AffectedPortCount: int64(len(about))}), nil
}

func (g groups) DeleteSecurityGroup(_ context.Context, req *connect.Request[networkv1.DeleteSecurityGroupRequest]) (*connect.Response[networkv1.DeleteSecurityGroupResponse], error) {
	g.Lock()
	defer g.Unlock()
	have, err := g.group(req.Msg.GetId(), req.Msg.GetProjectId())
	if err != nil {
		return nil, err
	}
	v := g.viewGroup(have)
	if v.GetStatus().GetPortCount() > 0 || len(v.GetStatus().GetReferringSecurityGroupIds()) > 0 || v.GetMeta().GetName() == "default" {
		return nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "security group %s is in use", v.GetMeta().GetName()).WithRemedy("take it from its ports and rules first")
	}
	g.Groups = without(g.Groups, v.GetMeta().GetId())
	return connect.NewResponse(&networkv1.DeleteSecurityGroupResponse{SecurityGroup: v, Operation: g.operate("DeleteSecurityGroup", "SecurityGroup", v.GetMeta())}), nil
}

func (g groups) AddRule(_ context.Context, req *connect.Request[networkv1.AddRuleRequest]) (*connect.Response[networkv1.AddRuleResponse], error) {
	g.Lock()
	defer g.Unlock()
	have, err := g.group(req.Msg.GetId(), req.Msg.GetProjectId())
	if err != nil {
		return nil, err
	}
	one := &networkv1.SecurityGroupSpec{Rules: []*networkv1.SecurityRule{proto.CloneOf(req.Msg.GetRule())}}
	if err := g.prepare(one, have.GetMeta().GetProjectId(), nil); err != nil {
		return nil, err
	}
	r := one.GetRules()[0]
	for _, old := range have.GetSpec().GetRules() {
		again := proto.CloneOf(r)
		again.Id, again.Description = old.GetId(), old.GetDescription()
		if proto.Equal(again, old) {
			return connect.NewResponse(&networkv1.AddRuleResponse{SecurityGroup: g.viewGroup(have), Rule: old}), nil
		}
	}
	spec := proto.CloneOf(have.GetSpec())
	spec.Rules = append(spec.Rules, r)
	out, op, about, err := g.change(have, spec, have.GetMeta().GetLabels(), "AddRule", req.Msg.GetEtag(), req.Msg.GetDryRun())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&networkv1.AddRuleResponse{SecurityGroup: out, Operation: op, Rule: out.GetSpec().GetRules()[len(out.GetSpec().GetRules())-1], AffectedPortIds: about, AffectedPortCount: int64(len(about))}), nil
}

func (g groups) RemoveRule(_ context.Context, req *connect.Request[networkv1.RemoveRuleRequest]) (*connect.Response[networkv1.RemoveRuleResponse], error) {
	g.Lock()
	defer g.Unlock()
	have, err := g.group(req.Msg.GetId(), req.Msg.GetProjectId())
	if err != nil {
		return nil, err
	}
	spec := proto.CloneOf(have.GetSpec())
	spec.Rules = slices.DeleteFunc(spec.Rules, func(r *networkv1.SecurityRule) bool { return r.GetId() == req.Msg.GetRuleId() })
	out, op, about, err := g.change(have, spec, have.GetMeta().GetLabels(), "RemoveRule", req.Msg.GetEtag(), req.Msg.GetDryRun())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&networkv1.RemoveRuleResponse{SecurityGroup: out, Operation: op, AffectedPortIds: about, AffectedPortCount: int64(len(about))}), nil
}

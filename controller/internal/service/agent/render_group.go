package agent

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// renderRuleSet is a group's rules for a node with a port that has it. The object is shared by all streams: it is the same on every node.
func (s *Service) renderRuleSet(nodeID, id string) *agentv1.DesiredObject {
	if !s.hasGroup(nodeID, id) {
		return nil
	}
	return remembered(s.memo, key{kindRules, id}, s.cfg.Cache.Revision, func() *agentv1.DesiredObject {
		g := s.cfg.Cache.Row(state.KindSecurityGroup, id).SecurityGroup().GetSecurityGroup()
		if g == nil {
			return nil
		}
		o := &agentv1.DesiredObject{
			Key:    &agentv1.DesiredKey{Kind: kindRules, Id: id},
			Object: &agentv1.DesiredObject_RuleSet{RuleSet: &agentv1.DesiredRuleSet{RuleSet: ruleSet(g), Name: g.GetMeta().GetName()}},
		}
		o.Version = version(o)
		return o
	})
}

// renderAddressSet is a group's members for a node with a port that has a group whose rules refer to it. The object is shared by all streams.
func (s *Service) renderAddressSet(nodeID, id string) *agentv1.DesiredObject {
	if !s.refersTo(nodeID, id) {
		return nil
	}
	return remembered(s.memo, key{kindMembers, id}, s.cfg.Cache.Revision, func() *agentv1.DesiredObject {
		o := &agentv1.DesiredObject{
			Key:    &agentv1.DesiredKey{Kind: kindMembers, Id: id},
			Object: &agentv1.DesiredObject_AddressSet{AddressSet: &agentv1.DesiredAddressSet{AddressSetId: id, Members: s.members(id)}},
		}
		o.Version = version(o)
		return o
	})
}

// hasGroup reports whether a port on a node has a group.
func (s *Service) hasGroup(nodeID, id string) bool {
	return s.cfg.Cache.Count(state.Query{Kind: state.KindPort, Node: nodeID, Ref: state.RefSecurityGroup(id), Limit: 1}) > 0
}

// refersTo reports whether rules in force on a node refer to a group.
func (s *Service) refersTo(nodeID, id string) bool {
	for _, r := range s.cfg.Cache.Find(state.Query{Kind: state.KindSecurityGroup, Ref: state.RefSecurityGroup(id)}).Rows {
		if s.hasGroup(nodeID, r.ID) {
			return true
		}
	}
	return false
}

// members are the addresses of the ports that have a group, whether their VMs run or not, in the order of their text, none twice.
func (s *Service) members(id string) []string {
	var out []string
	for _, r := range s.cfg.Cache.GroupPorts(id) {
		out = append(out, s.facts.of(r).member...)
	}
	return sortedOnce(out)
}

// memberAddresses are the addresses that a port is member of its groups with.
func memberAddresses(p *networkv1.Port) []string {
	return append(slices.Clone(p.GetStatus().GetIpAddresses()), p.GetSpec().GetExtraAddresses()...)
}

// ruleSet is a group in the words of drivers.
func ruleSet(g *networkv1.SecurityGroup) *driverv1.RuleSet {
	out := &driverv1.RuleSet{
		RuleSetId: g.GetMeta().GetId(), Generation: g.GetMeta().GetGeneration(),
		EgressDefaultDeny: g.GetSpec().GetEgressDefault() == networkv1.EgressDefault_EGRESS_DEFAULT_DENY,
	}
	for _, r := range g.GetSpec().GetRules() {
		out.Rules = append(out.Rules, driverRule(r))
	}
	return out
}

func driverRule(r *networkv1.SecurityRule) *driverv1.Rule {
	m := domain.MatchOf(r)
	out := &driverv1.Rule{RuleId: r.GetId(), Direction: driverv1.RuleDirection(m.Direction), IpVersion: driverv1.IpVersion(m.Version), IcmpType: r.IcmpType, IcmpCode: r.IcmpCode}
	if m.Protocol >= 0 {
		number := uint32(m.Protocol)
		out.Protocol = &number
	}
	if m.First >= 0 {
		out.Ports = &driverv1.PortRange{First: uint32(m.First), Last: uint32(m.Last)}
	}
	switch remote := r.GetRemote().(type) {
	case *networkv1.SecurityRule_Cidr:
		cidr := remote.Cidr
		if p, err := netip.ParsePrefix(cidr); err == nil {
			cidr = p.String() // one form for one range
		}
		out.Remote = &driverv1.Rule_Cidr{Cidr: cidr}
	case *networkv1.SecurityRule_SecurityGroupId:
		out.Remote = &driverv1.Rule_AddressSetId{AddressSetId: remote.SecurityGroupId}
	}
	return out
}

// groupRefs are the groups among what a port, or a group, refers to.
func groupRefs(row *state.Row) []string {
	var out []string
	if row == nil {
		return nil
	}
	for _, ref := range row.Refs {
		if id, is := strings.CutPrefix(ref, state.RefSecurityGroup("")); is {
			out = append(out, id)
		}
	}
	return out
}

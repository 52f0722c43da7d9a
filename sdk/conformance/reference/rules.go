package reference

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

func (n *networkDriver) ApplyRuleSet(ctx context.Context, req *driverv1.ApplyRuleSetRequest) (*driverv1.ApplyRuleSetResponse, error) {
	want := req.GetRuleSet()
	id := want.GetRuleSetId()
	if err := checkID("rule_set.rule_set_id", id); err != nil {
		return nil, err
	}
	if err := n.checkMark(want.GetMark(), id); err != nil {
		return nil, err
	}
	if v := ruleViolations(want.GetRules()); len(v) > 0 {
		return nil, fault.Invalid(v...)
	}
	r := &driverv1.ApplyRuleSetResponse{Generation: want.GetGeneration()}
	return r, n.on(ctx, "rule_set_id", id, func(x *tx) error {
		have := &driverv1.RuleSet{}
		if x.get(ruleTable, id, have) {
			switch {
			case !n.ours(have.GetMark()):
				return notOurs("rule set", id)
			case have.GetGeneration() > want.GetGeneration() && !n.defect("takes-older-rules"):
				return wrongState("generation %d of rule set %s is in force", have.GetGeneration(), id)
			case have.GetGeneration() == want.GetGeneration() && !proto.Equal(have, want):
				return conflict("rule set", id)
			}
		}
		for _, s := range req.GetAddressSets() {
			there := &driverv1.AddressSet{}
			if x.get(addressTable, s.GetAddressSetId(), there) && there.GetGeneration() >= s.GetGeneration() {
				continue
			}
			if err := n.putAddresses(x, s); err != nil {
				return err
			}
		}
		for i, rule := range want.GetRules() {
			if set := rule.GetAddressSetId(); set != "" && !x.has(addressTable, set) {
				return wrongState("rules[%d] names address set %s, which is absent", i, set)
			}
		}
		return x.put(ruleTable, id, want)
	})
}

var ruleID = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)

func ruleViolations(rules []*driverv1.Rule) (v []fault.Violation) {
	seen := map[string]bool{}
	for i, r := range rules {
		bad := func(wrong bool, field, description string) {
			if wrong {
				v = append(v, fault.Violation{Field: fmt.Sprintf("rule_set.rules[%d].%s", i, field), Description: description})
			}
		}
		bad(!ruleID.MatchString(r.GetRuleId()) || seen[r.GetRuleId()], "rule_id", "must be 1-64 characters of a-z, A-Z, 0-9, '-', '_', unique in the set")
		seen[r.GetRuleId()] = true
		bad(r.GetDirection() == driverv1.RuleDirection_RULE_DIRECTION_UNSPECIFIED, "direction", "required")
		bad(r.GetProtocol() > 255, "protocol", "must be 0-255")
		icmp := r.Protocol != nil && (r.GetProtocol() == 1 || r.GetProtocol() == 58)
		bad(r.IcmpType != nil && (!icmp || r.GetIcmpType() > 255), "icmp_type", "must be 0-255, and only with ICMP, ICMPv6")
		bad(r.IcmpCode != nil && (r.IcmpType == nil || r.GetIcmpCode() > 255), "icmp_code", "must be 0-255, and only with icmp_type")
		if p := r.GetPorts(); p != nil {
			bad(p.GetFirst() < 1 || p.GetLast() > 65535 || p.GetFirst() > p.GetLast(), "ports", "must be within 1-65535, first not after last")
			bad(!slices.Contains([]uint32{6, 17, 132}, r.GetProtocol()), "ports", "only with TCP, UDP, SCTP")
		}
		if c := r.GetCidr(); c != "" {
			p, err := netip.ParsePrefix(c)
			bad(err != nil || p != p.Masked(), "cidr", "must be a CIDR with host bits zero")
			version := driverv1.IpVersion_IP_VERSION_4
			if p.Addr().Is6() {
				version = driverv1.IpVersion_IP_VERSION_6
			}
			bad(err == nil && r.GetIpVersion() != 0 && r.GetIpVersion() != version, "ip_version", "must be that of the cidr")
		}
	}
	return v
}

func (n *networkDriver) putAddresses(x *tx, s *driverv1.AddressSet) error {
	if err := checkID("address_set_id", s.GetAddressSetId()); err != nil {
		return err
	}
	if err := n.checkMark(s.GetMark(), s.GetAddressSetId()); err != nil {
		return err
	}
	for _, m := range s.GetMembers() {
		if _, err := netip.ParseAddr(m); err != nil {
			if _, err := netip.ParsePrefix(m); err != nil {
				return fault.Invalid(fault.Violation{Field: "members", Description: fmt.Sprintf("%.60q is neither address nor CIDR", m)})
			}
		}
	}
	return x.put(addressTable, s.GetAddressSetId(), s)
}

func (n *networkDriver) UpdateAddressSet(ctx context.Context, req *driverv1.UpdateAddressSetRequest) (*driverv1.UpdateAddressSetResponse, error) {
	id := req.GetAddressSetId()
	r := &driverv1.UpdateAddressSetResponse{Generation: req.GetGeneration()}
	return r, n.on(ctx, "address_set_id", id, func(x *tx) error {
		have := &driverv1.AddressSet{}
		there := x.get(addressTable, id, have)
		if there && !n.ours(have.GetMark()) {
			return notOurs("address set", id)
		}
		if there && have.GetGeneration() == req.GetGeneration() {
			return nil
		}
		want := &driverv1.AddressSet{AddressSetId: id, Mark: req.GetMark(), Generation: req.GetGeneration()}
		switch c := req.GetChange().(type) {
		case *driverv1.UpdateAddressSetRequest_Replace:
			if there && have.GetGeneration() > req.GetGeneration() {
				return wrongState("generation %d of address set %s is in force", have.GetGeneration(), id)
			}
			want.Members = c.Replace.GetMembers()
		case *driverv1.UpdateAddressSetRequest_Delta:
			if !there || have.GetGeneration() != c.Delta.GetBaseGeneration() {
				return wrongState("generation %d of address set %s is in force, not %d", have.GetGeneration(), id, c.Delta.GetBaseGeneration())
			}
			members := append(have.GetMembers(), c.Delta.GetAdd()...)
			members = slices.DeleteFunc(members, func(m string) bool { return slices.Contains(c.Delta.GetRemove(), m) })
			slices.Sort(members)
			want.Members = slices.Compact(members)
		default:
			return fault.Invalid(fault.Violation{Field: "change", Description: "required"})
		}
		return n.putAddresses(x, want)
	})
}

func (n *networkDriver) CollectGarbage(ctx context.Context, req *driverv1.CollectGarbageRequest) (*driverv1.CollectGarbageResponse, error) {
	r := &driverv1.CollectGarbageResponse{}
	return r, n.change(ctx, func(x *tx) error {
		usedRules, usedSets := map[string]bool{}, map[string]bool{}
		for _, id := range req.GetRuleSetIds() {
			usedRules[id] = true
		}
		for _, id := range req.GetAddressSetIds() {
			usedSets[id] = true
		}
		for _, i := range n.interfaces(x, "") {
			for _, rs := range i.GetRuleSets() {
				usedRules[rs.GetRuleSetId()] = true
			}
			if !slices.Contains(req.GetInterfaceIds(), i.GetInterfaceId()) {
				r.Objects = append(r.Objects, &driverv1.NetworkGarbage{ObjectId: i.GetInterfaceId(), Kind: driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_INTERFACE})
			}
		}
		for _, id := range x.keys(networkTable) {
			if have, err := n.getNetwork(x, id); err == nil && have != nil && !slices.Contains(req.GetNetworkIds(), id) {
				r.Objects = append(r.Objects, &driverv1.NetworkGarbage{ObjectId: id, Kind: driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_NETWORK, Detail: device("br", id)})
			}
		}
		for _, id := range x.keys(ruleTable) {
			rs := &driverv1.RuleSet{}
			if !x.get(ruleTable, id, rs) || !n.ours(rs.GetMark()) {
				continue
			}
			if !usedRules[id] {
				r.Objects = append(r.Objects, n.collect(x, ruleTable, id, driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_RULE_SET, req.GetDryRun()))
				continue
			}
			for _, rule := range rs.GetRules() {
				usedSets[rule.GetAddressSetId()] = true
			}
		}
		for _, id := range x.keys(addressTable) {
			s := &driverv1.AddressSet{}
			if x.get(addressTable, id, s) && n.ours(s.GetMark()) && !usedSets[id] {
				r.Objects = append(r.Objects, n.collect(x, addressTable, id, driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_ADDRESS_SET, req.GetDryRun()))
			}
		}
		return nil
	})
}

func (n *networkDriver) collect(x *tx, table, id string, kind driverv1.NetworkObjectKind, dry bool) *driverv1.NetworkGarbage {
	if !dry {
		x.del(table, id)
	}
	return &driverv1.NetworkGarbage{ObjectId: id, Kind: kind, Detail: table, Removed: !dry}
}

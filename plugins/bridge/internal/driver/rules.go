package driver

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/record"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// ApplyRuleSet replaces a rule set: one change of the first layer, whatever number of interfaces uses it.
func (d *Driver) ApplyRuleSet(ctx context.Context, req *driverv1.ApplyRuleSetRequest) (*driverv1.ApplyRuleSetResponse, error) {
	want := req.GetRuleSet()
	id := want.GetRuleSetId()
	if err := checkIDs("rule_set.rule_set_id", id); err != nil {
		return nil, err
	}
	unlock, err := d.keys.Lock(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.checkMark(want.GetMark(), id); err != nil {
		return nil, err
	}
	if err := checkRules(want.GetRules()); err != nil {
		return nil, err
	}
	next := d.state.Clone()
	for i, s := range req.GetAddressSets() {
		if err := d.checkSet(fmt.Sprintf("address_sets[%d]", i), s); err != nil {
			return nil, err
		}
		if have := next.Sets[s.GetAddressSetId()]; have != nil {
			if !d.ours(have.GetMark()) {
				return nil, notOurs("address set", s.GetAddressSetId())
			}
			if have.GetGeneration() >= s.GetGeneration() {
				continue
			}
		}
		next.Sets[s.GetAddressSetId()] = s
	}
	for i, r := range want.GetRules() {
		if set := r.GetAddressSetId(); set != "" && next.Sets[set] == nil {
			return nil, wrongState("rule_set.rules[%d] names address set %s, which is absent", i, set).WithRemedy("send it with the rule set")
		}
	}
	have := d.state.RuleSets[id]
	switch {
	case have == nil:
	case !d.ours(have.GetMark()):
		return nil, notOurs("rule set", id)
	case have.GetGeneration() > want.GetGeneration():
		return nil, wrongState("generation %d of rule set %s is in force", have.GetGeneration(), id)
	case have.GetGeneration() == want.GetGeneration() && !sameRules(have, want):
		return nil, conflict("rule set", id, fmt.Sprintf("content in generation %d", have.GetGeneration()))
	}
	next.RuleSets[id] = want
	if have != nil && proto.Equal(have, want) {
		next.RuleSets[id] = have
	}
	return &driverv1.ApplyRuleSetResponse{Generation: want.GetGeneration()}, d.commit(ctx, next)
}

// sameRules reports whether two rule sets say the same, whoever realised them when.
func sameRules(a, b *driverv1.RuleSet) bool {
	x, y := proto.CloneOf(a), proto.CloneOf(b)
	x.Mark, y.Mark = nil, nil
	return proto.Equal(x, y)
}

var ruleID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// checkRules names each invalid rule.
func checkRules(rules []*driverv1.Rule) error {
	var v violations
	seen := map[string]bool{}
	for i, r := range rules {
		v.rule(fmt.Sprintf("rule_set.rules[%d].", i), r)
		v.bad(seen[r.GetRuleId()], fmt.Sprintf("rule_set.rules[%d].rule_id", i), "must be unique in the set")
		seen[r.GetRuleId()] = true
		if len(v) >= 100 {
			break // enough to work on
		}
	}
	return v.err()
}

func (v *violations) rule(field string, r *driverv1.Rule) {
	v.bad(!ruleID.MatchString(r.GetRuleId()), field+"rule_id", "must be 1-64 characters of a-z, A-Z, 0-9, '-', '_'")
	v.bad(r.GetDirection() < 1 || r.GetDirection() > 2, field+"direction", "must be INGRESS or EGRESS")
	v.bad(r.GetIpVersion() < 0 || r.GetIpVersion() > 2, field+"ip_version", "unknown")
	v.bad(r.GetProtocol() > 255, field+"protocol", "must be 0-255")
	if p := r.GetPorts(); p != nil {
		v.bad(p.GetFirst() < 1 || p.GetLast() > 65535 || p.GetFirst() > p.GetLast(), field+"ports", "must be within 1-65535, first not after last")
		v.bad(!slices.Contains([]uint32{6, 17, 132}, r.GetProtocol()), field+"ports", "only with TCP, UDP, SCTP")
	}
	icmp := r.GetProtocol() == 1 || r.GetProtocol() == 58
	v.bad(r.IcmpType != nil && !icmp, field+"icmp_type", "only with ICMP, ICMPv6")
	v.bad(r.GetIcmpType() > 255, field+"icmp_type", "must be 0-255")
	v.bad(r.IcmpCode != nil && r.IcmpType == nil, field+"icmp_code", "only with icmp_type")
	v.bad(r.GetIcmpCode() > 255, field+"icmp_code", "must be 0-255")
	v.bad(r.GetProtocol() == 1 && r.GetIpVersion() == driverv1.IpVersion_IP_VERSION_6, field+"protocol", "ICMP is IPv4's; ICMPv6 is 58")
	v.bad(r.GetProtocol() == 58 && r.GetIpVersion() == driverv1.IpVersion_IP_VERSION_4, field+"protocol", "ICMPv6 is IPv6's; ICMP is 1")
	switch remote := r.GetRemote().(type) {
	case *driverv1.Rule_Cidr:
		p, err := netip.ParsePrefix(remote.Cidr)
		if err != nil || p != p.Masked() || p.Addr().Is4In6() {
			v.bad(true, field+"cidr", "must be a CIDR with host bits zero")
			break
		}
		v.bad(p.Addr().Is6() && r.GetIpVersion() == driverv1.IpVersion_IP_VERSION_4 || p.Addr().Is4() && r.GetIpVersion() == driverv1.IpVersion_IP_VERSION_6,
			field+"cidr", "is of the other IP version")
	case *driverv1.Rule_AddressSetId:
		v.bad(!uuid.MatchString(remote.AddressSetId), field+"address_set_id", "must be a UUID in lower case")
	}
}

func (d *Driver) checkSet(field string, s *driverv1.AddressSet) error {
	var v violations
	v.bad(!uuid.MatchString(s.GetAddressSetId()), field+".address_set_id", "must be a UUID in lower case")
	v.bad(s.GetMark().GetObjectId() != s.GetAddressSetId() || !d.ours(s.GetMark()), field+".mark", "must carry this cluster, node and the set's id")
	for i, m := range s.GetMembers() {
		_, err := parseMember(m)
		v.bad(err != nil, fmt.Sprintf("%s.members[%d]", field, i), "must be an address or a CIDR with host bits zero")
		if len(v) >= 100 {
			break
		}
	}
	return v.err()
}

// UpdateAddressSet changes an address set; rules that refer to it stay as they are.
func (d *Driver) UpdateAddressSet(ctx context.Context, req *driverv1.UpdateAddressSetRequest) (*driverv1.UpdateAddressSetResponse, error) {
	id := req.GetAddressSetId()
	if err := checkIDs("address_set_id", id); err != nil {
		return nil, err
	}
	unlock, err := d.keys.Lock(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.checkMark(req.GetMark(), id); err != nil {
		return nil, err
	}
	want := &driverv1.AddressSet{AddressSetId: id, Mark: req.GetMark(), Generation: req.GetGeneration()}
	have := d.state.Sets[id]
	if have != nil && !d.ours(have.GetMark()) {
		return nil, notOurs("address set", id)
	}
	r := &driverv1.UpdateAddressSetResponse{Generation: req.GetGeneration()}
	if have != nil && have.GetGeneration() == req.GetGeneration() {
		return r, nil
	}
	switch c := req.GetChange().(type) {
	case *driverv1.UpdateAddressSetRequest_Replace:
		if have.GetGeneration() > req.GetGeneration() {
			return nil, wrongState("generation %d of address set %s is in force", have.GetGeneration(), id)
		}
		want.Members = c.Replace.GetMembers()
	case *driverv1.UpdateAddressSetRequest_Delta:
		if have == nil || have.GetGeneration() != c.Delta.GetBaseGeneration() {
			return nil, wrongState("generation %d of address set %s is in force, not %d", have.GetGeneration(), id, c.Delta.GetBaseGeneration()).WithRemedy("send it whole")
		}
		if req.GetGeneration() < have.GetGeneration() {
			return nil, wrongState("generation %d of address set %s is in force", have.GetGeneration(), id)
		}
		removed := make(map[string]bool, len(c.Delta.GetRemove()))
		for _, m := range c.Delta.GetRemove() {
			removed[m] = true
		}
		seen := map[string]bool{}
		for _, m := range slices.Concat(have.GetMembers(), c.Delta.GetAdd()) {
			if !removed[m] && !seen[m] {
				want.Members = append(want.Members, m)
			}
			seen[m] = true
		}
	default:
		var v violations
		v.bad(true, "change", "required: replace or delta")
		return nil, v.err()
	}
	if err := d.checkSet("change", want); err != nil {
		return nil, err
	}
	return r, d.commitSet(want)
}

// commitSet changes one address set and nothing else. Needs mu.
func (d *Driver) commitSet(want *driverv1.AddressSet) error {
	old, next := d.state, d.state.Clone()
	next.Sets[want.GetAddressSetId()] = want
	if err := d.sets.Add(old, next); err != nil {
		return failed("address set "+want.GetAddressSetId(), err)
	}
	if err := d.dir.Save(&record.State{Networks: next.Networks, Interfaces: next.Interfaces, RuleSets: next.RuleSets, Sets: old.Sets}, next); err != nil {
		return failed("records", err)
	}
	d.state = next
	if have := old.Sets[want.GetAddressSetId()]; have != nil {
		d.cut(old, next)
	}
	return nil
}

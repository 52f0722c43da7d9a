package driver

import (
	"net/netip"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/filter"
	"github.com/limiquantix/limiquantix/plugins/bridge/internal/flows"
	"github.com/limiquantix/limiquantix/plugins/bridge/internal/record"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// cut ends the connections that next does not allow, unless it allows all that old did. Flows that stay are not touched. Needs mu.
func (d *Driver) cut(old, next *record.State) {
	if !narrower(old, next) {
		return
	}
	if err := policy(old, next).Cut(); err != nil {
		d.unwell("CONNTRACK_FAILED", err)
	}
}

// narrower reports whether next could forbid what old allowed.
func narrower(old, next *record.State) bool {
	for id, i := range old.Interfaces {
		if next.Interfaces[id] != i {
			return true
		}
	}
	for id, n := range old.Networks {
		if next.Networks[id] == nil || next.Networks[id].Number != n.Number {
			return true
		}
	}
	for id, s := range old.RuleSets {
		if next.RuleSets[id] != s && removesRule(s, next.RuleSets[id]) {
			return true
		}
	}
	for id, s := range old.Sets {
		if next.Sets[id] != s && removesMember(s, next.Sets[id]) {
			return true
		}
	}
	return len(old.Networks) == 0 && len(next.Interfaces) > 0 // after a restart nothing is known of what was cut short
}

func removesRule(a, b *driverv1.RuleSet) bool {
	if b.GetEgressDefaultDeny() && !a.GetEgressDefaultDeny() {
		return true
	}
	kept := map[string]bool{}
	for _, r := range b.GetRules() {
		kept[content(r)] = true
	}
	for _, r := range a.GetRules() {
		if !kept[content(r)] {
			return true
		}
	}
	return false
}

// content is what a rule says, whatever it is called.
func content(r *driverv1.Rule) string {
	x := &driverv1.Rule{
		Direction: r.GetDirection(), IpVersion: r.GetIpVersion(), Protocol: r.Protocol, Ports: r.GetPorts(), IcmpType: r.IcmpType, IcmpCode: r.IcmpCode, Remote: r.GetRemote(),
	}
	return x.String()
}

func removesMember(a, b *driverv1.AddressSet) bool {
	kept := make(map[string]bool, len(b.GetMembers()))
	for _, m := range b.GetMembers() {
		kept[m] = true
	}
	for _, m := range a.GetMembers() {
		if !kept[m] {
			return true
		}
	}
	return false
}

// policy is what next allows.
func policy(old, next *record.State) *flows.Policy {
	_, mask := filter.NetworkMark(0)
	p := &flows.Policy{Shift: 16, Mask: mask, Networks: map[uint32]flows.Network{}, Sets: next.Sets}
	for id, n := range next.Networks {
		fn := flows.Network{Ports: map[netip.Addr]*flows.Port{}, Gone: map[netip.Addr]bool{}}
		for _, i := range old.InterfacesOf(id) {
			if next.Interfaces[i] == nil {
				for _, a := range old.Interfaces[i].GetSpec().GetIpAddresses() {
					if ip, err := netip.ParseAddr(a); err == nil {
						fn.Gone[ip] = true
					}
				}
			}
		}
		for _, i := range next.InterfacesOf(id) {
			fp := port(next, i, &filter.Network{})
			x := &flows.Port{DenyOut: fp.DenyOut}
			for _, rs := range next.Interfaces[i].GetSpec().GetRuleSetIds() {
				x.Rules = append(x.Rules, next.RuleSets[rs].GetRules()...)
			}
			for _, a := range fp.Addresses {
				fn.Ports[a] = x
				delete(fn.Gone, a)
			}
			if x.Addresses = fp.Extra; len(x.Addresses) > 0 {
				fn.Wide = append(fn.Wide, x)
			}
		}
		p.Networks[n.Number] = fn
	}
	return p
}

package driver

import (
	"net/netip"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/filter"
	"github.com/limiquantix/limiquantix/plugins/bridge/internal/flows"
	"github.com/limiquantix/limiquantix/plugins/bridge/internal/record"
	"github.com/limiquantix/limiquantix/plugins/kit/ruleset"
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
	for id, p := range old.Plans {
		if next.Plans[id] != p && len(ruleset.Gone(p, next.Plans[id])) > 0 {
			return true
		}
	}
	for id, s := range old.Members {
		if next.Members[id] == s {
			continue
		}
		if next.Members[id] == nil {
			return true
		}
		if _, removed := ruleset.DiffMembers(s.Members, next.Members[id].Members); len(removed) > 0 {
			return true
		}
	}
	return len(old.Networks) == 0 && len(next.Interfaces) > 0 // after a restart nothing is known of what was cut short
}

// policy is what next allows.
func policy(old, next *record.State) *flows.Policy {
	members := func(id string) *ruleset.Members {
		if s := next.Members[id]; s != nil {
			return s.Members
		}
		return nil
	}
	_, mask := filter.NetworkMark(0)
	p := &flows.Policy{Shift: 16, Mask: mask, Networks: map[uint32]flows.Network{}}
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
			x := &flows.Port{Wide: fp.Extra, Policy: ruleset.Policy{Members: members}}
			for _, rs := range next.Interfaces[i].GetSpec().GetRuleSetIds() {
				if plan := next.Plans[rs]; plan != nil {
					x.Policy.Plans = append(x.Policy.Plans, plan)
				}
			}
			for _, a := range fp.Addresses {
				fn.Ports[a] = x
				delete(fn.Gone, a)
			}
			if len(x.Wide) > 0 {
				fn.Wide = append(fn.Wide, x)
			}
		}
		p.Networks[n.Number] = fn
	}
	return p
}

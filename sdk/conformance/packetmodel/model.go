package packetmodel

import (
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// Model is what is in force on the ports of a node, and which flows were let through.
type Model struct {
	ports map[string][]string // rule sets by port
	rules map[string]*driverv1.RuleSet
	sets  map[string][]netip.Prefix
	flows map[Packet]bool // by first packet
}

// New makes a model without ports.
func New() *Model {
	return &Model{ports: map[string][]string{}, rules: map[string]*driverv1.RuleSet{}, sets: map[string][]netip.Prefix{}, flows: map[Packet]bool{}}
}

// Clone is a model that goes its own way.
func (m *Model) Clone() *Model {
	c := New()
	for k, v := range m.ports {
		c.ports[k] = slices.Clone(v)
	}
	for k, v := range m.rules {
		c.rules[k] = proto.CloneOf(v)
	}
	for k, v := range m.sets {
		c.sets[k] = slices.Clone(v)
	}
	for k := range m.flows {
		c.flows[k] = true
	}
	return c
}

// Change changes what is in force, and cuts the flows that nothing allows any more.
func (m *Model) Change(f func(*Change)) {
	f(&Change{m})
	for p := range m.flows {
		if !m.Allowed(p) {
			delete(m.flows, p)
		}
	}
}

// Change is one atomic change of a model.
type Change struct{ m *Model }

// Port puts rule sets in force on a port.
func (c *Change) Port(name string, ruleSets ...string) { c.m.ports[name] = slices.Clone(ruleSets) }

// RuleSet replaces a rule set.
func (c *Change) RuleSet(s *driverv1.RuleSet) { c.m.rules[s.GetRuleSetId()] = proto.CloneOf(s) }

// AddressSet replaces the members of an address set. Members are known to be addresses and CIDRs.
func (c *Change) AddressSet(id string, members ...string) {
	c.m.sets[id] = nil
	for _, s := range members {
		if a, err := netip.ParseAddr(s); err == nil {
			c.m.sets[id] = append(c.m.sets[id], netip.PrefixFrom(a, a.BitLen()))
		} else {
			c.m.sets[id] = append(c.m.sets[id], netip.MustParsePrefix(s))
		}
	}
}

// Send sends a packet: it passes when it belongs to a flow that was let through, or is allowed. What passes begins a flow if it has replies.
func (m *Model) Send(p Packet) bool {
	if r, ok := p.origin(); ok && m.flows[r] {
		return true
	}
	if !m.Allowed(p) {
		return false
	}
	if _, ok := p.Reply(); ok {
		m.flows[p] = true
	}
	return true
}

// origin is the packet that p would be the reply to.
func (p Packet) origin() (Packet, bool) {
	r := p
	r.From, r.To, r.Src, r.Dst, r.SrcPort, r.DstPort = p.To, p.From, p.Dst, p.Src, p.DstPort, p.SrcPort
	switch {
	case p.Protocol == TCP, p.Protocol == UDP:
		return r, true
	case p.Protocol == ICMP && p.ICMPType == 0 && p.ICMPCode == 0:
		r.ICMPType = 8
		return r, true
	case p.Protocol == ICMPv6 && p.ICMPType == 129 && p.ICMPCode == 0:
		r.ICMPType = 128
		return r, true
	}
	return r, false
}

// Flows are the first packets of the flows that were let through and not cut.
func (m *Model) Flows() (ps []Packet) {
	for p := range m.flows {
		ps = append(ps, p)
	}
	return ps
}

// Flow reports whether a packet began a flow that was not cut.
func (m *Model) Flow(first Packet) bool { return m.flows[first] }

// Allowed reports whether rules allow a packet by itself: those of its sender let it out, those of its receiver let it in.
func (m *Model) Allowed(p Packet) bool {
	return (p.From == "" || m.egress(m.ports[p.From], p)) && (p.To == "" || m.ingress(m.ports[p.To], p))
}

func (m *Model) egress(sets []string, p Packet) bool {
	deny := false
	for _, id := range sets {
		deny = deny || m.rules[id].GetEgressDefaultDeny()
	}
	return !deny || m.any(sets, driverv1.RuleDirection_RULE_DIRECTION_EGRESS, p, p.Dst)
}

func (m *Model) ingress(sets []string, p Packet) bool {
	return m.any(sets, driverv1.RuleDirection_RULE_DIRECTION_INGRESS, p, p.Src)
}

func (m *Model) any(sets []string, d driverv1.RuleDirection, p Packet, remote netip.Addr) bool {
	for _, id := range sets {
		for _, r := range m.rules[id].GetRules() {
			if r.GetDirection() == d && m.matches(r, p, remote) {
				return true
			}
		}
	}
	return false
}

// matches holds a packet to everything that is set in a rule.
func (m *Model) matches(r *driverv1.Rule, p Packet, remote netip.Addr) bool {
	switch r.GetIpVersion() {
	case driverv1.IpVersion_IP_VERSION_4:
		if p.V6() {
			return false
		}
	case driverv1.IpVersion_IP_VERSION_6:
		if !p.V6() {
			return false
		}
	}
	if r.Protocol != nil && r.GetProtocol() != uint32(p.Protocol) {
		return false
	}
	if ports := r.GetPorts(); ports != nil && (!p.HasPorts() || uint32(p.DstPort) < ports.GetFirst() || uint32(p.DstPort) > ports.GetLast()) {
		return false
	}
	if r.IcmpType != nil && (!p.IsICMP() || r.GetIcmpType() != uint32(p.ICMPType)) {
		return false
	}
	if r.IcmpCode != nil && (!p.IsICMP() || r.GetIcmpCode() != uint32(p.ICMPCode)) {
		return false
	}
	switch x := r.GetRemote().(type) {
	case *driverv1.Rule_Cidr:
		return netip.MustParsePrefix(x.Cidr).Contains(remote)
	case *driverv1.Rule_AddressSetId:
		return slices.ContainsFunc(m.sets[x.AddressSetId], func(c netip.Prefix) bool { return c.Contains(remote) })
	}
	return true
}

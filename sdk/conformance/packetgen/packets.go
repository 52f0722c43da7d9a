package packetgen

import (
	"net/netip"
	"slices"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk/conformance/packetmodel"
)

// What a policy must be tried with.
const (
	// MinPackets is how many packets, at least.
	MinPackets = 24
	// MinDropped is how many of these must be dropped: more than 40 %.
	MinDropped = 10
	minPassed  = 4
)

// Packets draws packets near the edges of a policy. It returns nil when too little would be dropped or pass: then another policy is wanted.
func (g *Generator) Packets(p Policy, m *packetmodel.Model) (ps []packetmodel.Packet) {
	passed, dropped := 0, 0
	for range 600 {
		x, ok := g.packet(p)
		if !ok {
			continue
		}
		pass := m.Allowed(x)
		switch {
		case pass && (passed >= MinPackets-MinDropped || !follows(x)):
		case pass:
			ps, passed = append(ps, x), passed+1
		case dropped < MinPackets-minPassed:
			ps, dropped = append(ps, x), dropped+1
		}
		if len(ps) >= MinPackets && passed >= minPassed && dropped >= MinDropped {
			return ps
		}
	}
	return nil
}

// follows reports whether every kind of connection tracking lets a packet begin something: others, like errors that answer nothing, are dropped by some whatever the rules say.
func follows(p packetmodel.Packet) bool {
	switch p.Protocol {
	case packetmodel.ICMP:
		return p.ICMPCode == 0 && (p.ICMPType == 8 || p.ICMPType == 13)
	case packetmodel.ICMPv6:
		return p.ICMPCode == 0 && p.ICMPType == 128
	}
	return true
}

// packet draws one that a rule of its way allows, or one that just misses it.
func (g *Generator) packet(p Policy) (x packetmodel.Packet, ok bool) {
	from, to := pick(g, g.guests...), pick(g, g.guests...)
	if from.Name == to.Name {
		return x, false
	}
	v6 := g.v6 && g.chance(40)
	x = packetmodel.Packet{From: from.Name, To: to.Name, Src: from.Addrs[0], Dst: to.Addrs[0]}
	srcs, dsts := g.addresses(from, v6), g.addresses(to, v6)
	if len(srcs) == 0 || len(dsts) == 0 {
		return x, false
	}
	x.Src, x.Dst = pick(g, srcs...), pick(g, dsts...)
	g.transport(&x, v6)
	if r := g.aim(p, from.Name, to.Name); r != nil {
		g.match(&x, r, v6)
		if remote := g.edge(p, r, v6); remote.IsValid() && g.chance(70) {
			if r.GetDirection() == driverv1.RuleDirection_RULE_DIRECTION_INGRESS && sends(from, remote) {
				x.Src = remote
			} else if r.GetDirection() == driverv1.RuleDirection_RULE_DIRECTION_EGRESS && sends(to, remote) {
				x.Dst = remote
			}
		}
	}
	x.SrcPort = g.Fresh()
	x.ICMPID = x.SrcPort
	if !x.HasPorts() {
		x.SrcPort, x.DstPort = 0, 0
	}
	if !x.IsICMP() {
		x.ICMPType, x.ICMPCode, x.ICMPID = 0, 0, 0
	}
	return x, g.fair(x)
}

// Fresh is a port, and an id of an echo, that was not drawn for a long time.
func (g *Generator) Fresh() uint16 {
	g.next = (g.next + 1) % 40000
	return 20000 + g.next
}

// fair reports whether the contract says clearly what becomes of a packet that rules forbid or allow.
func (g *Generator) fair(x packetmodel.Packet) bool {
	switch x.Protocol {
	case packetmodel.UDP, packetmodel.TCP: // services of the network, and the sentinel
		return x.DstPort != 0 && !slices.Contains([]uint16{9, 53, 67, 68, 546, 547}, x.DstPort)
	case packetmodel.ICMP:
		return true
	case packetmodel.ICMPv6: // neither neighbour discovery nor listener discovery, which guests live by
		return x.ICMPType < 130 || x.ICMPType > 160
	case 0, 43, 44, 51, 59, 60, 135, packetmodel.SCTP:
		return false
	}
	// Whether these have replies depends on who follows them, so they go one way only.
	return x.From < x.To
}

func (g *Generator) transport(x *packetmodel.Packet, v6 bool) {
	switch n := g.IntN(10); {
	case n < 4:
		x.Protocol = packetmodel.TCP
	case n < 7:
		x.Protocol = packetmodel.UDP
	case n < 9:
		x.Protocol, x.ICMPType = packetmodel.ICMP, 8
		if v6 {
			x.Protocol, x.ICMPType = packetmodel.ICMPv6, 128
		}
	default:
		x.Protocol = uint8(pick(g, others...)) //nolint:gosec // small
	}
	x.DstPort = uint16(1 + g.IntN(65535)) //nolint:gosec // small
}

// aim is a rule on the way from one guest to another; nil when there is none.
func (g *Generator) aim(p Policy, from, to string) *driverv1.Rule {
	var rules []*driverv1.Rule
	collect := func(guest string, d driverv1.RuleDirection) {
		for _, id := range p.Ports[guest] {
			for _, r := range p.Rules[id].GetRules() {
				if r.GetDirection() == d {
					rules = append(rules, r)
				}
			}
		}
	}
	collect(to, driverv1.RuleDirection_RULE_DIRECTION_INGRESS)
	collect(from, driverv1.RuleDirection_RULE_DIRECTION_EGRESS)
	if len(rules) == 0 || g.chance(10) {
		return nil
	}
	return pick(g, rules...)
}

// match makes a packet match what a rule says of the transport, or miss it narrowly.
func (g *Generator) match(x *packetmodel.Packet, r *driverv1.Rule, v6 bool) {
	if r.Protocol != nil && g.chance(90) {
		icmp := r.GetProtocol() == packetmodel.ICMP || r.GetProtocol() == packetmodel.ICMPv6
		if !icmp || v6 == (r.GetProtocol() == packetmodel.ICMPv6) {
			x.Protocol = uint8(r.GetProtocol()) //nolint:gosec // the rule is valid
		}
	}
	if p := r.GetPorts(); p != nil {
		first, last := p.GetFirst(), p.GetLast()
		x.DstPort = uint16(pick(g, first, last, first+(last-first)/2, first-1, last+1, first^1)) //nolint:gosec // 65536 becomes 0, which is not fair
	}
	if r.IcmpType != nil {
		x.ICMPType = uint8(r.GetIcmpType()) //nolint:gosec // the rule is valid
		if g.chance(25) {
			x.ICMPType++
		}
	}
	if x.ICMPCode = uint8(r.GetIcmpCode()); g.chance(25) { //nolint:gosec // the rule is valid
		x.ICMPCode++
	}
}

// edge is an address at the edge of a rule's remote, inside or just outside.
func (g *Generator) edge(p Policy, r *driverv1.Rule, v6 bool) netip.Addr {
	var of []netip.Prefix
	add := func(s string) {
		c, err := netip.ParsePrefix(s)
		if a, err2 := netip.ParseAddr(s); err2 == nil {
			c, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err == nil && c.Addr().Is6() == v6 {
			of = append(of, c)
		}
	}
	switch x := r.GetRemote().(type) {
	case *driverv1.Rule_Cidr:
		add(x.Cidr)
	case *driverv1.Rule_AddressSetId:
		for _, s := range p.Sets[x.AddressSetId] {
			add(s)
		}
	}
	if len(of) == 0 {
		return netip.Addr{}
	}
	c := pick(g, of...)
	first, last := c.Addr(), lastOf(c)
	return pick(g, first, last, first.Prev(), last.Next())
}

func lastOf(c netip.Prefix) netip.Addr {
	b := c.Addr().AsSlice()
	for i := c.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// sends reports whether a guest may send from an address.
func sends(x Guest, a netip.Addr) bool {
	return slices.Contains(x.Addrs, a) || slices.ContainsFunc(x.Extra, func(c netip.Prefix) bool { return c.Contains(a) })
}

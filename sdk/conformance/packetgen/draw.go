package packetgen

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk/conformance/packetmodel"
)

// Generator draws policies of a fixed set of objects, each from the one before.
type Generator struct {
	*rand.Rand
	guests []Guest
	rules  []string // ids of rule sets
	sets   []string // ids of address sets
	v6     bool
	next   uint16 // ports and ids of flows, so that no flow is taken for another
}

// New makes a generator for guests, and for rule sets and address sets with the ids given.
func New(seed uint64, guests []Guest, ruleSets, addressSets []string) *Generator {
	g := &Generator{Rand: rand.New(rand.NewPCG(seed, 1)), guests: guests, rules: ruleSets, sets: addressSets} //nolint:gosec // it must be repeatable
	for _, x := range guests {
		for _, a := range x.Addrs {
			g.v6 = g.v6 || a.Is6()
		}
	}
	return g
}

func (g *Generator) chance(percent int) bool { return g.IntN(100) < percent }

func pick[E any](g *Generator, of ...E) E { return of[g.IntN(len(of))] }

// Empty is the policy before the first: everything is there, nothing in it.
func (g *Generator) Empty() Policy {
	p := Policy{Rules: map[string]*driverv1.RuleSet{}, Sets: map[string][]string{}, Ports: map[string][]string{}}
	for _, id := range g.sets {
		p.Sets[id] = nil
	}
	for _, id := range g.rules {
		p.Rules[id] = &driverv1.RuleSet{RuleSetId: id}
	}
	for _, x := range g.guests {
		p.Ports[x.Name] = nil
	}
	return p
}

// Policy draws the policy after p: often another altogether, else another rule set, other members, or other rule sets on a port.
func (g *Generator) Policy(p Policy) Policy {
	p = p.Clone()
	switch n := g.IntN(10); {
	case n < 5:
		for _, id := range g.sets {
			p.Sets[id] = g.members()
		}
		for _, id := range g.rules {
			p.Rules[id] = g.ruleSet(id)
		}
		for _, x := range g.guests {
			p.Ports[x.Name] = g.some()
		}
	case n < 7:
		id := pick(g, g.rules...)
		if r := p.Rules[id]; len(r.GetRules()) > 1 && g.chance(60) {
			at := g.IntN(len(r.GetRules()))
			r.Rules = slices.Delete(r.GetRules(), at, at+1)
		} else {
			p.Rules[id] = g.ruleSet(id)
		}
	case n < 9:
		id := pick(g, g.sets...)
		if m := p.Sets[id]; len(m) > 1 && g.chance(60) {
			at := g.IntN(len(m))
			p.Sets[id] = slices.Delete(m, at, at+1)
		} else {
			p.Sets[id] = g.members()
		}
	default:
		p.Ports[pick(g, g.guests...).Name] = g.some()
	}
	return p
}

// some are one to three of the rule sets, seldom none.
func (g *Generator) some() []string {
	ids := slices.Clone(g.rules)
	g.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	n := min(1+g.IntN(3), len(ids))
	if g.chance(5) {
		n = 0
	}
	ids = ids[:n]
	slices.Sort(ids)
	return ids
}

func (g *Generator) ruleSet(id string) *driverv1.RuleSet {
	r := &driverv1.RuleSet{RuleSetId: id, EgressDefaultDeny: g.chance(35)}
	for i := range g.IntN(7) {
		r.Rules = append(r.Rules, g.rule(fmt.Sprintf("r%d", i)))
	}
	return r
}

func (g *Generator) rule(id string) *driverv1.Rule {
	r := &driverv1.Rule{RuleId: id, Direction: driverv1.RuleDirection_RULE_DIRECTION_INGRESS}
	if g.chance(35) {
		r.Direction = driverv1.RuleDirection_RULE_DIRECTION_EGRESS
	}
	v6 := g.v6 && g.chance(40)
	switch n := g.IntN(100); {
	case n < 8: // any
	case n < 10:
		r.Protocol = proto.Uint32(0) // itself, not any
	case n < 20:
		r.Protocol = proto.Uint32(pick(g, others...))
	case n < 23:
		r.Protocol = proto.Uint32(packetmodel.SCTP)
	case n < 40:
		g.icmp(r, v6)
	case n < 72:
		r.Protocol = proto.Uint32(packetmodel.TCP)
	default:
		r.Protocol = proto.Uint32(packetmodel.UDP)
	}
	if p := r.GetProtocol(); (p == packetmodel.TCP || p == packetmodel.UDP || p == packetmodel.SCTP) && g.chance(85) {
		r.Ports = g.ports()
	}
	if g.chance(40) {
		r.IpVersion = driverv1.IpVersion_IP_VERSION_4
		if v6 {
			r.IpVersion = driverv1.IpVersion_IP_VERSION_6
		}
	}
	switch n := g.IntN(100); {
	case n < 35:
	case n < 75:
		r.Remote = &driverv1.Rule_Cidr{Cidr: g.cidr(v6).String()}
	default:
		r.Remote = &driverv1.Rule_AddressSetId{AddressSetId: pick(g, g.sets...)}
	}
	return r
}

// others are protocols without ports that any switch must carry.
var others = []uint32{89, 112, 253}

func (g *Generator) icmp(r *driverv1.Rule, v6 bool) {
	types := []uint32{8, 8, 8, 13, 0, 3, 255}
	r.Protocol = proto.Uint32(packetmodel.ICMP)
	if v6 {
		r.Protocol = proto.Uint32(packetmodel.ICMPv6)
		types = []uint32{128, 128, 128, 1, 129, 255}
	}
	if g.chance(75) {
		r.IcmpType = proto.Uint32(pick(g, types...))
		if g.chance(50) {
			r.IcmpCode = proto.Uint32(pick(g, uint32(0), 0, 0, 1, 255))
		}
	}
}

func (g *Generator) ports() *driverv1.PortRange {
	switch a := 1 + uint32(g.IntN(65535)); g.IntN(6) { //nolint:gosec // positive
	case 0:
		return &driverv1.PortRange{First: a, Last: 65535}
	case 1:
		return &driverv1.PortRange{First: 1, Last: a}
	case 2:
		return &driverv1.PortRange{First: 1, Last: 65535}
	case 3:
		return &driverv1.PortRange{First: a, Last: min(65535, a+uint32(g.IntN(2000)))} //nolint:gosec // positive
	default:
		return &driverv1.PortRange{First: a, Last: a}
	}
}

// members are addresses and ranges of guests, some of them overlapping.
func (g *Generator) members() (m []string) {
	for range g.IntN(6) {
		var s string
		if v6 := g.v6 && g.chance(40); g.chance(50) {
			s = g.address(v6).String()
		} else if c := g.cidr(v6); c.IsSingleIP() {
			s = c.Addr().String()
		} else {
			s = c.String()
		}
		m = append(m, s)
	}
	slices.Sort(m)
	return slices.Compact(m)
}

// cidr is a range near what guests can send from.
func (g *Generator) cidr(v6 bool) netip.Prefix {
	a := g.address(v6)
	bits := a.BitLen() - g.IntN(14)
	if g.chance(6) {
		bits = 0
	}
	c, _ := a.Prefix(bits)
	return c
}

// address is one that some guest can send from.
func (g *Generator) address(v6 bool) netip.Addr {
	return pick(g, g.addresses(pick(g, g.guests...), v6)...)
}

// addresses are some that a guest can send from: its own, the first and last ones of its ranges, and some in between.
func (g *Generator) addresses(x Guest, v6 bool) (as []netip.Addr) {
	for _, a := range x.Addrs {
		if a.Is6() == v6 {
			as = append(as, a)
		}
	}
	for _, c := range x.Extra {
		if c.Addr().Is6() == v6 {
			as = append(as, c.Addr().Next(), g.within(c), g.within(c))
		}
	}
	return as
}

// within is an address in a range.
func (g *Generator) within(c netip.Prefix) netip.Addr {
	b := c.Addr().AsSlice()
	for i := c.Bits(); i < len(b)*8; i++ {
		if g.chance(50) {
			b[i/8] |= 1 << (7 - i%8)
		}
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

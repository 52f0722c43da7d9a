package pipeline

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/bits"
	"net/netip"

	"github.com/limiquantix/limiquantix/plugins/kit/ruleset"
	"github.com/limiquantix/limiquantix/plugins/ovs/internal/flow"
)

// Conjunctions gives out numbers of conjunctions: the same for the same rule set, direction and address set, nearly always also after a restart.
type Conjunctions struct {
	ids  map[string]uint32
	used map[uint32]string
}

// NewConjunctions makes an empty one.
func NewConjunctions() *Conjunctions {
	return &Conjunctions{ids: map[string]uint32{}, used: map[uint32]string{}}
}

// ID is the number of the conjunction of a rule set's lines of a direction that refer to an address set, or to none.
func (c *Conjunctions) ID(rules string, d ruleset.Direction, set string) uint32 {
	key := fmt.Sprint(rules, " ", d, " ", set)
	if id, ok := c.ids[key]; ok {
		return id
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	id := h.Sum32()
	for id == 0 || c.used[id] != "" {
		id++
	}
	c.ids[key], c.used[id] = id, key
	return id
}

func table(d ruleset.Direction) uint8 {
	if d == ruleset.Egress {
		return tEgress
	}
	return tIngress
}

// family is the name of an address family in matches.
func family(fam ruleset.Family) string {
	if fam == ruleset.IPv6 {
		return "ipv6"
	}
	return "ip"
}

// remote matches the other side, which stands in a register; empty when it may be anybody.
func remote(p netip.Prefix) string {
	switch {
	case !p.IsValid() || p.Bits() == 0:
		return ""
	case p.Addr().Is4():
		b := p.Addr().As4()
		return fmt.Sprintf(",reg8=%#x/%#x", binary.BigEndian.Uint32(b[:]), ^uint32(0)<<(32-p.Bits()))
	}
	b := p.Addr().As16()
	var mask [16]byte
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return fmt.Sprintf(",xxreg2=0x%x/0x%x", b, mask)
}

// RuleFlows renders a rule set's lines: one dimension of its conjunctions.
func RuleFlows(p *ruleset.Plan, ids *Conjunctions) (flows []flow.Flow) {
	p.All(func(d ruleset.Direction, fam ruleset.Family, l ruleset.Line) {
		c := flow.Clause{ID: ids.ID(p.ID, d, l.Set), K: 2, N: 2}
		if l.Set != "" {
			c.N = 3
		}
		for _, m := range matches(fam, l.Match) {
			flows = append(flows, flow.Flow{Table: table(d), Priority: 100, Match: m, Clauses: []flow.Clause{c}})
		}
	})
	for d := range p.Lines {
		for set := range groups(p, ruleset.Direction(d)) { //nolint:gosec // 0 or 1
			d := ruleset.Direction(d) //nolint:gosec // 0 or 1
			next := "goto_table:68"
			if d == ruleset.Ingress {
				next = "goto_table:80"
			}
			for _, family := range []string{"ip", "ipv6"} {
				flows = append(flows, flow.Flow{Table: table(d), Priority: 110, Match: fmt.Sprintf("conj_id=%d,%s", ids.ID(p.ID, d, set), family), Actions: next})
			}
		}
	}
	return flows
}

// matches are those of a line, several where a range of ports is not one mask.
func matches(fam ruleset.Family, m ruleset.Match) []string {
	base := family(fam) + remote(m.Prefix)
	if m.Protocol == ruleset.Any {
		return []string{base}
	}
	base += fmt.Sprintf(",reg12=%d", m.Protocol)
	if m.ICMPType != ruleset.Any {
		base += fmt.Sprintf(",reg14=%d", m.ICMPType)
		if m.ICMPCode != ruleset.Any {
			base += fmt.Sprintf(",reg13=%d", m.ICMPCode)
		}
	}
	if !m.HasPorts() {
		return []string{base}
	}
	var out []string
	for _, p := range masks(m.First, m.Last) {
		out = append(out, base+",reg13="+p)
	}
	return out
}

// masks cuts a range of ports into values with masks.
func masks(first, last uint16) (out []string) {
	for at, end := uint32(first), uint32(last); at <= end; {
		size := uint32(1) << bits.TrailingZeros32(at|1<<16)
		for at+size-1 > end {
			size /= 2
		}
		if size == 1 {
			out = append(out, fmt.Sprint(at))
		} else {
			out = append(out, fmt.Sprintf("%#x/%#x", at, 0x100000000-uint64(size)))
		}
		at += size
	}
	return out
}

// SetFlows renders an address set's members: the third dimension of the conjunctions of the rule sets that refer to it. One member is one flow a direction that is in use.
func SetFlows(s *ruleset.Set, users []*ruleset.Plan, ids *Conjunctions) (flows []flow.Flow) {
	for _, d := range []ruleset.Direction{ruleset.Ingress, ruleset.Egress} {
		var clauses []flow.Clause
		for _, p := range users {
			if groups(p, d)[s.ID] {
				clauses = append(clauses, flow.Clause{ID: ids.ID(p.ID, d, s.ID), K: 3, N: 3})
			}
		}
		if len(clauses) == 0 {
			continue
		}
		for fam, list := range s.Members {
			for _, m := range list {
				for _, half := range halves(m) {
					flows = append(flows, flow.Flow{Table: table(d), Priority: 100, Match: family(ruleset.Family(fam)) + remote(half), Clauses: clauses}) //nolint:gosec // 0 or 1
				}
			}
		}
	}
	return flows
}

// halves are a member as flows have it: everybody is two prefixes, since a flow without an address is that of a rule's other dimensions too, and one flow cannot be several dimensions
// of one conjunction.
func halves(p netip.Prefix) []netip.Prefix {
	if p.Bits() != 0 {
		return []netip.Prefix{p}
	}
	high := p.Addr().AsSlice()
	high[0] = 0x80
	upper, _ := netip.AddrFromSlice(high)
	return []netip.Prefix{netip.PrefixFrom(p.Addr(), 1), netip.PrefixFrom(upper, 1)}
}

package pipeline

import (
	"fmt"
	"hash/fnv"
	"math/bits"

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

const tracked = "ct_state=-inv+trk"

// remote is the field of the other side, and the family's name, of a connection's original direction.
func remote(d ruleset.Direction, fam ruleset.Family) (family, field string) {
	family, field = "ip", "ct_nw_"
	if fam == ruleset.IPv6 {
		family, field = "ipv6", "ct_ipv6_"
	}
	if d == ruleset.Egress {
		return family, field + "dst"
	}
	return family, field + "src"
}

// RuleFlows renders a rule set's lines: one dimension of its conjunctions.
func RuleFlows(p *ruleset.Plan, ids *Conjunctions) (flows []flow.Flow) {
	p.All(func(d ruleset.Direction, fam ruleset.Family, l ruleset.Line) {
		c := flow.Clause{ID: ids.ID(p.ID, d, l.Set), K: 2, N: 2}
		if l.Set != "" {
			c.N = 3
		}
		for _, m := range matches(d, fam, l.Match) {
			flows = append(flows, flow.Flow{Table: table(d), Priority: 100, Match: m, Clauses: []flow.Clause{c}})
		}
	})
	for d := range p.Lines {
		for set := range groups(p, ruleset.Direction(d)) { //nolint:gosec // 0 or 1
			d := ruleset.Direction(d) //nolint:gosec // 0 or 1
			next := "goto_table:70"
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
func matches(d ruleset.Direction, fam ruleset.Family, m ruleset.Match) []string {
	family, side := remote(d, fam)
	base := tracked + "," + family
	if m.Prefix.IsValid() {
		base += "," + side + "=" + ruleset.Text(m.Prefix)
	}
	switch {
	case m.Protocol == ruleset.Any:
		return []string{base}
	case m.Protocol == 0:
		return []string{base + ",nw_proto=0"} // ct_nw_proto=0 would match everything
	case m.Protocol == ruleset.SCTP && m.HasPorts():
		return sctp(base, m)
	}
	base += fmt.Sprintf(",ct_nw_proto=%d", m.Protocol)
	if m.ICMPType != ruleset.Any {
		base += fmt.Sprintf(",ct_tp_src=%d", m.ICMPType)
		if m.ICMPCode != ruleset.Any {
			base += fmt.Sprintf(",ct_tp_dst=%d", m.ICMPCode)
		}
	}
	if !m.HasPorts() {
		return []string{base}
	}
	var out []string
	for _, p := range masks(m.First, m.Last) {
		out = append(out, base+",ct_tp_dst="+p)
	}
	return out
}

// sctp matches the packet's own ports: not every datapath tracks those of SCTP.
func sctp(base string, m ruleset.Match) (out []string) {
	state := "ct_state=-inv-rpl+trk"
	reply := "ct_state=-inv+rpl+trk"
	rest := base[len(tracked):]
	for _, p := range masks(m.First, m.Last) {
		out = append(out, state+rest+",nw_proto=132,tp_dst="+p, reply+rest+",nw_proto=132,tp_src="+p)
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
			out = append(out, fmt.Sprintf("%#x/%#x", at, 0x10000-size))
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
			family, side := remote(d, ruleset.Family(fam)) //nolint:gosec // 0 or 1
			for _, m := range list {
				match := tracked + "," + family
				if m.Bits() > 0 {
					match += "," + side + "=" + ruleset.Text(m)
				}
				flows = append(flows, flow.Flow{Table: table(d), Priority: 100, Match: match, Clauses: clauses})
			}
		}
	}
	return flows
}

package ruleset

import (
	"net/netip"
	"slices"
	"sort"
)

// index answers whether some match of a list covers another: all that the other lets pass, it does. It is exact but for two things that would not be cheap: several matches that cover
// one together, and a prefix against the members of an address set.
type index struct {
	ports map[Match][]span // by the match without its ports, ordered by first, then by last downwards
	bits  []int            // lengths of prefixes that occur
}

// span is a range of ports of one match. reach is the greatest last among the spans up to this one, at says whose.
type span struct {
	first, last, reach uint16
	at                 int
}

func newIndex(ms func(yield func(Match) bool)) *index {
	x, lengths := &index{ports: map[Match][]span{}}, map[int]bool{}
	for m := range ms {
		if m.Prefix.IsValid() {
			lengths[m.Prefix.Bits()] = true
		}
		base := m
		base.First, base.Last = 0, 0
		x.ports[base] = append(x.ports[base], span{first: m.First, last: m.Last})
	}
	for _, ss := range x.ports {
		slices.SortFunc(ss, func(a, b span) int {
			if a.first != b.first {
				return int(a.first) - int(b.first)
			}
			return int(b.last) - int(a.last)
		})
		for i := range ss {
			ss[i].reach, ss[i].at = ss[i].last, i
			if i > 0 && ss[i-1].first != 0 && ss[i-1].reach >= ss[i].last {
				ss[i].reach, ss[i].at = ss[i-1].reach, ss[i-1].at
			}
		}
	}
	for b := range lengths {
		x.bits = append(x.bits, b)
	}
	slices.Sort(x.bits)
	return x
}

// cover is a match that covers m, itself only when itself is true.
func (x *index) cover(m Match, itself bool) (Match, bool) {
	for _, base := range x.wider(m) {
		ss := x.ports[base]
		if len(ss) == 0 {
			continue
		}
		if ss[0].first == 0 && (m.First != 0 || base != m || itself) { // all ports
			return base, true
		}
		if m.First == 0 {
			continue
		}
		same := base
		same.First, same.Last = m.First, m.Last
		// The last span that begins where m does or before, and not behind m in the order.
		i := sort.Search(len(ss), func(i int) bool { return ss[i].first > m.First || ss[i].first == m.First && ss[i].last < m.Last }) - 1
		if i >= 0 && same == m && ss[i].first == m.First && ss[i].last == m.Last && !itself {
			i--
		}
		if i >= 0 && ss[i].first != 0 && ss[i].reach >= m.Last {
			s := ss[ss[i].at]
			same.First, same.Last = s.first, s.last
			return same, true
		}
	}
	return Match{}, false
}

// wider are m without ports, and all that is wider in protocol, ICMP or the other side; only with prefix lengths that occur.
func (x *index) wider(m Match) []Match {
	m.First, m.Last = 0, 0
	kinds := []Match{m}
	if m.ICMPCode != Any {
		k := m
		k.ICMPCode = Any
		kinds = append(kinds, k)
	}
	if m.ICMPType != Any {
		k := m
		k.ICMPType, k.ICMPCode = Any, Any
		kinds = append(kinds, k)
	}
	if m.Protocol != Any {
		k := m
		k.Protocol, k.ICMPType, k.ICMPCode = Any, Any, Any
		kinds = append(kinds, k)
	}
	out := slices.Clone(kinds)
	if m.Set == "" && !m.Prefix.IsValid() {
		return out
	}
	for _, k := range kinds {
		k.Set, k.Prefix = "", netip.Prefix{}
		out = append(out, k)
		for _, b := range x.bits {
			if m.Prefix.IsValid() && b < m.Prefix.Bits() {
				k.Prefix, _ = m.Prefix.Addr().Prefix(b)
				out = append(out, k)
			}
		}
	}
	return out
}

// prune makes sorted lines of matches, and leaves out those that another one covers.
func prune(found map[Match][]string) []Line {
	if len(found) == 0 {
		return nil
	}
	x := newIndex(func(yield func(Match) bool) {
		for m := range found {
			if !yield(m) {
				return
			}
		}
	})
	covered := map[Match]Match{}
	for m := range found {
		if c, ok := x.cover(m, false); ok {
			covered[m] = c
		}
	}
	rules := map[Match][]string{}
	for m, ids := range found {
		for c, ok := covered[m]; ok; c, ok = covered[m] {
			m = c
		}
		rules[m] = append(rules[m], ids...)
	}
	lines := make([]Line, 0, len(rules))
	for m, ids := range rules {
		slices.Sort(ids)
		lines = append(lines, Line{Match: m, Rules: ids})
	}
	slices.SortFunc(lines, func(a, b Line) int { return Compare(a.Match, b.Match) })
	return lines
}

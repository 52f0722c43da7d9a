package ruleset

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/limiquantix/limiquantix/plugins/kit/netspec"
	"github.com/limiquantix/limiquantix/proto/fault"
)

// Members are what is in an address set, by family: prefixes in canonical form (a single address has the full length), sorted, none twice. It is not changed once made.
type Members [2][]netip.Prefix

// parse reads addresses and CIDRs. twice says that one that comes twice is wrong.
func parse(field string, list []string, twice bool) (out []netip.Prefix, v []fault.Violation) {
	seen := make(map[netip.Prefix]int, len(list))
	for i, s := range list {
		p, err := netspec.ParseAddressOrCIDR(s)
		first, again := seen[p]
		switch {
		case err != nil:
			v = append(v, fault.Violation{Field: fmt.Sprintf("%s[%d]", field, i), Description: err.Error()})
		case again && twice:
			v = append(v, fault.Violation{Field: fmt.Sprintf("%s[%d]", field, i), Description: fmt.Sprintf("%s is %s[%d] too", p, field, first)})
		case !again:
			seen[p] = i
			out = append(out, p)
		}
		if len(v) > 100 {
			break
		}
	}
	return out, v
}

// ParseMembers reads addresses and CIDRs of both families; field is the path of the list, for example "replace.members".
func ParseMembers(field string, list []string) (*Members, []fault.Violation) {
	ps, v := parse(field, list, true)
	if len(v) > 0 {
		return nil, v
	}
	return newMembers(ps), nil
}

func newMembers(ps []netip.Prefix) *Members {
	m := &Members{}
	for _, p := range ps {
		f := FamilyOf(p.Addr())
		m[f] = append(m[f], p)
	}
	for f := range m {
		slices.SortFunc(m[f], comparePrefix)
		m[f] = slices.Compact(m[f])
	}
	return m
}

// Len is the number of members of both families.
func (m *Members) Len() int { return len(m[IPv4]) + len(m[IPv6]) }

// Contains reports whether an address is a member or in one.
func (m *Members) Contains(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for bits := a.BitLen(); bits >= 0; bits-- {
		if p, err := a.Prefix(bits); err == nil && m.Has(p) {
			return true
		}
	}
	return false
}

// Has reports whether exactly this prefix is a member.
func (m *Members) Has(p netip.Prefix) bool {
	_, ok := slices.BinarySearchFunc(m[FamilyOf(p.Addr())], p, comparePrefix)
	return ok
}

// Strings are the members as they travel: addresses without their length.
func (m *Members) Strings() []string {
	out := make([]string, 0, m.Len())
	for _, list := range m {
		for _, p := range list {
			out = append(out, Text(p))
		}
	}
	return out
}

// Text is a prefix as it travels: an address without its length.
func Text(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// Equal reports whether both have the same members.
func (m *Members) Equal(o *Members) bool {
	return slices.Equal(m[IPv4], o[IPv4]) && slices.Equal(m[IPv6], o[IPv6])
}

// Disjoint are the members that lie in no other: what a kind of set needs whose elements cannot overlap. What it contains is the same.
func (m *Members) Disjoint() *Members {
	out := &Members{}
	for f, list := range m {
		for _, p := range list { // a wider one that begins at the same address comes first
			if n := len(out[f]); n == 0 || !out[f][n-1].Overlaps(p) {
				out[f] = append(out[f], p)
			}
		}
	}
	return out
}

// Common are the members that both have.
func (m *Members) Common(o *Members) *Members {
	out := &Members{}
	for f, list := range m {
		for _, p := range list {
			if o.Has(p) {
				out[f] = append(out[f], p)
			}
		}
	}
	return out
}

// DiffMembers says what must be added to and removed from old, in any family, to get next; nil stands for an empty set.
func DiffMembers(old, next *Members) (add, remove []netip.Prefix) {
	if old == nil {
		old = &Members{}
	}
	if next == nil {
		next = &Members{}
	}
	for f := range old {
		a, b := old[f], next[f]
		for len(a) > 0 || len(b) > 0 {
			switch {
			case len(b) == 0 || len(a) > 0 && comparePrefix(a[0], b[0]) < 0:
				remove, a = append(remove, a[0]), a[1:]
			case len(a) == 0 || comparePrefix(a[0], b[0]) > 0:
				add, b = append(add, b[0]), b[1:]
			default:
				a, b = a[1:], b[1:]
			}
		}
	}
	return add, remove
}

// with is m with some members more and others fewer.
func (m *Members) with(add, remove []netip.Prefix) *Members {
	gone := make(map[netip.Prefix]bool, len(remove))
	for _, p := range remove {
		gone[p] = true
	}
	all := make([]netip.Prefix, 0, m.Len()+len(add))
	for _, list := range m {
		for _, p := range list {
			if !gone[p] {
				all = append(all, p)
			}
		}
	}
	return newMembers(append(all, add...))
}

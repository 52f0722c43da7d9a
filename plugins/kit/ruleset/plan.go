package ruleset

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// Direction is a direction, seen from the guest.
type Direction uint8

// The directions.
const (
	Ingress Direction = iota // to the guest
	Egress                   // from the guest
)

func (d Direction) String() string { return [...]string{"ingress", "egress"}[d] }

// Family is an address family.
type Family uint8

// The families.
const (
	IPv4 Family = iota
	IPv6
)

func (f Family) String() string { return [...]string{"ipv4", "ipv6"}[f] }

// FamilyOf is the family of an address.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() || a.Is4In6() {
		return IPv4
	}
	return IPv6
}

// Any stands for every protocol, ICMP type or ICMP code.
const Any = -1

// Protocols that have ports or types.
const (
	ICMP   = 1
	TCP    = 6
	UDP    = 17
	ICMPv6 = 58
	SCTP   = 132
)

// Match is what a packet must be like. It is comparable: equal matches are the same.
type Match struct {
	Protocol           int16        // 0-255, or Any
	First, Last        uint16       // destination ports; both 0 = all
	ICMPType, ICMPCode int16        // 0-255, or Any
	Prefix             netip.Prefix // the other side; the zero Prefix = anybody, or a member of Set when that is not empty. Never of length 0.
	Set                string       // id of an address set: the other side is a member of it
}

// Everything matches all packets of a family.
var Everything = Match{Protocol: Any, ICMPType: Any, ICMPCode: Any}

// HasPorts reports whether only some destination ports match.
func (m Match) HasPorts() bool { return m.First != 0 }

// Compare orders matches: protocol, ports, ICMP, set, prefix.
func Compare(a, b Match) int {
	return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last),
		cmp.Compare(a.ICMPType, b.ICMPType), cmp.Compare(a.ICMPCode, b.ICMPCode), strings.Compare(a.Set, b.Set), comparePrefix(a.Prefix, b.Prefix))
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// Line is a match and the ids of the rules that it stands for, sorted. A rule that another one makes redundant has its id on that one's line.
type Line struct {
	Match
	Rules []string
}

// Plan is a rule set, compiled. It is not changed after Compile.
type Plan struct {
	ID         string
	Generation int64
	Mark       *driverv1.OwnershipMark
	// Hash is the same for equal content, whatever the order of rules, generation and mark.
	Hash string
	// EgressDeny says that what goes out is dropped unless a line of some set allows it.
	EgressDeny bool
	// Lines are what may pass, by direction and family; sorted by Compare, none redundant where that is cheap to tell.
	Lines [2][2][]Line
	// Sets are the ids of address sets that lines refer to, sorted.
	Sets []string
	// Count is how many rules the set has.
	Count int
}

// All calls f with each line.
func (p *Plan) All(f func(Direction, Family, Line)) {
	for d := range p.Lines {
		for fam := range p.Lines[d] {
			for _, l := range p.Lines[d][fam] {
				f(Direction(d), Family(fam), l) //nolint:gosec // 0 or 1
			}
		}
	}
}

// Uses reports whether a line refers to an address set.
func (p *Plan) Uses(set string) bool {
	_, ok := slices.BinarySearch(p.Sets, set)
	return ok
}

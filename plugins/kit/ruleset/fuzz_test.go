package ruleset_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/plugins/kit/ruleset"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// naive says what the contract's words say of a rule set and a packet. It shares nothing with the compiler.
func naive(rs *driverv1.RuleSet, sets map[string][]string, p ruleset.Packet) bool {
	want := driverv1.RuleDirection_RULE_DIRECTION_INGRESS
	if p.Direction == ruleset.Egress {
		want = driverv1.RuleDirection_RULE_DIRECTION_EGRESS
		if !rs.GetEgressDefaultDeny() {
			return true
		}
	}
	in := func(s string) bool {
		if a, err := netip.ParseAddr(s); err == nil {
			return a == p.Remote
		}
		return netip.MustParsePrefix(s).Contains(p.Remote)
	}
	for _, r := range rs.GetRules() {
		ok := r.GetDirection() == want
		switch r.GetIpVersion() {
		case driverv1.IpVersion_IP_VERSION_4:
			ok = ok && p.Remote.Is4()
		case driverv1.IpVersion_IP_VERSION_6:
			ok = ok && p.Remote.Is6()
		}
		if r.Protocol != nil {
			ok = ok && r.GetProtocol() == uint32(p.Protocol) && (r.GetProtocol() != 1 || p.Remote.Is4()) && (r.GetProtocol() != 58 || p.Remote.Is6())
		}
		if r.GetPorts() != nil {
			ok = ok && uint32(p.Port) >= r.GetPorts().GetFirst() && uint32(p.Port) <= r.GetPorts().GetLast()
		}
		if r.IcmpType != nil {
			ok = ok && r.GetIcmpType() == uint32(p.ICMPType)
		}
		if r.IcmpCode != nil {
			ok = ok && r.GetIcmpCode() == uint32(p.ICMPCode)
		}
		switch x := r.GetRemote().(type) {
		case *driverv1.Rule_Cidr:
			ok = ok && in(x.Cidr)
		case *driverv1.Rule_AddressSetId:
			member := false
			for _, m := range sets[x.AddressSetId] {
				member = member || in(m)
			}
			ok = ok && member
		}
		if ok {
			return true
		}
	}
	return false
}

// The worlds that are drawn from are small, so that rules overlap and packets hit.
var (
	cidrs   = []string{"0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "192.0.2.0/25", "::/0", "2001:db8::/32", "2001:db8:1::/48", "2001:db8:1::5/128"}
	remotes = []string{"10.1.2.3", "10.1.2.4", "10.1.3.1", "10.2.0.1", "192.0.2.1", "192.0.2.200", "2001:db8:1::5", "2001:db8:1::6", "2001:db8:2::1", "2001:db9::1"}
	sets    = map[string][]string{setA: {"10.1.2.3", "192.0.2.0/24", "2001:db8:1::/48"}, setB: {}}
)

func randomRule(r *rand.Rand, i int) *driverv1.Rule {
	x := &driverv1.Rule{RuleId: fmt.Sprint("r", i), Direction: driverv1.RuleDirection(1 + r.IntN(2)), IpVersion: driverv1.IpVersion(r.IntN(3))}
	switch r.IntN(8) {
	case 0, 1, 2:
		x.Protocol = proto.Uint32([]uint32{6, 17, 132}[r.IntN(3)])
		if r.IntN(4) > 0 {
			first := uint32(1 + r.IntN(12))
			x.Ports = &driverv1.PortRange{First: first, Last: first + uint32(r.IntN(6))}
		}
	case 3, 4:
		x.Protocol = proto.Uint32([]uint32{1, 58}[r.IntN(2)])
		if r.IntN(3) > 0 {
			x.IcmpType = proto.Uint32(uint32(r.IntN(3)))
			if r.IntN(2) > 0 {
				x.IcmpCode = proto.Uint32(uint32(r.IntN(2)))
			}
		}
	case 5:
		x.Protocol = proto.Uint32([]uint32{0, 47, 255}[r.IntN(3)])
	}
	switch r.IntN(5) {
	case 0, 1, 2:
		x.Remote = &driverv1.Rule_Cidr{Cidr: cidrs[r.IntN(len(cidrs))]}
	case 3:
		x.Remote = &driverv1.Rule_AddressSetId{AddressSetId: []string{setA, setB}[r.IntN(2)]}
	}
	return x
}

func randomPacket(r *rand.Rand) ruleset.Packet {
	p := ruleset.Packet{
		Direction: ruleset.Direction(r.IntN(2)), Remote: netip.MustParseAddr(remotes[r.IntN(len(remotes))]),
		Protocol: []uint8{0, 1, 6, 17, 47, 58, 132, 255}[r.IntN(8)],
	}
	switch p.Protocol {
	case 6, 17, 132:
		p.Port = uint16(1 + r.IntN(18))
	case 1, 58:
		p.ICMPType, p.ICMPCode = uint8(r.IntN(3)), uint8(r.IntN(2))
	}
	return p
}

// randomSet draws valid rules.
func randomSet(r *rand.Rand) *driverv1.RuleSet {
	rs := rules()
	rs.EgressDefaultDeny = r.IntN(2) == 0
	for n := r.IntN(14); len(rs.Rules) < n; {
		x := randomRule(r, len(rs.Rules))
		if len(ruleset.Violations("rule_set", rules(x), 0)) == 0 {
			rs.Rules = append(rs.Rules, x)
		}
	}
	return rs
}

// agrees fails unless the plan and the naive reading say the same of many packets.
func agrees(t *testing.T, r *rand.Rand, rs *driverv1.RuleSet) (allowed int) {
	t.Helper()
	members := map[string]*ruleset.Members{}
	for id, list := range sets {
		members[id], _ = ruleset.ParseMembers("members", list)
	}
	policy := ruleset.Policy{Plans: []*ruleset.Plan{compile(t, rs)}, Members: func(s string) *ruleset.Members { return members[s] }}
	for range 40 {
		p := randomPacket(r)
		got, line := policy.Allow(p)
		if want := naive(rs, sets, p); got != want {
			t.Fatalf("packet %+v: %v by %v, want %v\nrules: %v\nplan: %s", p, got, line, want, rs, text(policy.Plans[0]))
		}
		if got {
			allowed++
		}
	}
	return allowed
}

// count is how many random sets are tried: LIMIQUANTIX_TEST_RULESETS, or a thousand.
func count() int {
	if n, err := strconv.Atoi(os.Getenv("LIMIQUANTIX_TEST_RULESETS")); err == nil && n > 0 {
		return n
	}
	return 1000
}

// Random sets mean after compilation what their words say, what is gone between two of them is no less than what a packet shows, and pruning leaves nothing redundant.
func TestAgreesWithNaive(t *testing.T) {
	allowed := 0
	for seed := range count() {
		r := rand.New(rand.NewPCG(uint64(seed), 7)) //nolint:gosec // reproducible
		a, b := randomSet(r), randomSet(r)
		allowed += agrees(t, r, a)
		pa, pb := compile(t, a), compile(t, b)
		gone := &ruleset.Plan{EgressDeny: true}
		for _, c := range ruleset.Gone(pa, pb) {
			gone.Lines[c.Direction][c.Family] = append(gone.Lines[c.Direction][c.Family], c.Line)
		}
		members := func(s string) *ruleset.Members { m, _ := ruleset.ParseMembers("", sets[s]); return m }
		for range 20 {
			p := randomPacket(r)
			if was, is := naive(a, sets, p), naive(b, sets, p); was && !is {
				if ok, _ := (ruleset.Policy{Plans: []*ruleset.Plan{gone}, Members: members}).Allow(p); !ok {
					t.Fatalf("seed %d: %+v passed and does not any more, but is not among what is gone", seed, p)
				}
			}
		}
		for d := range pa.Lines {
			for f := range pa.Lines[d] {
				for i, l := range pa.Lines[d][f] {
					for j, m := range pa.Lines[d][f] {
						if i != j && contains(m.Match, l.Match) {
							t.Fatalf("seed %d: %v is redundant beside %v", seed, l, m)
						}
					}
				}
			}
		}
	}
	if share := float64(allowed) / float64(40*count()); share < 0.1 || share > 0.9 {
		t.Errorf("%.0f %% of all packets pass: the worlds drawn from say little", share*100)
	}
}

// contains reports whether a lets pass all that b does, read field by field.
func contains(a, b ruleset.Match) bool {
	field := func(x, y int16) bool { return x == ruleset.Any || x == y }
	return field(a.Protocol, b.Protocol) && field(a.ICMPType, b.ICMPType) && field(a.ICMPCode, b.ICMPCode) &&
		(a.First == 0 || b.First != 0 && a.First <= b.First && a.Last >= b.Last) &&
		(a.Set == "" && !a.Prefix.IsValid() || a.Set != "" && a.Set == b.Set ||
			a.Prefix.IsValid() && b.Prefix.IsValid() && a.Prefix.Bits() <= b.Prefix.Bits() && a.Prefix.Overlaps(b.Prefix))
}

// Whatever bytes arrive, nothing panics; what is accepted compiles to the same again and means what its words say.
func FuzzCompile(f *testing.F) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // reproducible
		b, err := proto.Marshal(randomSet(r))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		rs := &driverv1.RuleSet{}
		if proto.Unmarshal(b, rs) != nil {
			return
		}
		p, err := ruleset.Compile(rs, 0)
		if err != nil {
			return
		}
		again := compile(t, rs)
		if text(p) != text(again) || !ruleset.Diff(p, again).Empty() || len(ruleset.Gone(p, again)) > 0 {
			t.Fatalf("compiled twice:\n%s\n%s", text(p), text(again))
		}
		agrees(t, rand.New(rand.NewPCG(1, 2)), rs) //nolint:gosec // reproducible
	})
}

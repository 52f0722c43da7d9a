package filter

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/plugins/kit/ruleset"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

func plan(t *testing.T, rules ...*driverv1.Rule) *ruleset.Plan {
	t.Helper()
	const id = "11111111-1111-4111-8111-111111111111"
	for i, r := range rules {
		r.RuleId = "r" + string(rune('a'+i))
		r.Direction = driverv1.RuleDirection_RULE_DIRECTION_INGRESS
	}
	p, err := ruleset.Compile(&driverv1.RuleSet{RuleSetId: id, Mark: &driverv1.OwnershipMark{ClusterId: id, NodeId: id, ObjectId: id}, Generation: 1, Rules: rules}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func model(p *ruleset.Plan) *Model {
	n := &Network{Key: "aaaaaaaaaa", Bridge: "lqbaaaaaaaaaa", Number: 1, Zone: 5, MAC: "02:00:00:00:00:01", Subnets: []Subnet{{CIDR: netip.MustParsePrefix("10.0.0.0/24")}}}
	return &Model{Networks: []*Network{n}, RuleSets: []*RuleSet{{Key: "cccccccccc", Plan: p}}, Ports: []*Port{{
		Key: "bbbbbbbbbb", Tap: "lqtbbbbbbbbbb", MAC: "02:00:00:00:00:05", Network: n, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.5")}, RuleSets: []string{"cccccccccc"},
	}}}
}

// Protocol 0 and ICMP type 255 are "any" to iptables: written so, a rule on them would allow everything.
func TestWhatIptablesTakesForAny(t *testing.T) {
	p := plan(t,
		&driverv1.Rule{Protocol: proto.Uint32(0), IpVersion: driverv1.IpVersion_IP_VERSION_4},
		&driverv1.Rule{Protocol: proto.Uint32(1), IcmpType: proto.Uint32(255)},
		&driverv1.Rule{Protocol: proto.Uint32(1), IcmpType: proto.Uint32(255), IcmpCode: proto.Uint32(3)},
		&driverv1.Rule{Protocol: proto.Uint32(0), IpVersion: driverv1.IpVersion_IP_VERSION_6},
	)
	r := model(p).Render()
	for _, rule := range append(r.V4["mangle"]["LQi-cccccccccc"], r.V6["mangle"]["LQi-cccccccccc"]...) {
		if !strings.Contains(rule, "u32") {
			t.Errorf("matches too much: %s", rule)
		}
	}
	if n := len(r.V6["mangle"]["LQi-cccccccccc"]); n != 0 {
		t.Errorf("%d rules on the hop-by-hop header", n)
	}
}

// One rule more is one line; a change of everything is a chain written anew; nothing changed is nothing sent.
func TestDelta(t *testing.T) {
	port := func(n uint32) *driverv1.Rule {
		return &driverv1.Rule{Protocol: proto.Uint32(6), IpVersion: driverv1.IpVersion_IP_VERSION_4, Ports: &driverv1.PortRange{First: n, Last: n}}
	}
	var few, more, other []*driverv1.Rule
	for i := range uint32(20) {
		few, more, other = append(few, port(10+2*i)), append(more, port(10+2*i)), append(other, port(1001+2*i))
	}
	a, b, c := model(plan(t, few...)).Render(), model(plan(t, append(more, port(999))...)).Render(), model(plan(t, other...)).Render()
	if s := script(a.V4, a.V4) + frameScript(a.Frames, a.Frames); s != "" {
		t.Error("nothing changed:", s)
	}
	if s, want := script(a.V4, b.V4), "*mangle\n-A LQi-cccccccccc -p tcp -m tcp --dport 999 -g LQ-IOK\nCOMMIT\n"; s != want {
		t.Errorf("one rule more: %q, want %q", s, want)
	}
	if s, want := script(b.V4, a.V4), "*mangle\n-D LQi-cccccccccc -p tcp -m tcp --dport 999 -g LQ-IOK\nCOMMIT\n"; s != want {
		t.Errorf("one rule less: %q, want %q", s, want)
	}
	if s := script(a.V4, c.V4); !strings.HasPrefix(s, "*mangle\n:LQi-cccccccccc - [0:0]\n") {
		t.Error("everything else:", s)
	}
	if s := frameScript(a.Frames, b.Frames); s != "" {
		t.Error("rules are none of the second layer's business:", s)
	}
}

// One port more or less costs rules of its own, not those of all others of its network; where an address is several ports', order counts, and the chain is written anew.
func TestPortDelta(t *testing.T) {
	ports := func(n int) *Model {
		m := model(plan(t))
		for i := range n {
			k := fmt.Sprintf("%010x", 0xb000000000+i*1000)
			m.Ports = append(m.Ports, &Port{
				Key: k, Tap: "lqt" + k, MAC: fmt.Sprintf("02:00:00:00:01:%02x", i), Network: m.Networks[0], Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(100 + i)})},
			})
		}
		return m
	}
	m := ports(101)
	few, more := ports(100).Render(), m.Render()
	for _, s := range []string{script(few.V4, more.V4), script(more.V4, few.V4)} {
		if strings.Contains(s, ":LQM-") || strings.Contains(s, ":LQ-TO-b") || strings.Count(s, " 10.0.0.") != 1 {
			t.Error("more than one port's:", s)
		}
	}
	m.Ports[7].Extra = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}
	shared := m.Render()
	if s := script(more.V4, shared.V4); !strings.Contains(s, ":LQM-") {
		t.Error("rules whose order counts were appended:", s)
	}
	chain := slices.Clone(shared.V4["mangle"]["LQM-aaaaaaaaaa"])
	slices.Reverse(chain[1:])
	if sameUnordered("LQM-aaaaaaaaaa", chain, shared.V4["mangle"]["LQM-aaaaaaaaaa"]) {
		t.Error("another order where order counts is no difference")
	}
}

// What iptables-save and nft print is read back as what was rendered; what is not ours is not seen.
func TestParse(t *testing.T) {
	want := model(plan(t, &driverv1.Rule{Protocol: proto.Uint32(47)})).Render()
	saved := "# by iptables-save\n*mangle\n:PREROUTING DROP [0:0]\n:THEIRS - [0:0]\n-A PREROUTING -j THEIRS\n"
	for chain, rules := range want.V4["mangle"] {
		if ours(chain) {
			saved += ":" + chain + " - [0:0]\n"
		}
		for _, r := range rules {
			saved += "-A " + chain + " " + strings.ReplaceAll(r, "-p 47 ", "-p gre ") + "\n"
		}
	}
	got := parse(saved + "COMMIT\n")
	if d := chainDifferences("", got["mangle"], want.V4["mangle"]); len(d) > 0 {
		t.Error(d)
	}
	foreign := parse("*filter\n:FORWARD DROP [0:0]\n:DOCKER - [0:0]\n-A FORWARD -j DOCKER\nCOMMIT\n")
	if s := script(foreign, Tables{}); s != "" {
		t.Error("somebody else's rules would be changed:", s)
	}
}

// A table whose second layer lacks a chain could be open; one whose first layer does, not.
func TestOpen(t *testing.T) {
	want := model(plan(t)).Render()
	flushed := &Rendered{V4: Tables{}, V6: Tables{}, Frames: want.Frames}
	if flushed.FramesOpen(want) || len(Differences(flushed, want)) == 0 {
		t.Error("iptables flushed is a difference, and shut")
	}
	gone := &Rendered{V4: want.V4, V6: want.V6, Frames: parseFrames("")}
	if !gone.FramesOpen(want) {
		t.Error("the second layer gone is open")
	}
}

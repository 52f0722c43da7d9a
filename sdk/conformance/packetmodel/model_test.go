package packetmodel

import (
	"net/netip"
	"testing"

	"google.golang.org/protobuf/proto"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

const (
	in  = driverv1.RuleDirection_RULE_DIRECTION_INGRESS
	out = driverv1.RuleDirection_RULE_DIRECTION_EGRESS
)

func packet(protocol uint8, src, dst string, port uint16) Packet {
	return Packet{From: "a", To: "b", Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Protocol: protocol, SrcPort: 40000, DstPort: port}
}

// with makes a model of two ports: a without rule sets, b with one.
func with(rules ...*driverv1.Rule) *Model {
	m := New()
	m.Change(func(c *Change) {
		c.AddressSet("friends", "192.0.2.7", "198.51.100.0/24", "2001:db8::/32")
		c.AddressSet("nobody")
		c.RuleSet(&driverv1.RuleSet{RuleSetId: "set", Rules: rules})
		c.Port("a")
		c.Port("b", "set")
	})
	return m
}

func TestRulesMatchAllThatIsSet(t *testing.T) {
	t.Parallel()
	tcp80 := packet(TCP, "192.0.2.1", "192.0.2.2", 80)
	ping := Packet{From: "a", To: "b", Src: tcp80.Src, Dst: tcp80.Dst, Protocol: ICMP, ICMPType: 8}
	v6 := packet(UDP, "2001:db8::1", "2001:db8::2", 53)
	for name, c := range map[string]struct {
		rule *driverv1.Rule
		p    Packet
		want bool
	}{
		"everything":              {&driverv1.Rule{Direction: in}, tcp80, true},
		"the other direction":     {&driverv1.Rule{Direction: out}, tcp80, false},
		"protocol":                {&driverv1.Rule{Direction: in, Protocol: proto.Uint32(TCP)}, tcp80, true},
		"another protocol":        {&driverv1.Rule{Direction: in, Protocol: proto.Uint32(UDP)}, tcp80, false},
		"protocol 0 is itself":    {&driverv1.Rule{Direction: in, Protocol: proto.Uint32(0)}, tcp80, false},
		"first port":              {&driverv1.Rule{Direction: in, Protocol: proto.Uint32(TCP), Ports: &driverv1.PortRange{First: 80, Last: 90}}, tcp80, true},
		"last port":               {&driverv1.Rule{Direction: in, Protocol: proto.Uint32(TCP), Ports: &driverv1.PortRange{First: 1, Last: 80}}, tcp80, true},
		"before the first port":   {&driverv1.Rule{Direction: in, Protocol: proto.Uint32(TCP), Ports: &driverv1.PortRange{First: 81, Last: 90}}, tcp80, false},
		"after the last port":     {&driverv1.Rule{Direction: in, Protocol: proto.Uint32(TCP), Ports: &driverv1.PortRange{First: 1, Last: 79}}, tcp80, false},
		"type":                    {&driverv1.Rule{Direction: in, Protocol: proto.Uint32(ICMP), IcmpType: proto.Uint32(8)}, ping, true},
		"another type":            {&driverv1.Rule{Direction: in, Protocol: proto.Uint32(ICMP), IcmpType: proto.Uint32(0)}, ping, false},
		"another code":            {&driverv1.Rule{Direction: in, Protocol: proto.Uint32(ICMP), IcmpType: proto.Uint32(8), IcmpCode: proto.Uint32(1)}, ping, false},
		"version 4":               {&driverv1.Rule{Direction: in, IpVersion: driverv1.IpVersion_IP_VERSION_4}, tcp80, true},
		"version 6 of 4":          {&driverv1.Rule{Direction: in, IpVersion: driverv1.IpVersion_IP_VERSION_6}, tcp80, false},
		"version 4 of 6":          {&driverv1.Rule{Direction: in, IpVersion: driverv1.IpVersion_IP_VERSION_4}, v6, false},
		"in the CIDR":             {&driverv1.Rule{Direction: in, Remote: &driverv1.Rule_Cidr{Cidr: "192.0.2.0/31"}}, tcp80, true},
		"beside the CIDR":         {&driverv1.Rule{Direction: in, Remote: &driverv1.Rule_Cidr{Cidr: "192.0.2.2/31"}}, tcp80, false},
		"everybody of version 4":  {&driverv1.Rule{Direction: in, Remote: &driverv1.Rule_Cidr{Cidr: "0.0.0.0/0"}}, v6, false},
		"no member":               {&driverv1.Rule{Direction: in, Remote: &driverv1.Rule_AddressSetId{AddressSetId: "friends"}}, tcp80, false},
		"a member by its range":   {&driverv1.Rule{Direction: in, Remote: &driverv1.Rule_AddressSetId{AddressSetId: "friends"}}, v6, true},
		"a member by its address": {&driverv1.Rule{Direction: in, Remote: &driverv1.Rule_AddressSetId{AddressSetId: "friends"}}, packet(TCP, "192.0.2.7", "192.0.2.2", 1), true},
		"an empty set":            {&driverv1.Rule{Direction: in, Remote: &driverv1.Rule_AddressSetId{AddressSetId: "nobody"}}, tcp80, false},
	} {
		if got := with(c.rule).Send(c.p); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	p := packet(UDP, "192.0.2.1", "192.0.2.2", 53)
	m := with(&driverv1.Rule{Direction: in})
	back := packet(UDP, "192.0.2.2", "192.0.2.1", 53)
	back.From, back.To = "b", "a"
	if !m.Send(p) || m.Send(back) {
		t.Error("out passes by default, in does not")
	}
	m.Change(func(c *Change) {
		c.RuleSet(&driverv1.RuleSet{RuleSetId: "deny", EgressDefaultDeny: true})
		c.Port("a", "set", "deny")
	})
	if m.Send(p) {
		t.Error("one set that denies is enough")
	}
	m.Change(func(c *Change) {
		c.RuleSet(&driverv1.RuleSet{RuleSetId: "set", Rules: []*driverv1.Rule{{Direction: in}, {Direction: out, Protocol: proto.Uint32(UDP)}}})
	})
	if !m.Send(p) || m.Send(packet(TCP, "192.0.2.1", "192.0.2.2", 53)) {
		t.Error("a rule of another set allows")
	}
	node := p
	node.From = ""
	if !m.Send(node) {
		t.Error("the node has no rules")
	}
}

func TestFlows(t *testing.T) {
	t.Parallel()
	p := packet(TCP, "192.0.2.7", "192.0.2.2", 22)
	back, ok := p.Reply()
	if !ok || back.From != "b" || back.SrcPort != 22 {
		t.Fatal(back, ok)
	}
	rule := &driverv1.Rule{Direction: in, Remote: &driverv1.Rule_AddressSetId{AddressSetId: "friends"}}
	m := with(rule)
	if m.Send(back) {
		t.Error("an answer without a question")
	}
	if !m.Send(p) || !m.Send(back) || len(m.Flows()) != 1 {
		t.Error("an answer")
	}
	kept := m.Clone()
	kept.Change(func(c *Change) {
		c.RuleSet(&driverv1.RuleSet{RuleSetId: "set", Rules: []*driverv1.Rule{{Direction: in}}})
	})
	if !kept.Send(back) {
		t.Error("another rule allows the flow: it stays")
	}
	m.Change(func(c *Change) { c.AddressSet("friends", "192.0.2.8") })
	if m.Send(p) || m.Send(back) {
		t.Error("the member is gone: the flow is cut")
	}
	m.Change(func(c *Change) { c.AddressSet("friends", "192.0.2.7") })
	if m.Send(back) {
		t.Error("what was cut stays cut until it begins anew")
	}
	ping := Packet{From: "a", To: "b", Src: p.Src, Dst: p.Dst, Protocol: ICMP, ICMPType: 8, ICMPID: 5}
	pong, _ := ping.Reply()
	other := pong
	other.ICMPID = 6
	if !m.Send(ping) || !m.Send(pong) || m.Send(other) {
		t.Error("an echo is answered under its own id")
	}
}

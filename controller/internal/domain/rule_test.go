package domain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

const in, out = networkv1.RuleDirection_RULE_DIRECTION_INGRESS, networkv1.RuleDirection_RULE_DIRECTION_EGRESS

func num(n uint32) *uint32 { return &n }

func cidr(s string) *networkv1.SecurityRule_Cidr { return &networkv1.SecurityRule_Cidr{Cidr: s} }

func group(id string) *networkv1.SecurityRule_SecurityGroupId {
	return &networkv1.SecurityRule_SecurityGroupId{SecurityGroupId: id}
}

func TestRulesAreRefusedByField(t *testing.T) {
	known := func(ref string) bool { return ref == "web" }
	for name, c := range map[string]struct {
		rule  *networkv1.SecurityRule
		field string // "" = it is right
	}{
		"all":                        {&networkv1.SecurityRule{Direction: in}, ""},
		"one port":                   {&networkv1.SecurityRule{Direction: in, Protocol: "tcp", PortFirst: 22}, ""},
		"all ports by number":        {&networkv1.SecurityRule{Direction: out, Protocol: "17", PortFirst: 1, PortLast: 65535}, ""},
		"ping":                       {&networkv1.SecurityRule{Direction: in, Protocol: "icmp", IcmpType: num(8), IcmpCode: num(0)}, ""},
		"remote group":               {&networkv1.SecurityRule{Direction: in, Remote: group("web")}, ""},
		"default route":              {&networkv1.SecurityRule{Direction: in, Remote: cidr("0.0.0.0/0")}, ""},
		"quotes are text":            {&networkv1.SecurityRule{Direction: in, Description: `it's "quoted" -- and; so on`}, ""},
		"nothing":                    {nil, "rule"},
		"no direction":               {&networkv1.SecurityRule{}, "rule.direction"},
		"no such direction":          {&networkv1.SecurityRule{Direction: 7}, "rule.direction"},
		"port 0 with last":           {&networkv1.SecurityRule{Direction: in, Protocol: "tcp", PortLast: 22}, "rule.port_first"},
		"65535-1":                    {&networkv1.SecurityRule{Direction: in, Protocol: "tcp", PortFirst: 65535, PortLast: 1}, "rule.port_last"},
		"port 65536":                 {&networkv1.SecurityRule{Direction: in, Protocol: "tcp", PortFirst: 65536}, "rule.port_first"},
		"last port 65536":            {&networkv1.SecurityRule{Direction: in, Protocol: "tcp", PortFirst: 1, PortLast: 65536}, "rule.port_last"},
		"ports of any":               {&networkv1.SecurityRule{Direction: in, PortFirst: 1}, "rule.port_first"},
		"ports of icmp":              {&networkv1.SecurityRule{Direction: in, Protocol: "1", PortFirst: 1}, "rule.port_first"},
		"protocol 256":               {&networkv1.SecurityRule{Direction: in, Protocol: "256"}, "rule.protocol"},
		"protocol -1":                {&networkv1.SecurityRule{Direction: in, Protocol: "-1"}, "rule.protocol"},
		"protocol 006":               {&networkv1.SecurityRule{Direction: in, Protocol: "006"}, "rule.protocol"},
		"protocol in capitals":       {&networkv1.SecurityRule{Direction: in, Protocol: "TCP"}, "rule.protocol"},
		"icmp of tcp":                {&networkv1.SecurityRule{Direction: in, Protocol: "tcp", IcmpType: num(8)}, "rule.icmp_type"},
		"icmp type 256":              {&networkv1.SecurityRule{Direction: in, Protocol: "icmp", IcmpType: num(256)}, "rule.icmp_type"},
		"icmp code 256":              {&networkv1.SecurityRule{Direction: in, Protocol: "icmp", IcmpType: num(3), IcmpCode: num(256)}, "rule.icmp_code"},
		"icmp code without type":     {&networkv1.SecurityRule{Direction: in, Protocol: "icmp", IcmpCode: num(0)}, "rule.icmp_code"},
		"host bits":                  {&networkv1.SecurityRule{Direction: in, Remote: cidr("10.0.0.1/8")}, "rule.cidr"},
		"no CIDR":                    {&networkv1.SecurityRule{Direction: in, Remote: cidr("10.0.0.1")}, "rule.cidr"},
		"empty CIDR":                 {&networkv1.SecurityRule{Direction: in, Remote: cidr("")}, "rule.cidr"},
		"IPv4 in IPv6":               {&networkv1.SecurityRule{Direction: in, Remote: cidr("::ffff:10.0.0.0/104")}, "rule.cidr"},
		"IPv4 CIDR of IPv6":          {&networkv1.SecurityRule{Direction: in, IpVersion: networkv1.IpVersion_IP_VERSION_6, Remote: cidr("10.0.0.0/8")}, "rule.cidr"},
		"icmp of IPv6":               {&networkv1.SecurityRule{Direction: in, IpVersion: networkv1.IpVersion_IP_VERSION_6, Protocol: "icmp"}, "rule.protocol"},
		"icmpv6 from IPv4":           {&networkv1.SecurityRule{Direction: in, Protocol: "58", Remote: cidr("10.0.0.0/8")}, "rule.protocol"},
		"no such version":            {&networkv1.SecurityRule{Direction: in, IpVersion: 5}, "rule.ip_version"},
		"no such group":              {&networkv1.SecurityRule{Direction: in, Remote: group("db")}, "rule.security_group_id"},
		"no group":                   {&networkv1.SecurityRule{Direction: in, Remote: group("")}, "rule.security_group_id"},
		"newline in the description": {&networkv1.SecurityRule{Direction: in, Description: "a\nb"}, "rule.description"},
		"long description":           {&networkv1.SecurityRule{Direction: in, Description: strings.Repeat("ä", 257)}, "rule.description"},
	} {
		t.Run(name, func(t *testing.T) {
			var v Violations
			CheckRule(&v, "rule", c.rule, known)
			switch {
			case c.field == "" && len(v) > 0:
				t.Errorf("refused: %v", v)
			case c.field != "" && (len(v) != 1 || v[0].Field != c.field):
				t.Errorf("want %s refused, got %v", c.field, v)
			}
		})
	}
}

func TestEveryWrongRuleIsNamed(t *testing.T) {
	rules := make([]*networkv1.SecurityRule, 1000)
	for i := range rules {
		rules[i] = &networkv1.SecurityRule{Direction: in}
		if i%2 == 0 || i > 900 {
			rules[i].Protocol = "nonsense"
		}
	}
	var v Violations
	CheckRules(&v, "spec.rules", rules, nil)
	last := v[len(v)-1]
	if len(v) != maxRuleViolations+1 || v[0].Field != "spec.rules[0].protocol" || last.Field != "spec.rules" || !strings.Contains(last.Description, "400, 402, ") || !strings.HasSuffix(last.Description, ", 900-999") {
		t.Errorf("%d: %v", len(v), last)
	}
	v = nil
	if CheckRules(&v, "spec.rules", make([]*networkv1.SecurityRule, MaxRules+1), nil); len(v) != 1 || v[0].Field != "spec.rules" {
		t.Errorf("too many rules: %v", v)
	}
}

func TestRulesThatAllowTheSame(t *testing.T) {
	for name, c := range map[string]struct {
		a, b *networkv1.SecurityRule
		same bool
	}{
		"by name and number":       {&networkv1.SecurityRule{Direction: in, Protocol: "tcp"}, &networkv1.SecurityRule{Direction: in, Protocol: "6", Description: "x", Id: "y"}, true},
		"one port and a range":     {&networkv1.SecurityRule{Direction: in, Protocol: "tcp", PortFirst: 1}, &networkv1.SecurityRule{Direction: in, Protocol: "tcp", PortFirst: 1, PortLast: 1}, true},
		"any and empty":            {&networkv1.SecurityRule{Direction: in, Protocol: "any"}, &networkv1.SecurityRule{Direction: in}, true},
		"the version that follows": {&networkv1.SecurityRule{Direction: in, Remote: cidr("10.0.0.0/8")}, &networkv1.SecurityRule{Direction: in, IpVersion: networkv1.IpVersion_IP_VERSION_4, Remote: cidr("10.0.0.0/8")}, true},
		"one CIDR in two forms":    {&networkv1.SecurityRule{Direction: in, Remote: cidr("fd00::/8")}, &networkv1.SecurityRule{Direction: in, Remote: cidr("fd00:0::/8")}, true},
		"protocol 0 and any":       {&networkv1.SecurityRule{Direction: in, Protocol: "0"}, &networkv1.SecurityRule{Direction: in}, false},
		"directions":               {&networkv1.SecurityRule{Direction: in}, &networkv1.SecurityRule{Direction: out}, false},
		"type 0 and all types":     {&networkv1.SecurityRule{Direction: in, Protocol: "icmp", IcmpType: num(0)}, &networkv1.SecurityRule{Direction: in, Protocol: "icmp"}, false},
		"everybody and anybody":    {&networkv1.SecurityRule{Direction: in, Remote: cidr("0.0.0.0/0")}, &networkv1.SecurityRule{Direction: in}, false},
		"groups":                   {&networkv1.SecurityRule{Direction: in, Remote: group("a")}, &networkv1.SecurityRule{Direction: in, Remote: group("b")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := SameRule([]*networkv1.SecurityRule{c.a}, c.b) != nil; got != c.same {
				t.Errorf("same: %v", got)
			}
		})
	}
}

func TestRulesKeepTheirIDs(t *testing.T) {
	now := time.Unix(1, 0)
	present := []*networkv1.SecurityRule{{Id: "a", Direction: in}}
	rules := []*networkv1.SecurityRule{{Id: "a", Direction: out}, {Id: "stranger", Direction: in}, {Direction: in, Remote: group("web")}}
	var v Violations
	SettleRules(&v, "rules", rules, present, func(string) string { return "id-of-web" }, now)
	if len(v) != 0 || rules[0].GetId() != "a" || rules[1].GetId() == "stranger" || !IsID(rules[1].GetId()) || rules[2].GetSecurityGroupId() != "id-of-web" || rules[1].GetId() == rules[2].GetId() {
		t.Errorf("%v: %v", v, rules)
	}
	twice := []*networkv1.SecurityRule{{Id: "a", Direction: in}, {Id: "a", Direction: out}}
	if SettleRules(&v, "rules", twice, present, nil, now); len(v) != 1 || v[0].Field != "rules[1].id" {
		t.Errorf("one id twice: %v", v)
	}
	ids := newRuleIDs(now)
	var all []string
	for range 1000 {
		all = append(all, ids.take())
	}
	if slices.Sort(all); len(slices.Compact(all)) != 1000 || slices.ContainsFunc(all, func(s string) bool { return !IsID(s) }) {
		t.Error("ids of rules are no ids, or not unique")
	}
}

func TestPacketsAreExplained(t *testing.T) {
	port := func(change ...func(*networkv1.Port)) *networkv1.Port {
		p := &networkv1.Port{
			Spec:   &networkv1.PortSpec{ExtraAddresses: []string{"10.4.9.0/24"}},
			Status: &networkv1.PortStatus{Phase: networkv1.PortPhase_PORT_PHASE_UP, IpAddresses: []string{"10.4.0.5", "fd00::5"}, Mac: "52:54:00:12:34:56"},
		}
		for _, c := range change {
			c(p)
		}
		return p
	}
	groupOf := func(deny bool, rules ...*networkv1.SecurityRule) []*networkv1.SecurityGroup {
		g := DefaultSecurityGroup("p", time.Unix(1, 0))
		g.Spec.Rules = rules
		if deny {
			g.Spec.EgressDefault = networkv1.EgressDefault_EGRESS_DEFAULT_DENY
		}
		return []*networkv1.SecurityGroup{g}
	}
	tcp := func(d networkv1.RuleDirection, remote string, port uint32) *networkv1.ExplainPacketRequest {
		return &networkv1.ExplainPacketRequest{Direction: d, RemoteAddress: remote, Protocol: "tcp", DestinationPort: port}
	}
	web := &networkv1.SecurityRule{Id: "web", Direction: in, Protocol: "tcp", PortFirst: 80, PortLast: 90}
	all := &networkv1.SecurityRule{Id: "all", Direction: in, Remote: cidr("10.0.0.0/8")}
	peers := &networkv1.SecurityRule{Id: "peers", Direction: in, Remote: group("peers")}
	for name, c := range map[string]struct {
		req    *networkv1.ExplainPacketRequest
		port   *networkv1.Port
		groups []*networkv1.SecurityGroup
		reason string
		rules  string
	}{
		"a rule":                          {tcp(in, "192.0.2.1", 85), port(), groupOf(false, web, all), PacketRule, "web"},
		"two rules":                       {tcp(in, "10.1.1.1", 80), port(), groupOf(false, web, all), PacketRule, "web all"},
		"another port":                    {tcp(in, "192.0.2.1", 91), port(), groupOf(false, web, all), PacketNoRule, ""},
		"no groups":                       {tcp(in, "192.0.2.1", 80), port(), nil, PacketNoRule, ""},
		"IPv6 by a rule of both":          {tcp(in, "fd00::1", 80), port(), groupOf(false, web, all), PacketRule, "web"},
		"a member":                        {tcp(in, "10.4.0.7", 1), port(), groupOf(false, peers), PacketRule, "peers"},
		"no member":                       {tcp(in, "10.4.0.8", 1), port(), groupOf(false, peers), PacketNoRule, ""},
		"out":                             {tcp(out, "192.0.2.1", 443), port(), groupOf(false, web), PacketEgressDefault, ""},
		"out without groups":              {tcp(out, "192.0.2.1", 443), port(), nil, PacketEgressDefault, ""},
		"out, denied":                     {tcp(out, "192.0.2.1", 443), port(), groupOf(true, web), PacketNoRule, ""},
		"out, one group of two denies":    {tcp(out, "192.0.2.1", 443), port(), append(groupOf(true), groupOf(false)...), PacketNoRule, ""},
		"out, denied and allowed":         {tcp(out, "192.0.2.1", 443), port(), groupOf(true, &networkv1.SecurityRule{Id: "o", Direction: out, Protocol: "tcp", PortFirst: 443}), PacketRule, "o"},
		"out from a foreign address":      {&networkv1.ExplainPacketRequest{Direction: out, RemoteAddress: "192.0.2.1", LocalAddress: "10.4.0.6", Protocol: "udp", DestinationPort: 53}, port(), nil, PacketSpoofed, ""},
		"out from an extra address":       {&networkv1.ExplainPacketRequest{Direction: out, RemoteAddress: "192.0.2.1", LocalAddress: "10.4.9.9", Protocol: "udp", DestinationPort: 53}, port(), nil, PacketEgressDefault, ""},
		"out from its link-local address": {&networkv1.ExplainPacketRequest{Direction: out, RemoteAddress: "fe80::1", LocalAddress: "fe80::5054:ff:fe12:3456", Protocol: "udp", DestinationPort: 53}, port(), nil, PacketEgressDefault, ""},
		"router advertisement":            {&networkv1.ExplainPacketRequest{Direction: out, RemoteAddress: "ff02::1", Protocol: "icmpv6", IcmpType: num(134)}, port(), nil, PacketSpoofed, ""},
		"link down":                       {tcp(in, "10.1.1.1", 80), port(func(p *networkv1.Port) { p.Spec.LinkDown = true }), groupOf(false, web), PacketLinkDown, ""},
		"kept shut":                       {tcp(in, "10.1.1.1", 80), port(func(p *networkv1.Port) { p.Status.Phase = networkv1.PortPhase_PORT_PHASE_BLOCKED }), groupOf(false, web), PacketPortBlocked, ""},
		"ping": {
			&networkv1.ExplainPacketRequest{Direction: in, RemoteAddress: "10.1.1.1", Protocol: "1", IcmpType: num(8)}, port(),
			groupOf(false, &networkv1.SecurityRule{Id: "any", Direction: in, Protocol: "icmp"}, &networkv1.SecurityRule{Id: "8", Direction: in, Protocol: "icmp", IcmpType: num(8)}, &networkv1.SecurityRule{Id: "0", Direction: in, Protocol: "icmp", IcmpType: num(0)}),
			PacketRule, "any 8",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var v Violations
			p := ReadPacket(&v, c.req)
			if len(v) > 0 {
				t.Fatal(v)
			}
			got := ExplainPacket(p, c.port, c.groups, func(id string, a netip.Addr) string {
				if id == "peers" && a.String() == "10.4.0.7" {
					return "port-7"
				}
				return ""
			})
			var rules []string
			for _, r := range got.GetRules() {
				rules = append(rules, r.GetRule().GetId())
				if (r.GetRule().GetId() == "peers") != (r.GetMemberPortId() == "port-7") {
					t.Errorf("member is %q", r.GetMemberPortId())
				}
			}
			passes := c.reason == PacketRule || c.reason == PacketEgressDefault
			if got.GetReason() != c.reason || got.GetAllowed() != passes || strings.Join(rules, " ") != c.rules || got.GetMessage() == "" {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestPacketsThatCannotBe(t *testing.T) {
	for name, c := range map[string]struct {
		req   *networkv1.ExplainPacketRequest
		field string
	}{
		"no direction":     {&networkv1.ExplainPacketRequest{RemoteAddress: "10.0.0.1", Protocol: "47"}, "direction"},
		"no remote":        {&networkv1.ExplainPacketRequest{Direction: in, Protocol: "47"}, "remote_address"},
		"any protocol":     {&networkv1.ExplainPacketRequest{Direction: in, RemoteAddress: "10.0.0.1", Protocol: "any"}, "protocol"},
		"no port":          {&networkv1.ExplainPacketRequest{Direction: in, RemoteAddress: "10.0.0.1", Protocol: "tcp"}, "destination_port"},
		"a port of icmp":   {&networkv1.ExplainPacketRequest{Direction: in, RemoteAddress: "10.0.0.1", Protocol: "icmp", IcmpType: num(8), DestinationPort: 1}, "destination_port"},
		"no type":          {&networkv1.ExplainPacketRequest{Direction: in, RemoteAddress: "10.0.0.1", Protocol: "icmp"}, "icmp_type"},
		"a type of tcp":    {&networkv1.ExplainPacketRequest{Direction: in, RemoteAddress: "10.0.0.1", Protocol: "tcp", DestinationPort: 1, IcmpType: num(8)}, "icmp_type"},
		"icmp over IPv6":   {&networkv1.ExplainPacketRequest{Direction: in, RemoteAddress: "fd00::1", Protocol: "icmp", IcmpType: num(8)}, "protocol"},
		"two IP versions":  {&networkv1.ExplainPacketRequest{Direction: in, RemoteAddress: "fd00::1", LocalAddress: "10.0.0.1", Protocol: "47"}, "local_address"},
		"no local address": {&networkv1.ExplainPacketRequest{Direction: in, RemoteAddress: "fd00::1", LocalAddress: "x", Protocol: "47"}, "local_address"},
	} {
		t.Run(name, func(t *testing.T) {
			var v Violations
			if ReadPacket(&v, c.req); len(v) != 1 || v[0].Field != c.field {
				t.Errorf("want %s refused, got %v", c.field, v)
			}
		})
	}
}

func BenchmarkCheckTenThousandRules(b *testing.B) {
	rules := make([]*networkv1.SecurityRule, MaxRules)
	for i := range rules {
		rules[i] = &networkv1.SecurityRule{Direction: in, Protocol: "tcp", PortFirst: 22, Remote: cidr(fmt.Sprintf("10.%d.%d.0/24", i/256, i%256))}
	}
	for b.Loop() {
		var v Violations
		if CheckRules(&v, "spec.rules", rules, nil); len(v) > 0 {
			b.Fatal(v)
		}
	}
}

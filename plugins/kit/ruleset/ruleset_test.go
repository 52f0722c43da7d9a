package ruleset_test

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/plugins/kit/netspec"
	"github.com/limiquantix/limiquantix/plugins/kit/ruleset"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

var update = flag.Bool("update", false, "write the golden files anew")

const (
	id    = "aaaaaaaa-0000-4000-8000-000000000001"
	setA  = "bbbbbbbb-0000-4000-8000-000000000001"
	setB  = "bbbbbbbb-0000-4000-8000-000000000002"
	other = "cccccccc-0000-4000-8000-000000000001"
)

var owner = netspec.Owner{ClusterID: "dddddddd-0000-4000-8000-000000000001", NodeID: "dddddddd-0000-4000-8000-000000000002"}

func mark(id string) *driverv1.OwnershipMark {
	return &driverv1.OwnershipMark{ClusterId: owner.ClusterID, NodeId: owner.NodeID, ObjectId: id, Generation: 1, Epoch: 1}
}

func tcp(rule string, first, last uint32) *driverv1.Rule {
	return &driverv1.Rule{
		RuleId: rule, Direction: driverv1.RuleDirection_RULE_DIRECTION_INGRESS, Protocol: proto.Uint32(6),
		Ports: &driverv1.PortRange{First: first, Last: last},
	}
}

func from(r *driverv1.Rule, cidr string) *driverv1.Rule {
	r.Remote = &driverv1.Rule_Cidr{Cidr: cidr}
	return r
}

func rules(rs ...*driverv1.Rule) *driverv1.RuleSet {
	return &driverv1.RuleSet{RuleSetId: id, Mark: mark(id), Generation: 1, Rules: rs}
}

func compile(t testing.TB, rs *driverv1.RuleSet) *ruleset.Plan {
	t.Helper()
	p, err := ruleset.Compile(rs, 0)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func text(p *ruleset.Plan) string {
	var b strings.Builder
	fmt.Fprintf(&b, "hash %s, egress deny %v, %d rules, sets %v\n", p.Hash, p.EgressDeny, p.Count, p.Sets)
	p.All(func(d ruleset.Direction, f ruleset.Family, l ruleset.Line) {
		fmt.Fprintf(&b, "%s %s protocol=%d ports=%d-%d icmp=%d/%d prefix=%s set=%s rules=%s\n",
			d, f, l.Protocol, l.First, l.Last, l.ICMPType, l.ICMPCode, l.Prefix, l.Set, strings.Join(l.Rules, ","))
	})
	return b.String()
}

// What the compiler makes of the sets in testdata stands beside them.
func TestGolden(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.textproto")
	if len(files) == 0 {
		t.Fatal("no rule sets in testdata")
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		rs := &driverv1.RuleSet{}
		if err := prototext.Unmarshal(b, rs); err != nil {
			t.Fatal(file, err)
		}
		got, golden := text(compile(t, rs)), strings.TrimSuffix(file, ".textproto")+".golden"
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if want, err := os.ReadFile(golden); err != nil || string(want) != got {
			t.Errorf("%s: %v; compiled:\n%s", golden, err, got)
		}
		slices.Reverse(rs.Rules)
		if again := text(compile(t, rs)); again != got {
			t.Errorf("%s: rules in another order compile to\n%s", file, again)
		}
	}
}

// Everything that is wrong is refused by its field.
func TestInvalid(t *testing.T) {
	good := func() *driverv1.Rule { return tcp("r", 80, 80) }
	for name, c := range map[string]struct {
		spoil func(*driverv1.Rule)
		field string
	}{
		"no id":                {func(r *driverv1.Rule) { r.RuleId = "" }, "rule_id"},
		"newline in id":        {func(r *driverv1.Rule) { r.RuleId = "a\nb" }, "rule_id"},
		"long id":              {func(r *driverv1.Rule) { r.RuleId = strings.Repeat("a", 65) }, "rule_id"},
		"no direction":         {func(r *driverv1.Rule) { r.Direction = 0 }, "direction"},
		"unknown direction":    {func(r *driverv1.Rule) { r.Direction = 3 }, "direction"},
		"unknown version":      {func(r *driverv1.Rule) { r.IpVersion = 3 }, "ip_version"},
		"protocol 256":         {func(r *driverv1.Rule) { r.Protocol, r.Ports = proto.Uint32(256), nil }, "protocol"},
		"port 0":               {func(r *driverv1.Rule) { r.Ports.First = 0 }, "ports.first"},
		"empty range":          {func(r *driverv1.Rule) { r.Ports = &driverv1.PortRange{} }, "ports.first"},
		"port 65536":           {func(r *driverv1.Rule) { r.Ports.Last = 65536 }, "ports.last"},
		"65535-1":              {func(r *driverv1.Rule) { r.Ports = &driverv1.PortRange{First: 65535, Last: 1} }, "ports"},
		"ports of ICMP":        {func(r *driverv1.Rule) { r.Protocol = proto.Uint32(1) }, "ports"},
		"ports of anything":    {func(r *driverv1.Rule) { r.Protocol = nil }, "ports"},
		"type of TCP":          {func(r *driverv1.Rule) { r.IcmpType = proto.Uint32(8) }, "icmp_type"},
		"type 256":             {func(r *driverv1.Rule) { *r = *icmp(1, 256, -1) }, "icmp_type"},
		"code 256":             {func(r *driverv1.Rule) { *r = *icmp(1, 8, 256) }, "icmp_code"},
		"code without type":    {func(r *driverv1.Rule) { *r = *icmp(1, -1, 0) }, "icmp_code"},
		"ICMP of IPv6":         {func(r *driverv1.Rule) { *r = *icmp(1, 8, 0); r.IpVersion = 2 }, "protocol"},
		"ICMPv6 of IPv4":       {func(r *driverv1.Rule) { *r = *icmp(58, 128, 0); r.IpVersion = 1 }, "protocol"},
		"ICMP from IPv6":       {func(r *driverv1.Rule) { *r = *icmp(1, 8, 0); from(r, "2001:db8::/64") }, "cidr"},
		"ICMPv6 from IPv4":     {func(r *driverv1.Rule) { *r = *icmp(58, 128, 0); from(r, "10.0.0.0/8") }, "cidr"},
		"IPv6 CIDR of IPv4":    {func(r *driverv1.Rule) { r.IpVersion = 1; from(r, "2001:db8::/64") }, "cidr"},
		"IPv4 CIDR of IPv6":    {func(r *driverv1.Rule) { r.IpVersion = 2; from(r, "10.0.0.0/8") }, "cidr"},
		"host bits":            {func(r *driverv1.Rule) { from(r, "10.0.0.1/8") }, "cidr"},
		"no length":            {func(r *driverv1.Rule) { from(r, "10.0.0.0") }, "cidr"},
		"empty CIDR":           {func(r *driverv1.Rule) { from(r, "") }, "cidr"},
		"mapped":               {func(r *driverv1.Rule) { from(r, "::ffff:10.0.0.0/104") }, "cidr"},
		"zone":                 {func(r *driverv1.Rule) { from(r, "fe80::%1/64") }, "cidr"},
		"newline in CIDR":      {func(r *driverv1.Rule) { from(r, "10.0.0.0/8\n") }, "cidr"},
		"set without a UUID":   {func(r *driverv1.Rule) { r.Remote = &driverv1.Rule_AddressSetId{AddressSetId: "x"} }, "address_set_id"},
		"set with an empty id": {func(r *driverv1.Rule) { r.Remote = &driverv1.Rule_AddressSetId{} }, "address_set_id"},
	} {
		r := good()
		c.spoil(r)
		_, err := ruleset.Compile(rules(tcp("fine", 1, 1), r), 0)
		f := fault.From(err)
		if err == nil || f.Reason != metav1.Reason_REASON_INVALID_FIELD || !slices.ContainsFunc(f.Violations, func(v fault.Violation) bool { return v.Field == "rule_set.rules[1]."+c.field }) {
			t.Errorf("%s: %v", name, err)
		}
	}
	many := rules()
	for i := range 11 {
		many.Rules = append(many.Rules, tcp(fmt.Sprint(i), 1, 1))
	}
	if _, err := ruleset.Compile(many, 10); !fault.Is(err, metav1.Reason_REASON_INVALID_FIELD) {
		t.Error("11 rules where 10 are the most:", err)
	}
	_, err := ruleset.Compile(rules(tcp("a", 0, 1), tcp("b", 1, 1), tcp("b", 9, 1)), 0)
	if f := fault.From(err); err == nil || len(f.Violations) != 3 {
		t.Error("three wrong things:", err)
	}
}

func icmp(protocol uint32, typ, code int) *driverv1.Rule {
	r := &driverv1.Rule{RuleId: "r", Direction: driverv1.RuleDirection_RULE_DIRECTION_INGRESS, Protocol: &protocol}
	if typ >= 0 {
		r.IcmpType = proto.Uint32(uint32(typ))
	}
	if code >= 0 {
		r.IcmpCode = proto.Uint32(uint32(code))
	}
	return r
}

func TestDiffAndGone(t *testing.T) {
	old := compile(t, rules(tcp("a", 80, 80), tcp("b", 22, 22), from(tcp("c", 443, 443), "10.0.0.0/8")))
	for name, c := range map[string]struct {
		next                  *driverv1.RuleSet
		added, removed, gone  int
		renamed, nothingAtAll bool
	}{
		"same in another order": {next: rules(from(tcp("c", 443, 443), "10.0.0.0/8"), tcp("b", 22, 22), tcp("a", 80, 80)), nothingAtAll: true},
		"renamed":               {next: rules(tcp("x", 80, 80), tcp("b", 22, 22), from(tcp("c", 443, 443), "10.0.0.0/8")), renamed: true},
		"one more":              {next: rules(tcp("a", 80, 80), tcp("b", 22, 22), from(tcp("c", 443, 443), "10.0.0.0/8"), tcp("d", 1, 1)), added: 2},
		"one fewer":             {next: rules(tcp("a", 80, 80), from(tcp("c", 443, 443), "10.0.0.0/8")), removed: 2, gone: 2},
		"wider":                 {next: rules(tcp("a", 1, 100), from(tcp("c", 443, 443), "10.0.0.0/7")), added: 3, removed: 5},
		"narrower":              {next: rules(tcp("a", 80, 80), tcp("b", 22, 22), from(tcp("c", 443, 443), "10.0.0.0/9")), added: 1, removed: 1, gone: 1},
	} {
		next := compile(t, c.next)
		d, gone := ruleset.Diff(old, next), ruleset.Gone(old, next)
		if len(d.Added) != c.added || len(d.Removed) != c.removed || len(gone) != c.gone || (len(d.Renamed) > 0) != c.renamed || d.Empty() != c.nothingAtAll {
			t.Errorf("%s: %+v, gone %v", name, d, gone)
		}
		if (next.Hash == old.Hash) != c.nothingAtAll {
			t.Errorf("%s: hash %s, was %s", name, next.Hash, old.Hash)
		}
	}
	deny := rules(tcp("a", 80, 80))
	deny.EgressDefaultDeny = true
	if gone := ruleset.Gone(compile(t, rules(tcp("a", 80, 80))), compile(t, deny)); len(gone) != 2 || gone[0].Direction != ruleset.Egress {
		t.Error("what goes out is denied, gone:", gone)
	}
	if d := ruleset.Diff(nil, old); len(d.Added) != 5 {
		t.Error("from nothing:", d)
	}
}

func TestMembers(t *testing.T) {
	m, v := ruleset.ParseMembers("members", []string{"10.0.0.5", "10.0.0.0/24", "2001:db8::1", "10.0.0.0/25", "192.0.2.1/32"})
	if len(v) > 0 {
		t.Fatal(v)
	}
	if got := strings.Join(m.Strings(), " "); got != "10.0.0.0/24 10.0.0.0/25 10.0.0.5 192.0.2.1 2001:db8::1" {
		t.Error(got)
	}
	if got := strings.Join(m.Disjoint().Strings(), " "); got != "10.0.0.0/24 192.0.2.1 2001:db8::1" {
		t.Error(got)
	}
	for a, want := range map[string]bool{"10.0.0.200": true, "10.0.1.0": false, "192.0.2.1": true, "192.0.2.2": false, "2001:db8::1": true, "2001:db8::2": false, "::ffff:10.0.0.1": true} {
		if m.Contains(netip.MustParseAddr(a)) != want {
			t.Error(a, "is not", want)
		}
	}
	for _, bad := range []string{"", "x", "10.0.0.1/24", "10.0.0.1\n", "fe80::1%eth0", "::ffff:10.0.0.1", "0.0.0.0", "10.0.0.1/33"} {
		if _, v := ruleset.ParseMembers("members", []string{"10.0.0.9", bad}); len(v) != 1 || v[0].Field != "members[1]" {
			t.Errorf("%q: %v", bad, v)
		}
	}
	if _, v := ruleset.ParseMembers("members", []string{"10.0.0.1", "10.0.0.1/32"}); len(v) != 1 {
		t.Error("one that comes twice:", v)
	}
}

// 1,000 groups of 10 rules, half of them on other groups; 10,000 ports in three of them each, whose policies are put together.
func BenchmarkThousandGroupsTenThousandPorts(b *testing.B) {
	groups := make([]*driverv1.RuleSet, 1000)
	for i := range groups {
		groups[i] = rules()
		groups[i].RuleSetId = fmt.Sprintf("%08x-0000-4000-8000-000000000000", i)
		for j := range 10 {
			r := tcp(fmt.Sprint("r", j), uint32(1000+j*7), uint32(1000+j*7+i%3))
			if j%2 == 0 {
				r.Remote = &driverv1.Rule_AddressSetId{AddressSetId: fmt.Sprintf("%08x-0000-4000-8000-000000000000", (i+j)%1000)}
			} else {
				from(r, fmt.Sprintf("10.%d.%d.0/24", i%256, j))
			}
			groups[i].Rules = append(groups[i].Rules, r)
		}
	}
	for b.Loop() {
		plans := make([]*ruleset.Plan, len(groups))
		for i, g := range groups {
			plans[i] = compile(b, g)
		}
		lines := 0
		for port := range 10000 {
			p := ruleset.Policy{Plans: []*ruleset.Plan{plans[port%1000], plans[(port*7+1)%1000], plans[(port*13+2)%1000]}}
			for _, plan := range p.Plans {
				lines += len(plan.Lines[ruleset.Ingress][ruleset.IPv4])
			}
			if ok, _ := p.Allow(ruleset.Packet{Remote: netip.AddrFrom4([4]byte{203, 0, 113, 1}), Protocol: 6, Port: 1}); ok {
				b.Fatal("allowed")
			}
		}
		if lines < 10000 {
			b.Fatal(lines)
		}
	}
}

// One set with as many rules as there can be.
func BenchmarkTenThousandRules(b *testing.B) {
	rs := rules()
	for i := range 10000 {
		rs.Rules = append(rs.Rules, from(tcp(fmt.Sprint("r", i), uint32(1+i*5), uint32(3+i*5)), fmt.Sprintf("10.%d.%d.0/%d", i%200, i/200, 24-i%2)))
		rs.Rules[i].Remote = &driverv1.Rule_Cidr{Cidr: netip.MustParsePrefix(rs.Rules[i].GetCidr()).Masked().String()}
	}
	for b.Loop() {
		compile(b, rs)
	}
}

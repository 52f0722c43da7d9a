package pipeline_test

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/plugins/kit/ruleset"
	"github.com/limiquantix/limiquantix/plugins/ovs/internal/flow"
	"github.com/limiquantix/limiquantix/plugins/ovs/internal/pipeline"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

var update = flag.Bool("update", false, "write the golden file anew")

const (
	groupID = "aaaaaaaa-0000-4000-8000-000000000001"
	setID   = "bbbbbbbb-0000-4000-8000-000000000001"
)

func plan(t testing.TB, rules ...*driverv1.Rule) *ruleset.Plan {
	t.Helper()
	p, err := ruleset.Compile(&driverv1.RuleSet{RuleSetId: groupID, Generation: 1, Rules: rules}, 0)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func ingress(id string, protocol uint32, first, last uint32) *driverv1.Rule {
	return &driverv1.Rule{RuleId: id, Direction: driverv1.RuleDirection_RULE_DIRECTION_INGRESS, Protocol: proto.Uint32(protocol), Ports: &driverv1.PortRange{First: first, Last: last}}
}

func members(t testing.TB, list ...string) *ruleset.Set {
	t.Helper()
	m, v := ruleset.ParseMembers("members", list)
	if len(v) > 0 {
		t.Fatal(v)
	}
	return &ruleset.Set{ID: setID, Generation: 1, Members: m}
}

// One network with one interface, rules of each kind and an address set.
func TestGolden(t *testing.T) {
	ids, table := pipeline.NewConjunctions(), flow.NewTable()
	friends := ingress("friends", 6, 8000, 8001)
	friends.Remote = &driverv1.Rule_AddressSetId{AddressSetId: setID}
	hopopt := &driverv1.Rule{RuleId: "zero", Direction: driverv1.RuleDirection_RULE_DIRECTION_INGRESS, Protocol: proto.Uint32(0), Remote: &driverv1.Rule_Cidr{Cidr: "192.0.2.0/24"}}
	p := plan(t, ingress("web", 6, 80, 83), friends, hopopt)
	n := &pipeline.Network{ID: "n", Index: 3, Zone: 77, Tunnel: 9, Spec: &driverv1.NetworkSpec{Vni: 5, Vxlan: &driverv1.VxlanTunnel{
		LocalAddress: "198.51.100.1", Peers: []*driverv1.VxlanPeer{{Address: "198.51.100.2"}},
		Fdb: []*driverv1.FdbEntry{{Mac: "52:54:00:00:00:09", IpAddresses: []string{"10.4.0.9"}, PeerAddress: "198.51.100.2"}},
	}}}
	i := &pipeline.Interface{ID: "i", Index: 1, Port: 4, EgressMeter: 3, Spec: &driverv1.InterfaceSpec{Mac: "52:54:00:00:00:01", IpAddresses: []string{"10.4.0.1", "2001:db8::1"}}}
	table.Set("base", pipeline.Base())
	table.Set("network/n", n.Flows([]*pipeline.Interface{i}))
	table.Set("interface/i", i.Flows(n, []*ruleset.Plan{p}, ids))
	table.Set("rules/p", pipeline.RuleFlows(p, ids))
	table.Set("set/s", pipeline.SetFlows(members(t, "192.0.2.1", "2001:db8:1::/48"), []*ruleset.Plan{p}, ids))
	got := table.Text()
	if *update {
		if err := os.WriteFile("testdata/flows.golden", []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/flows.golden")
	if err != nil || string(want) != got {
		t.Errorf("%v; flows are\n%s", err, got)
	}
	if len(i.Flows(n, nil, ids)) == 0 {
		t.Error("an interface that passes has no flows")
	}
	i.Spec.LinkDown = true
	if flows := i.Flows(n, nil, ids); len(flows) != 0 {
		t.Error("an interface whose link is down has flows:", flows)
	}
}

// A range of ports is cut into masks that hold exactly its ports.
func TestRanges(t *testing.T) {
	for _, r := range [][2]uint32{{1, 65535}, {80, 80}, {80, 83}, {1, 1}, {65535, 65535}, {1000, 1999}, {32768, 65535}, {7, 40000}} {
		table := flow.NewTable()
		table.Set("r", pipeline.RuleFlows(plan(t, ingress("r", 17, r[0], r[1])), pipeline.NewConjunctions()))
		holds := make([]int, 65536)
		for line := range strings.Lines(table.Text()) {
			_, rest, ok := strings.Cut(line, "reg13=")
			if !ok || !strings.Contains(line, ",ip,") {
				continue
			}
			value, _, _ := strings.Cut(rest, ",")
			v, m, masked := strings.Cut(value, "/")
			at, _ := strconv.ParseUint(v, 0, 32)
			mask := uint64(1<<32 - 1)
			if masked {
				mask, _ = strconv.ParseUint(m, 0, 32)
			}
			for port := range holds {
				if uint64(port)&mask == at {
					holds[port]++
				}
			}
		}
		for port, n := range holds {
			want := 0
			if uint32(port) >= r[0] && uint32(port) <= r[1] {
				want = 1
			}
			if n != want {
				t.Fatalf("%d-%d: port %d is held %d times", r[0], r[1], port, n)
			}
		}
	}
}

// One member more is one flow more, however many ports use the rules; one rule more is its own flows. Nothing else is sent.
func TestSmallChanges(t *testing.T) {
	ids, table := pipeline.NewConjunctions(), flow.NewTable()
	friends := ingress("friends", 6, 22, 22)
	friends.Remote = &driverv1.Rule_AddressSetId{AddressSetId: setID}
	var rules []*driverv1.Rule
	for n := range uint32(1000) {
		rules = append(rules, ingress(fmt.Sprint("r", n), 6, 1000+2*n, 1000+2*n))
	}
	p := plan(t, append(rules, friends)...)
	n := &pipeline.Network{ID: "n", Index: 1, Zone: 1, Spec: &driverv1.NetworkSpec{}}
	for k := range 500 {
		i := &pipeline.Interface{ID: fmt.Sprint(k), Index: k + 1, Port: k + 1, Spec: &driverv1.InterfaceSpec{Mac: fmt.Sprintf("52:54:00:00:%02x:%02x", k/256, k%256)}}
		table.Set("interface/"+i.ID, i.Flows(n, []*ruleset.Plan{p}, ids))
	}
	table.Set("rules", pipeline.RuleFlows(p, ids))
	table.Set("set", pipeline.SetFlows(members(t, "192.0.2.1"), []*ruleset.Plan{p}, ids))
	if len(table.Changes()) != table.Len() || len(table.Changes()) != 0 {
		t.Fatal("what was sent is sent again")
	}
	table.Set("set", pipeline.SetFlows(members(t, "192.0.2.1", "192.0.2.2"), []*ruleset.Plan{p}, ids))
	if cs := table.Changes(); len(cs) != 1 || cs[0].Actions == "" {
		t.Errorf("one member more: %v", cs)
	}
	p = plan(t, append(rules, friends, ingress("more", 6, 9, 9))...)
	table.Set("rules", pipeline.RuleFlows(p, ids))
	if cs := table.Changes(); len(cs) != 2 { // IPv4 and IPv6
		t.Errorf("one rule more: %v", cs)
	}
	table.Set("set", nil)
	if cs := table.Changes(); len(cs) != 2 || cs[0].Actions != "" {
		t.Errorf("no member any more: %v", cs)
	}
}

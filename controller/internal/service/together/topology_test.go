package together_test

import (
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// lines are a graph's edges for people, names in place of ids.
func lines(g *networkv1.GetNetworkTopologyResponse) []string {
	names := map[string]string{}
	for _, v := range g.GetVertices() {
		names[v.GetId()] = v.GetName()
	}
	var out []string
	for _, e := range g.GetEdges() {
		line := names[e.GetFromId()] + " > " + names[e.GetToId()]
		if names[e.GetFromId()] > names[e.GetToId()] && e.GetNetworkId() != "" {
			line = names[e.GetToId()] + " > " + names[e.GetFromId()]
		}
		out = append(out, strings.TrimSpace(line+" "+e.GetState()))
	}
	slices.Sort(out)
	return out
}

func vertex(g *networkv1.GetNetworkTopologyResponse, name string) *networkv1.TopologyVertex {
	for _, v := range g.GetVertices() {
		if v.GetName() == name {
			return v
		}
	}
	return nil
}

func TestTopology(t *testing.T) {
	r := newRig(t, newStore(t))
	a, b := r.joinTunnel("node-a", "192.0.2.1"), r.joinTunnel("node-b", "192.0.2.2")
	blue := r.newNetwork("blue", vxlan()).GetMeta().GetId()
	red := r.newNetwork("red", &networkv1.NetworkSpec{Subnets: []*networkv1.Subnet{{Cidr: "10.5.0.0/24"}}}).GetMeta().GetId()
	r.newGroup("web")
	r.newGroup("db", fromGroup("web"))
	p, q := r.newPort("p", blue, "web").GetMeta().GetId(), r.newPort("q", blue, "db").GetMeta().GetId()
	r.newPort("idle", red, "db")
	r.runVM("vm-p", a, p)
	r.runVM("vm-q", b, q)
	r.untilUp(p)
	r.untilUp(q)
	whole := func(req *networkv1.GetNetworkTopologyRequest) *networkv1.GetNetworkTopologyResponse {
		return must(t, r.Network.GetNetworkTopology, req)
	}
	want := []string{
		"blue > node-a HEALTHY", "blue > node-b HEALTHY", "db > web", "idle > db PENDING", "idle > red IDLE", "node-a > node-b UP", "p > blue UP", "p > web IN_FORCE", "q > blue UP", "q > db IN_FORCE",
		"vm-p > node-a RUNNING", "vm-p > p UP", "vm-q > node-b RUNNING", "vm-q > q UP",
	}
	r.until("the graph is whole", func() bool { return slices.Equal(lines(whole(&networkv1.GetNetworkTopologyRequest{})), want) })
	g := whole(&networkv1.GetNetworkTopologyRequest{})
	if v := vertex(g, "p"); !v.GetLive() || v.GetState() != "UP" || v.GetAttributes()["ip"] != r.port(p).GetStatus().GetIpAddresses()[0] || v.GetAttributes()["device"] != "tap0" || v.GetProjectId() != "default" {
		t.Errorf("port is %v", v)
	}
	if v := vertex(g, "node-a"); v.GetState() != "READY" || v.GetKind() != networkv1.TopologyKind_TOPOLOGY_KIND_NODE || len(g.GetVertices()) != 11 || g.GetRevision() == 0 {
		t.Errorf("node is %v, vertices %v", v, g.GetVertices())
	}
	for name, c := range map[string]struct {
		req  *networkv1.GetNetworkTopologyRequest
		want []string
	}{
		"a network": {&networkv1.GetNetworkTopologyRequest{Network: "red"}, []string{"db > web", "idle > db PENDING", "idle > red IDLE"}},
		"a node": {&networkv1.GetNetworkTopologyRequest{Node: "node-a"}, []string{
			"blue > node-a HEALTHY", "node-a > node-b UP", "p > blue UP", "p > web IN_FORCE", "vm-p > node-a RUNNING", "vm-p > p UP",
		}},
		"both":            {&networkv1.GetNetworkTopologyRequest{Node: "node-a", Network: "red"}, nil},
		"another project": {&networkv1.GetNetworkTopologyRequest{ProjectId: "other"}, nil},
	} {
		if got := lines(whole(c.req)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q", name, got)
		}
	}
	if _, err := r.Network.GetNetworkTopology(admin(), connect.NewRequest(&networkv1.GetNetworkTopologyRequest{Network: "none"})); !fault.Is(err, metav1.Reason_REASON_NETWORK_NOT_FOUND) {
		t.Errorf("no such network: %v", err)
	}
	if _, err := r.Network.GetNetworkTopology(admin(), connect.NewRequest(&networkv1.GetNetworkTopologyRequest{Node: "none"})); !fault.Is(err, metav1.Reason_REASON_INVALID_FIELD) {
		t.Errorf("no such node: %v", err)
	}
	b.set(func(b *fakeAgent) { b.mute = true })
	r.until("what a silent node said is not live", func() bool {
		g := whole(&networkv1.GetNetworkTopologyRequest{})
		return !vertex(g, "q").GetLive() && vertex(g, "q").GetState() == "UP" && vertex(g, "p").GetLive() && !vertex(g, "node-b").GetLive() && !vertex(g, "blue").GetLive()
	})
}

func TestPacketsStatsAndWhy(t *testing.T) {
	r := newRig(t, newStore(t))
	a := r.join("node-a", 16, 1<<34)
	blue := r.newNetwork("blue", bridge()).GetMeta().GetId()
	r.newGroup("web")
	r.newGroup("db", fromGroup("web"))
	client := r.newPort("client", blue, "web")
	p := r.newPort("p", blue, "db").GetMeta().GetId()
	explain := func() *networkv1.ExplainPacketResponse {
		return must(t, r.Port.ExplainPacket, &networkv1.ExplainPacketRequest{
			Id: "p", Direction: networkv1.RuleDirection_RULE_DIRECTION_INGRESS, RemoteAddress: client.GetStatus().GetIpAddresses()[0], Protocol: "tcp", DestinationPort: 5432,
		})
	}
	if x := explain(); !x.GetAllowed() || x.GetInForce() || x.GetRules()[0].GetMemberPortId() != client.GetMeta().GetId() || x.GetRules()[0].GetSecurityGroupName() != "db" {
		t.Fatalf("explained as %v", x)
	}
	_, err := r.Port.GetPortStats(admin(), connect.NewRequest(&networkv1.GetPortStatsRequest{Id: "p"}))
	if !fault.Is(err, metav1.Reason_REASON_WRONG_STATE) {
		t.Fatalf("counters of a port on no node: %v", err)
	}
	vm := r.runVM("vm", a, p)
	r.untilUp(p)
	r.until("it is in force", func() bool { return explain().GetInForce() })
	if st := must(t, r.Port.GetPortStats, &networkv1.GetPortStatsRequest{Id: "p"}); st.GetObserveTime() != nil {
		t.Fatalf("counted before it was told: %v", st)
	}
	was := r.Cache.Revision()
	stats := &driverv1.NetworkInterfaceStats{ReceivePackets: 7, SpoofedPackets: 3}
	a.report(a.ctx, &agentv1.ReportStatusRequest{PortStats: []*agentv1.PortStats{
		{PortId: p, Stats: stats, ObserveTime: timestamppb.Now()}, {PortId: client.GetMeta().GetId(), Stats: stats, ObserveTime: timestamppb.Now()},
	}})
	if st := must(t, r.Port.GetPortStats, &networkv1.GetPortStatsRequest{Id: "p"}); st.GetReceivePackets() != 7 || st.GetSpoofedPackets() != 3 || st.GetObserveTime() == nil {
		t.Fatalf("counters are %v", st)
	}
	if r.Agent.PortStats(a.id, client.GetMeta().GetId()) != nil || r.Cache.Revision() != was {
		t.Error("counters of a port elsewhere were kept, or counters were written")
	}

	a.mu.Lock()
	shut := a.net.port(a.net.ports[p])
	a.mu.Unlock()
	shut.Status.Phase, shut.Status.Reason, shut.Status.Message = networkv1.PortPhase_PORT_PHASE_BLOCKED, "BRIDGE_FILTER_INACTIVE", "bridges pass frames by the filters on this node"
	a.report(a.ctx, &agentv1.ReportStatusRequest{Ports: []*agentv1.PortReport{shut}})
	if x := explain(); x.GetAllowed() || x.GetReason() != domain.PacketPortBlocked || !strings.Contains(x.GetMessage(), "frames") {
		t.Fatalf("explained as %v", x)
	}
	why := r.why(vm)
	if !strings.Contains(why.GetSummary(), "BLOCKED") || !strings.Contains(why.GetSummary(), "NIC eth0") || len(why.GetParts()) != 1 || why.GetParts()[0].GetObjectKind() != "Port" || why.GetParts()[0].GetWaitsFor() != "node node-a" {
		t.Errorf("why: %v", why)
	}
}

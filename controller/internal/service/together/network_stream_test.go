package together_test

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/state"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

func (r *rig) untilUp(id string) {
	r.t.Helper()
	r.until("port is up", func() bool {
		return r.port(id).GetStatus().GetPhase() == networkv1.PortPhase_PORT_PHASE_UP
	})
}

func TestPortComesToItsNodeAndGoes(t *testing.T) {
	r := newRig(t, newStore(t))
	a, b := r.join("node-a", 16, 1<<34), r.join("node-b", 16, 1<<34)
	n := r.newNetwork("blue", bridge())
	p := r.newPort("web", n.GetMeta().GetId())
	vm := r.runVM("web", a, p.GetMeta().GetId())
	r.untilUp(p.GetMeta().GetId())
	st := r.port(p.GetMeta().GetId()).GetStatus()
	if st.GetBinding().GetDevice() == "" || len(st.GetSecurityGroups()) != 1 || st.GetSecurityGroups()[0].GetGeneration() != 1 {
		t.Fatalf("status is %v", st)
	}
	a.know("the VM knows its port", func(net *netAgent) bool { return len(a.vms[vm].GetPorts()) == 1 })
	a.know("the network, the port and the default group came", func(net *netAgent) bool {
		d := net.ports[p.GetMeta().GetId()]
		spec := net.networks[n.GetMeta().GetId()].GetSpec()
		return d.GetSpec().GetHostname() == "web" && slices.Equal(d.GetSpec().GetIpAddresses(), p.GetStatus().GetIpAddresses()) && len(net.rules) == 1 && len(net.members) == 1 &&
			len(spec.GetDnsRecords()) == 1 && spec.GetDnsRecords()[0].GetName() == "web" && spec.GetSubnets()[0].GetGateway() == "10.4.0.1" && spec.GetGatewayMac() != ""
	})
	r.until("the network is READY", func() bool {
		return r.Cache.Row(state.KindNetwork, n.GetMeta().GetId()).Network().GetNetwork().GetStatus().GetPhase() == networkv1.NetworkPhase_NETWORK_PHASE_READY
	})
	b.know("another node is told nothing", func(net *netAgent) bool { return len(net.came) == 0 })

	r.deleteVM(vm)
	r.until("the binding ends", func() bool { return r.port(p.GetMeta().GetId()).GetStatus().GetBinding() == nil })
	a.know("nothing is left", func(net *netAgent) bool {
		return len(net.ports)+len(net.rules)+len(net.members)+len(net.networks) == 0
	})
	if got := r.port(p.GetMeta().GetId()).GetStatus().GetIpAddresses(); len(got) != 1 {
		t.Fatalf("it holds %v", got)
	}
}

func TestReportsThatAreNoNewsWriteNothing(t *testing.T) {
	r := newRig(t, newStore(t))
	a := r.join("node-a", 16, 1<<34)
	n := r.newNetwork("blue", bridge())
	p := r.newPort("web", n.GetMeta().GetId()).GetMeta().GetId()
	r.runVM("web", a, p)
	r.untilUp(p)
	seen := func(seconds int64) *agentv1.PortReport {
		a.mu.Lock()
		defer a.mu.Unlock()
		rep := a.net.port(a.net.ports[p])
		rep.Status.ObservedAddresses = []*networkv1.ObservedAddress{
			{IpAddress: "10.4.0.9", Source: networkv1.ObservedAddressSource_OBSERVED_ADDRESS_SOURCE_NEIGHBOUR, ObserveTime: &timestamppb.Timestamp{Seconds: seconds}},
			{IpAddress: "10.4.0.2", Source: networkv1.ObservedAddressSource_OBSERVED_ADDRESS_SOURCE_LEASE, ObserveTime: &timestamppb.Timestamp{Seconds: seconds}},
		}
		return rep
	}
	a.report(a.ctx, &agentv1.ReportStatusRequest{Ports: []*agentv1.PortReport{seen(1)}})
	was := r.Cache.Row(state.KindPort, p).Revision
	if got := r.port(p).GetStatus().GetObservedAddresses(); len(got) != 2 || got[0].GetIpAddress() != "10.4.0.2" {
		t.Fatalf("seen with %v", got)
	}
	net := r.Cache.Row(state.KindNetwork, n.GetMeta().GetId()).Revision
	a.report(a.ctx, &agentv1.ReportStatusRequest{Ports: []*agentv1.PortReport{seen(99)}, Networks: []*agentv1.NetworkReport{{
		NetworkId: n.GetMeta().GetId(), Status: &networkv1.NetworkNodeStatus{Health: networkv1.NetworkHealth_NETWORK_HEALTH_HEALTHY, Device: "br0", Mtu: 1500, ObservedGeneration: 1, ObserveTime: timestamppb.Now()},
	}}})
	if r.Cache.Row(state.KindPort, p).Revision != was || r.Cache.Row(state.KindNetwork, n.GetMeta().GetId()).Revision != net {
		t.Error("an address that is seen again was written")
	}
	stale := seen(100)
	stale.Epoch, stale.Absent = 0, true
	a.report(a.ctx, &agentv1.ReportStatusRequest{Ports: []*agentv1.PortReport{stale}})
	if r.Cache.Row(state.KindPort, p).Revision != was {
		t.Error("a report of another epoch was taken")
	}
}

func TestTunnelsFollowPorts(t *testing.T) {
	r := newRig(t, newStore(t))
	a, b, c := r.joinTunnel("node-a", "192.0.2.1"), r.joinTunnel("node-b", "192.0.2.2"), r.joinTunnel("node-c", "192.0.2.3")
	n := r.newNetwork("blue", vxlan()).GetMeta().GetId()
	pa, pb, pc := r.newPort("a", n).GetMeta(), r.newPort("b", n).GetMeta(), r.newPort("c", n).GetMeta()
	r.runVM("a", a, pa.GetId())
	a.know("it is alone", func(net *netAgent) bool {
		t := net.networks[n].GetSpec().GetVxlan()
		return t.GetLocalAddress() == "192.0.2.1" && len(t.GetPeers()) == 0 && net.networks[n].GetSpec().GetVni() != 0
	})
	r.runVM("b", b, pb.GetId())
	vmC := r.runVM("c", c, pc.GetId())
	peers := func(net *netAgent) (out []string) {
		for _, p := range net.networks[n].GetSpec().GetVxlan().GetPeers() {
			out = append(out, p.GetAddress())
		}
		slices.Sort(out)
		return out
	}
	behind := func(net *netAgent, id string) string {
		for _, f := range net.networks[n].GetSpec().GetVxlan().GetFdb() {
			if f.GetMac() == r.port(id).GetStatus().GetMac() {
				return f.GetPeerAddress()
			}
		}
		return ""
	}
	a.know("it has two peers", func(net *netAgent) bool {
		return slices.Equal(peers(net), []string{"192.0.2.2", "192.0.2.3"}) && behind(net, pb.GetId()) == "192.0.2.2" && behind(net, pc.GetId()) == "192.0.2.3" && behind(net, pa.GetId()) == ""
	})
	mac := ""
	a.know("it has a gateway", func(net *netAgent) bool { mac = net.networks[n].GetSpec().GetGatewayMac(); return mac != "" })
	b.know("the gateway's MAC is the same everywhere", func(net *netAgent) bool { return net.networks[n].GetSpec().GetGatewayMac() == mac })

	r.deleteVM(vmC)
	a.know("a node without ports is no peer", func(net *netAgent) bool {
		return slices.Equal(peers(net), []string{"192.0.2.2"}) && behind(net, pc.GetId()) == ""
	})
	c.know("and has the network no longer", func(net *netAgent) bool { return len(net.networks) == 0 })
}

func TestForwardsListenWhereTheirTargetIs(t *testing.T) {
	r := newRig(t, newStore(t))
	a, b := r.join("node-a", 16, 1<<34), r.join("node-b", 16, 1<<34)
	n := r.newNetwork("blue", bridge()).GetMeta().GetId()
	p, q := r.newPort("p", n), r.newPort("q", n)
	must(t, r.Network.UpdateNetwork, &networkv1.UpdateNetworkRequest{
		Network: &networkv1.Network{Meta: &metav1.ObjectMeta{Id: n}, Spec: &networkv1.NetworkSpec{Forwards: []*networkv1.NetworkForward{
			{ListenPort: 8022, TargetPort: 22, Target: &networkv1.NetworkForward_PortId{PortId: "p"}},
			{Protocol: "udp", ListenPort: 53, Target: &networkv1.NetworkForward_IpAddress{IpAddress: q.GetStatus().GetIpAddresses()[0]}},
		}}},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"spec.forwards"}},
	})
	r.runVM("vm-p", a, p.GetMeta().GetId())
	r.runVM("vm-q", b, q.GetMeta().GetId())
	a.know("the forward to its port is here", func(net *netAgent) bool {
		f := net.networks[n].GetSpec().GetForwards()
		return len(f) == 1 && f[0].GetProtocol() == "tcp" && f[0].GetListenPort() == 8022 && f[0].GetTargetAddress() == p.GetStatus().GetIpAddresses()[0] && f[0].GetTargetPort() == 22
	})
	b.know("and the other one there", func(net *netAgent) bool {
		f := net.networks[n].GetSpec().GetForwards()
		return len(f) == 1 && f[0].GetProtocol() == "udp" && f[0].GetTargetPort() == 53 && f[0].GetTargetAddress() == q.GetStatus().GetIpAddresses()[0]
	})
}

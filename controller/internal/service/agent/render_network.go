package agent

import (
	"cmp"
	"crypto/sha256"
	"net"
	"slices"
	"strings"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// netView is what all nodes of a network have in common. It is shared by streams and never changed once made.
type netView struct {
	network *networkv1.Network
	spec    *driverv1.NetworkSpec // without tunnel and forwards
	ports   []netPort             // ordered by MAC address
	tunnels map[string]string     // tunnel address by node, of nodes with ports
	targets map[string]netPort    // ports by id and by address, where there are forwards
}

// netPort is a port as other nodes and forwards need to know it.
type netPort struct {
	id, mac, node string
	addresses     []string
}

// netView is the shared part of a network; nil when there is no such network.
func (s *Service) netView(id string) *netView {
	return remembered(s.memo, key{kindNetwork, id}, s.cfg.Cache.Revision, func() *netView { return s.viewNetwork(id) })
}

func (s *Service) viewNetwork(id string) *netView {
	row := s.cfg.Cache.Row(state.KindNetwork, id)
	if row == nil {
		return nil
	}
	n := row.Network().GetNetwork()
	v := &netView{network: n, spec: driverSpec(n), tunnels: map[string]string{}}
	names := map[string][]string{}
	for _, r := range s.cfg.Cache.Find(state.Query{Kind: state.KindPort, Ref: state.RefNetwork(id)}).Rows {
		f := s.facts.of(r)
		v.ports = append(v.ports, netPort{id: r.ID, mac: f.mac, node: f.node, addresses: f.addresses})
		if _, known := v.tunnels[f.node]; f.node != "" && !known {
			v.tunnels[f.node] = s.cfg.Cache.Row(state.KindNode, f.node).Node().GetNode().GetStatus().GetTunnelAddress()
		}
		if r.Deleting {
			continue
		}
		if name := cmp.Or(f.hostname, s.vmName(r.Owner)); name != "" {
			names[name] = append(names[name], f.addresses...)
		}
	}
	slices.SortFunc(v.ports, func(a, b netPort) int { return cmp.Or(strings.Compare(a.mac, b.mac), strings.Compare(a.id, b.id)) })
	if len(n.GetSpec().GetForwards()) > 0 {
		v.targets = map[string]netPort{}
		for _, p := range v.ports {
			v.targets[p.id] = p
			for _, a := range p.addresses {
				v.targets[a] = p
			}
		}
	}
	for name, addresses := range names {
		if len(addresses) > 0 {
			v.spec.DnsRecords = append(v.spec.DnsRecords, &driverv1.DnsRecord{Name: name, IpAddresses: sortedOnce(addresses)})
		}
	}
	slices.SortFunc(v.spec.DnsRecords, func(a, b *driverv1.DnsRecord) int { return strings.Compare(a.GetName(), b.GetName()) })
	return v
}

// vmName is the name of a VM; "" = there is none.
func (s *Service) vmName(id string) string {
	if r := s.cfg.Cache.Row(state.KindVM, id); r != nil {
		return r.Name
	}
	return ""
}

// driverSpec is a network as every node is to have it. A node's own words, such as an MTU in force, are no part of it.
func driverSpec(n *networkv1.Network) *driverv1.NetworkSpec {
	spec := n.GetSpec()
	out := &driverv1.NetworkSpec{
		Type: driverv1.NetworkType(spec.GetType()), Uplink: spec.GetUplink(), VlanId: spec.GetVlanId(), Vni: spec.GetVni(), Mtu: spec.GetMtu(),
		Egress: driverv1.EgressMode(spec.GetEgress()), DomainName: spec.GetDomainName(), GatewayMac: gatewayMAC(n.GetMeta().GetId()),
	}
	if v := n.GetStatus().GetVni(); v != 0 && domain.Tunnelled(spec) { // assigned
		out.Vni = v
	}
	for _, s := range spec.GetSubnets() {
		sub := &driverv1.SubnetSpec{Cidr: s.GetCidr(), Gateway: domain.Gateway(spec, s), Dhcp: s.Dhcp == nil || s.GetDhcp(), DnsServers: s.GetDnsServers()}
		for _, r := range s.GetRoutes() {
			sub.Routes = append(sub.Routes, &driverv1.RouteSpec{Destination: r.GetDestination(), NextHop: r.GetNextHop()})
		}
		out.Subnets = append(out.Subnets, sub)
	}
	return out
}

// gatewayMAC is the same on all nodes, so that a guest that moves goes on with the neighbour that it knows. It is locally administered and unicast.
func gatewayMAC(networkID string) string {
	sum := sha256.Sum256([]byte("gateway/" + networkID))
	sum[0] = sum[0]&^0x03 | 0x02
	return net.HardwareAddr(sum[:6]).String()
}

// renderNetwork is a network for a node with ports of it, and, as absent, for one that still says it has it.
func (s *Service) renderNetwork(nodeID, id string) *agentv1.DesiredNetwork {
	v := s.netView(id)
	if v == nil {
		return nil
	}
	meta := v.network.GetMeta()
	d := &agentv1.DesiredNetwork{
		NetworkId: id, Name: meta.GetName(), ProjectId: meta.GetProjectId(), Generation: meta.GetGeneration(), Driver: v.network.GetSpec().GetDriver(),
		Spec: v.onNode(nodeID),
	}
	if _, needed := v.tunnels[nodeID]; !needed {
		row := s.cfg.Cache.Row(state.KindNetwork, id) // not the view's: reports do not outdate that
		if row == nil || !slices.Contains(row.Nodes, nodeID) {
			return nil
		}
		d.Absent = true
	}
	return d
}

// onNode is the network as one node is to have it.
func (v *netView) onNode(nodeID string) *driverv1.NetworkSpec {
	c := v.spec
	out := &driverv1.NetworkSpec{
		Type: c.GetType(), Uplink: c.GetUplink(), VlanId: c.GetVlanId(), Vni: c.GetVni(), Mtu: c.GetMtu(), Subnets: c.GetSubnets(), Egress: c.GetEgress(),
		DomainName: c.GetDomainName(), DnsRecords: c.GetDnsRecords(), GatewayMac: c.GetGatewayMac(),
	}
	if domain.Tunnelled(v.network.GetSpec()) {
		out.Vxlan = v.tunnel(nodeID)
	}
	for _, f := range v.network.GetSpec().GetForwards() {
		var p netPort
		address := ""
		switch t := f.GetTarget().(type) {
		case *networkv1.NetworkForward_PortId:
			if p = v.targets[t.PortId]; len(p.addresses) > 0 {
				address = p.addresses[0]
			}
			if i := slices.IndexFunc(p.addresses, func(a string) bool { return sameFamily(a, f.GetListenAddress()) }); i >= 0 {
				address = p.addresses[i]
			}
		case *networkv1.NetworkForward_IpAddress:
			p, address = v.targets[t.IpAddress], t.IpAddress
		}
		if p.node != nodeID || address == "" {
			continue
		}
		target := f.GetTargetPort()
		if target == 0 {
			target = f.GetListenPort()
		}
		out.Forwards = append(out.Forwards, &driverv1.NetworkForward{
			Protocol: f.GetProtocol(), ListenAddress: f.GetListenAddress(), ListenPort: f.GetListenPort(), TargetAddress: address, TargetPort: target,
		})
	}
	return out
}

// sameFamily reports whether an address is of the family that a listener takes; one on all addresses takes IPv4 first.
func sameFamily(address, listen string) bool {
	return strings.Contains(address, ":") == strings.Contains(listen, ":")
}

// tunnel is a node's end, the other nodes with ports, and what is behind them.
func (v *netView) tunnel(nodeID string) *driverv1.VxlanTunnel {
	out := &driverv1.VxlanTunnel{LocalAddress: v.tunnels[nodeID]}
	for node, address := range v.tunnels {
		if node != nodeID && address != "" {
			out.Peers = append(out.Peers, &driverv1.VxlanPeer{NodeId: node, Address: address})
		}
	}
	slices.SortFunc(out.Peers, func(a, b *driverv1.VxlanPeer) int { return strings.Compare(a.GetNodeId(), b.GetNodeId()) })
	for _, p := range v.ports {
		if address := v.tunnels[p.node]; p.node != nodeID && address != "" {
			out.Fdb = append(out.Fdb, &driverv1.FdbEntry{Mac: p.mac, IpAddresses: p.addresses, PeerAddress: address})
		}
	}
	return out
}

func sortedOnce(list []string) []string {
	out := slices.Clone(list)
	slices.Sort(out)
	return slices.Compact(out)
}

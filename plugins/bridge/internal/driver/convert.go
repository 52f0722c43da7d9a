package driver

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/filter"
	"github.com/limiquantix/limiquantix/plugins/bridge/internal/link"
	"github.com/limiquantix/limiquantix/plugins/bridge/internal/name"
	"github.com/limiquantix/limiquantix/plugins/bridge/internal/record"
	"github.com/limiquantix/limiquantix/plugins/kit/netspec"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

const (
	defaultMTU    = 1500
	overhead4     = 50 // VXLAN in IPv4: Ethernet, IP, UDP, VXLAN
	overhead6     = 70
	vxlanPort     = 4789
	firstUID      = 8_000_000 // network n's services run as user firstUID+n, so that their packets find its routing table
	firstDNSPort  = 20_000    // network n's DNS server listens on firstDNSPort+n; guests reach it at port 53 of the gateway
	dhcpOnlyRange = "169.254.169.253/30"
)

func alias(m *driverv1.OwnershipMark) string {
	return fmt.Sprintf("limiquantix %s/%s/%s g%d e%d", m.GetClusterId(), m.GetNodeId(), m.GetObjectId(), m.GetGeneration(), m.GetEpoch())
}

// mtu in force.
func mtu(s *driverv1.NetworkSpec) int {
	if s.GetMtu() != 0 {
		return int(s.GetMtu())
	}
	if a, err := netip.ParseAddr(s.GetVxlan().GetLocalAddress()); err == nil {
		under := link.MTUTowards(a, defaultMTU)
		if a.Is6() {
			return under - overhead6
		}
		return under - overhead4
	}
	return defaultMTU
}

// gatewayMAC is the bridge's: as asked for, or one that follows from the network's id, so that it is the same on every node.
func gatewayMAC(n *record.Network) net.HardwareAddr {
	if m, err := net.ParseMAC(n.Request.GetSpec().GetGatewayMac()); err == nil {
		return m
	}
	sum := sha256.Sum256([]byte("gateway " + n.Request.GetNetworkId()))
	return append(net.HardwareAddr{0x02}, sum[:5]...)
}

func served(s *driverv1.NetworkSpec) (dhcp bool) {
	for _, sub := range s.GetSubnets() {
		dhcp = dhcp || sub.GetDhcp()
	}
	return dhcp
}

// atNode reports whether the node has the gateways' addresses.
func atNode(s *driverv1.NetworkSpec) bool {
	return s.GetEgress() >= driverv1.EgressMode_EGRESS_MODE_NAT
}

func linkNetwork(n *record.Network) *link.Network {
	s, id := n.Request.GetSpec(), n.Request.GetNetworkId()
	l := &link.Network{
		Bridge: name.Bridge(id), Alias: alias(n.Request.GetMark()), Number: n.Number, UID: firstUID + n.Number, MTU: mtu(s), MAC: gatewayMAC(n), Uplink: s.GetUplink(),
		Routed: s.GetEgress() == driverv1.EgressMode_EGRESS_MODE_ROUTED, Isolated: !atNode(s),
	}
	l.Mark, l.Mask = filter.NetworkMark(n.Number)
	for _, sub := range s.GetSubnets() {
		p, err := netip.ParsePrefix(sub.GetCidr())
		if err != nil {
			continue
		}
		l.CIDRs = append(l.CIDRs, p)
		g, err := netip.ParseAddr(sub.GetGateway())
		switch {
		case err == nil && atNode(s):
			l.Gateways = append(l.Gateways, netip.PrefixFrom(g, p.Bits()))
		case sub.GetDhcp() && p.Addr().Is4(): // DHCP needs an address to answer from, and the network has none to give
			l.Gateways = append(l.Gateways, netip.MustParsePrefix(dhcpOnlyRange))
		}
	}
	if s.GetType() == driverv1.NetworkType_NETWORK_TYPE_VLAN {
		l.VLAN, l.Tagged = int(s.GetVlanId()), name.VLAN(id)
	}
	if x := s.GetVxlan(); x != nil && s.GetType() == driverv1.NetworkType_NETWORK_TYPE_VXLAN {
		l.Tunnel = name.Tunnel(id)
		l.VXLAN = &link.VXLAN{VNI: int(s.GetVni()), Port: vxlanPort}
		if x.GetPort() != 0 {
			l.VXLAN.Port = int(x.GetPort())
		}
		l.VXLAN.Local, _ = netip.ParseAddr(x.GetLocalAddress())
		for _, p := range x.GetPeers() {
			if a, err := netip.ParseAddr(p.GetAddress()); err == nil && a != l.VXLAN.Local {
				l.VXLAN.Peers = append(l.VXLAN.Peers, a)
			}
		}
		for _, e := range x.GetFdb() {
			r := link.Remote{}
			r.MAC, _ = net.ParseMAC(e.GetMac())
			r.Peer, _ = netip.ParseAddr(e.GetPeerAddress())
			for _, a := range e.GetIpAddresses() {
				if ip, err := netip.ParseAddr(a); err == nil {
					r.Addresses = append(r.Addresses, ip)
				}
			}
			l.VXLAN.FDB = append(l.VXLAN.FDB, r)
		}
	}
	return l
}

// model is what of a state is filtered. Records of other nodes count too: whoever made them, their interfaces stay protected.
func model(s *record.State, blocked bool) *filter.Model {
	m := &filter.Model{Blocked: blocked}
	nets := map[string]*filter.Network{}
	for _, id := range record.IDs(s.Networks) {
		r := s.Networks[id]
		spec := r.Request.GetSpec()
		n := &filter.Network{
			Key: name.Key(id), Bridge: name.Bridge(id), Number: r.Number, Zone: r.Zone, Egress: spec.GetEgress(), Forwards: spec.GetForwards(), MAC: gatewayMAC(r).String(),
		}
		if spec.GetType() == driverv1.NetworkType_NETWORK_TYPE_VXLAN {
			n.Tunnel = name.Tunnel(id)
		}
		n.Outside = spec.GetUplink()
		if spec.GetType() == driverv1.NetworkType_NETWORK_TYPE_VLAN {
			n.Outside = name.VLAN(id)
		}
		if wantsDNS(spec) {
			n.DNSPort = firstDNSPort + int(r.Number)
		}
		for _, sub := range spec.GetSubnets() {
			p, err := netip.ParsePrefix(sub.GetCidr())
			if err != nil {
				continue
			}
			fs := filter.Subnet{CIDR: p, DHCP: sub.GetDhcp()}
			if g, err := netip.ParseAddr(sub.GetGateway()); err == nil && atNode(spec) {
				fs.Gateway = g
			}
			n.Subnets = append(n.Subnets, fs)
		}
		nets[id] = n
		m.Networks = append(m.Networks, n)
	}
	for _, id := range record.IDs(s.RuleSets) {
		m.RuleSets = append(m.RuleSets, &filter.RuleSet{Key: name.Key(id), Plan: s.Plans[id]})
	}
	for _, id := range record.IDs(s.Interfaces) {
		spec := s.Interfaces[id].GetSpec()
		if n := nets[spec.GetNetworkId()]; n != nil {
			m.Ports = append(m.Ports, port(s, id, n))
		}
	}
	return m
}

func port(s *record.State, id string, n *filter.Network) *filter.Port {
	spec := s.Interfaces[id].GetSpec()
	p := &filter.Port{Key: name.Key(id), Tap: name.Tap(id), MAC: spec.GetMac(), Network: n, Blocked: spec.GetLinkDown()}
	for _, a := range spec.GetIpAddresses() {
		if ip, err := netip.ParseAddr(a); err == nil {
			p.Addresses = append(p.Addresses, ip)
		}
	}
	for _, e := range spec.GetExtraAddresses() {
		if pre, err := netspec.ParseAddressOrCIDR(e); err == nil {
			p.Extra = append(p.Extra, pre)
		}
	}
	for _, rs := range spec.GetRuleSetIds() {
		if set := s.RuleSets[rs]; set != nil {
			p.RuleSets = append(p.RuleSets, name.Key(rs))
			p.DenyOut = p.DenyOut || set.GetEgressDefaultDeny()
		}
	}
	return p
}

// wantsDNS reports whether the node answers names in the network.
func wantsDNS(s *driverv1.NetworkSpec) bool {
	return atNode(s) && (s.GetDomainName() != "" || len(s.GetDnsRecords()) > 0 || served(s))
}

package driver

import (
	"context"
	"net/netip"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/name"
	"github.com/limiquantix/limiquantix/plugins/bridge/internal/record"
	"github.com/limiquantix/limiquantix/plugins/kit/dnsmasq"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

func (d *Driver) serviceDir(network string) string {
	return filepath.Join(string(d.dir), "dnsmasq", name.Key(network))
}

// service is what a network's dnsmasq serves; not wanted when the network has neither DHCP nor DNS here. Needs mu.
func (d *Driver) service(s *record.State, id string) (c dnsmasq.Config, wanted bool) {
	n := s.Networks[id]
	spec := n.Request.GetSpec()
	c = dnsmasq.Config{
		Dir: d.serviceDir(id), Interface: name.Bridge(id), UID: firstUID + n.Number, Domain: spec.GetDomainName(), MTU: mtu(spec),
	}
	if wantsDNS(spec) {
		c.DNSPort = firstDNSPort + int(n.Number)
	}
	for _, sub := range spec.GetSubnets() {
		p, err := netip.ParsePrefix(sub.GetCidr())
		if err != nil {
			continue
		}
		x := dnsmasq.Subnet{CIDR: p, DHCP: sub.GetDhcp(), LeaseSeconds: int(sub.GetLeaseSeconds()), Foreign: !atNode(spec)}
		if p.Addr().Is6() && !atNode(spec) {
			x.DHCP = false // a router's work, and the node is none here
		}
		x.Router, _ = netip.ParseAddr(sub.GetGateway())
		for _, a := range sub.GetDnsServers() {
			if ip, err := netip.ParseAddr(a); err == nil {
				x.DNS = append(x.DNS, ip)
			}
		}
		if len(x.DNS) == 0 && c.DNSPort != 0 && x.Router.IsValid() {
			x.DNS = []netip.Addr{x.Router}
		}
		for _, r := range sub.GetRoutes() {
			to, err1 := netip.ParsePrefix(r.GetDestination())
			hop, err2 := netip.ParseAddr(r.GetNextHop())
			if err1 == nil && err2 == nil {
				x.Routes = append(x.Routes, dnsmasq.Route{Destination: to, NextHop: hop})
			}
		}
		c.Subnets = append(c.Subnets, x)
		wanted = wanted || x.DHCP
	}
	for _, i := range s.InterfacesOf(id) {
		is := s.Interfaces[i].GetSpec()
		h := dnsmasq.Host{MAC: is.GetMac(), Name: is.GetHostname()}
		for _, a := range is.GetIpAddresses() {
			if ip, err := netip.ParseAddr(a); err == nil && inSubnets(ip, c.Subnets) {
				h.Addresses = append(h.Addresses, ip)
			}
		}
		c.Hosts = append(c.Hosts, h)
	}
	for _, r := range spec.GetDnsRecords() {
		x := dnsmasq.Record{Name: r.GetName()}
		for _, a := range r.GetIpAddresses() {
			if ip, err := netip.ParseAddr(a); err == nil {
				x.Addresses = append(x.Addresses, ip)
			}
		}
		c.Records = append(c.Records, x)
	}
	return c, wanted || c.DNSPort != 0
}

func inSubnets(a netip.Addr, subnets []dnsmasq.Subnet) bool {
	for _, s := range subnets {
		if s.DHCP && s.CIDR.Contains(a) {
			return true
		}
	}
	return false
}

// serve makes a network's dnsmasq serve what it shall, or ends it. Needs mu.
func (d *Driver) serve(ctx context.Context, s *record.State, id string) error {
	if s.Networks[id] == nil {
		return nil
	}
	c, wanted := d.service(s, id)
	if !wanted {
		return failed("dnsmasq", dnsmasq.Remove(ctx, c.Dir))
	}
	if !d.tools.dnsmasq {
		return nil // not advertised
	}
	return failed("dnsmasq", dnsmasq.Ensure(ctx, c))
}

func (d *Driver) unserve(ctx context.Context, n *record.Network) error {
	return failed("dnsmasq", dnsmasq.Remove(ctx, d.serviceDir(n.Request.GetNetworkId())))
}

// serviceDrift says how a network's dnsmasq differs; empty = not at all. Needs mu.
func (d *Driver) serviceDrift(id string) string {
	if c, wanted := d.service(d.state, id); wanted && d.tools.dnsmasq {
		return dnsmasq.Differs(c)
	}
	return ""
}

// observed are the addresses that an interface was seen with: leased, or answered for on the bridge.
func (d *Driver) observed(r *record.Interface, tap netlink.Link) (all []*driverv1.ObservedAddress) {
	spec := r.GetSpec()
	for _, l := range dnsmasq.Leases(d.serviceDir(spec.GetNetworkId())) {
		mine := l.MAC == spec.GetMac()
		for _, a := range spec.GetIpAddresses() {
			mine = mine || l.MAC == "" && a == l.Address.String() // only who has the reservation gets it
		}
		if mine {
			o := &driverv1.ObservedAddress{IpAddress: l.Address.String(), Source: driverv1.ObservedAddressSource_OBSERVED_ADDRESS_SOURCE_LEASE, ObserveTime: timestamppb.Now()}
			all = append(all, o)
		}
	}
	if tap == nil || tap.Attrs().MasterIndex == 0 {
		return all
	}
	neighbours, err := netlink.NeighList(tap.Attrs().MasterIndex, netlink.FAMILY_ALL)
	if err != nil {
		return all
	}
	for _, n := range neighbours {
		if n.HardwareAddr.String() == spec.GetMac() && n.State&(netlink.NUD_REACHABLE|netlink.NUD_STALE|netlink.NUD_DELAY|netlink.NUD_PROBE) != 0 {
			all = append(all, &driverv1.ObservedAddress{
				IpAddress: n.IP.String(), Source: driverv1.ObservedAddressSource_OBSERVED_ADDRESS_SOURCE_NEIGHBOUR, ObserveTime: timestamppb.Now(),
			})
		}
	}
	return all
}

package netspec

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// Bounds of an MTU in bytes.
const (
	MinMTU   = 576
	MinMTUv6 = 1280
	MaxMTU   = 65535
)

// list collects violations.
type list []fault.Violation

func (l *list) bad(wrong bool, field, format string, args ...any) {
	if wrong {
		*l = append(*l, fault.Violation{Field: field, Description: fmt.Sprintf(format, args...)})
	}
}

func (l *list) err(field string, err error) bool {
	if err != nil {
		*l = append(*l, fault.Violation{Field: field, Description: err.Error()})
	}
	return err == nil
}

// NetworkViolations says all that is wrong with a network's spec; field is its path, for example "spec".
func NetworkViolations(field string, s *driverv1.NetworkSpec) []fault.Violation {
	var v list
	f := func(format string, args ...any) string { return field + "." + fmt.Sprintf(format, args...) }
	if s == nil {
		v.bad(true, field, "required")
		return v
	}
	vlan, vxlan := s.GetType() == driverv1.NetworkType_NETWORK_TYPE_VLAN, s.GetType() == driverv1.NetworkType_NETWORK_TYPE_VXLAN
	_, known := driverv1.NetworkType_name[int32(s.GetType())]
	v.bad(s.GetType() == 0 || !known, f("type"), "required: BRIDGE, VLAN, VXLAN or OVS")
	v.bad(!isUplink(s.GetUplink()), f("uplink"), "%.60q is not 1-64 characters of a-z, A-Z, 0-9, '-', '_', '.', ':', '@', beginning with a letter or digit", s.GetUplink())
	v.bad(vlan && s.GetUplink() == "", f("uplink"), "required for VLAN")
	v.bad(s.GetVlanId() > 4094, f("vlan_id"), "%d is not 1-4094", s.GetVlanId())
	v.bad(vlan && s.GetVlanId() == 0, f("vlan_id"), "required for VLAN")
	v.bad(s.GetVni() > 16777215, f("vni"), "%d is not 1-16777215", s.GetVni())
	v.bad(vxlan && s.GetVni() == 0, f("vni"), "required for VXLAN")
	v.bad(s.GetVni() != 0 && (vlan || s.GetType() == driverv1.NetworkType_NETWORK_TYPE_BRIDGE), f("vni"), "only with VXLAN or OVS")
	v.bad(s.GetVlanId() != 0 && vxlan, f("vlan_id"), "not with VXLAN")
	v.bad(s.GetVni() != 0 && s.GetVlanId() != 0 && !vxlan, f("vni"), "not together with vlan_id")
	v.bad(s.GetVxlan() != nil && s.GetVni() == 0, f("vxlan"), "only with vni")
	v.bad(s.GetVni() != 0 && s.GetVxlan() == nil, f("vxlan"), "required with vni")
	if s.GetVxlan() != nil {
		v.tunnel(f("vxlan"), s.GetVxlan())
	}
	v.bad(s.GetEgress() < 0 || s.GetEgress() > driverv1.EgressMode_EGRESS_MODE_ROUTED, f("egress"), "must be NONE, NAT or ROUTED")
	subnets := v.subnets(field, s)
	v.bad(s.GetMtu() != 0 && (s.GetMtu() < MinMTU || s.GetMtu() > MaxMTU), f("mtu"), "%d is not 576-65535", s.GetMtu())
	for _, p := range subnets {
		v.bad(!p.Addr().Is4() && s.GetMtu() >= MinMTU && s.GetMtu() < MinMTUv6, f("mtu"), "%d is less than 1280, which IPv6 needs", s.GetMtu())
	}
	seen := map[string]bool{}
	for i, w := range s.GetForwards() {
		v.forward(f("forwards[%d]", i), w, subnets)
		key := fmt.Sprint(w.GetProtocol(), " ", w.GetListenAddress(), " ", w.GetListenPort())
		v.bad(seen[key], f("forwards[%d]", i), "comes twice: %s", key)
		seen[key] = true
	}
	v.bad(s.GetDomainName() != "" && !isDomain(s.GetDomainName()), f("domain_name"), "%.80q is not a DNS name", s.GetDomainName())
	for i, r := range s.GetDnsRecords() {
		v.bad(!isDomain(r.GetName()), f("dns_records[%d].name", i), "%.80q is not a DNS name", r.GetName())
		for j, a := range r.GetIpAddresses() {
			_, err := ParseAddr(a)
			v.err(f("dns_records[%d].ip_addresses[%d]", i, j), err)
		}
	}
	if s.GetGatewayMac() != "" {
		_, err := ParseMAC(s.GetGatewayMac())
		v.err(f("gateway_mac"), err)
	}
	v.bad(s.GetConntrackZone() > 65535, f("conntrack_zone"), "%d is not 1-65535", s.GetConntrackZone())
	return v
}

func isUplink(s string) bool {
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune("-_.:@", rune(c))) {
			return false
		}
	}
	return len(s) <= 64
}

func (v *list) tunnel(field string, t *driverv1.VxlanTunnel) {
	local, err := ParseAddr(t.GetLocalAddress())
	v.err(field+".local_address", err)
	v.bad(t.GetPort() > 65535, field+".port", "%d is not 1-65535", t.GetPort())
	peers := map[netip.Addr]bool{}
	for i, p := range t.GetPeers() {
		path := fmt.Sprintf("%s.peers[%d].address", field, i)
		a, err := ParseAddr(p.GetAddress())
		if !v.err(path, err) {
			continue
		}
		v.bad(a == local, path, "%s is this node's own end", a)
		v.bad(peers[a], path, "%s comes twice", a)
		v.bad(local.IsValid() && a.Is4() != local.Is4(), path, "%s is of another family than local_address", a)
		peers[a] = true
	}
	macs := map[string]bool{}
	for i, e := range t.GetFdb() {
		path := fmt.Sprintf("%s.fdb[%d]", field, i)
		_, err := ParseMAC(e.GetMac())
		v.err(path+".mac", err)
		v.bad(macs[e.GetMac()], path+".mac", "%.40q comes twice", e.GetMac())
		macs[e.GetMac()] = true
		for j, s := range e.GetIpAddresses() {
			_, err := ParseAddr(s)
			v.err(fmt.Sprintf("%s.ip_addresses[%d]", path, j), err)
		}
		if a, err := ParseAddr(e.GetPeerAddress()); v.err(path+".peer_address", err) {
			v.bad(!peers[a], path+".peer_address", "%s is not among the peers", a)
		}
	}
}

// subnets checks the subnets and returns their CIDRs.
func (v *list) subnets(field string, s *driverv1.NetworkSpec) (cidrs []netip.Prefix) {
	for i, sub := range s.GetSubnets() {
		path := fmt.Sprintf("%s.subnets[%d]", field, i)
		p, err := ParseCIDR(sub.GetCidr())
		if !v.err(path+".cidr", err) {
			continue
		}
		v.bad(p.Bits() == 0 || p.Addr().IsMulticast() || p.Addr().IsLoopback() || p.Addr().IsUnspecified(), path+".cidr", "%s is not a range for interfaces", p)
		for _, o := range cidrs {
			v.bad(o.Overlaps(p), path+".cidr", "%s overlaps with %s", p, o)
			v.bad(o.Addr().Is4() == p.Addr().Is4(), path+".cidr", "a second one of this address family")
		}
		cidrs = append(cidrs, p)
		if g := sub.GetGateway(); g != "" {
			a, err := ParseAddr(g)
			if v.err(path+".gateway", err) {
				v.bad(!p.Contains(a), path+".gateway", "%s is not in %s", a, p)
				v.bad(p.Contains(a) && !isHost(p, a), path+".gateway", "%s is the network's or the broadcast address", a)
			}
		}
		for j, d := range sub.GetDnsServers() {
			a, err := ParseAddr(d)
			if name := fmt.Sprintf("%s.dns_servers[%d]", path, j); v.err(name, err) {
				v.bad(a.Is4() != p.Addr().Is4(), name, "%s is of another family than %s", a, p)
			}
		}
		for j, r := range sub.GetRoutes() {
			name := fmt.Sprintf("%s.routes[%d]", path, j)
			d, err := ParseCIDR(r.GetDestination())
			if v.err(name+".destination", err) {
				v.bad(d.Addr().Is4() != p.Addr().Is4(), name+".destination", "%s is of another family than %s", d, p)
			}
			if a, err := ParseAddr(r.GetNextHop()); v.err(name+".next_hop", err) {
				v.bad(!p.Contains(a), name+".next_hop", "%s is not in %s", a, p)
			}
		}
		v.bad(sub.GetLeaseSeconds() != 0 && sub.GetLeaseSeconds() < 120, path+".lease_seconds", "%d is less than 120", sub.GetLeaseSeconds())
	}
	return cidrs
}

// isHost reports whether an address in p can be an interface's: neither the network's nor, with IPv4, the broadcast address.
func isHost(p netip.Prefix, a netip.Addr) bool {
	if p.Bits() >= p.Addr().BitLen()-1 {
		return true
	}
	if a == p.Addr() {
		return !a.Is4()
	}
	next := a.Next()
	return !a.Is4() || next.IsValid() && p.Contains(next)
}

func (v *list) forward(field string, w *driverv1.NetworkForward, subnets []netip.Prefix) {
	v.bad(w.GetProtocol() != "tcp" && w.GetProtocol() != "udp", field+".protocol", `must be "tcp" or "udp"`)
	var listen netip.Addr
	if s := w.GetListenAddress(); s != "" {
		var err error
		if listen, err = netip.ParseAddr(s); err != nil || listen.Zone() != "" || listen.Is4In6() {
			v.bad(true, field+".listen_address", "%.60q is not an address", s)
			listen = netip.Addr{}
		}
	}
	v.bad(w.GetListenPort() < 1 || w.GetListenPort() > 65535, field+".listen_port", "%d is not 1-65535", w.GetListenPort())
	v.bad(w.GetTargetPort() < 1 || w.GetTargetPort() > 65535, field+".target_port", "%d is not 1-65535", w.GetTargetPort())
	target, err := ParseAddr(w.GetTargetAddress())
	if !v.err(field+".target_address", err) {
		return
	}
	inside := false
	for _, p := range subnets {
		inside = inside || p.Contains(target)
	}
	v.bad(!inside, field+".target_address", "%s is in no subnet of the network", target)
	v.bad(listen.IsValid() && listen.Is4() != target.Is4(), field+".listen_address", "%s is of another family than the target", listen)
}

// Fixed says which field of a network cannot change from have to want in place; empty = all can.
func Fixed(have, want *driverv1.NetworkSpec) string {
	cidrs := func(s *driverv1.NetworkSpec) string {
		var out []string
		for _, sub := range s.GetSubnets() {
			out = append(out, sub.GetCidr())
		}
		return strings.Join(out, ",")
	}
	switch {
	case have.GetType() != want.GetType():
		return "type"
	case have.GetUplink() != want.GetUplink():
		return "uplink"
	case have.GetVlanId() != want.GetVlanId():
		return "vlan_id"
	case have.GetVni() != want.GetVni():
		return "vni"
	case cidrs(have) != cidrs(want):
		return "subnets.cidr"
	}
	return ""
}

package domain

import (
	"fmt"
	"net/netip"

	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

const (
	maxRanges       = 64
	maxReservations = 4096
	maxDNSServers   = 8
	maxRoutes       = 64
	maxDescription  = 256
)

// checkAddress notes what is no address, or not written as addresses are; ok says that it is one.
func checkAddress(v *Violations, field, s string) (a netip.Addr, ok bool) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil || a.Zone() != "":
		v.Add(field, "must be an IP address")
	case a.Is4In6():
		v.Add(field, "must be written as IPv4: %s", a.Unmap())
	case a.String() != s:
		v.Add(field, "must be written as %s", a)
	default:
		return a, true
	}
	return a, false
}

// checkCIDR notes what is no CIDR, has host bits, or is not written as CIDRs are.
func checkCIDR(v *Violations, field, s string) (p netip.Prefix, ok bool) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || p.Addr().Is4In6():
		v.Add(field, "must be a CIDR such as 10.4.0.0/24 or fd00:4::/64")
	case p != p.Masked():
		v.Add(field, "has host bits: the range is %s", p.Masked())
	case p.String() != s:
		v.Add(field, "must be written as %s", p)
	default:
		return p, true
	}
	return p, false
}

func checkSubnets(v *Violations, spec *networkv1.NetworkSpec) {
	families := map[bool]bool{} // by whether it is IPv4
	for i, s := range spec.GetSubnets() {
		at := fmt.Sprintf("network.spec.subnets[%d]", i)
		if s.GetCidr() == "" {
			v.Add(at+".cidr", "is required")
			continue
		}
		p, ok := checkCIDR(v, at+".cidr", s.GetCidr())
		if !ok {
			continue
		}
		if is4 := p.Addr().Is4(); families[is4] {
			v.Add(at+".cidr", "is a second subnet of its family: a network has at most one of IPv4 and one of IPv6")
		} else {
			families[is4] = true
		}
		checkRangeKind(v, at+".cidr", p)
		checkSubnet(v, at, p, s)
	}
}

// checkRangeKind notes ranges that are no place for guests.
func checkRangeKind(v *Violations, field string, p netip.Prefix) {
	a := p.Addr()
	switch {
	case a.Is4() && (p.Bits() < 8 || p.Bits() > 30):
		v.Add(field, "must have a prefix of 8-30 bits")
	case a.Is6() && (p.Bits() < 32 || p.Bits() > 126):
		v.Add(field, "must have a prefix of 32-126 bits")
	}
	for _, no := range []string{"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/16", "fe80::/10", "ff00::/8"} {
		if netip.MustParsePrefix(no).Overlaps(p) {
			v.Add(field, "overlaps %s, which is not for guests", no)
		}
	}
}

func checkSubnet(v *Violations, at string, p netip.Prefix, s *networkv1.Subnet) {
	inside := func(field, text string) (netip.Addr, bool) {
		a, ok := checkAddress(v, field, text)
		if ok && !p.Contains(a) {
			v.Add(field, "lies outside %s", p)
			return a, false
		}
		return a, ok
	}
	host := func(field, text string) (netip.Addr, bool) {
		a, ok := inside(field, text)
		if ok && (a == p.Addr() || a == broadcast(p)) {
			v.Add(field, "is the network's own or the broadcast address of %s", p)
			return a, false
		}
		return a, ok
	}
	gateway := netip.Addr{}
	if s.GetGateway() != "" {
		gateway, _ = host(at+".gateway", s.GetGateway())
	}
	checkRanges(v, at, s, inside)
	if n := len(s.GetReservations()); n > maxReservations {
		v.Add(at+".reservations", "holds %d addresses, at most %d are allowed", n, maxReservations)
		return
	}
	seen, macs := map[netip.Addr]bool{}, map[string]bool{}
	for i, r := range s.GetReservations() {
		at := fmt.Sprintf("%s.reservations[%d]", at, i)
		if a, ok := host(at+".ip_address", r.GetIpAddress()); ok {
			switch {
			case a == gateway:
				v.Add(at+".ip_address", "is the gateway's")
			case seen[a]:
				v.Add(at+".ip_address", "%s is reserved twice", a)
			}
			seen[a] = true
		}
		if m := r.GetMac(); m != "" {
			if !validMAC(m) {
				v.Add(at+".mac", macRule)
			} else if macs[m] {
				v.Add(at+".mac", "%s has two reservations in the subnet", m)
			}
			macs[m] = true
		}
		if len(r.GetDescription()) > maxDescription || !printable(r.GetDescription()) {
			v.Add(at+".description", "must be at most %d printable characters", maxDescription)
		}
	}
	checkAnnounced(v, at, p, s, inside)
}

func checkRanges(v *Violations, at string, s *networkv1.Subnet, inside func(field, text string) (netip.Addr, bool)) {
	if n := len(s.GetRanges()); n > maxRanges {
		v.Add(at+".ranges", "holds %d ranges, at most %d are allowed", n, maxRanges)
		return
	}
	var known []addressRange
	for i, r := range s.GetRanges() {
		at := fmt.Sprintf("%s.ranges[%d]", at, i)
		first, ok1 := inside(at+".first", r.GetFirst())
		last, ok2 := inside(at+".last", r.GetLast())
		if !ok1 || !ok2 {
			continue
		}
		if last.Less(first) {
			v.Add(at+".last", "comes before first")
			continue
		}
		for _, k := range known {
			if !last.Less(k.first) && !k.last.Less(first) {
				v.Add(at, "overlaps the range from %s to %s", k.first, k.last)
				break
			}
		}
		known = append(known, addressRange{first, last})
	}
}

// checkAnnounced looks at what guests are told.
func checkAnnounced(v *Violations, at string, p netip.Prefix, s *networkv1.Subnet, inside func(field, text string) (netip.Addr, bool)) {
	if n := len(s.GetDnsServers()); n > maxDNSServers {
		v.Add(at+".dns_servers", "holds %d servers, at most %d are allowed", n, maxDNSServers)
	}
	for i, d := range s.GetDnsServers() {
		field := fmt.Sprintf("%s.dns_servers[%d]", at, i)
		if a, ok := checkAddress(v, field, d); ok && a.Is4() != p.Addr().Is4() {
			v.Add(field, "must be of the subnet's address family")
		}
	}
	if n := len(s.GetRoutes()); n > maxRoutes {
		v.Add(at+".routes", "holds %d routes, at most %d are allowed", n, maxRoutes)
	}
	seen := map[netip.Prefix]bool{}
	for i, r := range s.GetRoutes() {
		at := fmt.Sprintf("%s.routes[%d]", at, i)
		if d, ok := checkCIDR(v, at+".destination", r.GetDestination()); ok {
			switch {
			case d.Addr().Is4() != p.Addr().Is4():
				v.Add(at+".destination", "must be of the subnet's address family")
			case seen[d]:
				v.Add(at+".destination", "%s has two routes", d)
			}
			seen[d] = true
		}
		inside(at+".next_hop", r.GetNextHop())
	}
}

// subnetOf is the subnet that an address lies in; nil = none.
func subnetOf(spec *networkv1.NetworkSpec, a netip.Addr) *networkv1.Subnet {
	for _, s := range spec.GetSubnets() {
		if p, err := netip.ParsePrefix(s.GetCidr()); err == nil && p.Contains(a) {
			return s
		}
	}
	return nil
}

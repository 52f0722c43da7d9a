// Package flows cuts tracked connections that the rules no longer allow. It asks the rules themselves, not what changed in them: so it is as right after a restart as after a change.
package flows

import (
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/addrset"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// Port is an interface with its rules.
type Port struct {
	Addresses []netip.Prefix // its own, and what else it may send from
	Rules     []*driverv1.Rule
	DenyOut   bool
}

// Policy is what a node allows, by network.
type Policy struct {
	Shift, Mask uint32             // where a network's number is in a connection's mark
	Networks    map[uint32]Network // by number
	Sets        map[string]*driverv1.AddressSet
}

// Network is one network's ports, by each of their own addresses.
type Network struct {
	Ports map[netip.Addr]*Port
	Wide  []*Port             // those that may send from whole ranges
	Gone  map[netip.Addr]bool // addresses of ports that are no more
	CIDRs []netip.Prefix
}

func (n Network) find(a netip.Addr) *Port {
	if p := n.Ports[a]; p != nil {
		return p
	}
	for _, p := range n.Wide {
		for _, x := range p.Addresses {
			if x.Contains(a) {
				return p
			}
		}
	}
	return nil
}

// Cut deletes the connections of our networks that p does not allow.
func (p *Policy) Cut() error {
	for _, f := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, f, p); err != nil {
			return err
		}
	}
	return nil
}

// MatchConntrackFlow reports whether a connection is to be cut.
func (p *Policy) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	number := f.Mark & p.Mask >> p.Shift
	if number == 0 {
		return false // not ours
	}
	n, ours := p.Networks[number]
	if !ours {
		return true // its network is gone
	}
	from, ok1 := netip.AddrFromSlice(f.Forward.SrcIP)
	to, ok2 := netip.AddrFromSlice(f.Reverse.SrcIP) // behind a port forward, who really answers
	dialled, ok3 := netip.AddrFromSlice(f.Forward.DstIP)
	if !ok1 || !ok2 || !ok3 {
		return false
	}
	from, to, dialled = from.Unmap(), to.Unmap(), dialled.Unmap()
	if n.Gone[from] || n.Gone[to] {
		return true
	}
	if port := n.find(from); port != nil && port.DenyOut && !port.allows(driverv1.RuleDirection_RULE_DIRECTION_EGRESS, dialled, f, p.Sets) {
		return true
	}
	port := n.find(to)
	return port != nil && !port.allows(driverv1.RuleDirection_RULE_DIRECTION_INGRESS, from, f, p.Sets)
}

func (port *Port) allows(dir driverv1.RuleDirection, other netip.Addr, f *netlink.ConntrackFlow, sets map[string]*driverv1.AddressSet) bool {
	for _, r := range port.Rules {
		if r.GetDirection() == dir && allows(r, dir, other, f, sets) {
			return true
		}
	}
	return false
}

func allows(r *driverv1.Rule, dir driverv1.RuleDirection, other netip.Addr, f *netlink.ConntrackFlow, sets map[string]*driverv1.AddressSet) bool {
	switch {
	case r.GetIpVersion() == driverv1.IpVersion_IP_VERSION_4 && !other.Is4(), r.GetIpVersion() == driverv1.IpVersion_IP_VERSION_6 && !other.Is6():
		return false
	case r.Protocol != nil && r.GetProtocol() != uint32(f.Forward.Protocol):
		return false
	}
	// Behind a port forward the guest's port is the answer's source.
	port := uint32(f.Forward.DstPort)
	if dir == driverv1.RuleDirection_RULE_DIRECTION_INGRESS {
		port = uint32(f.Reverse.SrcPort)
	}
	if p := r.GetPorts(); p != nil && (port < p.GetFirst() || port > p.GetLast()) {
		return false
	}
	if r.IcmpType != nil {
		return false // the kernel's list does not tell it here; an echo that is cut and allowed begins anew with its next request
	}
	switch x := r.GetRemote().(type) {
	case *driverv1.Rule_Cidr:
		c, err := netip.ParsePrefix(x.Cidr)
		return err == nil && c.Contains(other)
	case *driverv1.Rule_AddressSetId:
		s := sets[x.AddressSetId]
		return s != nil && addrset.Contains(s, other)
	}
	return true
}

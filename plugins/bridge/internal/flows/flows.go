// Package flows cuts tracked connections that the rules no longer allow. It asks the rules themselves, not what changed in them: so it is as right after a restart as after a change.
package flows

import (
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/limiquantix/limiquantix/plugins/kit/ruleset"
)

// Port is an interface with its rules.
type Port struct {
	Wide   []netip.Prefix // what it may send from beside its own addresses
	Policy ruleset.Policy
}

// Policy is what a node allows, by network.
type Policy struct {
	Shift, Mask uint32             // where a network's number is in a connection's mark
	Networks    map[uint32]Network // by number
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
		for _, x := range p.Wide {
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
	if port := n.find(from); port != nil && !allows(port, ruleset.Egress, dialled, f.Forward.DstPort, f) {
		return true
	}
	port := n.find(to) // behind a port forward the guest's port is the answer's source
	return port != nil && !allows(port, ruleset.Ingress, from, f.Reverse.SrcPort, f)
}

// allows asks a port's policy. The kernel's list, as read here, does not have the type of an ICMP flow: one is cut unless a rule allows the whole protocol. An echo that is cut and allowed
// begins anew with its next request.
func allows(port *Port, d ruleset.Direction, other netip.Addr, to uint16, f *netlink.ConntrackFlow) bool {
	ok, line := port.Policy.Allow(ruleset.Packet{Direction: d, Remote: other, Protocol: f.Forward.Protocol, Port: to})
	return ok && (line == nil || line.ICMPType == ruleset.Any)
}

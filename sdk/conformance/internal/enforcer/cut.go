package enforcer

import (
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/limiquantix/limiquantix/sdk/conformance/packet"
	"github.com/limiquantix/limiquantix/sdk/conformance/packetmodel"
)

// cut removes the tracked flows that nothing allows any more. It asks the model: filtering is what the oracle is held against, not this.
func (d *driver) cut() error {
	m := packetmodel.New()
	m.Change(func(c *packetmodel.Change) {
		for id, s := range d.ports {
			c.Port(id, s.GetRuleSetIds()...)
		}
		for _, r := range d.rules {
			c.RuleSet(r)
		}
		for id, s := range d.sets {
			c.AddressSet(id, s.GetMembers()...)
		}
	})
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, forbidden{d, m}); err != nil {
			return err
		}
	}
	return nil
}

// forbidden matches flows that the model does not allow.
type forbidden struct {
	d *driver
	m *packetmodel.Model
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f forbidden) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	addr := func(ip net.IP) netip.Addr {
		a, _ := netip.AddrFromSlice(ip)
		return a.Unmap()
	}
	p := packetmodel.Packet{
		Src: addr(flow.Forward.SrcIP), Dst: addr(flow.Forward.DstIP), Protocol: flow.Forward.Protocol,
		SrcPort: flow.Forward.SrcPort, DstPort: flow.Forward.DstPort,
	}
	switch p.Protocol { // the library reads no types; only echoes have replies
	case packetmodel.ICMP:
		p.ICMPType = 8
	case packetmodel.ICMPv6:
		p.ICMPType = 128
	}
	p.From, p.To = f.port(p.Src), f.port(p.Dst)
	return !f.m.Allowed(p)
}

func (f forbidden) port(a netip.Addr) string {
	for id, s := range f.d.ports {
		for _, own := range append(s.GetIpAddresses(), s.GetExtraAddresses()...) {
			if own == a.String() {
				return id
			}
			if c, err := netip.ParsePrefix(own); err == nil && c.Contains(a) {
				return id
			}
		}
	}
	return ""
}

func linkLocal(mac string) string {
	m, err := net.ParseMAC(mac)
	if err != nil {
		return "fe80::"
	}
	return packet.LinkLocal(m).String()
}

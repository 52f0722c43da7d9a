package packetmodel

import (
	"fmt"
	"net/netip"
)

// Numbers of protocols of IP.
const (
	ICMP   = 1
	TCP    = 6
	UDP    = 17
	SCTP   = 132
	ICMPv6 = 58
)

// Packet is an IP packet on its way from one port to another.
type Packet struct {
	// From and To are names of ports; empty = the node itself, which has no rules.
	From, To string
	Src, Dst netip.Addr
	Protocol uint8
	// SrcPort and DstPort count with TCP, UDP and SCTP.
	SrcPort, DstPort uint16
	// ICMPType and ICMPCode count with ICMP and ICMPv6, ICMPID with their echoes.
	ICMPType, ICMPCode uint8
	ICMPID             uint16
}

// HasPorts reports whether the packet's protocol has ports.
func (p Packet) HasPorts() bool {
	return p.Protocol == TCP || p.Protocol == UDP || p.Protocol == SCTP
}

// IsICMP reports whether the packet has a type and a code.
func (p Packet) IsICMP() bool { return p.Protocol == ICMP || p.Protocol == ICMPv6 }

// V6 reports whether it is a packet of IPv6.
func (p Packet) V6() bool { return p.Dst.Is6() }

// Reply is the packet that answers p, and whether there is one: only what connection tracking of every kind can follow has one.
func (p Packet) Reply() (Packet, bool) {
	r := p
	r.From, r.To, r.Src, r.Dst, r.SrcPort, r.DstPort = p.To, p.From, p.Dst, p.Src, p.DstPort, p.SrcPort
	switch {
	case p.Protocol == TCP, p.Protocol == UDP:
		return r, true
	case p.Protocol == ICMP && p.ICMPType == 8 && p.ICMPCode == 0:
		r.ICMPType = 0
		return r, true
	case p.Protocol == ICMPv6 && p.ICMPType == 128 && p.ICMPCode == 0:
		r.ICMPType = 129
		return r, true
	}
	return r, false
}

func (p Packet) String() string {
	end := func(name string, a netip.Addr, port uint16) string {
		if name == "" {
			name = "node"
		}
		if !p.HasPorts() {
			return fmt.Sprintf("%s(%s)", name, a)
		}
		return fmt.Sprintf("%s(%s)", name, netip.AddrPortFrom(a, port))
	}
	what := fmt.Sprintf("protocol %d", p.Protocol)
	switch p.Protocol {
	case TCP:
		what = "tcp"
	case UDP:
		what = "udp"
	case SCTP:
		what = "sctp"
	case ICMP, ICMPv6:
		what = fmt.Sprintf("icmp type %d code %d", p.ICMPType, p.ICMPCode)
	}
	return fmt.Sprintf("%s %s -> %s", what, end(p.From, p.Src, p.SrcPort), end(p.To, p.Dst, p.DstPort))
}

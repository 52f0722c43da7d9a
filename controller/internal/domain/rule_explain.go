package domain

import (
	"fmt"
	"net"
	"net/netip"

	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// Why a packet passes a port or does not.
const (
	PacketRule          = "RULE"
	PacketEgressDefault = "EGRESS_DEFAULT"
	PacketNoRule        = "NO_RULE"
	PacketSpoofed       = "SPOOFED"
	PacketPortBlocked   = "PORT_BLOCKED"
	PacketLinkDown      = "LINK_DOWN"
)

const icmpv6RouterAdvertisement = 134 // RFC 4861, section 4.2

// Packet begins a flow at a port.
type Packet struct {
	Direction networkv1.RuleDirection
	// Remote is the other side; Local the port's, not valid = it has no address of that family.
	Remote, Local netip.Addr
	Protocol      int
	// Port is the destination's; Type and Code are of ICMP. -1 = the protocol has none.
	Port, Type, Code int
}

// ReadPacket reads a packet that a request describes, and notes what is wrong with it.
func ReadPacket(v *Violations, req *networkv1.ExplainPacketRequest) Packet {
	p := Packet{Direction: req.GetDirection(), Port: -1, Type: -1, Code: -1}
	if p.Direction != networkv1.RuleDirection_RULE_DIRECTION_INGRESS && p.Direction != networkv1.RuleDirection_RULE_DIRECTION_EGRESS {
		v.Add("direction", "must be RULE_DIRECTION_INGRESS or RULE_DIRECTION_EGRESS")
	}
	var err error
	if p.Remote, err = netip.ParseAddr(req.GetRemoteAddress()); err != nil || p.Remote.Zone() != "" || p.Remote.Is4In6() {
		v.Add("remote_address", "must be an IP address")
	}
	if s := req.GetLocalAddress(); s != "" {
		p.Local, err = netip.ParseAddr(s)
		switch {
		case err != nil || p.Local.Zone() != "" || p.Local.Is4In6():
			v.Add("local_address", "must be an IP address")
		case p.Remote.IsValid() && p.Local.Is4() != p.Remote.Is4():
			v.Add("local_address", "must be of the same version of IP as remote_address")
		}
	}
	number, anything, ok := ProtocolNumber(req.GetProtocol())
	if !ok || anything {
		v.Add("protocol", `must be "tcp", "udp", "sctp", "icmp", "icmpv6", or a number 0-255`)
		return p
	}
	p.Protocol = number
	if p.Remote.IsValid() && (number == ProtocolICMP && !p.Remote.Is4() || number == ProtocolICMPv6 && p.Remote.Is4()) {
		v.Add("protocol", "is of the other version of IP than remote_address")
	}
	switch port := req.GetDestinationPort(); {
	case hasPorts(number) && (port < 1 || port > 65535):
		v.Add("destination_port", "must be 1 to 65535")
	case hasPorts(number):
		p.Port = int(port)
	case port != 0:
		v.Add("destination_port", `goes with "tcp", "udp" or "sctp" only`)
	}
	switch icmp := number == ProtocolICMP || number == ProtocolICMPv6; {
	case !icmp && (req.IcmpType != nil || req.IcmpCode != nil):
		v.Add("icmp_type", `goes with "icmp" or "icmpv6" only`)
	case icmp && (req.IcmpType == nil || req.GetIcmpType() > 255):
		v.Add("icmp_type", "must be 0 to 255, for example 8 (icmp) or 128 (icmpv6), an echo request")
	case icmp && req.GetIcmpCode() > 255:
		v.Add("icmp_code", "must be 0 to 255")
	case icmp:
		p.Type, p.Code = int(req.GetIcmpType()), int(req.GetIcmpCode())
	}
	return p
}

// ExplainPacket says whether a packet that begins a flow passes a port with its groups. member finds the port that makes an address a member of a group; "" = none does.
func ExplainPacket(p Packet, port *networkv1.Port, groups []*networkv1.SecurityGroup, member func(groupID string, a netip.Addr) string) *networkv1.ExplainPacketResponse {
	out := &networkv1.ExplainPacketResponse{}
	say := func(allowed bool, reason, format string, args ...any) *networkv1.ExplainPacketResponse {
		out.Allowed, out.Reason, out.Message = allowed, reason, fmt.Sprintf(format, args...)
		return out
	}
	own := OwnAddress(port, p.Remote)
	if !p.Local.IsValid() {
		p.Local = own
	}
	st := port.GetStatus()
	switch {
	case port.GetSpec().GetLinkDown():
		return say(false, PacketLinkDown, "the link of the port is down by its spec")
	case st.GetPhase() == networkv1.PortPhase_PORT_PHASE_BLOCKED, st.GetPhase() == networkv1.PortPhase_PORT_PHASE_FAILED:
		why := st.GetMessage()
		if why == "" {
			why = st.GetReason()
		}
		return say(false, PacketPortBlocked, "the port is kept shut: %s", why)
	}
	if p.Direction == networkv1.RuleDirection_RULE_DIRECTION_EGRESS {
		switch {
		case !p.Local.IsValid():
			return say(false, PacketSpoofed, "the port has no address to send it from")
		case !hasAddress(port, p.Local):
			return say(false, PacketSpoofed, "%s is none of the port's addresses: nothing passes from it", p.Local)
		case p.Protocol == ProtocolICMPv6 && p.Type == icmpv6RouterAdvertisement:
			return say(false, PacketSpoofed, "a port does not play router")
		}
	}
	deny := false
	for _, g := range groups {
		deny = deny || g.GetSpec().GetEgressDefault() == networkv1.EgressDefault_EGRESS_DEFAULT_DENY
		for _, r := range g.GetSpec().GetRules() {
			m := MatchOf(r)
			if !m.allows(p) {
				continue
			}
			hit := &networkv1.MatchingRule{SecurityGroupId: g.GetMeta().GetId(), SecurityGroupName: g.GetMeta().GetName(), Rule: r}
			if m.GroupID != "" {
				if hit.MemberPortId = member(m.GroupID, p.Remote); hit.GetMemberPortId() == "" {
					continue
				}
			}
			out.Rules = append(out.Rules, hit)
		}
	}
	switch {
	case len(out.GetRules()) > 0:
		first := out.GetRules()[0]
		return say(true, PacketRule, "rule %s of security group %s allows it", first.GetRule().GetId(), first.GetSecurityGroupName())
	case p.Direction == networkv1.RuleDirection_RULE_DIRECTION_EGRESS && !deny:
		return say(true, PacketEgressDefault, "no rule is needed: none of the port's groups denies what goes out by default")
	}
	return say(false, PacketNoRule, "none of the rules of the port's %d groups allows it", len(groups))
}

// allows reports whether a packet is what a rule allows, members of its remote group left aside.
func (m RuleMatch) allows(p Packet) bool {
	version := networkv1.IpVersion_IP_VERSION_6
	if p.Remote.Is4() {
		version = networkv1.IpVersion_IP_VERSION_4
	}
	return m.Direction == p.Direction && (m.Version == networkv1.IpVersion_IP_VERSION_UNSPECIFIED || m.Version == version) &&
		(m.Protocol < 0 || m.Protocol == p.Protocol) && (m.First < 0 || m.First <= p.Port && p.Port <= m.Last) &&
		(m.Type < 0 || m.Type == p.Type) && (m.Code < 0 || m.Code == p.Code) && (!m.CIDR.IsValid() || m.CIDR.Contains(p.Remote))
}

// OwnAddress is the address of a port of the same version of IP as another; not valid when it has none.
func OwnAddress(port *networkv1.Port, as netip.Addr) netip.Addr {
	for _, s := range port.GetStatus().GetIpAddresses() {
		if a, err := netip.ParseAddr(s); err == nil && a.Is4() == as.Is4() {
			return a
		}
	}
	return netip.Addr{}
}

// hasAddress reports whether a port may send from an address: one that it holds, one that it was given beside, or the link-local one of its MAC address.
func hasAddress(port *networkv1.Port, a netip.Addr) bool {
	if MemberBy(port, a) {
		return true
	}
	mac, err := net.ParseMAC(port.GetStatus().GetMac())
	return err == nil && len(mac) == 6 && a == linkLocal(mac)
}

// MemberBy reports whether a port makes an address a member of its groups.
func MemberBy(port *networkv1.Port, a netip.Addr) bool {
	for _, s := range port.GetStatus().GetIpAddresses() {
		if own, err := netip.ParseAddr(s); err == nil && own == a {
			return true
		}
	}
	for _, s := range port.GetSpec().GetExtraAddresses() {
		if own, err := netip.ParseAddr(s); err == nil && own == a {
			return true
		}
		if p, err := netip.ParsePrefix(s); err == nil && p.Contains(a) {
			return true
		}
	}
	return false
}

// linkLocal is the address that a NIC makes itself of its MAC address (RFC 4291, appendix A).
func linkLocal(mac net.HardwareAddr) netip.Addr {
	b := [16]byte{0: 0xfe, 1: 0x80, 8: mac[0] ^ 0x02, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]}
	return netip.AddrFrom16(b)
}

// GroupsInForce reports whether a port's groups, as they are now, are in force on it, and its spec is realised.
func GroupsInForce(port *networkv1.Port, groups []*networkv1.SecurityGroup) bool {
	st := port.GetStatus()
	if st.GetPhase() != networkv1.PortPhase_PORT_PHASE_UP || st.GetObservedGeneration() < port.GetMeta().GetGeneration() || len(st.GetSecurityGroups()) != len(groups) {
		return false
	}
	for _, g := range groups {
		if m := MemberOf(port, g.GetMeta().GetId()); m.Applied < g.GetMeta().GetGeneration() {
			return false
		}
	}
	return true
}

package ruleset

import "net/netip"

// Packet is the first packet of a flow, as an interface sees it. For a flow that is tracked it is made of the original direction's addresses and ports.
type Packet struct {
	Direction          Direction
	Remote             netip.Addr // the other side; its family is the packet's
	Protocol           uint8
	Port               uint16 // destination port; only TCP, UDP, SCTP
	ICMPType, ICMPCode uint8  // only ICMP, ICMPv6
}

// Policy is what holds for an interface: a packet passes when any of the plans allows it.
type Policy struct {
	Plans []*Plan
	// Members are an address set's; nil when it is unknown, and then no line that refers to it matches.
	Members func(set string) *Members
}

// Allow reports whether a new flow may pass, and by which line: nil with true when the default allows it.
func (p Policy) Allow(pkt Packet) (bool, *Line) {
	pkt.Remote = pkt.Remote.Unmap()
	deny := pkt.Direction == Ingress
	for _, plan := range p.Plans {
		deny = deny || plan.EgressDeny
	}
	if !deny {
		return true, nil
	}
	f := FamilyOf(pkt.Remote)
	for _, plan := range p.Plans {
		lines := plan.Lines[pkt.Direction][f]
		for i := range lines {
			if p.matches(&lines[i].Match, pkt) {
				return true, &lines[i]
			}
		}
	}
	return false, nil
}

func (p Policy) matches(m *Match, pkt Packet) bool {
	if m.Protocol != Any && m.Protocol != int16(pkt.Protocol) ||
		m.First != 0 && (pkt.Port < m.First || pkt.Port > m.Last) ||
		m.ICMPType != Any && m.ICMPType != int16(pkt.ICMPType) ||
		m.ICMPCode != Any && m.ICMPCode != int16(pkt.ICMPCode) ||
		m.Prefix.IsValid() && !m.Prefix.Contains(pkt.Remote) {
		return false
	}
	if m.Set == "" {
		return true
	}
	var members *Members
	if p.Members != nil {
		members = p.Members(m.Set)
	}
	return members != nil && members.Contains(pkt.Remote)
}

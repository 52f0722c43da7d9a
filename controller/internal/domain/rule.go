package domain

import (
	"net/netip"
	"strconv"

	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// Numbers of the protocols that rules know by name, as IANA assigns them.
const (
	ProtocolICMP   = 1
	ProtocolTCP    = 6
	ProtocolUDP    = 17
	ProtocolICMPv6 = 58
	ProtocolSCTP   = 132
)

var protocolNumbers = map[string]int{
	"icmp": ProtocolICMP, "tcp": ProtocolTCP, "udp": ProtocolUDP, "icmpv6": ProtocolICMPv6, "sctp": ProtocolSCTP,
}

// ProtocolNumber is the IP protocol number that a rule's protocol means; any says that it means all. ok is false for what is no protocol.
func ProtocolNumber(protocol string) (number int, anything, ok bool) {
	if protocol == "" || protocol == AnyProtocol {
		return 0, true, true
	}
	if n, named := protocolNumbers[protocol]; named {
		return n, false, true
	}
	n, err := strconv.ParseUint(protocol, 10, 8)
	if err != nil || strconv.FormatUint(n, 10) != protocol {
		return 0, false, false
	}
	return int(n), false, true
}

// hasPorts reports whether a protocol has ports.
func hasPorts(number int) bool {
	return number == ProtocolTCP || number == ProtocolUDP || number == ProtocolSCTP
}

// RuleMatch is what a rule means, in one form however it is written: equal rules have equal matches. -1 stands for "all".
type RuleMatch struct {
	Direction  networkv1.RuleDirection
	Version    networkv1.IpVersion // unspecified: both
	Protocol   int
	First      int
	Last       int
	Type, Code int
	CIDR       netip.Prefix // not valid: none
	GroupID    string
}

// MatchOf reads a rule that is valid.
func MatchOf(r *networkv1.SecurityRule) RuleMatch {
	m := RuleMatch{Direction: r.GetDirection(), Version: r.GetIpVersion(), Protocol: -1, First: -1, Last: -1, Type: -1, Code: -1, GroupID: r.GetSecurityGroupId()}
	if n, anything, ok := ProtocolNumber(r.GetProtocol()); ok && !anything {
		m.Protocol = n
	}
	if r.GetPortFirst() > 0 {
		m.First, m.Last = int(r.GetPortFirst()), int(r.GetPortLast())
		if m.Last == 0 {
			m.Last = m.First
		}
	}
	if r.IcmpType != nil {
		m.Type = int(r.GetIcmpType())
	}
	if r.IcmpCode != nil {
		m.Code = int(r.GetIcmpCode())
	}
	if r.GetCidr() != "" {
		m.CIDR, _ = netip.ParsePrefix(r.GetCidr())
	}
	switch {
	case m.Version != networkv1.IpVersion_IP_VERSION_UNSPECIFIED:
	case m.CIDR.IsValid() && m.CIDR.Addr().Is4(), m.Protocol == ProtocolICMP:
		m.Version = networkv1.IpVersion_IP_VERSION_4
	case m.CIDR.IsValid(), m.Protocol == ProtocolICMPv6:
		m.Version = networkv1.IpVersion_IP_VERSION_6
	}
	return m
}

// SameRule is the rule of a group that allows the same as r; nil when there is none.
func SameRule(rules []*networkv1.SecurityRule, r *networkv1.SecurityRule) *networkv1.SecurityRule {
	want := MatchOf(r)
	for _, have := range rules {
		if have.GetDirection() == want.Direction && have.GetSecurityGroupId() == want.GroupID && MatchOf(have) == want {
			return have
		}
	}
	return nil
}

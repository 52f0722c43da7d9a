package ruleset

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/limiquantix/limiquantix/plugins/kit/netspec"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// MaxRules is the limit of a driver that has none of its own: a set of so many rules still fits a message.
const MaxRules = 10000

// Violations says all that is wrong with a rule set, by field path below field, for example "rule_set". maxRules 0 = MaxRules.
func Violations(field string, rs *driverv1.RuleSet, maxRules int) (v []fault.Violation) {
	bad := func(wrong bool, name, format string, args ...any) {
		if wrong {
			v = append(v, fault.Violation{Field: field + "." + name, Description: fmt.Sprintf(format, args...)})
		}
	}
	if maxRules <= 0 {
		maxRules = MaxRules
	}
	bad(!netspec.IsUUID(rs.GetRuleSetId()), "rule_set_id", "%.60q is not a UUID in lower case", rs.GetRuleSetId())
	bad(rs.GetGeneration() < 1, "generation", "must be at least 1")
	if len(rs.GetRules()) > maxRules {
		bad(true, "rules", "%d rules, at most %d", len(rs.GetRules()), maxRules)
		return v // not named one by one: the message would not fit
	}
	seen := make(map[string]int, len(rs.GetRules()))
	for i, r := range rs.GetRules() {
		id := r.GetRuleId()
		path := fmt.Sprintf("%s.rules[%d]", field, i)
		if !ruleID(id) {
			v = append(v, fault.Violation{Field: path + ".rule_id", Description: fmt.Sprintf("%.80q is not 1-64 characters of a-z, A-Z, 0-9, '-', '_'", id)})
		} else if first, ok := seen[id]; ok {
			v = append(v, fault.Violation{Field: path + ".rule_id", Description: fmt.Sprintf("%q is the id of rules[%d] too", id, first)})
		} else {
			seen[id] = i
		}
		v = append(v, ruleViolations(path, r)...)
		if len(v) > 100 {
			break // enough to act on, and a message that fits
		}
	}
	return v
}

func ruleID(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

func ruleViolations(path string, r *driverv1.Rule) (v []fault.Violation) {
	bad := func(wrong bool, name, format string, args ...any) {
		if wrong {
			v = append(v, fault.Violation{Field: path + "." + name, Description: fmt.Sprintf(format, args...)})
		}
	}
	d := r.GetDirection()
	bad(d != driverv1.RuleDirection_RULE_DIRECTION_INGRESS && d != driverv1.RuleDirection_RULE_DIRECTION_EGRESS, "direction", "must be INGRESS or EGRESS")
	version := r.GetIpVersion()
	bad(version < 0 || version > driverv1.IpVersion_IP_VERSION_6, "ip_version", "must be 4, 6 or unset")

	set, proto := r.Protocol != nil, r.GetProtocol()
	bad(proto > 255, "protocol", "%d is not 0-255", proto)
	icmp, icmp6 := set && proto == ICMP, set && proto == ICMPv6
	bad(icmp && version == driverv1.IpVersion_IP_VERSION_6, "protocol", "ICMP (1) is of IPv4, ip_version is 6; ICMPv6 is 58")
	bad(icmp6 && version == driverv1.IpVersion_IP_VERSION_4, "protocol", "ICMPv6 (58) is of IPv6, ip_version is 4; ICMP is 1")

	if p := r.GetPorts(); p != nil {
		bad(!set || !slices.Contains([]uint32{TCP, UDP, SCTP}, proto), "ports", "only with protocol TCP (6), UDP (17) or SCTP (132)")
		bad(p.GetFirst() < 1 || p.GetFirst() > 65535, "ports.first", "%d is not 1-65535", p.GetFirst())
		bad(p.GetLast() < 1 || p.GetLast() > 65535, "ports.last", "%d is not 1-65535", p.GetLast())
		bad(p.GetFirst() > p.GetLast(), "ports", "first %d is after last %d", p.GetFirst(), p.GetLast())
	}
	bad(r.IcmpType != nil && !icmp && !icmp6, "icmp_type", "only with protocol ICMP (1) or ICMPv6 (58)")
	bad(r.GetIcmpType() > 255, "icmp_type", "%d is not 0-255", r.GetIcmpType())
	bad(r.IcmpCode != nil && r.IcmpType == nil, "icmp_code", "only with icmp_type")
	bad(r.GetIcmpCode() > 255, "icmp_code", "%d is not 0-255", r.GetIcmpCode())

	switch remote := r.GetRemote().(type) {
	case *driverv1.Rule_Cidr:
		p, err := prefix(remote.Cidr)
		if err != nil {
			bad(true, "cidr", "%s", err)
			break
		}
		v4 := p.Addr().Is4()
		bad(v4 && version == driverv1.IpVersion_IP_VERSION_6, "cidr", "is IPv4, ip_version is 6")
		bad(!v4 && version == driverv1.IpVersion_IP_VERSION_4, "cidr", "is IPv6, ip_version is 4")
		bad(icmp && !v4, "cidr", "is IPv6, protocol ICMP (1) is of IPv4; ICMPv6 is 58")
		bad(icmp6 && v4, "cidr", "is IPv4, protocol ICMPv6 (58) is of IPv6; ICMP is 1")
	case *driverv1.Rule_AddressSetId:
		bad(!netspec.IsUUID(remote.AddressSetId), "address_set_id", "%.60q is not a UUID in lower case", remote.AddressSetId)
	}
	return v
}

// prefix reads a CIDR with host bits zero.
func prefix(s string) (netip.Prefix, error) { return netspec.ParseCIDR(s) }

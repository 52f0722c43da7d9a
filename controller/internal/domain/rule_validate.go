package domain

import (
	"fmt"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

const (
	// MaxRules is how many rules a group can have.
	MaxRules = 10_000
	// maxRuleViolations is how many wrong fields of rules are named each with its own words; the rules after them are named by number.
	maxRuleViolations = 200

	maxRuleDescription = 256
)

// CheckRules notes everything that is wrong with the rules of a group; known says whether a group that a rule refers to, by id or name, is there.
func CheckRules(v *Violations, field string, rules []*networkv1.SecurityRule, known func(ref string) bool) {
	if len(rules) > MaxRules {
		v.Add(field, "holds %d rules, at most %d are allowed", len(rules), MaxRules)
		return
	}
	var all Violations
	var more []int
	for i, r := range rules {
		if len(all) < maxRuleViolations {
			CheckRule(&all, fmt.Sprintf("%s[%d]", field, i), r, known)
			continue
		}
		var one Violations
		if CheckRule(&one, "", r, known); len(one) > 0 {
			more = append(more, i)
		}
	}
	*v = append(*v, all...)
	if len(more) > 0 {
		v.Add(field, "%d more rules are wrong: %s", len(more), ranges(more))
	}
}

// CheckRule notes everything that is wrong with one rule.
func CheckRule(v *Violations, at string, r *networkv1.SecurityRule, known func(ref string) bool) {
	if r == nil {
		v.Add(at, "is empty")
		return
	}
	CheckDescription(v, at+".description", r.GetDescription())
	switch r.GetDirection() {
	case networkv1.RuleDirection_RULE_DIRECTION_INGRESS, networkv1.RuleDirection_RULE_DIRECTION_EGRESS:
	default:
		v.Add(at+".direction", "must be RULE_DIRECTION_INGRESS or RULE_DIRECTION_EGRESS")
	}
	number, anything, ok := ProtocolNumber(r.GetProtocol())
	if !ok {
		v.Add(at+".protocol", `must be "tcp", "udp", "sctp", "icmp", "icmpv6", "any", or a number 0-255`)
	}
	if ok {
		checkRulePorts(v, at, r, !anything && hasPorts(number))
		checkRuleICMP(v, at, r, !anything && (number == ProtocolICMP || number == ProtocolICMPv6))
	}
	checkRuleRemote(v, at, r, known)
	checkRuleVersion(v, at, r, number)
}

func checkRulePorts(v *Violations, at string, r *networkv1.SecurityRule, may bool) {
	first, last := r.GetPortFirst(), r.GetPortLast()
	if (first > 0 || last > 0) && !may {
		v.Add(at+".port_first", `ports go with "tcp", "udp" or "sctp" only`)
		return
	}
	switch {
	case first > 65535:
		v.Add(at+".port_first", "must be 1 to 65535; 0 is all ports")
	case first == 0 && last > 0:
		v.Add(at+".port_first", "must be 1 to 65535 where port_last is set")
	}
	switch {
	case last > 65535:
		v.Add(at+".port_last", "must be at most 65535")
	case last > 0 && last < first:
		v.Add(at+".port_last", "must not be less than port_first (%d); 0 is port_first alone", first)
	}
}

func checkRuleICMP(v *Violations, at string, r *networkv1.SecurityRule, may bool) {
	if (r.IcmpType != nil || r.IcmpCode != nil) && !may {
		v.Add(at+".icmp_type", `goes with "icmp" or "icmpv6" only`)
		return
	}
	if r.GetIcmpType() > 255 {
		v.Add(at+".icmp_type", "must be 0 to 255; unset is all types")
	}
	if r.GetIcmpCode() > 255 {
		v.Add(at+".icmp_code", "must be 0 to 255; unset is all codes")
	}
	if r.IcmpCode != nil && r.IcmpType == nil {
		v.Add(at+".icmp_code", "goes with icmp_type only")
	}
}

func checkRuleRemote(v *Violations, at string, r *networkv1.SecurityRule, known func(ref string) bool) {
	switch remote := r.GetRemote().(type) {
	case *networkv1.SecurityRule_Cidr:
		p, err := netip.ParsePrefix(remote.Cidr)
		switch {
		case err != nil:
			v.Add(at+".cidr", "must be a CIDR such as 10.0.0.0/8 or fd00::/64")
		case p.Addr().Is4In6():
			v.Add(at+".cidr", "is an IPv4 range written as IPv6: write it as IPv4")
		case p != p.Masked():
			v.Add(at+".cidr", "has bits set after its prefix: write %s", p.Masked())
		}
	case *networkv1.SecurityRule_SecurityGroupId:
		switch {
		case remote.SecurityGroupId == "":
			v.Add(at+".security_group_id", "must be a group's id or name")
		case known != nil && !known(remote.SecurityGroupId):
			v.Add(at+".security_group_id", "there is no security group %s in the project", quoteKey(remote.SecurityGroupId))
		}
	}
}

// checkRuleVersion notes parts of a rule that are of two versions of IP.
func checkRuleVersion(v *Violations, at string, r *networkv1.SecurityRule, protocol int) {
	version, is := r.GetIpVersion(), "ip_version"
	switch version {
	case networkv1.IpVersion_IP_VERSION_UNSPECIFIED, networkv1.IpVersion_IP_VERSION_4, networkv1.IpVersion_IP_VERSION_6:
	default:
		v.Add(at+".ip_version", "must be IP_VERSION_4, IP_VERSION_6 or unset")
		return
	}
	agree := func(field string, other networkv1.IpVersion) {
		if version != networkv1.IpVersion_IP_VERSION_UNSPECIFIED && version != other {
			v.Add(at+"."+field, "is of IPv%d, and %s is of IPv%d", versionNumber(other), is, versionNumber(version))
			return
		}
		version, is = other, field
	}
	if p, err := netip.ParsePrefix(r.GetCidr()); err == nil {
		agree("cidr", map[bool]networkv1.IpVersion{true: networkv1.IpVersion_IP_VERSION_4, false: networkv1.IpVersion_IP_VERSION_6}[p.Addr().Is4()])
	}
	switch protocol {
	case ProtocolICMP:
		agree("protocol", networkv1.IpVersion_IP_VERSION_4)
	case ProtocolICMPv6:
		agree("protocol", networkv1.IpVersion_IP_VERSION_6)
	}
}

func versionNumber(v networkv1.IpVersion) int {
	if v == networkv1.IpVersion_IP_VERSION_6 {
		return 6
	}
	return 4
}

// CheckDescription notes a description that is too long or holds control characters.
func CheckDescription(v *Violations, field, s string) {
	if utf8.RuneCountInString(s) > maxRuleDescription || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		v.Add(field, "must be at most %d characters without control characters", maxRuleDescription)
	}
}

// ranges writes ascending numbers shortly: "3, 5-9".
func ranges(n []int) string {
	var b strings.Builder
	for i := 0; i < len(n); {
		j := i
		for j+1 < len(n) && n[j+1] == n[j]+1 {
			j++
		}
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		if b.Len() > 16<<10 { // what an error can carry
			fmt.Fprintf(&b, "and %d more up to %d", len(n)-i, n[len(n)-1])
			break
		}
		if i == j {
			fmt.Fprintf(&b, "%d", n[i])
		} else {
			fmt.Fprintf(&b, "%d-%d", n[i], n[j])
		}
		i = j + 1
	}
	return b.String()
}

package rule

import (
	"fmt"
	"net/netip"

	"google.golang.org/protobuf/proto"

	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// Traffic prints what a rule allows, as ParseTraffic reads it.
func Traffic(r *networkv1.SecurityRule) string {
	text := r.GetProtocol()
	switch {
	case text == "":
		return "any"
	case r.GetPortFirst() == 0 && r.IcmpType == nil:
		return text
	case r.GetPortFirst() != 0:
		text += fmt.Sprintf(":%d", r.GetPortFirst())
		if r.GetPortLast() > r.GetPortFirst() {
			text += fmt.Sprintf("-%d", r.GetPortLast())
		}
		return text
	}
	text += fmt.Sprintf(":%d", r.GetIcmpType())
	if r.IcmpCode != nil {
		text += fmt.Sprintf(":%d", r.GetIcmpCode())
	}
	return text
}

// Remote prints the other side of a rule, as ParseRemote reads it; name gives a group's name for its id.
func Remote(r *networkv1.SecurityRule, name func(id string) string) string {
	switch remote := r.GetRemote().(type) {
	case *networkv1.SecurityRule_Cidr:
		return remote.Cidr
	case *networkv1.SecurityRule_SecurityGroupId:
		return "sg/" + name(remote.SecurityGroupId)
	}
	return "anybody"
}

// Direction prints a direction: in or out.
func Direction(d networkv1.RuleDirection) string {
	switch d {
	case networkv1.RuleDirection_RULE_DIRECTION_INGRESS:
		return "in"
	case networkv1.RuleDirection_RULE_DIRECTION_EGRESS:
		return "out"
	}
	return ""
}

// Versions prints the versions of IP that a rule is for.
func Versions(r *networkv1.SecurityRule) string {
	switch canonical(r).GetIpVersion() {
	case networkv1.IpVersion_IP_VERSION_4:
		return "4"
	case networkv1.IpVersion_IP_VERSION_6:
		return "6"
	}
	return "4+6"
}

// Text prints a rule on one line, as the flags of lqctl sg rule add take it.
func Text(r *networkv1.SecurityRule, name func(id string) string) string {
	text := "--" + Direction(r.GetDirection()) + " " + Traffic(r)
	if r.GetRemote() != nil {
		side := " --from "
		if r.GetDirection() == networkv1.RuleDirection_RULE_DIRECTION_EGRESS {
			side = " --to "
		}
		text += side + Remote(r, name)
	}
	if r.GetIpVersion() != 0 && r.GetIpVersion() != canonical(&networkv1.SecurityRule{Protocol: r.GetProtocol(), Remote: r.GetRemote()}).GetIpVersion() {
		text += fmt.Sprintf(" --ip %d", number(r.GetIpVersion()))
	}
	return text
}

// Same reports whether two rules allow the same; ids and descriptions do not count.
func Same(a, b *networkv1.SecurityRule) bool { return proto.Equal(canonical(a), canonical(b)) }

// canonical is a rule with everything that is implied written out, and without id and description.
func canonical(r *networkv1.SecurityRule) *networkv1.SecurityRule {
	c := proto.CloneOf(r)
	c.Id, c.Description = "", ""
	if c.GetProtocol() == "" {
		c.Protocol = "any"
	}
	for _, p := range protocols {
		if p.number != "" && c.GetProtocol() == p.number {
			c.Protocol = p.word
		}
		if c.GetProtocol() == p.word && p.version != 0 {
			c.IpVersion = p.version
		}
	}
	if c.GetPortFirst() != 0 && c.GetPortLast() == 0 {
		c.PortLast = c.GetPortFirst()
	}
	if c.GetPortFirst() == 1 && c.GetPortLast() == 65535 {
		c.PortFirst, c.PortLast = 0, 0
	}
	if p, err := netip.ParsePrefix(c.GetCidr()); err == nil {
		c.IpVersion = networkv1.IpVersion_IP_VERSION_6
		if p.Addr().Is4() {
			c.IpVersion = networkv1.IpVersion_IP_VERSION_4
		}
		c.Remote = &networkv1.SecurityRule_Cidr{Cidr: p.String()}
	}
	return c
}

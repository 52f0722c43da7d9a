package ruleset

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// Compile makes a plan of a rule set, or says all that is wrong with it (INVALID_FIELD, paths below "rule_set"). maxRules 0 = MaxRules.
func Compile(rs *driverv1.RuleSet, maxRules int) (*Plan, error) {
	if v := Violations("rule_set", rs, maxRules); len(v) > 0 {
		return nil, fault.Invalid(v...)
	}
	p := &Plan{ID: rs.GetRuleSetId(), Generation: rs.GetGeneration(), Mark: proto.CloneOf(rs.GetMark()), EgressDeny: rs.GetEgressDefaultDeny(), Count: len(rs.GetRules())}
	sets, content := map[string]bool{}, make([]string, 0, len(rs.GetRules()))
	var found [2][2]map[Match][]string
	for _, r := range rs.GetRules() {
		d, m, families := expand(r)
		for _, f := range families {
			if found[d][f] == nil {
				found[d][f] = map[Match][]string{}
			}
			found[d][f][m] = append(found[d][f][m], r.GetRuleId())
		}
		if m.Set != "" {
			sets[m.Set] = true
		}
		content = append(content, fmt.Sprintf("%s %s %v %v", r.GetRuleId(), d, families, m))
	}
	for d := range found {
		for f := range found[d] {
			p.Lines[d][f] = prune(found[d][f])
		}
	}
	for s := range sets {
		p.Sets = append(p.Sets, s)
	}
	slices.Sort(p.Sets)
	slices.Sort(content)
	sum := sha256.Sum256(fmt.Appendf(nil, "%v\n%s", p.EgressDeny, strings.Join(content, "\n")))
	p.Hash = hex.EncodeToString(sum[:16])
	return p, nil
}

// expand reads a valid rule.
func expand(r *driverv1.Rule) (d Direction, m Match, families []Family) {
	m = Everything
	if r.GetDirection() == driverv1.RuleDirection_RULE_DIRECTION_EGRESS {
		d = Egress
	}
	if r.Protocol != nil {
		m.Protocol = int16(r.GetProtocol()) //nolint:gosec // at most 255
	}
	if p := r.GetPorts(); p != nil {
		m.First, m.Last = uint16(p.GetFirst()), uint16(p.GetLast()) //nolint:gosec // at most 65535
	}
	if r.IcmpType != nil {
		m.ICMPType = int16(r.GetIcmpType()) //nolint:gosec // at most 255
	}
	if r.IcmpCode != nil {
		m.ICMPCode = int16(r.GetIcmpCode()) //nolint:gosec // at most 255
	}
	m.Set = r.GetAddressSetId()
	version := r.GetIpVersion()
	if c := r.GetCidr(); c != "" {
		p, _ := prefix(c) // valid
		version = driverv1.IpVersion_IP_VERSION_6
		if p.Addr().Is4() {
			version = driverv1.IpVersion_IP_VERSION_4
		}
		if p.Bits() > 0 {
			m.Prefix = p
		}
	}
	four := version != driverv1.IpVersion_IP_VERSION_6 && m.Protocol != ICMPv6
	six := version != driverv1.IpVersion_IP_VERSION_4 && m.Protocol != ICMP
	if four {
		families = append(families, IPv4)
	}
	if six {
		families = append(families, IPv6)
	}
	return d, m, families
}

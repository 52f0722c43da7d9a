package enforcer

import (
	"fmt"
	"maps"
	"net/netip"
	"os/exec"
	"slices"
	"strings"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// render writes all tables anew: rules and tracking by iptables, which br_netfilter calls, and lies by a chain of nft's bridge family.
func (d *driver) render() error {
	if err := run(d.guard(), "nft", "-f", "-"); err != nil {
		return err
	}
	for _, v6 := range []bool{false, true} {
		program := "iptables-nft"
		if v6 {
			program = "ip6tables-nft"
		}
		if defect("flushes") {
			if err := run("", program, "-F"); err != nil {
				return err
			}
		}
		if err := run(d.filter(v6), program+"-restore"); err != nil {
			return err
		}
	}
	if defect("no-cut") {
		return nil
	}
	return d.cut()
}

func run(stdin, name string, args ...string) error {
	cmd := exec.Command(name, args...) //nolint:gosec // fixed programs
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s\n%s", name, err, out, stdin)
	}
	return nil
}

// filter is the filter table of one family.
func (d *driver) filter(v6 bool) string {
	var chains, jumps, body strings.Builder
	for _, id := range slices.Sorted(maps.Keys(d.ports)) {
		spec, in, out := d.ports[id], "I-"+id[:8], "E-"+id[:8]
		fmt.Fprintf(&chains, ":%s - [0:0]\n:%s - [0:0]\n", in, out)
		fmt.Fprintf(&jumps, "-A FORWARD -m physdev --physdev-in %s -j %s\n", tapName(id), out)
		deny := false
		for _, set := range spec.GetRuleSetIds() {
			deny = deny || d.rules[set].GetEgressDefaultDeny()
			rules := d.rules[set].GetRules()
			if defect("drops-a-rule") && len(rules) > 2 {
				rules = rules[:len(rules)-1]
			}
			for _, r := range rules {
				chain, verdict := in, "ACCEPT"
				if r.GetDirection() == driverv1.RuleDirection_RULE_DIRECTION_EGRESS {
					chain, verdict = out, "RETURN"
				}
				for _, match := range d.matches(r, v6) {
					fmt.Fprintf(&body, "-A %s %s-j %s\n", chain, match, verdict)
				}
			}
		}
		if deny && !defect("no-egress-deny") {
			fmt.Fprintf(&body, "-A %s -j DROP\n", out)
		}
		fmt.Fprintf(&body, "-A %s -j DROP\n", in)
	}
	for _, id := range slices.Sorted(maps.Keys(d.ports)) { // a packet is let out before it is let in
		fmt.Fprintf(&jumps, "-A FORWARD -m physdev --physdev-is-bridged --physdev-out %s -j I-%s\n", tapName(id), id[:8])
	}
	const replies = "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED --ctdir REPLY -j ACCEPT\n"
	return "*filter\n:FORWARD ACCEPT [0:0]\n" + chains.String() + replies + jumps.String() + body.String() + "COMMIT\n"
}

// matches are a rule's matches, one for each remote; none when the rule is not of the family.
func (d *driver) matches(r *driverv1.Rule, v6 bool) (out []string) {
	if r.GetIpVersion() == driverv1.IpVersion_IP_VERSION_4 && v6 || r.GetIpVersion() == driverv1.IpVersion_IP_VERSION_6 && !v6 {
		return nil
	}
	var m string
	if r.Protocol != nil {
		p := r.GetProtocol()
		if p == 0 || v6 && p == 1 || !v6 && p == 58 { // to iptables 0 is any; nobody sends these
			return nil
		}
		m = fmt.Sprintf("-p %d ", p)
	}
	if p := r.GetPorts(); p != nil {
		what := "--dport"
		if defect("swaps-ports") {
			what = "--sport"
		}
		m += fmt.Sprintf("%s %d:%d ", what, p.GetFirst(), p.GetLast())
	}
	if r.IcmpType != nil {
		what := "--icmp-type"
		if v6 {
			what = "--icmpv6-type"
		}
		if r.GetIcmpType() == 255 { // to iptables any; nobody sends it
			return nil
		}
		m += fmt.Sprintf("%s %d", what, r.GetIcmpType())
		if r.IcmpCode != nil {
			m += fmt.Sprintf("/%d", r.GetIcmpCode())
		}
		m += " "
	}
	var remotes []string
	switch x := r.GetRemote().(type) {
	case nil:
		return []string{m}
	case *driverv1.Rule_Cidr:
		remotes = []string{x.Cidr}
	case *driverv1.Rule_AddressSetId:
		remotes = d.sets[x.AddressSetId].GetMembers()
	}
	side := "-s"
	if r.GetDirection() == driverv1.RuleDirection_RULE_DIRECTION_EGRESS {
		side = "-d"
	}
	for _, remote := range remotes {
		if strings.Contains(remote, ":") == v6 {
			out = append(out, fmt.Sprintf("%s%s %s ", m, side, remote))
		}
	}
	return out
}

// guard is the table that drops lies, and what link_down forbids.
func (d *driver) guard() string {
	var b strings.Builder
	b.WriteString("table bridge guard\ndelete table bridge guard\ntable bridge guard {\n chain c {\n  type filter hook forward priority 0; policy accept\n")
	for _, id := range slices.Sorted(maps.Keys(d.ports)) {
		spec, tap := d.ports[id], tapName(id)
		rule := func(format string, args ...any) {
			fmt.Fprintf(&b, "  iifname %q %s drop\n", tap, fmt.Sprintf(format, args...))
		}
		if spec.GetLinkDown() && !defect("ignores-link-down") {
			rule("")
			fmt.Fprintf(&b, "  oifname %q drop\n", tap)
		}
		if defect("no-anti-spoof") {
			continue
		}
		fmt.Fprintf(&b, "  oifname %q ether type != { ip, ip6, arp } drop\n", tap)
		v4, v6 := []string{}, []string{linkLocal(spec.GetMac())}
		for _, a := range append(slices.Clone(spec.GetIpAddresses()), spec.GetExtraAddresses()...) {
			if strings.Contains(a, ":") {
				v6 = append(v6, a)
			} else {
				v4 = append(v4, a)
			}
		}
		rule("ether saddr != %s", spec.GetMac())
		rule("ether type != { ip, ip6, arp }")
		if len(v4) > 0 {
			rule("ip saddr != { %s }", strings.Join(v4, ", "))
			rule("arp saddr ip != { %s }", strings.Join(v4, ", "))
		}
		rule("arp saddr ether != %s", spec.GetMac())
		rule("ip6 saddr != { %s }", strings.Join(v6, ", "))
		rule("udp sport { 67, 547 }")
		rule("icmpv6 type nd-router-advert")
		rule("icmpv6 type nd-neighbor-solicit @th,192,16 0x101 @th,208,48 != 0x%s", strings.ReplaceAll(spec.GetMac(), ":", ""))
		for _, a := range v6 {
			if addr, err := netip.ParseAddr(a); err == nil {
				fmt.Fprintf(&b, "  iifname %q icmpv6 type nd-neighbor-advert @th,64,128 0x%x @th,208,48 0x%s accept\n", tap, addr.AsSlice(), strings.ReplaceAll(spec.GetMac(), ":", ""))
			}
		}
		rule("icmpv6 type nd-neighbor-advert")
	}
	b.WriteString(" }\n}\n")
	return b.String()
}

package filter

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/name"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// chains are a rule set's two: what it lets out and in. A match leads back to the port's chain with the mark set.
func (s *RuleSet) chains(t Tables, f family) {
	out, in := "LQe-"+s.Key, "LQi-"+s.Key
	t.add("mangle", out)
	t.add("mangle", in)
	for _, r := range s.Rules {
		if r.GetDirection() == driverv1.RuleDirection_RULE_DIRECTION_EGRESS {
			t.add("mangle", out, match(f, r, "-d", "dst", "LQ-EOK")...)
		} else {
			t.add("mangle", in, match(f, r, "-s", "src", "LQ-IOK")...)
		}
	}
}

// match is a rule in a family; nothing when it can match no packet of it. Rules were validated before.
func match(f family, r *driverv1.Rule, flag, side, target string) []string {
	if v := r.GetIpVersion(); v == driverv1.IpVersion_IP_VERSION_4 && f.v6 || v == driverv1.IpVersion_IP_VERSION_6 && !f.v6 {
		return nil
	}
	var parts []string
	add := func(format string, a ...any) { parts = append(parts, fmt.Sprintf(format, a...)) }
	if c := r.GetCidr(); c != "" {
		p, err := netip.ParsePrefix(c)
		if err != nil || !f.prefix(p) {
			return nil
		}
		if p.Bits() > 0 {
			add("%s %s", flag, p)
		}
	}
	var rest []string
	if r.Protocol != nil {
		n := r.GetProtocol()
		switch {
		case n == 0 && f.v6: // the hop-by-hop header is no protocol: what follows it is
			return nil
		case n == 0: // to iptables 0 is any
			rest = append(rest, `-m u32 --u32 "0x6&0xff=0x0"`)
		default:
			add("-p %s", protocol(n))
		}
		rest = append(rest, details(r)...)
	}
	if set := r.GetAddressSetId(); set != "" {
		n := name.Set4(set)
		if f.v6 {
			n = name.Set6(set)
		}
		add("-m set --match-set %s %s", n, side)
	}
	parts = append(parts, rest...)
	add("-g %s", target)
	return []string{strings.Join(parts, " ")}
}

// details are ports, or type and code.
func details(r *driverv1.Rule) []string {
	n := r.GetProtocol()
	if p := r.GetPorts(); p != nil {
		ports := fmt.Sprint(p.GetFirst())
		if p.GetLast() != p.GetFirst() {
			ports = fmt.Sprintf("%d:%d", p.GetFirst(), p.GetLast())
		}
		return []string{fmt.Sprintf("-m %s --dport %s", protocol(n), ports)}
	}
	if r.IcmpType == nil {
		return nil
	}
	typ := fmt.Sprint(r.GetIcmpType())
	if r.IcmpCode != nil {
		typ += fmt.Sprintf("/%d", r.GetIcmpCode())
	}
	switch {
	case n == 58:
		return []string{"-m icmp6 --icmpv6-type " + typ}
	case r.GetIcmpType() == 255: // to iptables 255 is any
		code := ""
		if r.IcmpCode != nil {
			return []string{fmt.Sprintf(`-m u32 --u32 "0x0>>0x16&0x3c@0x0>>0x10=0x%x"`, 0xff00|r.GetIcmpCode())}
		}
		return []string{`-m u32 --u32 "0x0>>0x16&0x3c@0x0>>0x18=0xff"` + code}
	}
	return []string{"-m icmp --icmp-type " + typ}
}

// protocol is a protocol as iptables prints it. Those that it has no name for, or names by a file of the host, stay numbers.
func protocol(n uint32) string {
	switch n {
	case 1:
		return "icmp"
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 58:
		return "ipv6-icmp"
	case 132:
		return "sctp"
	}
	return fmt.Sprint(n)
}

package filter

import (
	"fmt"
	"strings"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/name"
	"github.com/limiquantix/limiquantix/plugins/kit/ruleset"
)

// chains are a rule set's two: what it lets out and in. A match leads back to the port's chain with the mark set.
func (s *RuleSet) chains(t Tables, f family) {
	fam := ruleset.IPv4
	if f.v6 {
		fam = ruleset.IPv6
	}
	for d, chain := range [...]string{ruleset.Ingress: "LQi-" + s.Key, ruleset.Egress: "LQe-" + s.Key} {
		t.add("mangle", chain)
		flag, side, target := "-s", "src", "LQ-IOK"
		if ruleset.Direction(d) == ruleset.Egress { //nolint:gosec // 0 or 1
			flag, side, target = "-d", "dst", "LQ-EOK"
		}
		for _, l := range s.Plan.Lines[d][fam] {
			t.add("mangle", chain, match(f, l.Match, flag, side, target)...)
		}
	}
}

// match is a line in a family; nothing when it can match no packet of it.
func match(f family, m ruleset.Match, flag, side, target string) []string {
	var parts, rest []string
	add := func(format string, a ...any) { parts = append(parts, fmt.Sprintf(format, a...)) }
	if m.Prefix.IsValid() {
		add("%s %s", flag, m.Prefix)
	}
	if m.Protocol != ruleset.Any {
		switch {
		case m.Protocol == 0 && f.v6: // the hop-by-hop header is no protocol: what follows it is
			return nil
		case m.Protocol == 0: // to iptables 0 is any
			rest = append(rest, `-m u32 --u32 "0x6&0xff=0x0"`)
		default:
			add("-p %s", protocol(m.Protocol))
		}
		rest = append(rest, details(m)...)
	}
	if m.Set != "" {
		n := name.Set4(m.Set)
		if f.v6 {
			n = name.Set6(m.Set)
		}
		add("-m set --match-set %s %s", n, side)
	}
	parts = append(parts, rest...)
	add("-g %s", target)
	return []string{strings.Join(parts, " ")}
}

// details are ports, or type and code.
func details(m ruleset.Match) []string {
	if m.HasPorts() {
		ports := fmt.Sprint(m.First)
		if m.Last != m.First {
			ports = fmt.Sprintf("%d:%d", m.First, m.Last)
		}
		return []string{fmt.Sprintf("-m %s --dport %s", protocol(m.Protocol), ports)}
	}
	if m.ICMPType == ruleset.Any {
		return nil
	}
	typ := fmt.Sprint(m.ICMPType)
	if m.ICMPCode != ruleset.Any {
		typ += fmt.Sprintf("/%d", m.ICMPCode)
	}
	switch {
	case m.Protocol == ruleset.ICMPv6:
		return []string{"-m icmp6 --icmpv6-type " + typ}
	case m.ICMPType != 255:
		return []string{"-m icmp --icmp-type " + typ}
	case m.ICMPCode != ruleset.Any: // to iptables type 255 is any
		return []string{fmt.Sprintf(`-m u32 --u32 "0x0>>0x16&0x3c@0x0>>0x10=0x%x"`, 0xff00|int(m.ICMPCode))}
	}
	return []string{`-m u32 --u32 "0x0>>0x16&0x3c@0x0>>0x18=0xff"`}
}

// protocol is a protocol as we write it: five by name, all others by number. iptables-save names those that the host's /etc/protocols names; parse takes that back.
func protocol(n int16) string {
	if s, ok := protocolNames[n]; ok {
		return s
	}
	return fmt.Sprint(n)
}

var protocolNames = map[int16]string{ruleset.ICMP: "icmp", ruleset.TCP: "tcp", ruleset.UDP: "udp", ruleset.ICMPv6: "ipv6-icmp", ruleset.SCTP: "sctp"}

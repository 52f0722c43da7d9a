package filter

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Table is the name of the second layer's table, of nft's family bridge.
const Table = "limiquantix"

// Frames is the second layer: what the table holds, each part in the form in which nft prints it.
type Frames struct {
	Chains   map[string][]string            // rules by chain
	Elements map[string]map[string]struct{} // elements by set or map
	Counters map[string]struct{}
}

// maps and sets of the table, and how each is declared.
var frameSets = map[string]string{
	"guard":      "map guard { type ifname : verdict; }",
	"members":    "map members { type ifname : verdict; }",
	"enter":      "map enter { type ifname : verdict; }",
	"leave":      "map leave { type ifname : verdict; }",
	"arrive":     "map arrive { type ifname : verdict; }",
	"depart":     "map depart { type ifname : verdict; }",
	"outside":    "set outside { type ifname; }",
	"denied_in":  "map denied_in { type ifname : counter; }",
	"denied_out": "map denied_out { type ifname : counter; }",
	"blocked":    "set blocked { type ifname; }",
}

// frameHooks are the table's base chains. Bridged packets meet br_netfilter, and with it iptables, at priority 0.
var frameHooks = map[string]string{
	"prerouting": "type filter hook prerouting priority -300; policy accept;",
	"input":      "type filter hook input priority 100; policy accept;",
	"forward":    "type filter hook forward priority 100; policy accept;",
	"output":     "type filter hook output priority 100; policy accept;",
}

const (
	ndTarget     = "@th,64,128" // target of a neighbour's solicitation or advertisement
	ndOption     = "@th,192,16" // type and length of its first option
	ndLinkLayer  = "@th,208,48" // link-layer address in it
	arpTypes     = "ether type arp"
	multicastBit = "ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00"
)

// frames renders the second layer.
func (m *Model) frames() *Frames {
	if len(m.Networks) == 0 && len(m.RuleSets) == 0 {
		return &Frames{}
	}
	fr := shut()
	for _, n := range m.Networks {
		n.frames(fr)
	}
	for _, p := range m.Ports {
		p.frames(fr)
		if m.Blocked || p.Blocked {
			fr.Elements["blocked"][quote(p.Tap)] = struct{}{}
		}
	}
	return fr
}

// shut is the second layer without a network: no device of ours has a way through it.
func shut() *Frames {
	fr := &Frames{Chains: map[string][]string{}, Elements: map[string]map[string]struct{}{}, Counters: map[string]struct{}{}}
	for s := range frameSets {
		fr.Elements[s] = map[string]struct{}{}
	}
	fr.Chains["prerouting"] = []string{`iifname "lqt*" goto from_guest`, `iifname "lqv*" goto from_tunnel`, "iifname vmap @arrive"}
	fr.Chains["from_guest"] = []string{"iifname @blocked drop", "meta mark set 0x00000000", "iifname vmap @guard", "drop"}
	fr.Chains["from_nobody"] = []string{"icmpv6 type { mld-listener-report, nd-router-solicit, nd-neighbor-solicit, mld2-listener-report } accept"}
	fr.Chains["from_tunnel"] = []string{"meta mark set 0x00000000", "iifname vmap @enter", "drop"}
	fr.Chains["input"] = []string{`iifname "lqt*" jump may_send`, `iifname "lqv*" drop`}
	fr.Chains["forward"] = []string{`iifname "lqt*" jump may_send`, `oifname "lqt*" goto to_guest`, `oifname "lqv*" goto to_tunnel`, "oifname vmap @depart"}
	fr.Chains["output"] = []string{`oifname "lqt*" goto to_guest`, `oifname "lqv*" drop`, "oifname @outside drop"}
	fr.Chains["may_send"] = []string{
		arpTypes + " return",
		fmt.Sprintf("meta mark & 0x%08x == 0x%08x return", markOut, markOut),
		"counter name iifname map @denied_out", "drop",
	}
	fr.Chains["to_guest"] = []string{
		"oifname @blocked drop", "oifname vmap @members", "drop",
	}
	fr.Chains["may_receive"] = []string{
		arpTypes + " accept",
		"icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept",
		fmt.Sprintf("meta mark & 0x%08x == 0x%08x accept", markIn, markIn),
		"counter name oifname map @denied_in", "drop",
	}
	fr.Chains["to_tunnel"] = []string{
		anyDHCP, routers, "oifname vmap @leave", "drop",
	}
	return fr
}

func quote(s string) string { return `"` + s + `"` }

const (
	anyDHCP = "udp dport { 67, 68, 546, 547 } drop"
	routers = "icmpv6 type { nd-router-solicit, nd-router-advert } drop"
	// Nothing that claims to be a router comes in from other nodes.
	routersAndRedirects = "icmpv6 type { nd-router-solicit, nd-router-advert, nd-redirect } drop"
)

// frames of a network that reaches other nodes or the outside: what the node itself is in it, gateway, router or DHCP server, it is on this node alone.
func (n *Network) frames(fr *Frames) {
	if n.Tunnel == "" && n.Outside == "" {
		return
	}
	in, out := "enter-"+n.Key, "leave-"+n.Key
	var enter, leave []string
	router, dhcp := n.Tunnel != "", n.Tunnel != "" // outside there may be others
	for _, s := range n.Subnets {
		router, dhcp = router || s.Gateway.Is6(), dhcp || s.DHCP
	}
	if n.Tunnel != "" {
		fr.Elements["enter"][quote(n.Tunnel)+" : jump "+in] = struct{}{}
		fr.Elements["leave"][quote(n.Tunnel)+" : jump "+out] = struct{}{}
	} else {
		fr.Elements["arrive"][quote(n.Outside)+" : jump "+in] = struct{}{}
		fr.Elements["depart"][quote(n.Outside)+" : jump "+out] = struct{}{}
		fr.Elements["outside"][quote(n.Outside)] = struct{}{}
		enter = append(enter, "meta mark set 0x00000000")
		if dhcp {
			leave = append(leave, anyDHCP)
		}
		if router {
			leave = append(leave, routers)
		}
	}
	if n.MAC != "" {
		enter = append(enter, "ether saddr "+n.MAC+" drop")
	}
	if dhcp {
		enter = append(enter, anyDHCP)
	}
	if router {
		enter = append(enter, routersAndRedirects)
	}
	for _, s := range n.Subnets {
		switch {
		case !s.Gateway.IsValid():
		case s.Gateway.Is4():
			enter = append(enter, "arp saddr ip "+s.Gateway.String()+" drop", "arp daddr ip "+s.Gateway.String()+" drop")
			leave = append(leave, "arp daddr ip "+s.Gateway.String()+" drop", "arp saddr ip "+s.Gateway.String()+" drop")
		default:
			r := fmt.Sprintf("icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } %s %s drop", ndTarget, hex128(s.Gateway))
			enter, leave = append(enter, r), append(leave, r)
		}
	}
	fr.Chains[in], fr.Chains[out] = append(enter, "accept"), append(leave, "accept")
}

func hex128(a netip.Addr) string {
	return "0x" + strings.TrimLeft(fmt.Sprintf("%x", a.As16()), "0")
}

// frames of a port: who it is, and what may reach it.
func (p *Port) frames(fr *Frames) {
	guard, member, lies := "guard-"+p.Key, "member-"+p.Key, "spoofed-"+p.Key
	in, out := "in-"+p.Key, "out-"+p.Key
	for _, c := range []string{lies, in, out} {
		fr.Counters[c] = struct{}{}
	}
	fr.Elements["guard"][quote(p.Tap)+" : jump "+guard] = struct{}{}
	fr.Elements["members"][quote(p.Tap)+" : jump "+member] = struct{}{}
	fr.Elements["denied_in"][quote(p.Tap)+" : "+quote(in)] = struct{}{}
	fr.Elements["denied_out"][quote(p.Tap)+" : "+quote(out)] = struct{}{}
	fr.Chains[lies] = []string{"counter name " + quote(lies) + " drop"}
	fr.Chains[guard] = p.guard("goto " + lies)
	fr.Chains[member] = []string{"ether daddr " + p.MAC + " goto may_receive", multicastBit + " goto may_receive", "drop"}
}

// guard lets pass what tells the truth about its sender. It has no set of its own: nft reads all of them before each change.
func (p *Port) guard(lie string) (rules []string) {
	add := func(format string, a ...any) { rules = append(rules, fmt.Sprintf(format, a...)) }
	var v4, v6 []string
	for _, a := range p.Addresses {
		if a.Is4() {
			v4 = append(v4, a.String())
		} else {
			v6 = append(v6, a.String())
		}
	}
	for _, e := range p.Extra {
		s := e.String()
		if e.IsSingleIP() {
			s = e.Addr().String()
		}
		if e.Addr().Is4() {
			v4 = append(v4, s)
		} else {
			v6 = append(v6, s)
		}
	}
	local := linkLocal(p.MAC)
	if p.Network.MAC != "" {
		add("ether daddr %s meta mark set 0x%08x", p.Network.MAC, markNode)
	}
	add("ether saddr != %s %s", p.MAC, lie)
	add("ether type 8021q %s", lie)
	add("ether type 8021ad %s", lie)
	add("arp saddr ether != %s %s", p.MAC, lie)
	for _, a := range append(slices.Clone(v4), "0.0.0.0") { // a probe has no address yet
		add("arp saddr ip %s accept", a)
	}
	add("%s %s", arpTypes, lie)
	add("ether type ip udp sport 67 %s", lie) // plays DHCP server
	for _, a := range v4 {
		add("ip saddr %s accept", a)
	}
	add("ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept")
	add("icmpv6 type nd-router-advert %s", lie)
	add("icmpv6 type nd-redirect %s", lie)
	add("ether type ip6 udp sport 547 %s", lie)
	for _, typ := range []string{"nd-neighbor-solicit", "nd-neighbor-advert", "nd-router-solicit"} {
		at, link := ndOption, ndLinkLayer
		option := "0x101"
		switch typ {
		case "nd-neighbor-advert":
			option = "0x201"
		case "nd-router-solicit":
			at, link = "@th,64,16", "@th,80,48"
		}
		add("icmpv6 type %s %s %s %s != 0x%s %s", typ, at, option, link, strings.TrimLeft(strings.ReplaceAll(p.MAC, ":", ""), "0"), lie)
	}
	// An advertisement speaks for its target.
	for _, a := range append(slices.Clone(p.Addresses), local) {
		if a.Is6() {
			add("icmpv6 type nd-neighbor-advert ip6 saddr %s %s %s accept", a, ndTarget, hex128(a))
		}
	}
	for _, a := range p.Addresses { // or for another of the port's own
		if a.Is6() {
			add("icmpv6 type nd-neighbor-advert ip6 saddr %s %s %s accept", local, ndTarget, hex128(a))
			add("icmpv6 type nd-neighbor-advert ip6 saddr %s %s %s accept", a, ndTarget, hex128(local))
		}
	}
	for _, e := range p.Extra {
		if e.Addr().Is6() && e.IsSingleIP() {
			add("icmpv6 type nd-neighbor-advert %s %s accept", ndTarget, hex128(e.Addr()))
		}
	}
	add("icmpv6 type nd-neighbor-advert %s", lie)
	for _, a := range append(v6, local.String()) {
		add("ip6 saddr %s accept", a)
	}
	add("ip6 saddr :: jump from_nobody")
	add("%s", lie)
	return rules
}

// frameScript is what nft -f needs to bring have to want, in one transaction; empty = nothing.
func frameScript(have, want *Frames) string {
	var b strings.Builder
	line := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	if len(want.Chains) == 0 {
		if len(have.Chains) > 0 || len(have.Elements) > 0 {
			line("delete table bridge %s", Table)
		}
		return b.String()
	}
	if len(have.Chains) == 0 {
		line("add table bridge %s", Table)
	}
	for _, c := range gone(want.Counters, have.Counters) {
		line("add counter bridge %s %s", Table, c)
	}
	for _, s := range slices.Sorted(maps.Keys(want.Elements)) {
		if _, there := have.Elements[s]; !there {
			kind, rest, _ := strings.Cut(frameSets[s], " ")
			line("add %s bridge %s %s", kind, Table, rest)
		}
	}
	other := changed(have.Chains, want.Chains)
	for _, c := range other {
		_, there := have.Chains[c]
		switch h := frameHooks[c]; {
		case there:
			line("flush chain bridge %s %s", Table, c)
		case h != "":
			line("add chain bridge %s %s { %s }", Table, c, h)
		default:
			line("add chain bridge %s %s", Table, c)
		}
	}
	for _, c := range other {
		for _, r := range want.Chains[c] {
			line("add rule bridge %s %s %s", Table, c, r)
		}
	}
	for _, s := range slices.Sorted(maps.Keys(have.Elements)) {
		for _, e := range gone(have.Elements[s], want.Elements[s]) {
			key, _, _ := strings.Cut(e, " : ")
			line("delete element bridge %s %s { %s }", Table, s, key)
		}
	}
	for _, s := range slices.Sorted(maps.Keys(want.Elements)) {
		if more := gone(want.Elements[s], have.Elements[s]); len(more) > 0 {
			line("add element bridge %s %s { %s }", Table, s, strings.Join(more, ", "))
		}
	}
	for _, c := range gone(have.Chains, want.Chains) {
		line("flush chain bridge %s %s", Table, c)
	}
	return b.String() + deletions(have, want)
}

// gone are the keys of a that b lacks, in order.
func gone[V any](a, b map[string]V) (keys []string) {
	for k := range a {
		if _, there := b[k]; !there {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// deletions come last: nothing may lead to what is deleted.
func deletions(have, want *Frames) string {
	var b strings.Builder
	for _, c := range gone(have.Chains, want.Chains) {
		fmt.Fprintf(&b, "delete chain bridge %s %s\n", Table, c)
	}
	for _, c := range gone(have.Counters, want.Counters) {
		fmt.Fprintf(&b, "delete counter bridge %s %s\n", Table, c)
	}
	return b.String()
}

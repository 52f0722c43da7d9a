package filter

import (
	"fmt"
	"net/netip"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/name"
	"github.com/limiquantix/limiquantix/plugins/kit/netspec"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// family is one of the two that iptables keeps apart.
type family struct {
	v6 bool
}

func (f family) prefix(p netip.Prefix) bool { return p.IsValid() && p.Addr().Is6() == f.v6 }
func (f family) addr(a netip.Addr) bool     { return a.IsValid() && a.Is6() == f.v6 }

const (
	bridges     = name.BridgePrefix + "+"
	bridged     = "-m physdev --physdev-is-bridged"
	notBridged  = "-m physdev ! --physdev-is-bridged"
	established = "-m conntrack --ctstate RELATED,ESTABLISHED"
	invalid     = "-m conntrack --ctstate INVALID"
	isNew       = "-m conntrack --ctstate NEW"
	toLocal     = "-m addrtype --dst-type LOCAL"
	fromLocal   = "-m addrtype --src-type LOCAL"

	outBucket = "LQ-TO-" // with a digit: chains of what goes to a port whose key begins with it
)

func connmark(n *Network) string {
	return fmt.Sprintf("-m connmark --mark 0x%x/0x%x", n.Number<<shift, markNetwork)
}

func mark(n *Network) string {
	return fmt.Sprintf("-m mark --mark 0x%x/0x%x", n.Number<<shift, markNetwork)
}

// tables renders one family. Without networks and rule sets nothing is wanted, hooks neither.
func (m *Model) tables(f family) Tables {
	t := Tables{}
	if len(m.Networks) == 0 && len(m.RuleSets) == 0 {
		return t
	}
	for _, h := range hooks {
		t.add(h.table, h.chain, "-j "+h.target)
		t.add(h.table, h.target)
	}
	m.base(t, f)
	for _, n := range m.Networks {
		n.zones(t, f)
		n.marks(t, f)
		n.nat(t, f)
	}
	for _, p := range m.Ports {
		p.chains(t, f)
	}
	m.deliver(t, f)
	for _, s := range m.RuleSets {
		s.chains(t, f)
	}
	return t
}

// base are the chains that do not depend on networks.
func (m *Model) base(t Tables, f family) {
	t.add("mangle", "LQ-EOK", fmt.Sprintf("-j MARK --set-xmark 0x%x/0x%x", markOut, markOut))
	t.add("mangle", "LQ-IOK", fmt.Sprintf("-j MARK --set-xmark 0x%x/0x%x", markIn, markIn))
	t.add("mangle", "LQ-NO", "-j RETURN")
	save := fmt.Sprintf("-j CONNMARK --save-mark --nfmask 0x%x --ctmask 0x%x", markNetwork, markNetwork)
	t.add("mangle", "LQ-PRE",
		"-i "+bridges+" -g LQ-GUEST",
		fmt.Sprintf("-m connmark ! --mark 0x0/0x%x -j CONNMARK --restore-mark --nfmask 0x%x --ctmask 0x%x", markNetwork, markNetwork, markNetwork))
	for _, n := range m.Networks {
		for _, fw := range n.Forwards {
			if match, ok := forwardMatch(f, fw); ok {
				t.add("mangle", "LQ-PRE", fmt.Sprintf("%s %s %s -j MARK --set-xmark 0x%x/0x%x", match, toLocal, isNew, n.Number<<shift, markNetwork))
			}
		}
	}
	t.add("mangle", "LQ-PRE", isNew+fmt.Sprintf(" -m mark ! --mark 0x0/0x%x ", markNetwork)+save)
	for _, n := range m.Networks {
		t.add("mangle", "LQ-GUEST", "-i "+n.Bridge+fmt.Sprintf(" -j MARK --set-xmark 0x%x/0x%x", n.Number<<shift, uint32(markAll)))
	}
	t.add("mangle", "LQ-GUEST", isNew+" "+save)
	for _, n := range m.Networks {
		t.add("mangle", "LQ-GUEST", "-i "+n.Bridge+" -j LQN-"+n.Key)
	}
	// What the node itself offers to guests; all else of it is closed to them.
	t.add("mangle", "LQ-GUEST", toLocal+" -j LQ-HOST")
	if f.v6 {
		t.add("mangle", "LQ-HOST", "-p ipv6-icmp -j RETURN", "-p udp -m udp --sport 546 --dport 547 -j RETURN")
	} else {
		t.add("mangle", "LQ-HOST", "-p icmp -j RETURN", "-p udp -m udp --sport 68 --dport 67 -j RETURN")
	}
	t.add("mangle", "LQ-HOST", established+" -j RETURN", "-p udp -m udp --dport 53 -j RETURN", "-p tcp -m tcp --dport 53 -j RETURN",
		fmt.Sprintf("-j MARK --set-xmark 0x0/0x%x", markOut))
	t.add("mangle", "LQ-FWD", "-o "+bridges+" "+bridged+" -g LQ-OUT")
	t.add("mangle", "LQ-OUT", fmt.Sprintf("-j MARK --set-xmark 0x0/0x%x", markIn))
	t.add("mangle", "LQ-POST", "-o "+bridges+" "+notBridged+" -g LQ-IN")
	t.add("mangle", "LQ-IN", fmt.Sprintf("-j MARK --set-xmark 0x0/0x%x", markIn))
	if f.v6 {
		t.add("mangle", "LQ-IN", "-p ipv6-icmp "+fromLocal+" -m icmp6 --icmpv6-type 134 -g LQ-IOK", "-p udp "+fromLocal+" -m udp --sport 547 --dport 546 -g LQ-IOK")
	} else {
		t.add("mangle", "LQ-IN", "-p udp "+fromLocal+" -m udp --sport 67 --dport 68 -g LQ-IOK")
	}
	// The verdict is the second layer's: a policy of DROP that somebody else gave these chains does not cut what both bits allow.
	t.add("filter", "LQ-INPUT", fmt.Sprintf("-i %s -m mark --mark 0x%x/0x%x -j ACCEPT", bridges, markOut, markOut))
	t.add("filter", "LQ-FORWARD", fmt.Sprintf("-i %s -m mark --mark 0x%x/0x%x -j ACCEPT", bridges, markOut, markOut), "-o "+bridges+" -j ACCEPT")
}

// zones keep a network's connections apart from all others. What stays in the network is in its zone whole, whatever its addresses; what is addressed to the node and to no address of
// the network leaves it, and is there in the guest's direction only, because the answers come by a device that knows no networks.
func (n *Network) zones(t Tables, f family) {
	for _, s := range n.Subnets {
		if f.prefix(s.CIDR) {
			t.add("raw", "LQ-ZONE", fmt.Sprintf("-d %s -i %s -j CT --zone %d", s.CIDR, n.Bridge, n.Zone))
			t.add("raw", "LQ-ZONE-OUT", fmt.Sprintf("-s %s -o %s -j CT --zone %d", s.CIDR, n.Bridge, n.Zone))
		}
	}
	t.add("raw", "LQ-ZONE", fmt.Sprintf("-i %s -m mark --mark 0x%x/0x%x -j CT --zone-orig %d", n.Bridge, markNode, markNode, n.Zone))
	t.add("raw", "LQ-ZONE", fmt.Sprintf("-i %s -j CT --zone %d", n.Bridge, n.Zone))
	t.add("raw", "LQ-ZONE-OUT", fmt.Sprintf("-o %s -j CT --zone-orig %d", n.Bridge, n.Zone))
}

// marks are the network's ways to its ports' chains.
func (n *Network) marks(t Tables, f family) {
	t.add("mangle", "LQN-"+n.Key)
	t.add("mangle", "LQM-"+n.Key, fmt.Sprintf("%s -m connmark --mark 0x0/0x%x -j CONNMARK --set-xmark 0x%x/0x%x", isNew, markNetwork, n.Number<<shift, markNetwork))
	switch n.Egress {
	case driverv1.EgressMode_EGRESS_MODE_ROUTED:
		t.add("mangle", "LQ-IN", "-o "+n.Bridge+" -g LQM-"+n.Key)
	case driverv1.EgressMode_EGRESS_MODE_NAT:
		t.add("mangle", "LQ-IN", "-o "+n.Bridge+" "+mark(n)+" -g LQM-"+n.Key)
		fallthrough
	default:
		t.add("mangle", "LQ-IN", "-o "+n.Bridge+" "+fromLocal+" -g LQM-"+n.Key)
	}
}

// nat is what changes addresses.
func (n *Network) nat(t Tables, f family) {
	for _, s := range n.Subnets {
		if !f.prefix(s.CIDR) {
			continue
		}
		if n.DNSPort != 0 && s.Gateway.IsValid() {
			for _, proto := range []string{"udp", "tcp"} {
				t.add("nat", "LQ-DNAT", fmt.Sprintf("-d %s -i %s -p %s -m %s --dport 53 -j REDIRECT --to-ports %d", host(s.Gateway), n.Bridge, proto, proto, n.DNSPort))
			}
		}
		if n.Egress == driverv1.EgressMode_EGRESS_MODE_NAT {
			t.add("nat", "LQ-SNAT", fmt.Sprintf("-s %s ! -o %s %s -j MASQUERADE", s.CIDR, n.Bridge, mark(n)))
		}
	}
	for _, fw := range n.Forwards {
		if match, ok := forwardMatch(f, fw); ok {
			to := netip.MustParseAddr(fw.GetTargetAddress())
			t.add("nat", "LQ-DNAT", fmt.Sprintf("%s %s -j DNAT --to-destination %s", match, toLocal, netip.AddrPortFrom(to, uint16(fw.GetTargetPort()))))
		}
	}
}

// forwardMatch matches what a forward leads to a guest, coming from outside.
func forwardMatch(f family, fw *driverv1.NetworkForward) (string, bool) {
	if to, err := netip.ParseAddr(fw.GetTargetAddress()); err != nil || !f.addr(to) {
		return "", false
	}
	m := fmt.Sprintf("! -i %s -p %s -m %s --dport %d", bridges, fw.GetProtocol(), fw.GetProtocol(), fw.GetListenPort())
	if a, err := netip.ParseAddr(fw.GetListenAddress()); err == nil {
		m = "-d " + host(a) + " " + m
	}
	return m, true
}

func host(a netip.Addr) string { return netip.PrefixFrom(a, a.BitLen()).String() }

// chains are a port's: what it may send, and what it may receive.
func (p *Port) chains(t Tables, f family) {
	out, in := "LQE-"+p.Key, "LQI-"+p.Key
	// One step to the sixteenth part of the ports, one to the port.
	bucket := outBucket + p.Key[:1]
	if _, there := t["mangle"][bucket]; !there {
		t.add("mangle", "LQ-OUT", fmt.Sprintf("-m physdev --physdev-out %s%s+ -j %s", name.TapPrefix, p.Key[:1], bucket))
	}
	t.add("mangle", bucket, fmt.Sprintf("-m physdev --physdev-out %s -g %s", p.Tap, in))
	net := "LQN-" + p.Network.Key
	if sub := net + p.Key[:1]; t["mangle"][sub] == nil {
		t.add("mangle", net, fmt.Sprintf("-m physdev --physdev-in %s%s+ -j %s", name.TapPrefix, p.Key[:1], sub))
	}
	t.add("mangle", net+p.Key[:1], fmt.Sprintf("-m physdev --physdev-in %s -g %s", p.Tap, out))

	known := connmark(p.Network)
	t.add("mangle", out, established+" "+known+" -g LQ-EOK")
	if f.v6 {
		for _, typ := range []int{131, 132, 133, 135, 136, 143} { // what IPv6 itself needs: groups, routers, neighbours
			t.add("mangle", out, fmt.Sprintf("-p ipv6-icmp -m icmp6 --icmpv6-type %d -g LQ-EOK", typ))
		}
		t.add("mangle", out, "-p udp -m udp --sport 546 --dport 547 -g LQ-EOK")
	} else {
		t.add("mangle", out, "-p udp -m udp --sport 68 --dport 67 -g LQ-EOK")
	}
	t.add("mangle", out, invalid+" -j RETURN")
	if !p.DenyOut {
		t.add("mangle", out, "-g LQ-EOK")
	}
	t.add("mangle", in, established+" "+known+" -g LQ-IOK", invalid+" -j RETURN")
	for _, key := range p.RuleSets {
		if p.DenyOut {
			t.add("mangle", out, "-j LQe-"+key, fmt.Sprintf("-m mark --mark 0x%x/0x%x -j RETURN", markOut, markOut))
		}
		t.add("mangle", in, "-j LQi-"+key, fmt.Sprintf("-m mark --mark 0x%x/0x%x -j RETURN", markIn, markIn))
	}
}

// deliver leads what the node itself sends or routes to the chain of the port that has the address. An address that several ports share needs the consent of each.
func (m *Model) deliver(t Tables, f family) {
	type claim struct {
		prefix netip.Prefix
		port   *Port
	}
	extra := map[*Network][]claim{}
	for _, p := range m.Ports {
		for _, e := range p.Extra {
			if f.prefix(e) {
				extra[p.Network] = append(extra[p.Network], claim{e, p})
			}
		}
	}
	for _, p := range m.Ports {
		chain := "LQM-" + p.Network.Key
		for _, a := range p.Addresses {
			if !f.addr(a) {
				continue
			}
			t.add("mangle", chain, fmt.Sprintf("-d %s -j LQI-%s", host(a), p.Key))
			for _, c := range extra[p.Network] {
				if c.port != p && c.prefix.Contains(a) {
					t.add("mangle", chain, m.consent(c.prefix, c.port)...)
				}
			}
		}
	}
	for n, claims := range extra {
		for i, c := range claims {
			rules := []string{fmt.Sprintf("-d %s -j LQI-%s", c.prefix, c.port.Key)}
			for _, before := range claims[:i] {
				if before.port != c.port && before.prefix.Overlaps(c.prefix) {
					rules = m.consent(c.prefix, c.port)
				}
			}
			t.add("mangle", "LQM-"+n.Key, rules...)
		}
	}
	if f.v6 {
		for _, p := range m.Ports { // the node's own answers to a link-local address
			t.add("mangle", "LQM-"+p.Network.Key, fmt.Sprintf("-d %s -j LQI-%s", host(linkLocal(p.MAC)), p.Key))
		}
	}
}

// consent asks one more port about what others have allowed.
func (m *Model) consent(p netip.Prefix, port *Port) []string {
	return []string{
		fmt.Sprintf("-d %s -m mark --mark 0x0/0x%x -g LQ-NO", p, markIn),
		fmt.Sprintf("-d %s -j MARK --set-xmark 0x0/0x%x", p, markIn),
		fmt.Sprintf("-d %s -j LQI-%s", p, port.Key),
	}
}

// linkLocal is the address that follows from a MAC address, which was found valid before.
func linkLocal(mac string) netip.Addr {
	m, err := netspec.ParseMAC(mac)
	if err != nil {
		return netip.Addr{}
	}
	return netspec.LinkLocal(m)
}

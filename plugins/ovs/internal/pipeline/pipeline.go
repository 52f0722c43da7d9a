// Package pipeline renders networks, interfaces, rule sets and address sets as OpenFlow flows. It is pure: what stands in a bridge follows from what is asked for and from the port
// numbers that the switch gave.
//
// Every packet is judged, not only a connection's first: what rules are matched with are registers, which hold the protocol, addresses and ports of the packet's connection as it
// began, in both directions, or the packet's own where no connection is tracked. So a rule that is removed, or a member that leaves a set, cuts connections at once, and what another
// rule still allows is never cut. Tracked are TCP, UDP, echo and ICMP's errors; nothing else has replies.
//
//	 0 classify   port number -> interface (reg1) or infrastructure (reg1=0), network (metadata), zone (reg0)
//	10 anti-spoof MAC, IP, ARP, DHCP server, RA; 15 neighbour discovery's content; 19 counts liars
//	20 kind       ARP, ND, DHCP: no rules (reg3=1); what has connections goes through conntrack
//	40 where      destination -> interface (reg4) and port number (reg5); to everybody: each in turn
//	50 whose      whose egress rules (reg6) and whose ingress rules (reg7): the other way round for replies
//	55 what       protocol (reg12), port or ICMP code (reg13), ICMP type (reg14)
//	58 to whom    destination (reg8, or xxreg2 for IPv6); 60 egress; 65 counts and drops
//	68 from whom  source (reg8, xxreg2); 70 ingress; 75 counts and drops
//	80 limit, 81 commit and output
package pipeline

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/limiquantix/limiquantix/plugins/kit/netspec"
	"github.com/limiquantix/limiquantix/plugins/kit/ruleset"
	"github.com/limiquantix/limiquantix/plugins/ovs/internal/flow"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// The tables; the package comment says what each does.
const (
	tClassify = 0
	tSpoof    = 10
	tND       = 15
	tLiar     = 19
	tKind     = 20
	tWhere    = 40
	tWhose    = 50
	tWhat     = 55
	tToWhom   = 58
	tEgress   = 60
	tNoEgress = 65
	tFromWhom = 68
	tIngress  = 70
	tNoEntry  = 75
	tLimit    = 80
	tOut      = 81
)

// Network is a network with the numbers that it has here.
type Network struct {
	ID     string
	Spec   *driverv1.NetworkSpec
	Index  int // in metadata
	Zone   int
	Tunnel int // port number of the tunnel; 0 = none (yet)
	Uplink int // port number of the patch to the uplink's bridge; 0 = none (yet)
}

// Interface is an interface with the numbers that it has here.
type Interface struct {
	ID    string
	Spec  *driverv1.InterfaceSpec
	Index int // in registers
	Port  int // number of its port; 0 = none (yet)
	// Meters are those of each direction; 0 = no limit.
	IngressMeter, EgressMeter uint32
}

// Passes reports whether packets can reach or leave the interface.
func (i *Interface) Passes() bool { return i.Port > 0 && !i.Spec.GetLinkDown() }

func f(table uint8, priority uint16, match, actions string) flow.Flow {
	return flow.Flow{Table: table, Priority: priority, Match: match, Actions: actions}
}

func counted(x flow.Flow, c flow.Class) flow.Flow {
	x.Class = c
	return x
}

// Base are the flows that are always there. What no flow matches is dropped.
func Base() []flow.Flow {
	zone := "NXM_NX_REG0[0..15]"
	flows := []flow.Flow{
		f(tSpoof, 0, "", "goto_table:19"),
		f(tND, 0, "", "goto_table:20"),
		// Neither DHCP, ARP nor neighbour discovery need a rule: whoever may send them was asked before.
		f(tKind, 100, "arp", "set_field:1->reg3,goto_table:40"),
		f(tKind, 100, "icmp6,icmp_type=135", "set_field:1->reg3,goto_table:40"),
		f(tKind, 100, "icmp6,icmp_type=136", "set_field:1->reg3,goto_table:40"),
		f(tKind, 100, "icmp6,icmp_type=133", "set_field:1->reg3,goto_table:40"),
		f(tKind, 100, "icmp6,icmp_type=134,reg1=0", "set_field:1->reg3,goto_table:40"),
		f(tKind, 100, "udp,tp_src=68,tp_dst=67", "set_field:1->reg3,goto_table:40"),
		f(tKind, 100, "udp,tp_src=67,tp_dst=68,reg1=0", "set_field:1->reg3,goto_table:40"),
		f(tKind, 100, "udp6,tp_src=546,tp_dst=547", "set_field:1->reg3,goto_table:40"),
		f(tKind, 100, "udp6,tp_src=547,tp_dst=546,reg1=0", "set_field:1->reg3,goto_table:40"),
		f(tKind, 10, "", "goto_table:40"), // without a connection
		f(tWhose, 100, "reg3=1", "goto_table:80"),
		f(tWhose, 50, "ct_state=+rpl-inv+trk", "move:NXM_NX_REG4[]->NXM_NX_REG6[],move:NXM_NX_REG1[]->NXM_NX_REG7[],goto_table:55"),
		f(tWhose, 40, "", "move:NXM_NX_REG1[]->NXM_NX_REG6[],move:NXM_NX_REG4[]->NXM_NX_REG7[],goto_table:55"),
		f(tEgress, 200, "reg6=0", "goto_table:68"),
		f(tEgress, 0, "", "goto_table:65"),
		f(tIngress, 200, "reg7=0", "goto_table:80"),
		f(tIngress, 0, "", "goto_table:75"),
		f(tLimit, 0, "", "goto_table:81"),
		f(tOut, 100, "ct_state=+new+trk,ip,reg3=0", "ct(commit,zone="+zone+"),output:NXM_NX_REG5[]"),
		f(tOut, 100, "ct_state=+new+trk,ipv6,reg3=0", "ct(commit,zone="+zone+"),output:NXM_NX_REG5[]"),
		f(tOut, 50, "", "output:NXM_NX_REG5[]"),
	}
	for _, m := range connected {
		flows = append(flows, f(tKind, 50, m, "ct(table=40,zone="+zone+")"))
	}
	return append(flows, what()...)
}

// connected is what has connections, or tells of one.
var connected = []string{
	"tcp", "udp", "tcp6", "udp6",
	"icmp,icmp_type=8", "icmp,icmp_type=0", "icmp,icmp_type=3", "icmp,icmp_type=11", "icmp,icmp_type=12",
	"icmp6,icmp_type=128", "icmp6,icmp_type=129", "icmp6,icmp_type=1", "icmp6,icmp_type=2", "icmp6,icmp_type=3", "icmp6,icmp_type=4",
}

// what fills the registers that rules are matched with.
func what() (flows []flow.Flow) {
	valid := "ct_state=-inv+trk,"
	move := func(from, to string) string { return "move:" + from + "->" + to + "," }
	const protocol, port, kind = "NXM_NX_REG12[0..7]", "NXM_NX_REG13[0..15]", "NXM_NX_REG14[0..15]"
	clear := "set_field:0->reg12,set_field:0->reg13,set_field:0->reg14,"
	for _, x := range []struct {
		family, proto, src, dst, ctSrc, ctDst, to string
	}{
		{"ip", "NXM_OF_IP_PROTO[]", "NXM_OF_IP_SRC[]", "NXM_OF_IP_DST[]", "NXM_NX_CT_NW_SRC[]", "NXM_NX_CT_NW_DST[]", "NXM_NX_REG8[]"},
		{"ipv6", "NXM_OF_IP_PROTO[]", "NXM_NX_IPV6_SRC[]", "NXM_NX_IPV6_DST[]", "NXM_NX_CT_IPV6_SRC[]", "NXM_NX_CT_IPV6_DST[]", "NXM_NX_XXREG2[]"},
	} {
		for _, number := range []int{6, 17, 1, 58} {
			flows = append(flows, f(tWhat, 100, fmt.Sprintf("%s%s,ct_nw_proto=%d", valid, x.family, number),
				clear+fmt.Sprintf("set_field:%d->reg12,", number)+move("NXM_NX_CT_TP_DST[]", port)+move("NXM_NX_CT_TP_SRC[]", kind)+"goto_table:58"))
		}
		flows = append(flows,
			f(tWhat, 10, x.family, clear+move(x.proto, protocol)+"goto_table:58"),
			f(tToWhom, 100, valid+x.family, move(x.ctDst, x.to)+"goto_table:60"),
			f(tToWhom, 10, x.family, move(x.dst, x.to)+"goto_table:60"),
			f(tFromWhom, 100, valid+x.family, move(x.ctSrc, x.to)+"goto_table:70"),
			f(tFromWhom, 10, x.family, move(x.src, x.to)+"goto_table:70"))
	}
	for _, x := range []struct {
		match, port string
		number      int
	}{
		{"tcp", "NXM_OF_TCP_DST[]", 6},
		{"tcp6", "NXM_OF_TCP_DST[]", 6},
		{"udp", "NXM_OF_UDP_DST[]", 17},
		{"udp6", "NXM_OF_UDP_DST[]", 17},
		{"sctp", "OXM_OF_SCTP_DST[]", 132},
		{"sctp6", "OXM_OF_SCTP_DST[]", 132},
	} {
		flows = append(flows, f(tWhat, 50, x.match, clear+fmt.Sprintf("set_field:%d->reg12,", x.number)+move(x.port, port)+"goto_table:58"))
	}
	flows = append(flows,
		f(tWhat, 50, "icmp", clear+"set_field:1->reg12,"+move("NXM_OF_ICMP_CODE[]", "NXM_NX_REG13[0..7]")+move("NXM_OF_ICMP_TYPE[]", "NXM_NX_REG14[0..7]")+"goto_table:58"),
		f(tWhat, 50, "icmp6", clear+"set_field:58->reg12,"+move("NXM_NX_ICMPV6_CODE[]", "NXM_NX_REG13[0..7]")+move("NXM_NX_ICMPV6_TYPE[]", "NXM_NX_REG14[0..7]")+"goto_table:58"))
	return flows
}

// Network renders a network: members are its interfaces.
func (n *Network) Flows(members []*Interface) (flows []flow.Flow) {
	meta := fmt.Sprintf("metadata=%#x", n.Index)
	enter := fmt.Sprintf("set_field:%#x->metadata,set_field:%#x->reg0,set_field:0->reg1,goto_table:20", n.Index, n.Zone)
	everybody := []string{}
	members = slices.Clone(members)
	slices.SortFunc(members, func(a, b *Interface) int { return a.Index - b.Index })
	for _, i := range members {
		if i.Passes() {
			everybody = append(everybody, to(i.Index, i.Port))
			flows = append(flows, f(tWhere, 100, meta+",dl_dst="+i.Spec.GetMac(), fmt.Sprintf("set_field:%#x->reg4,set_field:%#x->reg5,goto_table:50", i.Index, i.Port)))
		}
	}
	if n.Uplink > 0 {
		flows = append(flows, f(tClassify, 100, fmt.Sprintf("in_port=%d,vlan_tci=0x0000/0x1fff", n.Uplink), enter))
		everybody = append(everybody, to(0, n.Uplink))
		flows = append(flows, f(tWhere, 50, meta, fmt.Sprintf("set_field:0->reg4,set_field:%#x->reg5,goto_table:50", n.Uplink)))
	}
	if n.Tunnel > 0 {
		tun := tunnelField(n.Spec.GetVxlan())
		flows = append(flows, f(tClassify, 100, fmt.Sprintf("in_port=%d,vlan_tci=0x0000/0x1fff", n.Tunnel), enter))
		for _, p := range n.Spec.GetVxlan().GetPeers() {
			everybody = append(everybody, fmt.Sprintf("set_field:%s->%s,%s", p.GetAddress(), tun, to(0, n.Tunnel)))
		}
		local := map[string]bool{}
		for _, i := range members {
			local[i.Spec.GetMac()] = true
		}
		for _, e := range n.Spec.GetVxlan().GetFdb() {
			if local[e.GetMac()] {
				continue // a moment in which both sides have it: ours wins
			}
			flows = append(flows, f(tWhere, 100, meta+",dl_dst="+e.GetMac(),
				fmt.Sprintf("set_field:%s->%s,set_field:0->reg4,set_field:%#x->reg5,goto_table:50", e.GetPeerAddress(), tun, n.Tunnel)))
			flows = append(flows, n.answers(meta, e)...)
		}
	}
	if len(everybody) > 0 {
		all := strings.Join(everybody, ",")
		flows = append(flows, f(tWhere, 90, meta+",dl_dst=01:00:00:00:00:00/01:00:00:00:00:00", all))
	}
	return flows
}

func to(index, port int) string {
	return fmt.Sprintf("set_field:%#x->reg4,set_field:%#x->reg5,resubmit(,50)", index, port)
}

func tunnelField(t *driverv1.VxlanTunnel) string {
	if strings.Contains(t.GetLocalAddress(), ":") {
		return "tun_ipv6_dst"
	}
	return "tun_dst"
}

// answers are the replies that this node gives for an interface on another one: who asks by ARP need not be heard there.
func (n *Network) answers(meta string, e *driverv1.FdbEntry) (flows []flow.Flow) {
	for _, s := range e.GetIpAddresses() {
		a, err := netip.ParseAddr(s)
		if err != nil || !a.Is4() {
			continue
		}
		b := a.As4()
		flows = append(flows, f(tWhere, 120, fmt.Sprintf("%s,arp,arp_op=1,arp_tpa=%s,dl_dst=ff:ff:ff:ff:ff:ff", meta, a), fmt.Sprintf(
			"move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],set_field:%s->eth_src,set_field:2->arp_op,move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],"+
				"move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[],set_field:%s->arp_sha,set_field:%d.%d.%d.%d->arp_spa,IN_PORT", e.GetMac(), e.GetMac(), b[0], b[1], b[2], b[3])))
	}
	return flows
}

// Flows renders an interface in its network; plans are its rule sets, ids gives the numbers of conjunctions.
func (i *Interface) Flows(n *Network, plans []*ruleset.Plan, ids *Conjunctions) (flows []flow.Flow) {
	if !i.Passes() {
		return nil
	}
	me, mac := fmt.Sprintf("reg1=%#x", i.Index), i.Spec.GetMac()
	meter := ""
	if i.EgressMeter != 0 {
		meter = fmt.Sprintf("meter:%d,", i.EgressMeter)
	}
	flows = append(flows,
		f(tClassify, 100, fmt.Sprintf("in_port=%d,vlan_tci=0x0000/0x1fff", i.Port), fmt.Sprintf("%sset_field:%#x->metadata,set_field:%#x->reg0,set_field:%#x->reg1,goto_table:10", meter, n.Index, n.Zone, i.Index)),
		f(tClassify, 50, fmt.Sprintf("in_port=%d", i.Port), fmt.Sprintf("set_field:%#x->reg1,goto_table:19", i.Index)), // tagged
		counted(f(tLiar, 100, me, "drop"), flow.Spoofed),
		f(tWhose, 200, fmt.Sprintf("reg1=%#x,reg4=%#x", i.Index, i.Index), "drop"), // its own broadcast
	)
	flows = append(flows, i.spoofing(me, mac)...)

	them, us := fmt.Sprintf("reg6=%#x", i.Index), fmt.Sprintf("reg7=%#x", i.Index)
	deny := slices.ContainsFunc(plans, func(p *ruleset.Plan) bool { return p.EgressDeny })
	if deny {
		flows = append(flows, counted(f(tNoEgress, 100, them, "drop"), flow.Egress))
		flows = append(flows, dimension(tEgress, ruleset.Egress, them, plans, ids)...)
	} else {
		flows = append(flows, f(tEgress, 200, them, "goto_table:68"))
	}
	flows = append(flows, counted(f(tNoEntry, 100, us, "drop"), flow.Ingress))
	flows = append(flows, dimension(tIngress, ruleset.Ingress, us, plans, ids)...)
	if i.IngressMeter != 0 {
		flows = append(flows, f(tLimit, 100, fmt.Sprintf("reg4=%#x", i.Index), fmt.Sprintf("meter:%d,goto_table:81", i.IngressMeter)))
	}
	return flows
}

// dimension makes an interface part of the conjunctions of its rule sets.
func dimension(table uint8, d ruleset.Direction, match string, plans []*ruleset.Plan, ids *Conjunctions) []flow.Flow {
	var clauses []flow.Clause
	for _, p := range plans {
		for set := range groups(p, d) {
			n := 2
			if set != "" {
				n = 3
			}
			clauses = append(clauses, flow.Clause{ID: ids.ID(p.ID, d, set), K: 1, N: n})
		}
	}
	if len(clauses) == 0 {
		return nil
	}
	return []flow.Flow{{Table: table, Priority: 100, Match: match, Clauses: clauses}}
}

// groups are the address sets that a plan's lines of a direction refer to; "" stands for lines that refer to none.
func groups(p *ruleset.Plan, d ruleset.Direction) map[string]bool {
	found := map[string]bool{}
	for _, lines := range p.Lines[d] {
		for _, l := range lines {
			found[l.Set] = true
		}
	}
	return found
}

// spoofing lets through what an interface may send.
func (i *Interface) spoofing(me, mac string) (flows []flow.Flow) {
	var four, six []string
	add := func(s string) {
		p, err := netspec.ParseAddressOrCIDR(s)
		if err != nil {
			return
		}
		if p.Addr().Is4() {
			four = append(four, ruleset.Text(p))
		} else {
			six = append(six, ruleset.Text(p))
		}
	}
	for _, a := range i.Spec.GetIpAddresses() {
		add(a)
	}
	for _, a := range i.Spec.GetExtraAddresses() {
		add(a)
	}
	hw, _ := netspec.ParseMAC(mac)
	six = append(six, netspec.LinkLocal(hw).String())
	next := func(table uint8, priority uint16, match string, target int) {
		flows = append(flows, f(table, priority, me+","+match, fmt.Sprintf("goto_table:%d", target)))
	}
	from := "dl_src=" + mac
	// A guest is neither DHCP server nor router.
	for _, m := range []string{"udp,tp_src=67", "udp6,tp_src=547", "icmp6,icmp_type=134", "icmp6,icmp_type=137"} {
		next(tSpoof, 200, m, tLiar)
	}
	next(tSpoof, 150, from+",udp,nw_src=0.0.0.0,nw_dst=255.255.255.255,tp_src=68,tp_dst=67", tKind)
	if len(four) > 0 {
		next(tSpoof, 100, from+",arp,arp_sha="+mac+",arp_spa=0.0.0.0", tKind)
	}
	for _, a := range four {
		next(tSpoof, 100, from+",arp,arp_sha="+mac+arpSource(a), tKind)
		next(tSpoof, 100, from+",ip"+ipField("nw_src", a), tKind)
	}
	for _, a := range six {
		next(tSpoof, 100, from+",ipv6"+ipField("ipv6_src", a), tND)
		next(tSpoof, 150, from+",icmp6,icmp_type=135,ipv6_src=::"+ipField("nd_target", a)+",nd_sll=00:00:00:00:00:00", tKind)
		for _, ll := range []string{mac, "00:00:00:00:00:00"} {
			next(tND, 100, "icmp6,icmp_type=136"+ipField("nd_target", a)+",nd_tll="+ll, tKind)
		}
	}
	next(tSpoof, 150, from+",icmp6,icmp_type=133,ipv6_src=::", tKind)
	next(tSpoof, 150, from+",icmp6,icmp_type=143,ipv6_src=::", tKind)
	for _, ll := range []string{mac, "00:00:00:00:00:00"} {
		next(tND, 100, "icmp6,icmp_type=135,nd_sll="+ll, tKind)
	}
	next(tND, 50, "icmp6,icmp_type=135", tLiar)
	next(tND, 50, "icmp6,icmp_type=136", tLiar)
	return flows
}

func arpSource(a string) string { return ipField("arp_spa", a) }

// ipField matches an address or CIDR; nothing when that is everything.
func ipField(name, a string) string {
	if strings.HasSuffix(a, "/0") {
		return ""
	}
	return "," + name + "=" + a
}

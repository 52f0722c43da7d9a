package conformance

import (
	"context"
	"net"
	"net/netip"
	"time"

	"google.golang.org/protobuf/proto"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk/conformance/packet"
	"github.com/limiquantix/limiquantix/sdk/conformance/packetmodel"
)

// gatewayed gives a network a gateway on this node: the first address of each subnet.
func gatewayed(s *driverv1.NetworkSpec) {
	s.Egress = driverv1.EgressMode_EGRESS_MODE_NAT
	for _, sub := range s.GetSubnets() {
		if sub.GetGateway() == "" {
			sub.Gateway = netip.MustParsePrefix(sub.GetCidr()).Addr().Next().String()
		}
	}
}

// nodeAndGuest holds what goes between a guest and the node itself to the same rules: the guest's ingress rules for what the node sends, its egress rules for what
// it sends to the node. What the node offers guests besides is its own matter; here it answers pings.
func nodeAndGuest(t T, e *Env) {
	l := e.labOf(t, 0, gatewayed)
	set := e.allowing(t, both("ok", packetmodel.UDP, 4000)...)
	set.req.RuleSet.EgressDefaultDeny = true
	set.apply(t)
	n := l.plugged(t, set)
	for family, s := range l.req.GetSpec().GetSubnets() {
		gw, err := netip.ParseAddr(s.GetGateway())
		must(t, "the gateway", err)
		l.fromNode(t, n, family, gw)
		l.toNode(t, n, family, gw, set)
	}
}

// fromNode sends datagrams from the node: to the port that is allowed they pass and are answered, to another they do not.
func (l *lab) fromNode(t T, n *nic, family int, gw netip.Addr) {
	t.Helper()
	var conn *net.UDPConn
	eventually(t, 20*time.Second, "the node has the gateway's address "+gw.String(), func() (ok bool) {
		var err error
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(gw, 0)))
		return err == nil
	})
	defer func() { _ = conn.Close() }()
	send := func(port uint16) uint32 {
		token := tokens.Add(1)
		_, err := conn.WriteToUDPAddrPort(packet.Token(token), netip.AddrPortFrom(n.Addrs[family], port))
		must(t, "sending from the node", err)
		return token
	}
	forbidden := send(4001)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if !l.log.Wait(ctx, n.Name, send(4000)) {
		t.Fatalf("what the node sends from %s does not pass though a rule allows it", gw)
	}
	if l.log.Seen(n.Name, forbidden) > 0 {
		t.Errorf("what the node sends from %s passes though no rule allows it", gw)
	}
	mac, err := n.Resolve(ctx, gw)
	must(t, "the gateway", err)
	from := conn.LocalAddr().(*net.UDPAddr).AddrPort() //nolint:errcheck,forcetypeassert // of a UDP socket
	back := packetmodel.Packet{Src: n.Addrs[family], Dst: gw, Protocol: packetmodel.UDP, SrcPort: 4000, DstPort: from.Port()}
	token := tokens.Add(1)
	must(t, "sending", n.Send(packet.Frame(mac, n.MAC, back, packet.TCP{}, packet.Token(token))))
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	buf := make([]byte, 2000)
	k, _, err := conn.ReadFromUDPAddrPort(buf)
	if got, ok := packet.TokenOf(buf[:k]); err != nil || !ok || got != token {
		t.Errorf("the answer to the node at %s does not come: %v", gw, err)
	}
}

// toNode pings the gateway: not while egress is denied, then by a rule, then no more.
func (l *lab) toNode(t T, n *nic, family int, gw netip.Addr, set *ruleSet) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	mac, err := n.Resolve(ctx, gw)
	must(t, "the gateway", err)
	p := packetmodel.Packet{Src: n.Addrs[family], Dst: gw, Protocol: packetmodel.ICMP, ICMPType: 8}
	if gw.Is6() {
		p.Protocol, p.ICMPType = packetmodel.ICMPv6, 128
	}
	ping := func() uint32 {
		q, token := p, tokens.Add(1)
		q.ICMPID = uint16(token) //nolint:gosec // any id will do
		must(t, "sending", n.Send(packet.Frame(mac, n.MAC, q, packet.TCP{}, packet.Token(token))))
		return token
	}
	forbidden := []uint32{ping()}
	allow := proto.CloneOf(set.req)
	allow.RuleSet.Rules = append(allow.RuleSet.Rules, &driverv1.Rule{
		RuleId: "ping", Direction: driverv1.RuleDirection_RULE_DIRECTION_EGRESS, Protocol: proto.Uint32(uint32(p.Protocol)), IcmpType: proto.Uint32(uint32(p.ICMPType)),
	})
	for range 2 {
		set.req.RuleSet.Generation++
		allow.RuleSet.Generation = set.req.GetRuleSet().GetGeneration()
		call(t, l.e.network().ApplyRuleSet, allow)
		if !l.log.Wait(ctx, n.Name, ping()) {
			t.Errorf("the gateway %s does not answer a ping that a rule allows", gw)
		}
		set.req.RuleSet.Generation++
		set.apply(t)
		forbidden = append(forbidden, ping())
	}
	set.req.RuleSet.Generation++
	allow.RuleSet.Generation = set.req.GetRuleSet().GetGeneration()
	call(t, l.e.network().ApplyRuleSet, allow)
	if !l.log.Wait(ctx, n.Name, ping()) {
		t.Errorf("the gateway %s does not answer a ping that a rule allows", gw)
	}
	for i, token := range forbidden {
		if l.log.Seen(n.Name, token) > 0 {
			t.Errorf("the gateway %s answers ping %d, which must not reach it", gw, i)
		}
	}
	set.req.RuleSet.Generation++
	set.apply(t)
}

package conformance

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/limiquantix/limiquantix/sdk/conformance/guest"
	"github.com/limiquantix/limiquantix/sdk/conformance/packet"
	"github.com/limiquantix/limiquantix/sdk/conformance/packetmodel"
)

// lie is a frame that no guest may send.
type lie struct {
	what  string
	frame func(token uint32) []byte
}

// lies are frames of a guest that pretends to be somebody else, to another guest. The addresses that it takes are the victim's.
func lies(from, to, victim *guest.Guest) (out []lie) {
	add := func(what string, f func(uint32) []byte) { out = append(out, lie{what, f}) }
	udp := func(src, dst netip.Addr, sport, dport uint16, token uint32) []byte {
		return packet.IP(packetmodel.Packet{Src: src, Dst: dst, Protocol: packetmodel.UDP, SrcPort: sport, DstPort: dport}, packet.TCP{}, packet.Token(token))
	}
	for i, own := range from.Addrs {
		kind, family := uint16(packet.EtherIPv4), "IPv4"
		if own.Is6() {
			kind, family = packet.EtherIPv6, "IPv6"
		}
		dst := to.Addrs[i]
		add("another MAC, "+family, func(n uint32) []byte {
			return packet.Ethernet(to.MAC, victim.MAC, kind, udp(own, dst, 5000, sentinelPort, n))
		})
		add("another's "+family+" address", func(n uint32) []byte {
			return packet.Ethernet(to.MAC, from.MAC, kind, udp(victim.Addrs[i], dst, 5000, sentinelPort, n))
		})
		add("another's "+family+" address behind a VLAN tag", func(n uint32) []byte {
			inner := binary.BigEndian.AppendUint16([]byte{0, 5}, kind)
			return packet.Ethernet(to.MAC, from.MAC, packet.EtherVLAN, append(inner, udp(victim.Addrs[i], dst, 5000, sentinelPort, n)...))
		})
		add("its own "+family+" packet behind a VLAN tag that it may not use", func(n uint32) []byte {
			inner := binary.BigEndian.AppendUint16([]byte{0, 5}, kind)
			return packet.Ethernet(to.MAC, from.MAC, packet.EtherVLAN, append(inner, udp(own, dst, 5000, sentinelPort, n)...))
		})
		add("another's "+family+" address in PPPoE", func(n uint32) []byte {
			ip := udp(victim.Addrs[i], dst, 5000, sentinelPort, n)
			head := []byte{0x11, 0, 0, 1, 0, byte(len(ip) + 2), 0, 0x21}
			if own.Is6() {
				head[7] = 0x57
			}
			return packet.Ethernet(to.MAC, from.MAC, 0x8864, append(head, ip...))
		})
	}
	v4, own4 := victim.Addrs[0], from.Addrs[0]
	zero := make(net.HardwareAddr, 6)
	arp := func(what string, op uint16, src net.HardwareAddr, sha net.HardwareAddr, spa netip.Addr, dst net.HardwareAddr) {
		add(what, func(n uint32) []byte {
			return packet.Ethernet(dst, src, packet.EtherARP, packet.ARP(op, sha, spa, zero, to.Addrs[0], n))
		})
	}
	arp("an ARP request in another's name", packet.ARPRequest, from.MAC, from.MAC, v4, packet.Broadcast)
	arp("an ARP reply for another's address", packet.ARPReply, from.MAC, from.MAC, v4, to.MAC)
	arp("an ARP reply with another MAC in it", packet.ARPReply, from.MAC, victim.MAC, own4, to.MAC)
	arp("an ARP reply from another MAC", packet.ARPReply, victim.MAC, victim.MAC, v4, to.MAC)
	add("a DHCP server's answer", func(n uint32) []byte {
		return packet.Ethernet(to.MAC, from.MAC, packet.EtherIPv4, udp(own4, to.Addrs[0], 67, 68, n))
	})
	add("a DHCP server's answer to all", func(n uint32) []byte {
		return packet.Ethernet(packet.Broadcast, from.MAC, packet.EtherIPv4, udp(own4, netip.MustParseAddr("255.255.255.255"), 67, 68, n))
	})
	add("a frame that is neither IP nor ARP", func(n uint32) []byte {
		return packet.Ethernet(to.MAC, from.MAC, 0x88b5, packet.Token(n))
	})
	if len(from.Addrs) < 2 {
		return out
	}
	return append(out, lies6(from, to, victim)...)
}

// lies6 are those of IPv6 alone.
func lies6(from, to, victim *guest.Guest) (out []lie) {
	all := netip.MustParseAddr("ff02::1")
	local, own, other := packet.LinkLocal(from.MAC), from.Addrs[1], victim.Addrs[1]
	add := func(what string, dst net.HardwareAddr, ip func(uint32) []byte) {
		out = append(out, lie{what, func(n uint32) []byte { return packet.Ethernet(dst, from.MAC, packet.EtherIPv6, ip(n)) }})
	}
	add("an advertisement for another's address", packet.Multicast(all), func(n uint32) []byte {
		return packet.Neighbour(packet.NeighbourAdvert, own, all, other, from.MAC, n)
	})
	add("an advertisement for another's address, from its own link-local one", to.MAC, func(n uint32) []byte {
		return packet.Neighbour(packet.NeighbourAdvert, local, to.Addrs[1], other, from.MAC, n)
	})
	add("an advertisement of its address at another MAC", to.MAC, func(n uint32) []byte {
		return packet.Neighbour(packet.NeighbourAdvert, own, to.Addrs[1], own, victim.MAC, n)
	})
	add("a solicitation from another's address", to.MAC, func(n uint32) []byte {
		return packet.Neighbour(packet.NeighbourSolicitation, other, to.Addrs[1], to.Addrs[1], from.MAC, n)
	})
	add("a solicitation with another MAC in it", to.MAC, func(n uint32) []byte {
		return packet.Neighbour(packet.NeighbourSolicitation, own, to.Addrs[1], to.Addrs[1], victim.MAC, n)
	})
	add("another's link-local address", to.MAC, func(n uint32) []byte {
		return packet.IP(packetmodel.Packet{
			Src: packet.LinkLocal(victim.MAC), Dst: to.Addrs[1], Protocol: packetmodel.UDP, SrcPort: 5000, DstPort: sentinelPort,
		}, packet.TCP{}, packet.Token(n))
	})
	prefix := netip.MustParsePrefix("2001:db8:dead::/64")
	add("a router advertisement", packet.Multicast(all), func(n uint32) []byte { return packet.Router(local, all, prefix, from.MAC, n) })
	add("a router advertisement to one", to.MAC, func(n uint32) []byte { return packet.Router(local, packet.LinkLocal(to.MAC), prefix, from.MAC, n) })
	add("a DHCPv6 server's answer", to.MAC, func(n uint32) []byte {
		return packet.IP(packetmodel.Packet{Src: local, Dst: packet.LinkLocal(to.MAC), Protocol: packetmodel.UDP, SrcPort: 547, DstPort: 546}, packet.TCP{}, packet.Token(n))
	})
	return out
}

// spoofing sends every lie from one guest to another whose rules allow everything. None arrives, though each does on a bridge that nobody guards.
func spoofing(t T, e *Env) {
	l := e.newLab(t, 0)
	open := e.ruleSet(t, 1)
	open.req.RuleSet.Rules = anything()
	open.apply(t)
	a, b, victim := l.plugged(t, open), l.plugged(t, open), l.plugged(t, open)
	for range 2 { // what is learned from a lie that was dropped must not help the next
		a.ends(t, b)
		for _, x := range lies(a.Guest, b.Guest, victim.Guest) {
			token := tokens.Add(1)
			must(t, "sending", a.Send(x.frame(token)))
			a.ends(t, b)
			if l.log.Seen(b.Name, token)+l.log.Seen(victim.Name, token) > 0 {
				t.Errorf("%s gets through", x.what)
			}
		}
	}
	victim.ends(t, b) // what is the victim's still is
	b.ends(t, victim)
	control(t, a.Guest, b.Guest, victim.Guest)
}

// control sends every lie between guests on a bridge of the suite's own, where each must arrive: what is not seen elsewhere was really sent.
func control(t T, from, to, victim *guest.Guest) {
	t.Helper()
	id := newID()
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cf" + id[:8]}}
	must(t, "a bridge for the control", netlink.LinkAdd(br))
	t.Cleanup(func() {
		if err := netlink.LinkDel(br); err != nil {
			t.Errorf("cleaning up: %v", err)
		}
	})
	must(t, "a bridge for the control", netlink.LinkSetUp(br))
	log := guest.NewLog()
	p, q := guest.New("P", from.MAC, log, from.Addrs...), guest.New("Q", to.MAC, log, to.Addrs...)
	for i, g := range []*guest.Guest{p, q} {
		must(t, "plugging in the control", g.PlugBridge(br.Name, string(rune('p'+i))+id[:8]))
		t.Cleanup(func() { _ = g.Unplug() })
	}
	for _, x := range lies(p, q, victim) {
		token := tokens.Add(1)
		must(t, "sending", p.Send(x.frame(token)))
		ctx := within(t)
		if !log.Wait(ctx, "Q", token) {
			t.Errorf("the control does not see it: %s", x.what)
		}
	}
}

// Command liar runs in a guest and sends frames that no guest may send: with another's MAC or address, ARP and neighbour advertisements for addresses that are not
// its own, router advertisements, answers of a DHCP server. With "truth" it sends one that it may. Each frame holds a token, so that a capture knows it again.
//
//	liar [-dev eth0] [-n 20] [-token T] -ip OWN -as ANOTHER truth|mac|ip|arp|nd|ra|dhcp ...
package main

import (
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/mdlayher/packet"
)

func main() {
	dev := flag.String("dev", "eth0", "device to send from")
	n := flag.Int("n", 20, "frames of each kind")
	token := flag.String("token", "LIAR", "text in each frame")
	own := flag.String("ip", "", "its own IPv4 address")
	other := flag.String("as", "", "IPv4 address of another")
	flag.Parse()
	l := liar{token: *token}
	err := l.open(*dev, *own, *other)
	for _, kind := range flag.Args() {
		for range *n {
			if err == nil {
				err = l.send(kind)
			}
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "liar:", err)
		os.Exit(1)
	}
	fmt.Println("sent", strings.Join(flag.Args(), " "))
}

type liar struct {
	conn       *packet.Conn
	mac        net.HardwareAddr
	own, other netip.Addr
	token      string
}

var (
	broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	allNodes  = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
	falseMAC  = net.HardwareAddr{0x52, 0x54, 0, 0xba, 0xd0, 0x01}
	falseLink = net.ParseIP("fe80::bad")
)

func (l *liar) open(dev, own, other string) (err error) {
	i, err := net.InterfaceByName(dev)
	if err != nil {
		return err
	}
	l.mac = i.HardwareAddr
	if l.own, err = netip.ParseAddr(own); err != nil {
		return err
	}
	if l.other, err = netip.ParseAddr(other); err != nil {
		return err
	}
	l.conn, err = packet.Listen(i, packet.Raw, int(layers.EthernetTypeIPv4), nil)
	return err
}

func (l *liar) send(kind string) error {
	stack, err := l.frame(kind)
	if err != nil {
		return err
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, append(stack, gopacket.Payload(l.token))...); err != nil {
		return err
	}
	_, err = l.conn.WriteTo(buf.Bytes(), &packet.Addr{HardwareAddr: broadcast})
	return err
}

func (l *liar) frame(kind string) ([]gopacket.SerializableLayer, error) {
	switch kind {
	case "truth":
		return l.udp(l.mac, l.own, 7, 7), nil
	case "mac":
		return l.udp(falseMAC, l.own, 7, 7), nil
	case "ip":
		return l.udp(l.mac, l.other, 7, 7), nil
	case "dhcp":
		return l.udp(l.mac, l.own, 67, 68), nil
	case "arp":
		return []gopacket.SerializableLayer{
			&layers.Ethernet{SrcMAC: l.mac, DstMAC: broadcast, EthernetType: layers.EthernetTypeARP},
			&layers.ARP{
				AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: layers.ARPReply,
				SourceHwAddress: l.mac, SourceProtAddress: l.other.AsSlice(), DstHwAddress: broadcast, DstProtAddress: l.other.AsSlice(),
			},
		}, nil
	case "nd":
		return l.icmp6(layers.ICMPv6TypeNeighborAdvertisement, &layers.ICMPv6NeighborAdvertisement{Flags: 0x20, TargetAddress: falseLink}), nil
	case "ra":
		return l.icmp6(layers.ICMPv6TypeRouterAdvertisement, &layers.ICMPv6RouterAdvertisement{HopLimit: 64, RouterLifetime: 1800}), nil
	}
	return nil, fmt.Errorf("no kind of frame %q", kind)
}

// udp is a datagram to everybody.
func (l *liar) udp(mac net.HardwareAddr, from netip.Addr, src, dst layers.UDPPort) []gopacket.SerializableLayer {
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: from.AsSlice(), DstIP: net.IPv4bcast}
	udp := &layers.UDP{SrcPort: src, DstPort: dst}
	_ = udp.SetNetworkLayerForChecksum(ip) // never fails for IPv4
	return []gopacket.SerializableLayer{&layers.Ethernet{SrcMAC: mac, DstMAC: broadcast, EthernetType: layers.EthernetTypeIPv4}, ip, udp}
}

func (l *liar) icmp6(kind uint8, body gopacket.SerializableLayer) []gopacket.SerializableLayer {
	ip := &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6, SrcIP: falseLink, DstIP: net.ParseIP("ff02::1")}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
	_ = icmp.SetNetworkLayerForChecksum(ip) // never fails for IPv6
	return []gopacket.SerializableLayer{&layers.Ethernet{SrcMAC: l.mac, DstMAC: allNodes, EthernetType: layers.EthernetTypeIPv6}, ip, icmp, body}
}

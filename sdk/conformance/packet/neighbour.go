package packet

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/limiquantix/limiquantix/sdk/conformance/packetmodel"
)

// Operations of ARP.
const (
	ARPRequest = 1
	ARPReply   = 2
)

// ARP writes what an ARP frame carries, and a token behind it.
func ARP(op uint16, senderMAC net.HardwareAddr, sender netip.Addr, targetMAC net.HardwareAddr, target netip.Addr, token uint32) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, byte(op)}
	b = append(append(b, senderMAC...), sender.AsSlice()...)
	b = append(append(b, targetMAC...), target.AsSlice()...)
	return append(b, Token(token)...)
}

// Types of ICMPv6 of neighbour discovery.
const (
	RouterAdvertisement   = 134
	NeighbourSolicitation = 135
	NeighbourAdvert       = 136
)

// Neighbour writes a solicitation or advertisement of neighbour discovery: of target, with the link-layer address lladdr. The token is an option of a kind that nobody knows.
func Neighbour(kind byte, src, dst, target netip.Addr, lladdr net.HardwareAddr, token uint32) []byte {
	b := make([]byte, 8)
	b[0] = kind
	option := byte(1) // source link-layer address
	if kind == NeighbourAdvert {
		b[4], option = 0x60, 2 // solicited, override; target link-layer address
	}
	b = append(b, target.AsSlice()...)
	b = append(append(b, option, 1), lladdr...)
	return seal(src, dst, append(b, tokenOption(token)...))
}

// Router writes a router advertisement, of the prefix and with the link-layer address given.
func Router(src, dst netip.Addr, prefix netip.Prefix, lladdr net.HardwareAddr, token uint32) []byte {
	b := make([]byte, 16)
	b[0], b[4] = RouterAdvertisement, 64
	binary.BigEndian.PutUint16(b[6:], 1800)
	b = append(append(b, 1, 1), lladdr...)
	info := make([]byte, 32)
	info[0], info[1], info[2], info[3] = 3, 4, byte(prefix.Bits()), 0xc0
	binary.BigEndian.PutUint32(info[4:], 3600)
	binary.BigEndian.PutUint32(info[8:], 3600)
	copy(info[16:], prefix.Addr().AsSlice())
	b = append(b, info...)
	return seal(src, dst, append(b, tokenOption(token)...))
}

func tokenOption(token uint32) []byte {
	b := make([]byte, 32)
	b[0], b[1] = 253, 4 // experimental, four times eight bytes
	copy(b[2:], Token(token))
	return b
}

func seal(src, dst netip.Addr, b []byte) []byte {
	binary.BigEndian.PutUint16(b[2:], checksum(src, dst, packetmodel.ICMPv6, b))
	return header(src, dst, packetmodel.ICMPv6, b)
}

// SolicitedNode is the group that owners of an address listen to, and its Ethernet address.
func SolicitedNode(a netip.Addr) (netip.Addr, net.HardwareAddr) {
	x := a.As16()
	g := netip.AddrFrom16([16]byte{0xff, 0x02, 11: 1, 12: 0xff, 13: x[13], 14: x[14], 15: x[15]})
	return g, Multicast(g)
}

// Multicast is the Ethernet address of a group of IPv6.
func Multicast(group netip.Addr) net.HardwareAddr {
	x := group.As16()
	return net.HardwareAddr{0x33, 0x33, x[12], x[13], x[14], x[15]}
}

// LinkLocal is the address that follows from a MAC address.
func LinkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
}

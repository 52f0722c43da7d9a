package packet

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/limiquantix/limiquantix/sdk/conformance/packetmodel"
)

// Types of Ethernet frames.
const (
	EtherIPv4 = 0x0800
	EtherARP  = 0x0806
	EtherVLAN = 0x8100
	EtherIPv6 = 0x86dd
)

// Broadcast is the address of everybody.
var Broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// Ethernet puts a header before what a frame carries.
func Ethernet(dst, src net.HardwareAddr, etherType uint16, payload []byte) []byte {
	f := make([]byte, 0, 14+len(payload))
	f = append(append(f, dst...), src...)
	f = binary.BigEndian.AppendUint16(f, etherType)
	return append(f, payload...)
}

// Flags of TCP.
const (
	SYN = 0x02
	ACK = 0x10
)

// TCP is what a segment has besides its ports.
type TCP struct {
	Flags    byte
	Seq, Ack uint32
}

// IP writes a packet, checksums and all.
func IP(p packetmodel.Packet, t TCP, payload []byte) []byte {
	return header(p.Src, p.Dst, p.Protocol, transport(p, t, payload))
}

// Frame writes a packet into a frame.
func Frame(dst, src net.HardwareAddr, p packetmodel.Packet, t TCP, payload []byte) []byte {
	return Ethernet(dst, src, etherType(p.Dst), IP(p, t, payload))
}

func etherType(a netip.Addr) uint16 {
	if a.Is6() {
		return EtherIPv6
	}
	return EtherIPv4
}

func header(src, dst netip.Addr, protocol uint8, body []byte) []byte {
	if dst.Is6() {
		h := make([]byte, 40, 40+len(body))
		h[0] = 0x60
		binary.BigEndian.PutUint16(h[4:], uint16(len(body)))
		h[6], h[7] = protocol, hopLimit(protocol, body)
		copy(h[8:], src.AsSlice())
		copy(h[24:], dst.AsSlice())
		return append(h, body...)
	}
	h := make([]byte, 20, 20+len(body))
	h[0] = 0x45
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(body)))
	h[8], h[9] = 64, protocol
	copy(h[12:], src.AsSlice())
	copy(h[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(h[10:], fold(sum(0, h)))
	return append(h, body...)
}

// hopLimit is 255 for neighbour discovery, which nobody believes otherwise.
func hopLimit(protocol uint8, body []byte) byte {
	if protocol == packetmodel.ICMPv6 && body[0] >= 133 && body[0] <= 137 {
		return 255
	}
	return 64
}

func transport(p packetmodel.Packet, t TCP, payload []byte) []byte {
	var b []byte
	at := -1 // of the checksum
	switch p.Protocol {
	case packetmodel.TCP:
		b = make([]byte, 20, 20+len(payload))
		binary.BigEndian.PutUint32(b[4:], t.Seq)
		binary.BigEndian.PutUint32(b[8:], t.Ack)
		b[12], b[13] = 5<<4, t.Flags
		binary.BigEndian.PutUint16(b[14:], 65535)
		at = 16
	case packetmodel.UDP:
		b = make([]byte, 8, 8+len(payload))
		binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
		at = 6
	case packetmodel.ICMP, packetmodel.ICMPv6:
		b = make([]byte, 8, 8+len(payload))
		b[0], b[1] = p.ICMPType, p.ICMPCode
		binary.BigEndian.PutUint16(b[4:], p.ICMPID)
		at = 2
	}
	if p.Protocol == packetmodel.TCP || p.Protocol == packetmodel.UDP {
		binary.BigEndian.PutUint16(b, p.SrcPort)
		binary.BigEndian.PutUint16(b[2:], p.DstPort)
	}
	b = append(b, payload...)
	if at >= 0 {
		binary.BigEndian.PutUint16(b[at:], checksum(p.Src, p.Dst, p.Protocol, b))
	}
	return b
}

// checksum is that of a transport's bytes, with the pseudo header for all but ICMP of IPv4.
func checksum(src, dst netip.Addr, protocol uint8, b []byte) uint16 {
	var s uint32
	if protocol != packetmodel.ICMP {
		s = sum(s, src.AsSlice())
		s = sum(s, dst.AsSlice())
		s += uint32(protocol) + uint32(len(b))
	}
	c := fold(sum(s, b))
	if c == 0 && protocol == packetmodel.UDP {
		c = 0xffff
	}
	return c
}

func sum(s uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// magic begins what the suite's packets carry.
var magic = []byte("LqPk")

// Token is a payload by which a packet is known again.
func Token(n uint32) []byte {
	b := make([]byte, 24) // the length of an ICMP timestamp's body at least
	copy(b, magic)
	binary.BigEndian.PutUint32(b[4:], n)
	return b
}

// TokenOf finds the token of a frame, however deep it lies: also in one that was wrapped to get by.
func TokenOf(frame []byte) (uint32, bool) {
	i := bytes.Index(frame, magic)
	if i < 0 || len(frame) < i+8 {
		return 0, false
	}
	return binary.BigEndian.Uint32(frame[i+4:]), true
}

package flow

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// field is a field of OpenFlow's extensible match: where it stands and how its values are written.
type field struct {
	class  uint16
	number uint8
	size   int
	kind   kind
}

// kind says how a field's values are written.
type kind uint8

const (
	number kind = iota // decimal or 0x..., with a mask after a slash; up to 16 bytes
	mac                // with a mask after a slash
	ip                 // with a prefix length after a slash
	state              // flags with + and -
)

// Classes of fields.
const (
	nxm0  = 0x0000
	nxm1  = 0x0001
	basic = 0x8000
)

// fields are those that the pipeline uses, by the names that ovs-ofctl has for them: of matches and of set_field, and, in capitals, of move.
var fields = map[string]field{
	"in_port": {basic, 0, 4, number}, "metadata": {basic, 2, 8, number}, "vlan_tci": {nxm0, 4, 2, number},
	"dl_dst": {basic, 3, 6, mac}, "dl_src": {basic, 4, 6, mac}, "eth_src": {basic, 4, 6, mac}, "eth_type": {basic, 5, 2, number}, "nw_proto": {basic, 10, 1, number},
	"nw_src": {basic, 11, 4, ip}, "nw_dst": {basic, 12, 4, ip}, "ipv6_src": {basic, 26, 16, ip}, "ipv6_dst": {basic, 27, 16, ip},
	"arp_op": {basic, 21, 2, number}, "arp_spa": {basic, 22, 4, ip}, "arp_tpa": {basic, 23, 4, ip}, "arp_sha": {basic, 24, 6, mac}, "arp_tha": {basic, 25, 6, mac},
	"nd_target": {basic, 31, 16, ip}, "nd_sll": {basic, 32, 6, mac}, "nd_tll": {basic, 33, 6, mac},
	"tcp_src": {basic, 13, 2, number}, "tcp_dst": {basic, 14, 2, number}, "udp_src": {basic, 15, 2, number}, "udp_dst": {basic, 16, 2, number},
	"sctp_src": {basic, 17, 2, number}, "sctp_dst": {basic, 18, 2, number}, "icmp_type": {basic, 19, 1, number}, "icmp_code": {basic, 20, 1, number},
	"icmp6_type": {basic, 29, 1, number}, "icmp6_code": {basic, 30, 1, number},
	"tun_dst": {nxm1, 32, 4, ip}, "tun_ipv6_dst": {nxm1, 110, 16, ip}, "conj_id": {nxm1, 37, 4, number},
	"ct_state": {nxm1, 105, 4, state}, "ct_nw_proto": {nxm1, 119, 1, number},

	"NXM_OF_ETH_DST": {nxm0, 1, 6, mac}, "NXM_OF_ETH_SRC": {nxm0, 2, 6, mac}, "NXM_OF_IP_PROTO": {nxm0, 6, 1, number}, "NXM_OF_IP_SRC": {nxm0, 7, 4, ip}, "NXM_OF_IP_DST": {nxm0, 8, 4, ip},
	"NXM_OF_TCP_DST": {nxm0, 10, 2, number}, "NXM_OF_UDP_DST": {nxm0, 12, 2, number}, "OXM_OF_SCTP_DST": {basic, 18, 2, number},
	"NXM_OF_ICMP_TYPE": {nxm0, 13, 1, number}, "NXM_OF_ICMP_CODE": {nxm0, 14, 1, number}, "NXM_NX_ICMPV6_TYPE": {nxm1, 21, 1, number}, "NXM_NX_ICMPV6_CODE": {nxm1, 22, 1, number},
	"NXM_OF_ARP_SPA": {nxm0, 16, 4, ip}, "NXM_OF_ARP_TPA": {nxm0, 17, 4, ip}, "NXM_NX_ARP_SHA": {nxm1, 17, 6, mac}, "NXM_NX_ARP_THA": {nxm1, 18, 6, mac},
	"NXM_NX_IPV6_SRC": {nxm1, 19, 16, ip}, "NXM_NX_IPV6_DST": {nxm1, 20, 16, ip}, "NXM_NX_CT_NW_SRC": {nxm1, 120, 4, ip}, "NXM_NX_CT_NW_DST": {nxm1, 121, 4, ip},
	"NXM_NX_CT_IPV6_SRC": {nxm1, 122, 16, ip}, "NXM_NX_CT_IPV6_DST": {nxm1, 123, 16, ip}, "NXM_NX_CT_TP_SRC": {nxm1, 124, 2, number}, "NXM_NX_CT_TP_DST": {nxm1, 125, 2, number},
}

func init() {
	for n := range uint8(16) {
		fields[fmt.Sprint("reg", n)] = field{nxm1, n, 4, number}
		fields[fmt.Sprint("NXM_NX_REG", n)] = field{nxm1, n, 4, number}
	}
	for n := range uint8(4) {
		fields[fmt.Sprint("xxreg", n)] = field{nxm1, 111 + n, 16, number}
		fields[fmt.Sprint("NXM_NX_XXREG", n)] = field{nxm1, 111 + n, 16, number}
	}
}

// header is a field's header, as it stands before values and in actions that name fields.
func (f field) header() uint32 { return uint32(f.class)<<16 | uint32(f.number)<<9 | uint32(f.size) } //nolint:gosec // small

// append appends a field with its value.
func (f field) append(b []byte, text string) ([]byte, error) {
	value, mask, err := f.value(text)
	if err != nil {
		return nil, fmt.Errorf("value %q: %w", text, err)
	}
	if mask == nil {
		return append(binary.BigEndian.AppendUint32(b, f.header()), value...), nil
	}
	for i := range value {
		value[i] &= mask[i]
	}
	b = binary.BigEndian.AppendUint32(b, f.header()+uint32(f.size)|1<<8) //nolint:gosec // small
	return append(append(b, value...), mask...), nil
}

// value reads a value, and its mask when there is one.
func (f field) value(text string) (value, mask []byte, err error) {
	if f.kind == state {
		return flags(text)
	}
	first, second, masked := strings.Cut(text, "/")
	one := func(s string) ([]byte, error) {
		switch f.kind {
		case mac:
			hw, err := net.ParseMAC(s)
			if err == nil && len(hw) != f.size {
				err = fmt.Errorf("%d bytes", len(hw))
			}
			return hw, err
		case ip:
			a, err := netip.ParseAddr(s)
			if err == nil && len(a.AsSlice()) != f.size {
				err = fmt.Errorf("an address of another family")
			}
			return a.AsSlice(), err
		}
		return digits(s, f.size)
	}
	if value, err = one(first); err != nil || !masked {
		return value, nil, err
	}
	if f.kind == ip {
		bits, err := strconv.ParseUint(second, 10, 8)
		if err != nil || int(bits) > 8*f.size {
			return nil, nil, fmt.Errorf("no prefix length")
		}
		return value, net.CIDRMask(int(bits), 8*f.size), nil
	}
	mask, err = one(second)
	return value, mask, err
}

// digits reads a number of some bytes.
func digits(s string, size int) ([]byte, error) {
	out := make([]byte, size)
	if h, ok := strings.CutPrefix(s, "0x"); ok && size > 8 {
		if len(h)%2 == 1 {
			h = "0" + h
		}
		raw, err := hex.DecodeString(h)
		if err != nil || len(raw) > size {
			return nil, fmt.Errorf("no number of %d bytes", size)
		}
		copy(out[size-len(raw):], raw)
		return out, nil
	}
	n, err := strconv.ParseUint(s, 0, min(64, 8*size))
	if err != nil {
		return nil, err
	}
	for i := size - 1; i >= 0; i-- {
		out[i] = byte(n)
		n >>= 8
	}
	return out, nil
}

// flags reads states of connections.
func flags(s string) (value, mask []byte, err error) {
	names := []string{"new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat"}
	var v, m uint32
	for s != "" {
		sign, rest := s[0], s[1:]
		end := strings.IndexAny(rest, "+-")
		if end < 0 {
			end = len(rest)
		}
		bit := uint32(0)
		for i, n := range names {
			if n == rest[:end] {
				bit = 1 << i
			}
		}
		if bit == 0 || sign != '+' && sign != '-' {
			return nil, nil, fmt.Errorf("no such state")
		}
		m |= bit
		if sign == '+' {
			v |= bit
		}
		s = rest[end:]
	}
	return binary.BigEndian.AppendUint32(nil, v), binary.BigEndian.AppendUint32(nil, m), nil
}

// protocol is what a word like "tcp6" stands for: a type of frames and, unless 0, a protocol of IP, and what its ports are called.
type protocol struct {
	etherType uint16
	number    uint8
	ports     string
}

var words = map[string]protocol{
	"ip": {0x0800, 0, ""}, "ipv6": {0x86dd, 0, ""}, "arp": {0x0806, 0, ""},
	"tcp": {0x0800, 6, "tcp"}, "udp": {0x0800, 17, "udp"}, "sctp": {0x0800, 132, "sctp"}, "icmp": {0x0800, 1, "icmp"},
	"tcp6": {0x86dd, 6, "tcp"}, "udp6": {0x86dd, 17, "udp"}, "sctp6": {0x86dd, 132, "sctp"}, "icmp6": {0x86dd, 58, "icmp6"},
}

// appendMatch appends a match as OpenFlow's messages have it.
func appendMatch(b []byte, text string) ([]byte, error) {
	start, ports := len(b), ""
	b = append(b, 0, 1, 0, 0)
	var err error
	for part := range strings.SplitSeq(text, ",") {
		if part == "" {
			continue
		}
		if p, ok := words[part]; ok {
			ports = p.ports
			b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint32(b, fields["eth_type"].header()), p.etherType)
			if p.number != 0 {
				b = append(binary.BigEndian.AppendUint32(b, fields["nw_proto"].header()), p.number)
			}
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		switch name {
		case "tp_src":
			name = ports + "_src"
		case "tp_dst":
			name = ports + "_dst"
		case "icmp_type", "icmp_code":
			name = ports + strings.TrimPrefix(name, "icmp")
		}
		f, ok := fields[name]
		if !ok {
			return nil, fmt.Errorf("match %q: field %q is unknown", text, name)
		}
		if b, err = f.append(b, value); err != nil {
			return nil, fmt.Errorf("match %q: %s: %w", text, name, err)
		}
	}
	binary.BigEndian.PutUint16(b[start+2:], uint16(len(b)-start)) //nolint:gosec // a match is small
	return pad(b, start), nil
}

// pad fills up to a multiple of eight bytes since start.
func pad(b []byte, start int) []byte {
	for (len(b)-start)%8 != 0 {
		b = append(b, 0)
	}
	return b
}

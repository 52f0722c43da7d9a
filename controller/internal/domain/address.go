package domain

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/big"
	"math/bits"
	"net/netip"

	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// maxCandidates bounds how many addresses of a range are tried: so many ports no network has, and IPv6 addresses stay short.
const maxCandidates = 1 << 24

type addressRange struct{ first, last netip.Addr }

// size is the number of addresses, at most limit.
func (r addressRange) size(limit uint64) uint64 {
	a, b := r.first.As16(), r.last.As16()
	n, borrow := bits.Sub64(binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(a[8:]), 0)
	high, _ := bits.Sub64(binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(a[:8]), borrow)
	if high > 0 || n >= limit {
		return limit
	}
	return n + 1
}

// Addresses is a subnet as addresses are given out of it. Its spec has been validated.
type Addresses struct {
	prefix   netip.Prefix
	gateway  netip.Addr // invalid = none
	ranges   []addressRange
	reserved map[netip.Addr]string // -> MAC address; "" = nobody's
	byMAC    map[string]netip.Addr
}

// AddressesOf are the subnets of a network, in the spec's order.
func AddressesOf(spec *networkv1.NetworkSpec) []*Addresses {
	out := make([]*Addresses, 0, len(spec.GetSubnets()))
	for _, s := range spec.GetSubnets() {
		p, err := netip.ParsePrefix(s.GetCidr())
		if err != nil {
			continue
		}
		a := &Addresses{prefix: p, reserved: map[netip.Addr]string{}, byMAC: map[string]netip.Addr{}}
		a.gateway, _ = netip.ParseAddr(Gateway(spec, s))
		for _, r := range s.GetRanges() {
			first, err1 := netip.ParseAddr(r.GetFirst())
			last, err2 := netip.ParseAddr(r.GetLast())
			if err1 == nil && err2 == nil {
				a.ranges = append(a.ranges, addressRange{first, last})
			}
		}
		if len(a.ranges) == 0 {
			a.ranges = []addressRange{{p.Addr(), lastOf(p)}}
		}
		for _, r := range s.GetReservations() {
			if ip, err := netip.ParseAddr(r.GetIpAddress()); err == nil {
				a.reserved[ip] = r.GetMac()
				if r.GetMac() != "" {
					a.byMAC[r.GetMac()] = ip
				}
			}
		}
		out = append(out, a)
	}
	return out
}

// Gateway is the gateway's address of a subnet in force; "" = none.
func Gateway(spec *networkv1.NetworkSpec, s *networkv1.Subnet) string {
	if s.GetGateway() != "" {
		return s.GetGateway()
	}
	p, err := netip.ParsePrefix(s.GetCidr())
	if e := spec.GetEgress(); err != nil || e != networkv1.EgressMode_EGRESS_MODE_NAT && e != networkv1.EgressMode_EGRESS_MODE_ROUTED {
		return ""
	}
	return p.Addr().Next().String()
}

// Prefix is the subnet's CIDR.
func (a *Addresses) Prefix() netip.Prefix { return a.prefix }

// Has reports whether an address lies in the subnet.
func (a *Addresses) Has(ip netip.Addr) bool { return a.prefix.Contains(ip) }

// kept says whose an address is that is given to no port; "" = nobody's.
func (a *Addresses) kept(ip netip.Addr) string {
	switch ip {
	case a.prefix.Addr():
		return "the subnet's own address"
	case a.gateway:
		return "the gateway's address"
	case broadcast(a.prefix):
		return "the broadcast address"
	}
	return ""
}

// Refuses says why a port with a MAC address cannot have an address that it asks for; "" = it can, unless another port holds it.
func (a *Addresses) Refuses(ip netip.Addr, mac string) string {
	if w := a.kept(ip); w != "" {
		return "is " + w
	}
	if owner := a.reserved[ip]; owner != "" && owner != mac {
		return "is reserved for MAC address " + owner
	}
	return ""
}

// Assign chooses an address for a port: what is reserved for its MAC address, else one at random of those that may be assigned and that nobody holds, so that those who
// ask at the same time seldom choose the same. ok is false when there is none left. random is below n.
func (a *Addresses) Assign(mac string, held func(netip.Addr) bool, random func(n uint64) uint64) (ip netip.Addr, ok bool) {
	if ip, mine := a.byMAC[mac]; mine && !held(ip) {
		return ip, true
	}
	var total uint64
	for _, r := range a.ranges {
		total += r.size(maxCandidates)
	}
	start := random(total)
	for i := range total {
		ip := a.candidate((start + i) % total)
		if _, reserved := a.reserved[ip]; !reserved && a.kept(ip) == "" && !held(ip) {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

func (a *Addresses) candidate(i uint64) netip.Addr {
	for _, r := range a.ranges {
		n := r.size(maxCandidates)
		if i < n {
			return plus(r.first, i)
		}
		i -= n
	}
	return netip.Addr{}
}

// Use counts the addresses of the subnet that are held, and those that can still be assigned: the greatest int64 when there are more.
func (a *Addresses) Use(held []string) (used, free int64) {
	left, one := new(big.Int), big.NewInt(1)
	inRanges := func(ip netip.Addr) bool {
		for _, r := range a.ranges {
			if !ip.Less(r.first) && !r.last.Less(ip) {
				return true
			}
		}
		return false
	}
	for _, r := range a.ranges {
		left.Add(left, new(big.Int).Sub(number(r.last), number(r.first)))
		left.Add(left, one)
	}
	out := map[netip.Addr]bool{}
	for _, ip := range []netip.Addr{a.prefix.Addr(), a.gateway, broadcast(a.prefix)} {
		out[ip] = ip.IsValid()
	}
	for ip := range a.reserved {
		out[ip] = true
	}
	for _, s := range held {
		if ip, err := netip.ParseAddr(s); err == nil && a.Has(ip) {
			used++
			out[ip] = true
		}
	}
	for ip, is := range out {
		if is && inRanges(ip) {
			left.Sub(left, one)
		}
	}
	if !left.IsInt64() {
		return used, math.MaxInt64
	}
	return used, max(0, left.Int64())
}

func number(ip netip.Addr) *big.Int { return new(big.Int).SetBytes(ip.AsSlice()) }

// plus is the address n after ip, within its family.
func plus(ip netip.Addr, n uint64) netip.Addr {
	b := ip.As16()
	low := binary.BigEndian.Uint64(b[8:])
	binary.BigEndian.PutUint64(b[8:], low+n)
	if low+n < low {
		binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])+1)
	}
	out := netip.AddrFrom16(b)
	if ip.Is4() {
		return out.Unmap()
	}
	return out
}

// broadcast is the broadcast address of an IPv4 subnet; invalid for IPv6, which has none.
func broadcast(p netip.Prefix) netip.Addr {
	if !p.Addr().Is4() {
		return netip.Addr{}
	}
	return lastOf(p)
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	out, _ := netip.AddrFromSlice(b)
	return out
}

const (
	defaultRanges    = "10.64.0.0/10"
	defaultRangeBits = 22
)

// FreeDefaultRange is the first /22 of 10.64.0.0/10 that overlaps none of the CIDRs; ok is false when there is none.
func FreeDefaultRange(taken []string) (cidr string, ok bool) {
	all := netip.MustParsePrefix(defaultRanges)
	step := uint64(1) << (32 - defaultRangeBits)
	busy := map[netip.Addr]bool{} // beginnings of /22s
	var wide []netip.Prefix
	for _, s := range taken {
		p, err := netip.ParsePrefix(s)
		switch {
		case err != nil || !p.Overlaps(all):
		case p.Bits() >= defaultRangeBits:
			busy[netip.PrefixFrom(p.Addr(), defaultRangeBits).Masked().Addr()] = true
		default:
			wide = append(wide, p)
		}
	}
	for a := all.Addr(); all.Contains(a); a = plus(a, step) {
		free := !busy[a]
		for _, w := range wide {
			free = free && !w.Contains(a)
		}
		if free {
			return fmt.Sprintf("%s/%d", a, defaultRangeBits), true
		}
	}
	return "", false
}

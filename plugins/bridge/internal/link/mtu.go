package link

import (
	"net/netip"

	"github.com/vishvananda/netlink"
)

// MTUTowards is the MTU of the device that has an address of this node; standard when there is none.
func MTUTowards(local netip.Addr, standard int) int {
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return standard
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.Unmap() == local {
			if l, err := netlink.LinkByIndex(a.LinkIndex); err == nil && l.Attrs().MTU < 65536 {
				return l.Attrs().MTU
			}
		}
	}
	return standard
}

package link

import (
	"net"

	"github.com/vishvananda/netlink"
)

// Try finds out by making them, and removing them at once, which kinds of device this kernel has.
func Try(bridge string) (vxlan, vlan, limits bool) {
	try := func(l netlink.Link) bool {
		if netlink.LinkAdd(l) != nil {
			return false
		}
		return netlink.LinkDel(l) == nil
	}
	vxlan = try(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "lqvprobe"}, VxlanId: 1, SrcAddr: net.IPv4(127, 0, 0, 1), Port: 4789})
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}}
	if netlink.LinkAdd(br) != nil {
		return vxlan, false, false
	}
	defer func() { _ = netlink.LinkDel(br) }()
	if l, err := find(bridge); err == nil && l != nil {
		vlan = try(&netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "lqqprobe", ParentIndex: l.Attrs().Index}, VlanId: 1, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q})
		limits = Shape(bridge, "lqiprobe", Limits{In: 1e6, Out: 1e6}) == nil
		_ = Unshape(bridge, "lqiprobe")
	}
	return vxlan, vlan, limits
}

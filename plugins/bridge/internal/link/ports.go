package link

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ports are the bridge's ports of ours: uplink and tunnel.
func (n *Network) ports(br netlink.Link) (steps []Step, err error) {
	if n.Uplink != "" {
		if steps, err = n.uplink(br); err != nil {
			return nil, err
		}
	}
	if n.VXLAN == nil {
		return steps, nil
	}
	t, err := find(n.Tunnel)
	if err != nil {
		return nil, err
	}
	if t == nil {
		return append(steps, Step{"tunnel " + n.Tunnel + " missing", func() error {
			return netlink.LinkAdd(&netlink.Vxlan{
				LinkAttrs: netlink.LinkAttrs{Name: n.Tunnel, MTU: n.MTU, TxQLen: -1},
				VxlanId:   n.VXLAN.VNI, SrcAddr: n.VXLAN.Local.AsSlice(), Port: n.VXLAN.Port, Learning: false,
			})
		}}), nil
	}
	a := t.Attrs()
	if v, ok := t.(*netlink.Vxlan); !ok || v.VxlanId != n.VXLAN.VNI || v.Port != n.VXLAN.Port || !v.SrcAddr.Equal(n.VXLAN.Local.AsSlice()) || v.Learning {
		return append(steps, Step{"tunnel " + n.Tunnel + " differs", func() error { return netlink.LinkDel(t) }}), nil
	}
	if a.MTU != n.MTU {
		steps = append(steps, Step{fmt.Sprintf("MTU of %s is %d", n.Tunnel, a.MTU), func() error { return netlink.LinkSetMTU(t, n.MTU) }})
	}
	if a.MasterIndex != br.Attrs().Index {
		return append(steps, Step{"tunnel " + n.Tunnel + " is not in " + n.Bridge, func() error { return netlink.LinkSetMaster(t, br) }}), nil
	}
	if p, err := netlink.LinkGetProtinfo(t); err != nil || p.Learning || p.Flood || !p.NeighSuppress {
		steps = append(steps, Step{"port " + n.Tunnel + " learns or floods", func() error {
			for _, set := range []func() error{
				func() error { return netlink.LinkSetLearning(t, false) },
				func() error { return netlink.LinkSetFlood(t, false) },
				func() error { return netlink.LinkSetBrNeighSuppress(t, true) },
			} {
				if err := set(); err != nil {
					return err
				}
			}
			return nil
		}})
	}
	if a.Flags&net.FlagUp == 0 {
		steps = append(steps, Step{"tunnel " + n.Tunnel + " is down", func() error { return netlink.LinkSetUp(t) }})
	}
	entries, err := n.entries(br, t)
	return append(steps, entries...), err
}

// entry is one of the kernel's neighbours: a MAC address behind a tunnel end or a port, or an IP address's MAC address.
type entry struct{ mac, to string }

// entries are where the interfaces on other nodes are: in the tunnel's table and the bridge's, and, so that their addresses are answered for here, as neighbours.
func (n *Network) entries(br, t netlink.Link) (steps []Step, err error) {
	want := map[entry]*netlink.Neigh{}
	everybody := make(net.HardwareAddr, 6)
	self := func(mac net.HardwareAddr, peer netip.Addr) {
		want[entry{"tunnel " + mac.String(), peer.String()}] = &netlink.Neigh{
			LinkIndex: t.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT, HardwareAddr: mac, IP: peer.AsSlice(),
		}
	}
	for _, p := range n.VXLAN.Peers {
		self(everybody, p)
	}
	for _, r := range n.VXLAN.FDB {
		self(r.MAC, r.Peer)
		want[entry{"port " + r.MAC.String(), ""}] = &netlink.Neigh{
			LinkIndex: t.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER, State: netlink.NUD_NOARP, HardwareAddr: r.MAC,
		}
		for _, a := range r.Addresses {
			want[entry{r.MAC.String(), a.String()}] = &netlink.Neigh{
				LinkIndex: br.Attrs().Index, Family: family(a), State: netlink.NUD_PERMANENT, HardwareAddr: r.MAC, IP: a.AsSlice(),
			}
		}
	}
	have, err := netlink.NeighList(t.Attrs().Index, unix.AF_BRIDGE)
	if err != nil {
		return nil, err
	}
	neighbours, err := netlink.NeighList(br.Attrs().Index, netlink.FAMILY_ALL)
	if err != nil {
		return nil, err
	}
	found := map[entry]bool{}
	for _, h := range append(have, neighbours...) {
		var k entry
		a, _ := netip.AddrFromSlice(h.IP)
		switch {
		case h.LinkIndex == br.Attrs().Index && h.State&netlink.NUD_PERMANENT != 0 && (h.Family == unix.AF_INET || h.Family == unix.AF_INET6):
			k = entry{h.HardwareAddr.String(), a.Unmap().String()}
		case h.LinkIndex != t.Attrs().Index:
			continue
		case h.MasterIndex != 0 || h.Flags&netlink.NTF_MASTER != 0:
			if bytes.Equal(h.HardwareAddr, t.Attrs().HardwareAddr) || h.State&netlink.NUD_PERMANENT != 0 {
				continue // the port's own
			}
			k = entry{"port " + h.HardwareAddr.String(), ""}
		default:
			k = entry{"tunnel " + h.HardwareAddr.String(), a.Unmap().String()}
		}
		if _, wanted := want[k]; wanted {
			found[k] = true
			continue
		}
		steps = append(steps, Step{fmt.Sprintf("entry %s %s is nobody's", k.mac, k.to), func() error {
			if k.mac[0] == 'p' {
				h.Flags, h.IP = netlink.NTF_MASTER, nil
			}
			return netlink.NeighDel(&h)
		}})
	}
	for k, w := range want {
		if !found[k] {
			steps = append(steps, Step{fmt.Sprintf("entry %s %s missing", k.mac, k.to), func() error {
				if w.Flags == netlink.NTF_SELF && bytes.Equal(w.HardwareAddr, everybody) {
					return netlink.NeighAppend(w)
				}
				return netlink.NeighSet(w)
			}})
		}
	}
	return steps, nil
}

package link

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
)

// uplink is the bridge's port to the outside: a device of the operator's, or, for a VLAN, a device of ours on it.
func (n *Network) uplink(br netlink.Link) (steps []Step, err error) {
	up, err := find(n.Uplink)
	if err != nil {
		return nil, err
	}
	if up == nil {
		return []Step{{"uplink " + n.Uplink + " missing", func() error { return fmt.Errorf("uplink %s is not on this node", n.Uplink) }}}, nil
	}
	port := up
	if n.VLAN > 0 {
		if port, err = find(n.Tagged); err != nil {
			return nil, err
		}
		if port == nil {
			return []Step{{"VLAN device " + n.Tagged + " missing", func() error { return n.addTagged(up) }}}, nil
		}
		if v, ok := port.(*netlink.Vlan); !ok || v.VlanId != n.VLAN || v.ParentIndex != up.Attrs().Index || v.VlanProtocol != netlink.VLAN_PROTOCOL_8021Q {
			return []Step{{"VLAN device " + n.Tagged + " differs", func() error { return netlink.LinkDel(port) }}}, nil
		}
		if m := port.Attrs().MTU; m != n.MTU {
			steps = append(steps, Step{fmt.Sprintf("MTU of %s is %d", n.Tagged, m), func() error { return n.fits(up, netlink.LinkSetMTU(port, n.MTU)) }})
		}
	}
	if master := port.Attrs().MasterIndex; master != br.Attrs().Index {
		name := port.Attrs().Name
		steps = append(steps, Step{"uplink " + name + " is not in " + n.Bridge, func() error {
			if master != 0 {
				return fmt.Errorf("uplink %s is in another bridge", name)
			}
			return netlink.LinkSetMaster(port, br)
		}})
	}
	for _, l := range []netlink.Link{up, port} {
		if l.Attrs().Flags&net.FlagUp == 0 {
			steps = append(steps, Step{"uplink " + l.Attrs().Name + " is down", func() error { return netlink.LinkSetUp(l) }})
		}
	}
	return steps, nil
}

func (n *Network) addTagged(up netlink.Link) error {
	return n.fits(up, netlink.LinkAdd(&netlink.Vlan{
		LinkAttrs: netlink.LinkAttrs{Name: n.Tagged, ParentIndex: up.Attrs().Index, MTU: n.MTU, TxQLen: -1}, VlanId: n.VLAN, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q,
	}))
}

// fits explains why a VLAN's device cannot be as asked for.
func (n *Network) fits(up netlink.Link, err error) error {
	if m := up.Attrs().MTU; err != nil && m < n.MTU {
		return fmt.Errorf("an MTU of %d is more than the %d of uplink %s: %w", n.MTU, m, n.Uplink, err)
	}
	return err
}

// Package link keeps the devices, addresses, routes and forwarding entries of networks. A network is compared with what the kernel has, and what differs becomes steps:
// to ensure it is to take them, to check it is to read them.
package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Network is what the kernel shall have of a network.
type Network struct {
	Bridge   string
	Tunnel   string // VXLAN device; with VXLAN only
	Alias    string // the mark
	Number   uint32 // of its routing table
	Mark     uint32 // of its packets
	Mask     uint32
	UID      uint32 // whose packets belong to the network
	MTU      int
	MAC      net.HardwareAddr
	Gateways []netip.Prefix // addresses of the node
	CIDRs    []netip.Prefix // of the network
	Routed   bool           // its addresses are known outside
	Isolated bool           // the node forwards nothing from it
	Uplink   string
	VLAN     int    // tag on the uplink; 0 = none
	Tagged   string // VLAN device; with a VLAN only
	VXLAN    *VXLAN
}

// VXLAN is a tunnel's end, the others, and who is behind them.
type VXLAN struct {
	VNI   int
	Local netip.Addr
	Port  int
	Peers []netip.Addr
	FDB   []Remote
}

// Remote is an interface on another node.
type Remote struct {
	MAC       net.HardwareAddr
	Addresses []netip.Addr
	Peer      netip.Addr
}

// Step is one difference, and how to put it right.
type Step struct {
	Detail string
	do     func() error
}

// Ensure brings the kernel to n.
func (n *Network) Ensure() error {
	for range 16 { // a step makes room for the next: a device, its port, its entries
		steps, err := n.Steps()
		if err != nil {
			return err
		}
		if len(steps) == 0 {
			return nil
		}
		for _, s := range steps {
			if err := s.do(); err != nil {
				return fmt.Errorf("%s: %w", s.Detail, err)
			}
		}
	}
	steps, err := n.Steps()
	if err == nil && len(steps) > 0 {
		err = fmt.Errorf("%s, and stays so", steps[0].Detail)
	}
	return err
}

// Steps are the differences between the kernel and n. What depends on a device that is missing follows once it is there.
func (n *Network) Steps() (steps []Step, err error) {
	add := func(detail string, do func() error) { steps = append(steps, Step{detail, do}) }
	br, err := find(n.Bridge)
	if err != nil {
		return nil, err
	}
	if br == nil {
		off := false
		add("bridge "+n.Bridge+" missing", func() error {
			return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: n.Bridge, HardwareAddr: n.MAC, MTU: n.MTU, TxQLen: -1}, MulticastSnooping: &off})
		})
		return steps, nil
	}
	a := br.Attrs()
	if a.Alias != n.Alias {
		add("mark of bridge "+n.Bridge+" differs", func() error { return netlink.LinkSetAlias(br, n.Alias) })
	}
	if a.MTU != n.MTU {
		add(fmt.Sprintf("MTU of %s is %d", n.Bridge, a.MTU), func() error { return netlink.LinkSetMTU(br, n.MTU) })
	}
	if n.MAC.String() != a.HardwareAddr.String() {
		add("address of bridge "+n.Bridge+" differs", func() error { return netlink.LinkSetHardwareAddr(br, n.MAC) })
	}
	steps = append(steps, n.sysctls()...)
	if a.Flags&net.FlagUp == 0 {
		add("bridge "+n.Bridge+" is down", func() error { return netlink.LinkSetUp(br) })
	}
	for _, part := range []func(netlink.Link) ([]Step, error){n.addresses, n.routes, n.rules, n.ports} {
		if len(steps) > 0 {
			return steps, nil // they need the device as it shall be
		}
		s, err := part(br)
		if err != nil {
			return nil, err
		}
		steps = append(steps, s...)
	}
	return steps, nil
}

// Missing reports whether the bridge is not there.
func (n *Network) Missing() bool {
	br, err := find(n.Bridge)
	return err == nil && br == nil
}

// Rejoin puts a device back into the bridge that it lost with the bridge before. One that is not there, or in another bridge, is left alone.
func (n *Network) Rejoin(tap string) error {
	dev, err := find(tap)
	if err != nil || dev == nil || dev.Attrs().MasterIndex != 0 {
		return err
	}
	br, err := find(n.Bridge)
	if err != nil || br == nil {
		return err
	}
	return netlink.LinkSetMaster(dev, br)
}

// find is a device, or nil.
func find(name string) (netlink.Link, error) {
	l, err := netlink.LinkByName(name)
	var absent netlink.LinkNotFoundError
	if errors.As(err, &absent) {
		return nil, nil //nolint:nilnil // absent is an answer
	}
	return l, err
}

// sysctls of the bridge: its addresses may be another network's too, so that only marked packets lead back to it.
func (n *Network) sysctls() (steps []Step) {
	want := [][2]string{
		{"net/ipv4/conf/" + n.Bridge + "/rp_filter", "0"},
		{"net/ipv4/conf/" + n.Bridge + "/src_valid_mark", "1"},
		{"net/ipv4/conf/" + n.Bridge + "/send_redirects", "0"},
	}
	v6 := "1"
	for _, g := range n.Gateways {
		if g.Addr().Is6() {
			v6 = "0"
		}
	}
	want = append(want, [2]string{"net/ipv6/conf/" + n.Bridge + "/disable_ipv6", v6}, [2]string{"net/ipv6/conf/" + n.Bridge + "/accept_ra", "0"})
	if len(n.Gateways) > 0 {
		want = append(want, [2]string{"net/ipv4/fwmark_reflect", "1"}, [2]string{"net/ipv6/fwmark_reflect", "1"})
	}
	if !n.Isolated {
		want = append(want, [2]string{"net/ipv4/ip_forward", "1"})
		if v6 == "0" {
			want = append(want, [2]string{"net/ipv6/conf/all/forwarding", "1"})
		}
	}
	for _, w := range want {
		path := "/proc/sys/" + w[0]
		b, err := os.ReadFile(path)
		if err != nil || strings.TrimSpace(string(b)) == w[1] {
			continue // a kernel without IPv6 has none of its settings
		}
		steps = append(steps, Step{w[0] + " is " + strings.TrimSpace(string(b)), func() error { return os.WriteFile(path, []byte(w[1]), 0o644) }}) //nolint:gosec // a setting, not a file
	}
	return steps
}

func (n *Network) addresses(br netlink.Link) (steps []Step, err error) {
	have, err := netlink.AddrList(br, netlink.FAMILY_ALL)
	if err != nil {
		return nil, err
	}
	want := map[string]bool{}
	for _, g := range n.Gateways {
		want[g.String()] = true
	}
	for _, a := range have {
		if a.IP.IsLinkLocalUnicast() && a.IP.To4() == nil {
			continue // the kernel's own
		}
		if p := a.IPNet.String(); !want[p] {
			steps = append(steps, Step{"address " + p + " on " + n.Bridge + " is nobody's", func() error { return netlink.AddrDel(br, &a) }})
		} else {
			delete(want, p)
		}
	}
	for _, g := range n.Gateways {
		if want[g.String()] {
			flags := unix.IFA_F_NOPREFIXROUTE
			if g.Addr().Is6() {
				flags |= unix.IFA_F_NODAD
			}
			steps = append(steps, Step{"address " + g.String() + " missing on " + n.Bridge, func() error {
				return netlink.AddrAdd(br, &netlink.Addr{IPNet: ipnet(g), Flags: flags})
			}})
		}
	}
	return steps, nil
}

func ipnet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Delete removes all that Ensure made. It is repeatable.
func (n *Network) Delete() error {
	var errs []error
	if n.Uplink != "" && n.VLAN == 0 {
		up, err := find(n.Uplink)
		br, err2 := find(n.Bridge)
		if err == nil && err2 == nil && up != nil && br != nil && up.Attrs().MasterIndex == br.Attrs().Index {
			errs = append(errs, netlink.LinkSetNoMaster(up))
		}
	}
	none := &Network{Bridge: n.Bridge, Number: n.Number}
	for range 4 {
		steps, err := none.rules(nil)
		errs = append(errs, err)
		for _, s := range steps {
			errs = append(errs, s.do())
		}
		if len(steps) == 0 {
			break
		}
	}
	for _, name := range []string{n.Tunnel, n.Tagged, n.Bridge} {
		if l, err := find(name); name != "" && err == nil && l != nil {
			errs = append(errs, netlink.LinkDel(l))
		}
	}
	return errors.Join(errs...)
}

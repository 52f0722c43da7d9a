package link

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Limits of an interface, seen from the guest: bits per second, 0 = none.
type Limits struct{ In, Out, Burst int64 }

// Find is a device, or nil when it is not there.
func Find(name string) (netlink.Link, error) { return find(name) }

const latencyMicroseconds = 50_000

// Shape sets the limits of a device. To the guest, its own queue is shaped; from the guest, what comes in is led to a device of its own and shaped there. A device that is not there
// is no error: it is shaped when it appears.
func Shape(tap, shaper string, l Limits) error {
	dev, err := find(tap)
	if err != nil || dev == nil {
		return err
	}
	if err := queue(dev, l.In, l.Burst); err != nil {
		return fmt.Errorf("%s: %w", tap, err)
	}
	if l.Out == 0 {
		return Unredirect(dev, shaper)
	}
	ifb, err := find(shaper)
	if err != nil {
		return err
	}
	if ifb == nil {
		if err := netlink.LinkAdd(&netlink.Ifb{LinkAttrs: netlink.LinkAttrs{Name: shaper, MTU: dev.Attrs().MTU, TxQLen: 100}}); err != nil {
			return fmt.Errorf("%s: %w", shaper, err)
		}
		if ifb, err = find(shaper); err != nil || ifb == nil {
			return errors.Join(err, fmt.Errorf("%s is not there", shaper))
		}
	}
	if ifb.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(ifb); err != nil {
			return err
		}
	}
	if err := queue(ifb, l.Out, l.Burst); err != nil {
		return err
	}
	return redirect(dev, ifb)
}

// queue makes a token bucket a device's queue, or takes ours away.
func queue(dev netlink.Link, bits, burst int64) error {
	have, err := netlink.QdiscList(dev)
	if err != nil {
		return err
	}
	for _, q := range have {
		tbf, ours := q.(*netlink.Tbf)
		if !ours || q.Attrs().Parent != netlink.HANDLE_ROOT || q.Attrs().Handle != netlink.MakeHandle(0x6c71, 0) {
			continue
		}
		if bits == 0 {
			return netlink.QdiscDel(tbf)
		}
	}
	if bits == 0 {
		return nil
	}
	rate := uint64(bits) / 8
	if burst == 0 {
		burst = max(32<<10, int64(rate/100)) // ten milliseconds
	}
	return netlink.QdiscReplace(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: dev.Attrs().Index, Handle: netlink.MakeHandle(0x6c71, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       rate, Buffer: buffer(rate, uint32(burst)), Limit: uint32(rate*latencyMicroseconds/1_000_000) + uint32(burst),
	})
}

// buffer is a burst in the kernel's ticks.
func buffer(rate uint64, burst uint32) uint32 { return netlink.Xmittime(max(rate, 1), burst) }

func redirect(dev, ifb netlink.Link) error {
	index := dev.Attrs().Index
	in := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS}}
	if err := netlink.QdiscAdd(in); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("ingress of %s: %w", dev.Attrs().Name, err)
	}
	filters, err := netlink.FilterList(dev, netlink.MakeHandle(0xffff, 0))
	if err != nil {
		return err
	}
	if len(filters) > 0 {
		return nil
	}
	return netlink.FilterAdd(&netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.MakeHandle(0xffff, 0), Priority: 1, Protocol: unix.ETH_P_ALL},
		Sel:         &netlink.TcU32Sel{Flags: netlink.TC_U32_TERMINAL, Nkeys: 1, Keys: []netlink.TcU32Key{{}}},
		Actions:     []netlink.Action{netlink.NewMirredAction(ifb.Attrs().Index)},
	})
}

// Unredirect takes away the limits on what comes from a guest.
func Unredirect(dev netlink.Link, shaper string) error {
	ifb, err := find(shaper)
	if err != nil || ifb == nil {
		return err
	}
	if dev != nil {
		in := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: dev.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS}}
		if err := netlink.QdiscDel(in); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	return netlink.LinkDel(ifb)
}

// Unshape takes away all limits of a device, there or not.
func Unshape(tap, shaper string) error {
	dev, err := find(tap)
	if err != nil {
		return err
	}
	if dev != nil {
		if err := queue(dev, 0, 0); err != nil {
			return err
		}
	}
	return Unredirect(dev, shaper)
}

package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// queueLength of a tap: a reader that the machine holds up for a while loses nothing.
const queueLength = 20000

// OVS says how the Open vSwitch of bindings of kind OVS_PORT is reached.
type OVS struct {
	// Database as ovs-vsctl's --db wants it, for example "unix:/run/openvswitch/db.sock"; empty = its default.
	Database string
	// Placed, when not nil, is called when the switch has a guest's device, before the device goes up. Where the switch takes packets with a short queue, what comes while the machine
	// holds it up is lost whatever the driver does: here a test can make that queue longer.
	Placed func(device string) error
}

// Plug makes the tap that a binding asks for and puts it where the binding says, in a hypervisor's order: the tap comes first, then it gets its place, then it goes up.
func (g *Guest) Plug(ctx context.Context, b *driverv1.InterfaceBinding, o OVS) error {
	switch x := b.GetBinding().(type) {
	case *driverv1.InterfaceBinding_BridgePort:
		return g.plug(x.BridgePort.GetTapName(), x.BridgePort.GetMtu(), func(tap netlink.Link) (func() error, error) {
			bridge, err := netlink.LinkByName(x.BridgePort.GetBridge())
			if err != nil {
				return nil, fmt.Errorf("bridge %s: %w", x.BridgePort.GetBridge(), err)
			}
			return nil, netlink.LinkSetMaster(tap, bridge)
		})
	case *driverv1.InterfaceBinding_OvsPort:
		p := x.OvsPort
		return g.plug(p.GetTapName(), p.GetMtu(), func(netlink.Link) (func() error, error) {
			undo := func() error { // no context: it is undone also when that of plugging has ended
				return vsctl(context.Background(), o, "--if-exists", "del-port", p.GetBridge(), p.GetTapName())
			}
			err := vsctl(ctx, o, "--may-exist", "add-port", p.GetBridge(), p.GetTapName(), "--", "set", "Interface", p.GetTapName(),
				"external_ids:iface-id="+p.GetInterfaceId(), "external_ids:attached-mac="+fmt.Sprintf("%q", g.MAC), "external_ids:iface-status=active")
			if err == nil && o.Placed != nil {
				err = o.Placed(p.GetTapName())
			}
			return undo, err
		})
	case *driverv1.InterfaceBinding_Tap:
		return g.plug(x.Tap.GetTapName(), 0, func(netlink.Link) (func() error, error) { return nil, nil })
	}
	return fmt.Errorf("a binding that nothing can be plugged into: %v", b)
}

// PlugBridge plugs the guest into a bridge that no driver knows of.
func (g *Guest) PlugBridge(bridge, tap string) error {
	return g.Plug(context.Background(), &driverv1.InterfaceBinding{Binding: &driverv1.InterfaceBinding_BridgePort{
		BridgePort: &driverv1.BridgePortBinding{Bridge: bridge, TapName: tap},
	}}, OVS{})
}

func (g *Guest) plug(name string, mtu uint32, place func(netlink.Link) (func() error, error)) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.device != "" {
		return fmt.Errorf("guest %s is plugged in already", g.Name)
	}
	f, err := openTap(name)
	if err != nil {
		return err
	}
	g.tap.Store(f)
	g.reader.Go(func() { g.read(f) })
	undo, err := g.raise(name, mtu, place)
	g.detach, g.device = undo, name
	if err != nil {
		return errors.Join(fmt.Errorf("plug %s: %w", name, err), g.unplug())
	}
	return nil
}

// raise brings the tap up. Frames are read, and may be sent, from before it is.
func (g *Guest) raise(name string, mtu uint32, place func(netlink.Link) (func() error, error)) (undo func() error, err error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, err
	}
	outside := append(net.HardwareAddr{0xfe}, g.MAC[1:]...) // as libvirt does: never the lowest, which a bridge would take for its own
	if err := netlink.LinkSetHardwareAddr(link, outside); err != nil {
		return nil, err
	}
	if err := netlink.LinkSetTxQLen(link, queueLength); err != nil {
		return nil, err
	}
	if mtu != 0 {
		if err := netlink.LinkSetMTU(link, int(mtu)); err != nil {
			return nil, err
		}
	}
	if undo, err = place(link); err != nil {
		return undo, err
	}
	return undo, netlink.LinkSetUp(link)
}

// Unplug takes the tap away, as a hypervisor does when its guest ends.
func (g *Guest) Unplug() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.unplug()
}

func (g *Guest) unplug() error {
	if g.device == "" {
		return nil
	}
	var errs []error
	if g.detach != nil {
		errs = append(errs, g.detach())
	}
	f := g.tap.Swap(nil)
	errs = append(errs, f.Close())
	g.reader.Wait()
	g.detach, g.device = nil, ""
	return errors.Join(errs...)
}

// openTap makes a tap, or opens the one that is there.
func openTap(name string) (*os.File, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return nil, fmt.Errorf("tap %q: %w", name, err)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("tap %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun"), nil
}

func vsctl(ctx context.Context, o OVS, args ...string) error {
	argv := []string{"--timeout=30"}
	if o.Database != "" {
		argv = append(argv, "--db="+o.Database)
	}
	if out, err := exec.CommandContext(ctx, "ovs-vsctl", append(argv, args...)...).CombinedOutput(); err != nil { //nolint:gosec // names of a driver under check
		return fmt.Errorf("ovs-vsctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

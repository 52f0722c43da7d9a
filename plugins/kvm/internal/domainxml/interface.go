package domainxml

import (
	"fmt"

	"libvirt.org/go/libvirtxml"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

const (
	// UserNetworksMost is how many user-mode networks a domain can have.
	UserNetworksMost = 8
	// QueuesMost is how many queues an interface can have.
	QueuesMost = 16
)

// userSlot is the slot on the root bus of the first user-mode interface. libvirt, which does not know of them, fills the bus from below, and the chipset sits at its end.
const userSlot = 0x10

const errBinding = sourceError("this driver takes user-mode, bridge, Open vSwitch and tap bindings")

func interfaces(d *libvirtxml.Domain, list []*driverv1.DomainInterface, machine string) error {
	for i, n := range list {
		if u := n.GetBinding().GetUserMode(); u != nil {
			userMode(d, n, u, machine)
			continue
		}
		x, err := Interface(n)
		if err != nil {
			return fault.Invalid(fault.Violation{Field: fmt.Sprintf("spec.interfaces[%d].binding", i), Description: err.Error()})
		}
		d.Devices.Interfaces = append(d.Devices.Interfaces, *x)
	}
	return nil
}

// Interface makes the element of one interface; not of a user-mode one.
func Interface(n *driverv1.DomainInterface) (*libvirtxml.DomainInterface, error) {
	x := &libvirtxml.DomainInterface{
		MAC: &libvirtxml.DomainInterfaceMAC{Address: n.GetMac()}, Model: &libvirtxml.DomainInterfaceModel{Type: firstOf(n.GetModel(), virtio)},
		Alias: &libvirtxml.DomainAlias{Name: Alias(n.GetInterfaceId())}, ROM: &libvirtxml.DomainROM{Enabled: "no"},
	}
	switch b := n.GetBinding().GetBinding().(type) {
	case *driverv1.InterfaceBinding_BridgePort:
		bridgePort(x, b.BridgePort.GetBridge(), b.BridgePort.GetTapName(), b.BridgePort.GetMtu())
	case *driverv1.InterfaceBinding_OvsPort:
		bridgePort(x, b.OvsPort.GetBridge(), b.OvsPort.GetTapName(), b.OvsPort.GetMtu())
		x.VirtualPort = &libvirtxml.DomainInterfaceVirtualPort{Params: &libvirtxml.DomainInterfaceVirtualPortParams{
			OpenVSwitch: &libvirtxml.DomainInterfaceVirtualPortParamsOpenVSwitch{InterfaceID: b.OvsPort.GetInterfaceId()},
		}}
		if b.OvsPort.GetOffloadsOff() && x.Model.Type == virtio { // QEMU does what another model offloads by itself
			x.Driver = offloadsOff()
		}
	case *driverv1.InterfaceBinding_Tap:
		// Not managed: libvirt neither makes the device, nor gives it an address, nor deletes it with the domain.
		x.Source = &libvirtxml.DomainInterfaceSource{Ethernet: &libvirtxml.DomainInterfaceSourceEthernet{}}
		x.Target = &libvirtxml.DomainInterfaceTarget{Dev: b.Tap.GetTapName(), Managed: "no"}
	default:
		return nil, errBinding
	}
	if q := n.GetQueues(); q > 1 {
		// No name of a driver: libvirt takes vhost where the node has it, QEMU itself elsewhere.
		if x.Driver == nil {
			x.Driver = &libvirtxml.DomainInterfaceDriver{}
		}
		x.Driver.Queues = uint(q)
	}
	if n.GetLinkDown() {
		x.Link = &libvirtxml.DomainInterfaceLink{State: "down"}
	}
	return x, nil
}

const virtio = "virtio"

// bridgePort plugs an interface into a bridge of either kind, by a tap that libvirt makes.
func bridgePort(x *libvirtxml.DomainInterface, bridge, tap string, mtu uint32) {
	x.Source = &libvirtxml.DomainInterfaceSource{Bridge: &libvirtxml.DomainInterfaceSourceBridge{Bridge: bridge}}
	x.Target = &libvirtxml.DomainInterfaceTarget{Dev: tap}
	if mtu > 0 {
		x.MTU = &libvirtxml.DomainInterfaceMTU{Size: uint(mtu)}
	}
}

// offloadsOff has guest and tap send whole packets with whole checksums: the userspace datapath of Open vSwitch passes others on as they are, and receivers drop them.
func offloadsOff() *libvirtxml.DomainInterfaceDriver {
	const off = "off"
	return &libvirtxml.DomainInterfaceDriver{
		Host:  &libvirtxml.DomainInterfaceDriverHost{CSum: off, GSO: off, TSO4: off, TSO6: off, ECN: off, UFO: off},
		Guest: &libvirtxml.DomainInterfaceDriverGuest{CSum: off, TSO4: off, TSO6: off, ECN: off, UFO: off},
	}
}

// userMode adds a user-mode network as QEMU arguments: libvirt 9's own takes no port forwards without passt. All that goes into the arguments was checked to hold no comma.
func userMode(d *libvirtxml.Domain, n *driverv1.DomainInterface, u *driverv1.UserModeBinding, machine string) {
	if d.QEMUCommandline == nil {
		d.QEMUCommandline = &libvirtxml.DomainQEMUCommandline{}
	}
	i := len(d.QEMUCommandline.Args) / 4
	netdev := fmt.Sprintf("user,id=lqnet%d", i)
	for _, f := range u.GetForwards() {
		netdev += fmt.Sprintf(",hostfwd=%s:%s:%d-:%d", firstOf(f.GetProtocol(), "tcp"), firstOf(f.GetHostAddress(), "127.0.0.1"), f.GetHostPort(), f.GetGuestPort())
	}
	model, bus := firstOf(n.GetModel(), virtio), "pci.0"
	if model == virtio {
		model = "virtio-net-pci"
	}
	if express(machine) {
		bus = "pcie.0"
	}
	device := fmt.Sprintf("%s,netdev=lqnet%d,id=lqnic%d,mac=%s,bus=%s,addr=0x%x,romfile=", model, i, i, n.GetMac(), bus, userSlot+i)
	for _, a := range []string{"-netdev", netdev, "-device", device} {
		d.QEMUCommandline.Args = append(d.QEMUCommandline.Args, libvirtxml.DomainQEMUCommandlineArg{Value: a})
	}
}

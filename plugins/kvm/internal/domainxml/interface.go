package domainxml

import (
	"fmt"

	"libvirt.org/go/libvirtxml"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// UserNetworksMost is how many user-mode networks a domain can have.
const UserNetworksMost = 8

// userSlot is the slot on the root bus of the first user-mode interface. libvirt, which does not know of them, fills the bus from below, and the chipset sits at its end.
const userSlot = 0x10

const errBinding = sourceError("this driver takes user-mode and bridge bindings")

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
	b := n.GetBinding().GetBridgePort()
	if b == nil {
		return nil, errBinding
	}
	x := &libvirtxml.DomainInterface{
		MAC: &libvirtxml.DomainInterfaceMAC{Address: n.GetMac()}, Model: &libvirtxml.DomainInterfaceModel{Type: firstOf(n.GetModel(), "virtio")},
		Source: &libvirtxml.DomainInterfaceSource{Bridge: &libvirtxml.DomainInterfaceSourceBridge{Bridge: b.GetBridge()}},
		Target: &libvirtxml.DomainInterfaceTarget{Dev: b.GetTapName()}, Alias: &libvirtxml.DomainAlias{Name: Alias(n.GetInterfaceId())},
		ROM: &libvirtxml.DomainROM{Enabled: "no"},
	}
	if m := b.GetMtu(); m > 0 {
		x.MTU = &libvirtxml.DomainInterfaceMTU{Size: uint(m)}
	}
	if n.GetLinkDown() {
		x.Link = &libvirtxml.DomainInterfaceLink{State: "down"}
	}
	return x, nil
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
	model, bus := firstOf(n.GetModel(), "virtio"), "pci.0"
	if model == "virtio" {
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

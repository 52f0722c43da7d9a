package driver

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/domainxml"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	mtuLeast = 68 // of IPv4
	mtuMost  = 65535
)

// nics checks interfaces, each and together.
func (v *violations) nics(spec *driverv1.DomainSpec) {
	ids, macs, taps, users := map[string]bool{}, map[string]bool{}, map[string]bool{}, 0
	vcpus := int(max(spec.GetCpu().GetVcpus(), spec.GetCpu().GetMaxVcpus()))
	for i, n := range spec.GetInterfaces() {
		field := fmt.Sprintf("spec.interfaces[%d]", i)
		v.nic(field, n)
		v.queues(field, n, vcpus)
		if ids[n.GetInterfaceId()] {
			v.bad(field+".interface_id", "is used twice")
		}
		if macs[n.GetMac()] {
			v.bad(field+".mac", "is used twice")
		}
		kind, tap := tapOf(n)
		if tap != "" && taps[tap] {
			v.bad(field+".binding."+kind+".tap_name", "is used twice")
		}
		ids[n.GetInterfaceId()], macs[n.GetMac()], taps[tap] = true, true, true
		if n.GetBinding().GetUserMode() != nil {
			users++
		}
	}
	if users > domainxml.UserNetworksMost {
		v.bad("spec.interfaces", "at most %d user-mode networks", domainxml.UserNetworksMost)
	}
}

// tapOf is the tap of an interface, and the field of its binding; both are empty where there is none.
func tapOf(n *driverv1.DomainInterface) (kind, tap string) {
	switch b := n.GetBinding().GetBinding().(type) {
	case *driverv1.InterfaceBinding_BridgePort:
		return "bridge_port", b.BridgePort.GetTapName()
	case *driverv1.InterfaceBinding_OvsPort:
		return "ovs_port", b.OvsPort.GetTapName()
	case *driverv1.InterfaceBinding_Tap:
		return "tap", b.Tap.GetTapName()
	}
	return "", ""
}

func (v *violations) nic(field string, n *driverv1.DomainInterface) {
	if !uuid.MatchString(n.GetInterfaceId()) {
		v.bad(field+".interface_id", "must be a UUID in lower case")
	}
	mac, err := net.ParseMAC(n.GetMac())
	if err != nil || len(mac) != 6 || mac.String() != n.GetMac() || mac[0]&1 != 0 {
		v.bad(field+".mac", "must be the address of one card, lower case with colons")
	}
	if m := n.GetModel(); m != "" && m != "virtio" && m != "e1000e" {
		v.bad(field+".model", `must be "virtio" or "e1000e"`)
	}
	switch b := n.GetBinding().GetBinding().(type) {
	case *driverv1.InterfaceBinding_BridgePort:
		v.port(field+".binding.bridge_port", b.BridgePort.GetBridge(), b.BridgePort.GetTapName(), b.BridgePort.GetMtu())
	case *driverv1.InterfaceBinding_OvsPort:
		v.port(field+".binding.ovs_port", b.OvsPort.GetBridge(), b.OvsPort.GetTapName(), b.OvsPort.GetMtu())
		if !uuid.MatchString(b.OvsPort.GetInterfaceId()) {
			v.bad(field+".binding.ovs_port.interface_id", "must be a UUID in lower case")
		}
	case *driverv1.InterfaceBinding_Tap:
		v.tap(field+".binding.tap", b.Tap.GetTapName())
	case *driverv1.InterfaceBinding_UserMode:
		if n.GetLinkDown() {
			v.bad(field+".link_down", "a user-mode network is always up")
		}
		for i, f := range b.UserMode.GetForwards() {
			v.forward(fmt.Sprintf("%s.binding.user_mode.forwards[%d]", field, i), f)
		}
	default:
		v.bad(field+".binding", "this driver takes user-mode, bridge, Open vSwitch and tap bindings")
	}
}

// port checks a port of a bridge of either kind.
func (v *violations) port(field, bridge, tap string, mtu uint32) {
	if !deviceName.MatchString(bridge) {
		v.bad(field+".bridge", "must be the name of a device, at most 15 characters")
	}
	v.tap(field, tap)
	if mtu != 0 && (mtu < mtuLeast || mtu > mtuMost) {
		v.bad(field+".mtu", "must be %d to %d, or 0 for the bridge's", mtuLeast, mtuMost)
	}
}

func (v *violations) tap(field, name string) {
	if !deviceName.MatchString(name) || strings.HasPrefix(name, "vnet") {
		v.bad(field+".tap_name", `must be the name of a device, at most 15 characters; libvirt keeps "vnet" for itself`)
	}
}

// queues checks an interface's queues in a domain with that many virtual CPUs at most: a guest serves no more queues than it has.
func (v *violations) queues(field string, n *driverv1.DomainInterface, vcpus int) {
	q := n.GetQueues()
	switch {
	case q <= 1:
	case n.GetModel() != "" && n.GetModel() != "virtio":
		v.bad(field+".queues", "model %s has one queue; use virtio", n.GetModel())
	case n.GetBinding().GetUserMode() != nil:
		v.bad(field+".queues", "a user-mode network has one queue")
	case q > domainxml.QueuesMost:
		v.bad(field+".queues", "must be 0 to %d", domainxml.QueuesMost)
	case vcpus > 0 && int(q) > vcpus: // that there is none is said elsewhere
		v.bad(field+".queues", "must not be more than the domain's %d virtual CPUs", vcpus)
	}
}

func (v *violations) forward(field string, f *driverv1.PortForward) {
	if p := f.GetProtocol(); p != "" && p != "tcp" && p != "udp" {
		v.bad(field+".protocol", `must be "tcp" or "udp"`)
	}
	if a := f.GetHostAddress(); a != "" {
		if ip, err := netip.ParseAddr(a); err != nil || !ip.Is4() || ip.String() != a {
			v.bad(field+".host_address", "must be an IPv4 address")
		}
	}
	for _, p := range []struct {
		name  string
		value uint32
	}{{"host_port", f.GetHostPort()}, {"guest_port", f.GetGuestPort()}} {
		if p.value < 1 || p.value > 65535 {
			v.bad(field+"."+p.name, "must be 1 to 65535")
		}
	}
}

// noTap is what libvirt says of a tap that it shall find and not make; it does not name it.
const noTap = "specified dev doesn't exist"

// tapMissing says what a missing tap means; another error stays what it is.
func tapMissing(err error, of ...domainxml.Device) error {
	if err == nil || !strings.Contains(err.Error(), noTap) {
		return err
	}
	var taps []string
	for _, n := range of {
		taps = append(taps, n.Target)
	}
	return fault.New(metav1.Reason_REASON_BACKEND_FAILED, "a tap of %s is missing on the node: %w", strings.Join(taps, ", "), err).WithRemedy("the network's driver makes it when it attaches the interface")
}

// pluggable checks that this node has what an interface plugs into.
func (s setting) pluggable(v *violations, field string, n *driverv1.DomainInterface) {
	if n.GetBinding().GetOvsPort() == nil {
		return
	}
	if err := s.cfg.openvswitch(); err != nil {
		v.bad(field+".binding", "this node has no Open vSwitch: %v", err)
	}
}

// bindings are the kinds of binding that work on this node.
func (s setting) bindings() []driverv1.InterfaceBindingKind {
	out := []driverv1.InterfaceBindingKind{driverv1.InterfaceBindingKind_INTERFACE_BINDING_KIND_USER_MODE}
	if haveTaps() {
		out = append(out, driverv1.InterfaceBindingKind_INTERFACE_BINDING_KIND_BRIDGE_PORT, driverv1.InterfaceBindingKind_INTERFACE_BINDING_KIND_TAP)
		if s.cfg.openvswitch() == nil {
			out = append(out, driverv1.InterfaceBindingKind_INTERFACE_BINDING_KIND_OVS_PORT)
		}
	}
	return out
}

// haveTaps reports whether the kernel makes tap devices. libvirtd opens them, not this process: that it may not is no answer.
func haveTaps() bool {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err == nil {
		_ = f.Close()
	}
	return !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENODEV) && !errors.Is(err, syscall.ENXIO)
}

// ovsDialLimit is how long the database may take to accept.
const ovsDialLimit = time.Second

// openvswitch tries what libvirt needs for a port of Open vSwitch: the program that it runs, and a database that answers.
func (c config) openvswitch() error {
	if _, err := exec.LookPath("ovs-vsctl"); err != nil {
		return err
	}
	conn, err := net.DialTimeout("unix", c.OVSSocket, ovsDialLimit)
	if err != nil {
		return err
	}
	return conn.Close()
}

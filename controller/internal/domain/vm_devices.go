package domain

import (
	"fmt"
	"net"
	"net/netip"

	"google.golang.org/protobuf/reflect/protoreflect"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

const (
	maxDisks    = 24
	maxNICs     = 16
	maxForwards = 32
	macRule     = "must be a unicast address such as 52:54:00:12:34:56, in lower case, or empty"
	maxDiskSize = 64 * tib
)

func checkDisks(v *Violations, disks []*computev1.Disk) {
	if len(disks) > maxDisks {
		v.Add("vm.spec.disks", "holds %d disks, at most %d are allowed", len(disks), maxDisks)
	}
	names, orders := map[string]bool{}, map[int32]bool{}
	for i, d := range disks {
		at := fmt.Sprintf("vm.spec.disks[%d]", i)
		checkUnique(v, at+".name", d.GetName(), names)
		switch src := d.GetSource().(type) {
		case *computev1.Disk_Inline:
			checkInline(v, at+".inline", src.Inline)
		case *computev1.Disk_Volume:
			if src.Volume == "" {
				v.Add(at+".volume", "is required: a volume's id or name")
			}
		default:
			v.Add(at, "needs inline or volume")
		}
		checkEnum(v, at+".bus", d.GetBus())
		if o := d.GetBootOrder(); o < 0 || o > maxDisks {
			v.Add(at+".boot_order", "must be 1-%d, or 0 for none", maxDisks)
		} else if o > 0 && orders[o] {
			v.Add(at+".boot_order", "%d is used twice", o)
		} else {
			orders[o] = true
		}
		if !validSerial(d.GetSerial()) {
			v.Add(at+".serial", "must be at most 20 characters of A-Z a-z 0-9 '-' '_'")
		}
	}
}

func checkInline(v *Violations, at string, in *computev1.InlineVolume) {
	switch size := in.GetSizeBytes(); {
	case size == 0 && in.GetImage() == "":
		v.Add(at+".size_bytes", "is required for a blank disk")
	case size < 0 || size%512 != 0 || size > maxDiskSize:
		v.Add(at+".size_bytes", "must be a multiple of 512, at most 64 TiB")
	}
	checkEnum(v, at+".format", in.GetFormat())
}

func checkNICs(v *Violations, nics []*computev1.NIC, vcpus int32) {
	if len(nics) > maxNICs {
		v.Add("vm.spec.nics", "holds %d interfaces, at most %d are allowed", len(nics), maxNICs)
	}
	names, macs, ports := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for i, n := range nics {
		at := fmt.Sprintf("vm.spec.nics[%d]", i)
		checkUnique(v, at+".name", n.GetName(), names)
		switch m := n.GetMac(); {
		case m == "" && n.GetNetwork().GetPort() != "":
		case !validMAC(m):
			v.Add(at+".mac", macRule)
		case macs[m]:
			v.Add(at+".mac", "%s is used twice", m)
		default:
			macs[m] = true
		}
		if m := n.GetModel(); m != "" && m != "virtio" && m != "e1000e" {
			v.Add(at+".model", "must be empty or \"virtio\", or \"e1000e\"")
		}
		switch a := n.GetAttachment().(type) {
		case *computev1.NIC_User:
			checkForwards(v, at+".user", a.User, ports)
		case *computev1.NIC_Network:
			checkNetworkNIC(v, at+".network", a.Network)
		default:
			v.Add(at, "needs user or network")
		}
		checkQueues(v, at+".queues", n, vcpus)
	}
}

// checkNetworkNIC looks at a NIC's place in a network: a port that is there, or one that is to be made.
func checkNetworkNIC(v *Violations, at string, n *computev1.NetworkAttachment) {
	if p := n.GetPort(); p != "" {
		checkRef(v, at+".port", p, "a port's id or name")
		if n.GetNetwork() != "" || len(n.GetSecurityGroups()) > 0 || len(n.GetIpAddresses()) > 0 {
			v.Add(at, "names a port: its network, addresses and groups are the port's own, so that nothing else may be set")
		}
		return
	}
	checkRef(v, at+".network", n.GetNetwork(), "a network's id or name")
	CheckPortGroups(v, at+".security_groups", n.GetSecurityGroups())
	CheckPortAddresses(v, at+".ip_addresses", n.GetIpAddresses())
}

// checkRef notes what can be neither an id nor a name.
func checkRef(v *Violations, field, ref, what string) {
	if !IsID(ref) && !ValidName(ref) {
		v.Add(field, "must be %s", what)
	}
}

const maxQueues = 16

func checkQueues(v *Violations, field string, n *computev1.NIC, vcpus int32) {
	q := n.GetQueues()
	switch {
	case q == 0:
	case n.GetNetwork() == nil || n.GetModel() != "" && n.GetModel() != "virtio":
		v.Add(field, "can be set with model virtio in a network only")
	case q > maxQueues || int64(q) > int64(max(1, vcpus)):
		v.Add(field, "must be 1-%d and at most the number of virtual CPUs, which is %d", maxQueues, vcpus)
	}
}

func checkForwards(v *Violations, at string, u *computev1.UserModeNetwork, taken map[string]bool) {
	if n := len(u.GetForwards()); n > maxForwards {
		v.Add(at+".forwards", "holds %d ports, at most %d are allowed", n, maxForwards)
	}
	for i, f := range u.GetForwards() {
		at := fmt.Sprintf("%s.forwards[%d]", at, i)
		if p := f.GetProtocol(); p != "tcp" && p != "udp" {
			v.Add(at+".protocol", "must be \"tcp\" or \"udp\"")
		}
		addr, err := netip.ParseAddr(f.GetHostAddress())
		if err != nil || addr.Zone() != "" {
			v.Add(at+".host_address", "must be an IP address of the node, such as 127.0.0.1")
		}
		for _, p := range []struct {
			field string
			port  uint32
		}{{".host_port", f.GetHostPort()}, {".guest_port", f.GetGuestPort()}} {
			if p.port < 1 || p.port > 65535 {
				v.Add(at+p.field, "must be 1-65535")
			}
		}
		key := fmt.Sprintf("%s/%s/%d", f.GetProtocol(), addr, f.GetHostPort())
		if taken[key] {
			v.Add(at+".host_port", "%s port %d is forwarded twice", f.GetProtocol(), f.GetHostPort())
		}
		taken[key] = true
	}
}

func checkUnique(v *Violations, field, name string, seen map[string]bool) {
	CheckName(v, field, name)
	if name != "" && seen[name] {
		v.Add(field, "%q is used twice", name)
	}
	seen[name] = true
}

func validMAC(s string) bool {
	hw, err := net.ParseMAC(s)
	return err == nil && len(hw) == 6 && hw.String() == s && hw[0]&1 == 0 && s != "00:00:00:00:00:00"
}

func validSerial(s string) bool {
	if len(s) > 20 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// checkEnum notes a number that the enum does not name.
func checkEnum(v *Violations, field string, e protoreflect.Enum) {
	if e.Descriptor().Values().ByNumber(e.Number()) == nil {
		v.Add(field, "%d is no value of %s", e.Number(), e.Descriptor().Name())
	}
}

package domain

import (
	"fmt"
	"net/netip"
	"slices"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// Verbs of operations on networks and ports, and what Operation.object_kind says of them.
const (
	VerbCreateNetwork = "CreateNetwork"
	VerbUpdateNetwork = "UpdateNetwork"
	VerbDeleteNetwork = "DeleteNetwork"

	VerbCreatePort        = "CreatePort"
	VerbUpdatePort        = "UpdatePort"
	VerbDeletePort        = "DeletePort"
	VerbSetSecurityGroups = "SetSecurityGroups"

	KindNetwork = "Network"
	KindPort    = "Port"
)

const (
	// DefaultNetworkName is the network of ports that name none; each project has its own.
	DefaultNetworkName = "default"

	maxVLAN            = 4094
	maxVNI             = 1<<24 - 1
	minMTU             = 576
	minMTUv6           = 1280
	maxMTU             = 65535
	maxNetworkForwards = 256
	maxDeviceName      = 15 // IFNAMSIZ less its zero
)

// DefaultNetwork fills what a client may leave out of a network, so that what is stored says what will happen.
func DefaultNetwork(n *networkv1.Network) {
	spec := n.GetSpec()
	if spec.GetType() == networkv1.NetworkType_NETWORK_TYPE_UNSPECIFIED {
		spec.Type = networkv1.NetworkType_NETWORK_TYPE_BRIDGE
	}
	if spec.GetEgress() == networkv1.EgressMode_EGRESS_MODE_UNSPECIFIED {
		spec.Egress = networkv1.EgressMode_EGRESS_MODE_NONE
		if spec.GetType() == networkv1.NetworkType_NETWORK_TYPE_BRIDGE && spec.GetUplink() == "" && len(spec.GetSubnets()) > 0 { // without a subnet the node has no address to be a gateway by
			spec.Egress = networkv1.EgressMode_EGRESS_MODE_NAT
		}
	}
	if spec.GetDomainName() == "" {
		spec.DomainName = n.GetMeta().GetName() + ".internal"
	}
	for _, f := range spec.GetForwards() {
		if f.GetProtocol() == "" {
			f.Protocol = "tcp"
		}
		if f.GetTargetPort() == 0 {
			f.TargetPort = f.GetListenPort()
		}
	}
}

// ValidateNetwork notes everything that is wrong with a defaulted network, under "network.". Whether what it refers to exists is not looked at.
func ValidateNetwork(v *Violations, n *networkv1.Network) {
	CheckMeta(v, "network.meta", n.GetMeta(), true)
	spec := n.GetSpec()
	checkEnum(v, "network.spec.type", spec.GetType())
	checkEnum(v, "network.spec.egress", spec.GetEgress())
	if spec.GetDriver() != "" {
		CheckName(v, "network.spec.driver", spec.GetDriver())
	}
	checkUplink(v, spec)
	checkTags(v, spec)
	checkSubnets(v, spec)
	checkMTU(v, spec)
	if e := spec.GetEgress(); (e == networkv1.EgressMode_EGRESS_MODE_NAT || e == networkv1.EgressMode_EGRESS_MODE_ROUTED) && len(spec.GetSubnets()) == 0 {
		v.Add("network.spec.egress", "needs a subnet, in which the node has the gateway's address")
	}
	checkNetworkForwards(v, spec)
	if d := spec.GetDomainName(); !validDNS(d) || len(d) > 180 { // a host name of 63 characters has to fit before it
		v.Add("network.spec.domain_name", "must be a DNS name in lower case, of at most 180 characters")
	}
	CheckLabels(v, "network.spec.node_selector", spec.GetNodeSelector())
}

func checkUplink(v *Violations, spec *networkv1.NetworkSpec) {
	const at = "network.spec.uplink"
	u := spec.GetUplink()
	ovs := spec.GetType() == networkv1.NetworkType_NETWORK_TYPE_OVS
	switch {
	case u == "" && spec.GetType() == networkv1.NetworkType_NETWORK_TYPE_VLAN:
		v.Add(at, "is required with type VLAN: the device that carries the tag")
	case u != "" && spec.GetType() == networkv1.NetworkType_NETWORK_TYPE_VXLAN:
		v.Add(at, "must be empty with type VXLAN: the tunnel goes by each node's tunnel address")
	case u == ".", u == "..":
		v.Add(at, "is no name of a device")
	case !ovs && len(u) > maxDeviceName:
		v.Add(at, "must be at most %d characters, as names of devices are", maxDeviceName)
	default:
		checkWord(v, at, u)
	}
}

func checkTags(v *Violations, spec *networkv1.NetworkSpec) {
	t := spec.GetType()
	switch id := spec.GetVlanId(); {
	case t == networkv1.NetworkType_NETWORK_TYPE_VLAN && (id < 1 || id > maxVLAN):
		v.Add("network.spec.vlan_id", "must be 1-%d with type VLAN", maxVLAN)
	case t == networkv1.NetworkType_NETWORK_TYPE_OVS && id > maxVLAN:
		v.Add("network.spec.vlan_id", "must be 1-%d, or 0 for none", maxVLAN)
	case t != networkv1.NetworkType_NETWORK_TYPE_VLAN && t != networkv1.NetworkType_NETWORK_TYPE_OVS && id != 0:
		v.Add("network.spec.vlan_id", "must be 0 but with types VLAN and OVS")
	}
	switch id := spec.GetVni(); {
	case id != 0 && t != networkv1.NetworkType_NETWORK_TYPE_VXLAN && t != networkv1.NetworkType_NETWORK_TYPE_OVS:
		v.Add("network.spec.vni", "must be 0 but with types VXLAN and OVS")
	case id > maxVNI:
		v.Add("network.spec.vni", "must be 1-%d, or 0", maxVNI)
	}
}

func checkMTU(v *Violations, spec *networkv1.NetworkSpec) {
	m := spec.GetMtu()
	if m == 0 {
		return
	}
	if m < minMTU || m > maxMTU {
		v.Add("network.spec.mtu", "must be %d-%d, or 0 for the greatest that every node can carry", minMTU, maxMTU)
		return
	}
	for _, s := range spec.GetSubnets() {
		if p, err := netip.ParsePrefix(s.GetCidr()); err == nil && p.Addr().Is6() && m < minMTUv6 {
			v.Add("network.spec.mtu", "must be at least %d with an IPv6 subnet", minMTUv6)
		}
	}
}

func checkNetworkForwards(v *Violations, spec *networkv1.NetworkSpec) {
	const list = "network.spec.forwards"
	if n := len(spec.GetForwards()); n > maxNetworkForwards {
		v.Add(list, "holds %d forwards, at most %d are allowed", n, maxNetworkForwards)
		return
	}
	if e := spec.GetEgress(); len(spec.GetForwards()) > 0 && e != networkv1.EgressMode_EGRESS_MODE_NAT && e != networkv1.EgressMode_EGRESS_MODE_ROUTED {
		v.Add(list, "need egress NAT or ROUTED: the answers go by way of the node")
	}
	for i, f := range spec.GetForwards() {
		at := fmt.Sprintf("%s[%d]", list, i)
		if p := f.GetProtocol(); p != "tcp" && p != "udp" {
			v.Add(at+".protocol", "must be \"tcp\" or \"udp\"")
		}
		if a := f.GetListenAddress(); a != "" {
			checkAddress(v, at+".listen_address", a)
		}
		if p := f.GetListenPort(); p < 1 || p > 65535 {
			v.Add(at+".listen_port", "must be 1-65535")
		}
		if p := f.GetTargetPort(); p < 1 || p > 65535 {
			v.Add(at+".target_port", "must be 1-65535, or 0 for listen_port")
		}
		switch t := f.GetTarget().(type) {
		case *networkv1.NetworkForward_PortId:
			if t.PortId == "" {
				v.Add(at+".port_id", "is required: a port's id or name")
			}
		case *networkv1.NetworkForward_IpAddress:
			if a, ok := checkAddress(v, at+".ip_address", t.IpAddress); ok && subnetOf(spec, a) == nil {
				v.Add(at+".ip_address", "lies in no subnet of the network")
			}
		default:
			v.Add(at, "needs port_id or ip_address")
		}
		for j, other := range spec.GetForwards()[:i] {
			if other.GetProtocol() == f.GetProtocol() && other.GetListenPort() == f.GetListenPort() && ListenMeet(other.GetListenAddress(), f.GetListenAddress()) {
				v.Add(at+".listen_port", "%s port %d is forwarded twice, by forwards[%d] too", f.GetProtocol(), f.GetListenPort(), j)
				break
			}
		}
	}
}

// ForwardLeadsTo reports whether a forward of a port's network leads to the port.
func ForwardLeadsTo(f *networkv1.NetworkForward, p *networkv1.Port) bool {
	switch t := f.GetTarget().(type) {
	case *networkv1.NetworkForward_PortId:
		return t.PortId == p.GetMeta().GetId()
	case *networkv1.NetworkForward_IpAddress:
		return slices.Contains(p.GetStatus().GetIpAddresses(), t.IpAddress)
	}
	return false
}

// ListenMeet reports whether two addresses to listen on exclude one another: an empty or unspecified one is every address.
func ListenMeet(a, b string) bool { return a == b || everyAddress(a) || everyAddress(b) }

func everyAddress(s string) bool {
	ip, err := netip.ParseAddr(s)
	return err != nil || ip.IsUnspecified()
}

// NetworkPathAllowed says which fields of a network can change.
func NetworkPathAllowed(path string) (string, bool) {
	switch path {
	case "spec.mtu", "spec.subnets", "spec.egress", "spec.forwards", "spec.domain_name", "spec.node_selector", "spec.delete_protection", "meta.labels", "meta.annotations":
		return "", true
	}
	switch {
	case Under(path, "spec.type", "spec.driver", "spec.uplink", "spec.vlan_id", "spec.vni"):
		return "cannot change: create another network", false
	case Under(path, "spec.node_selector", "meta.labels", "meta.annotations"):
		return "reaches into a map: name the whole map", false
	case Under(path, "spec.subnets", "spec.forwards"):
		return "reaches into a list: name the whole list", false
	case Under(path, "meta", "status", "spec"):
		return "cannot change", false
	}
	return `names no field that can change: use "spec.mtu", "spec.subnets", "spec.egress", "spec.forwards", "spec.domain_name", "spec.node_selector", "spec.delete_protection", "meta.labels", "meta.annotations"`, false
}

// CheckSubnetsKept notes subnets that came, went or changed their CIDR with an update.
func CheckSubnetsKept(v *Violations, cur, next *networkv1.NetworkSpec) {
	same := slices.EqualFunc(cur.GetSubnets(), next.GetSubnets(), func(a, b *networkv1.Subnet) bool { return a.GetCidr() == b.GetCidr() })
	if !same {
		v.Add("network.spec.subnets", "cannot come, go, change places or change their CIDR: create another network")
	}
}

// Overlap is the first CIDR of one spec that overlaps one of the other; ok is false when none does.
func Overlap(a, b *networkv1.NetworkSpec) (mine, theirs string, ok bool) {
	for _, x := range a.GetSubnets() {
		p, err := netip.ParsePrefix(x.GetCidr())
		if err != nil {
			continue
		}
		for _, y := range b.GetSubnets() {
			if q, err := netip.ParsePrefix(y.GetCidr()); err == nil && p.Overlaps(q) {
				return x.GetCidr(), y.GetCidr(), true
			}
		}
	}
	return "", "", false
}

// DefaultNetworkSpec is the spec of a project's default network; cidr is its range.
func DefaultNetworkSpec(cidr string) *networkv1.NetworkSpec {
	return &networkv1.NetworkSpec{
		Type: networkv1.NetworkType_NETWORK_TYPE_BRIDGE, Egress: networkv1.EgressMode_EGRESS_MODE_NAT,
		Subnets: []*networkv1.Subnet{{Cidr: cidr}},
	}
}

// NetworkReach says why a node cannot have a network; "" = it can. labels are the node's.
func NetworkReach(spec *networkv1.NetworkSpec, labels map[string]string, drivers []*computev1.DriverStatus, tunnelAddress string) string {
	for k, v := range spec.GetNodeSelector() {
		if got, ok := labels[k]; !ok || got != v {
			return fmt.Sprintf("lacks label %s=%s", k, v)
		}
	}
	kind := TypeName(spec.GetType())
	why := "has no healthy network driver"
	for _, d := range drivers {
		healthy := d.GetState() == "healthy" || d.GetState() == "degraded"
		switch {
		case !slices.Contains(d.GetKinds(), "network"), spec.GetDriver() != "" && d.GetName() != spec.GetDriver():
		case !healthy:
			why = fmt.Sprintf("has network driver %s, which is %s", d.GetName(), d.GetState())
		case !slices.Contains(d.GetNetworkTypes(), spec.GetType()):
			why = fmt.Sprintf("has no network driver for type %s", kind)
		case spec.GetUplink() != "" && !slices.Contains(d.GetNetworkUplinks(), spec.GetUplink()):
			why = "has no uplink " + spec.GetUplink()
		case Tunnelled(spec) && tunnelAddress == "":
			return "has no tunnel address (tunnel_address of its agent)"
		default:
			return ""
		}
	}
	if spec.GetDriver() != "" && why == "has no healthy network driver" {
		why += " " + spec.GetDriver()
	}
	return why
}

// Tunnelled reports whether a network spans nodes by VXLAN.
func Tunnelled(spec *networkv1.NetworkSpec) bool {
	return spec.GetType() == networkv1.NetworkType_NETWORK_TYPE_VXLAN || spec.GetVni() != 0
}

// TypeName is a network's type for people.
func TypeName(t networkv1.NetworkType) string { return t.String()[len("NETWORK_TYPE_"):] }

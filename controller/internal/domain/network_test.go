package domain_test

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// goodNetwork is a network with a bit of everything, defaulted.
func goodNetwork() *networkv1.Network {
	n := &networkv1.Network{
		Meta: domain.NewMeta("018f0000-0000-7000-8000-000000000001", "front", "default", nil, nil),
		Spec: &networkv1.NetworkSpec{
			Driver: "bridge", Mtu: 1400, NodeSelector: map[string]string{"zone": "a"},
			Subnets: []*networkv1.Subnet{
				{
					Cidr: "10.4.0.0/24", Gateway: "10.4.0.254", Ranges: []*networkv1.AddressRange{{First: "10.4.0.10", Last: "10.4.0.20"}, {First: "10.4.0.30", Last: "10.4.0.30"}},
					Reservations: []*networkv1.AddressReservation{{IpAddress: "10.4.0.12", Mac: "52:54:00:00:00:01", Description: "the printer"}, {IpAddress: "10.4.0.13"}},
					DnsServers:   []string{"192.0.2.53"}, Routes: []*networkv1.Route{{Destination: "10.9.0.0/16", NextHop: "10.4.0.2"}},
				},
				{Cidr: "fd00:4::/64"},
			},
			Forwards: []*networkv1.NetworkForward{
				{ListenPort: 80, Target: &networkv1.NetworkForward_IpAddress{IpAddress: "10.4.0.12"}},
				{ListenPort: 80, ListenAddress: "", Protocol: "udp", Target: &networkv1.NetworkForward_PortId{PortId: "web"}},
			},
		},
	}
	domain.DefaultNetwork(n)
	return n
}

// Every way to be wrong is refused under the name of its field, and the good network is not.
func TestValidateNetwork(t *testing.T) {
	t.Parallel()
	type network = networkv1.Network
	sub := func(n *network) *networkv1.Subnet { return n.Spec.Subnets[0] }
	for name, c := range map[string]struct {
		field string
		spoil func(*network)
	}{
		"good":                     {"", func(*network) {}},
		"name":                     {"network.meta.name", func(n *network) { n.Meta.Name = "a\nb" }},
		"no such type":             {"network.spec.type", func(n *network) { n.Spec.Type = 77 }},
		"no such egress":           {"network.spec.egress", func(n *network) { n.Spec.Egress = 77 }},
		"driver":                   {"network.spec.driver", func(n *network) { n.Spec.Driver = "../x" }},
		"uplink is no word":        {"network.spec.uplink", func(n *network) { n.Spec.Uplink = "eth0;x" }},
		"uplink is too long":       {"network.spec.uplink", func(n *network) { n.Spec.Uplink = strings.Repeat("e", 16) }},
		"uplink is a path":         {"network.spec.uplink", func(n *network) { n.Spec.Uplink = ".." }},
		"VLAN without uplink":      {"network.spec.uplink", func(n *network) { n.Spec.Type = networkv1.NetworkType_NETWORK_TYPE_VLAN; n.Spec.VlanId = 5 }},
		"VLAN without tag":         {"network.spec.vlan_id", func(n *network) { n.Spec.Type = networkv1.NetworkType_NETWORK_TYPE_VLAN; n.Spec.Uplink = "eth1" }},
		"tag 4095":                 {"network.spec.vlan_id", func(n *network) { n.Spec.Type = networkv1.NetworkType_NETWORK_TYPE_OVS; n.Spec.VlanId = 4095 }},
		"bridge with a tag":        {"network.spec.vlan_id", func(n *network) { n.Spec.VlanId = 5 }},
		"bridge with a VNI":        {"network.spec.vni", func(n *network) { n.Spec.Vni = 5 }},
		"VNI of 25 bits":           {"network.spec.vni", func(n *network) { n.Spec.Type = networkv1.NetworkType_NETWORK_TYPE_VXLAN; n.Spec.Vni = 1 << 24 }},
		"VXLAN with uplink":        {"network.spec.uplink", func(n *network) { n.Spec.Type = networkv1.NetworkType_NETWORK_TYPE_VXLAN; n.Spec.Uplink = "eth1" }},
		"MTU 575":                  {"network.spec.mtu", func(n *network) { n.Spec.Mtu = 575 }},
		"MTU too small for IPv6":   {"network.spec.mtu", func(n *network) { n.Spec.Mtu = 1279 }},
		"MTU 65536":                {"network.spec.mtu", func(n *network) { n.Spec.Mtu = 65536 }},
		"NAT without subnet":       {"network.spec.egress", func(n *network) { n.Spec.Subnets = nil }},
		"no CIDR":                  {"network.spec.subnets[0].cidr", func(n *network) { sub(n).Cidr = "" }},
		"CIDR of words":            {"network.spec.subnets[0].cidr", func(n *network) { sub(n).Cidr = "ten" }},
		"host bits":                {"network.spec.subnets[0].cidr", func(n *network) { sub(n).Cidr = "10.4.0.1/24" }},
		"two of IPv4":              {"network.spec.subnets[1].cidr", func(n *network) { n.Spec.Subnets[1].Cidr = "10.5.0.0/24" }},
		"IPv4 as IPv6":             {"network.spec.subnets[1].cidr", func(n *network) { n.Spec.Subnets[1].Cidr = "::ffff:10.5.0.0/120" }},
		"loopback":                 {"network.spec.subnets[0].cidr", func(n *network) { sub(n).Cidr = "127.0.0.0/24" }},
		"multicast":                {"network.spec.subnets[0].cidr", func(n *network) { sub(n).Cidr = "224.0.0.0/24" }},
		"link-local":               {"network.spec.subnets[1].cidr", func(n *network) { n.Spec.Subnets[1].Cidr = "fe80::/64" }},
		"all of it":                {"network.spec.subnets[0].cidr", func(n *network) { sub(n).Cidr = "0.0.0.0/0" }},
		"a /31":                    {"network.spec.subnets[0].cidr", func(n *network) { sub(n).Cidr = "10.4.0.0/31" }},
		"gateway outside":          {"network.spec.subnets[0].gateway", func(n *network) { sub(n).Gateway = "10.5.0.1" }},
		"gateway of IPv6":          {"network.spec.subnets[0].gateway", func(n *network) { sub(n).Gateway = "fd00:4::1" }},
		"gateway is broadcast":     {"network.spec.subnets[0].gateway", func(n *network) { sub(n).Gateway = "10.4.0.255" }},
		"gateway is the network":   {"network.spec.subnets[0].gateway", func(n *network) { sub(n).Gateway = "10.4.0.0" }},
		"range backwards":          {"network.spec.subnets[0].ranges[0].last", func(n *network) { sub(n).Ranges[0].Last = "10.4.0.9" }},
		"range outside":            {"network.spec.subnets[0].ranges[0].last", func(n *network) { sub(n).Ranges[0].Last = "10.4.1.9" }},
		"range of words":           {"network.spec.subnets[0].ranges[0].first", func(n *network) { sub(n).Ranges[0].First = "x" }},
		"ranges overlap":           {"network.spec.subnets[0].ranges[1]", func(n *network) { sub(n).Ranges[1].First, sub(n).Ranges[1].Last = "10.4.0.20", "10.4.0.40" }},
		"many ranges":              {"network.spec.subnets[0].ranges", func(n *network) { sub(n).Ranges = make([]*networkv1.AddressRange, 65) }},
		"reserved twice":           {"network.spec.subnets[0].reservations[1].ip_address", func(n *network) { sub(n).Reservations[1].IpAddress = "10.4.0.12" }},
		"reserved outside":         {"network.spec.subnets[0].reservations[0].ip_address", func(n *network) { sub(n).Reservations[0].IpAddress = "10.5.0.1" }},
		"the gateway is reserved":  {"network.spec.subnets[0].reservations[0].ip_address", func(n *network) { sub(n).Reservations[0].IpAddress = "10.4.0.254" }},
		"reserved for multicast":   {"network.spec.subnets[0].reservations[0].mac", func(n *network) { sub(n).Reservations[0].Mac = "01:00:5e:00:00:01" }},
		"two for one MAC":          {"network.spec.subnets[0].reservations[1].mac", func(n *network) { sub(n).Reservations[1].Mac = "52:54:00:00:00:01" }},
		"newline in a description": {"network.spec.subnets[0].reservations[0].description", func(n *network) { sub(n).Reservations[0].Description = "a\nb" }},
		"many reservations":        {"network.spec.subnets[0].reservations", func(n *network) { sub(n).Reservations = make([]*networkv1.AddressReservation, 4097) }},
		"DNS server of IPv6":       {"network.spec.subnets[0].dns_servers[0]", func(n *network) { sub(n).DnsServers[0] = "fd00::1" }},
		"route with host bits":     {"network.spec.subnets[0].routes[0].destination", func(n *network) { sub(n).Routes[0].Destination = "10.9.0.1/16" }},
		"route outside":            {"network.spec.subnets[0].routes[0].next_hop", func(n *network) { sub(n).Routes[0].NextHop = "10.5.0.1" }},
		"forward twice":            {"network.spec.forwards[1].listen_port", func(n *network) { n.Spec.Forwards[1].Protocol = "tcp" }},
		"forward of port 0":        {"network.spec.forwards[0].listen_port", func(n *network) { n.Spec.Forwards[0].ListenPort = 0 }},
		"forward to port 65536":    {"network.spec.forwards[0].target_port", func(n *network) { n.Spec.Forwards[0].TargetPort = 65536 }},
		"forward of icmp":          {"network.spec.forwards[0].protocol", func(n *network) { n.Spec.Forwards[0].Protocol = "icmp" }},
		"forward from a name":      {"network.spec.forwards[0].listen_address", func(n *network) { n.Spec.Forwards[0].ListenAddress = "localhost" }},
		"forward to outside": {"network.spec.forwards[0].ip_address", func(n *network) {
			n.Spec.Forwards[0].Target = &networkv1.NetworkForward_IpAddress{IpAddress: "10.5.0.1"}
		}},
		"forward to nothing":      {"network.spec.forwards[0]", func(n *network) { n.Spec.Forwards[0].Target = nil }},
		"forward without gateway": {"network.spec.forwards", func(n *network) { n.Spec.Egress = networkv1.EgressMode_EGRESS_MODE_NONE }},
		"domain":                  {"network.spec.domain_name", func(n *network) { n.Spec.DomainName = "a b" }},
		"long domain":             {"network.spec.domain_name", func(n *network) { n.Spec.DomainName = strings.Repeat("a.", 100) + "b" }},
		"selector":                {`network.spec.node_selector["a b"]`, func(n *network) { n.Spec.NodeSelector = map[string]string{"a b": ""} }},
	} {
		t.Run(name, func(t *testing.T) {
			n := goodNetwork()
			c.spoil(n)
			var v domain.Violations
			domain.ValidateNetwork(&v, n)
			if c.field == "" {
				if len(v) > 0 {
					t.Fatalf("the good network is refused: %v", v)
				}
				return
			}
			if !slices.ContainsFunc(v, func(x fault.Violation) bool { return x.Field == c.field && x.Description != "" }) {
				t.Fatalf("violations are %v", v)
			}
		})
	}
}

func TestDefaultNetwork(t *testing.T) {
	t.Parallel()
	subnet := []*networkv1.Subnet{{Cidr: "10.0.0.0/24"}}
	for name, c := range map[string]struct {
		spec *networkv1.NetworkSpec
		want networkv1.EgressMode
	}{
		"bridge":                {&networkv1.NetworkSpec{Subnets: subnet}, networkv1.EgressMode_EGRESS_MODE_NAT},
		"bridge without subnet": {&networkv1.NetworkSpec{}, networkv1.EgressMode_EGRESS_MODE_NONE},
		"bridge with uplink":    {&networkv1.NetworkSpec{Subnets: subnet, Uplink: "eth1"}, networkv1.EgressMode_EGRESS_MODE_NONE},
		"VXLAN":                 {&networkv1.NetworkSpec{Subnets: subnet, Type: networkv1.NetworkType_NETWORK_TYPE_VXLAN}, networkv1.EgressMode_EGRESS_MODE_NONE},
		"as asked":              {&networkv1.NetworkSpec{Subnets: subnet, Egress: networkv1.EgressMode_EGRESS_MODE_ROUTED}, networkv1.EgressMode_EGRESS_MODE_ROUTED},
	} {
		n := &networkv1.Network{Meta: domain.NewMeta("", "x", "default", nil, nil), Spec: c.spec}
		domain.DefaultNetwork(n)
		if n.Spec.Egress != c.want || n.Spec.DomainName != "x.internal" || n.Spec.Type == networkv1.NetworkType_NETWORK_TYPE_UNSPECIFIED {
			t.Errorf("%s: %v", name, n.Spec)
		}
	}
}

// The answer names what a node lacks of a network.
func TestNetworkReach(t *testing.T) {
	t.Parallel()
	driver := func(state string, types ...networkv1.NetworkType) *computev1.DriverStatus {
		return &computev1.DriverStatus{Name: "ovs", Kinds: []string{"network"}, State: state, NetworkTypes: types, NetworkUplinks: []string{"eth1"}}
	}
	vlan, vxlan := networkv1.NetworkType_NETWORK_TYPE_VLAN, networkv1.NetworkType_NETWORK_TYPE_VXLAN
	for want, c := range map[string]struct {
		spec    *networkv1.NetworkSpec
		labels  map[string]string
		drivers []*computev1.DriverStatus
		tunnel  string
	}{
		"":                                    {&networkv1.NetworkSpec{Type: vlan, Uplink: "eth1", NodeSelector: map[string]string{"a": "b"}}, map[string]string{"a": "b"}, []*computev1.DriverStatus{driver("healthy", vlan)}, ""},
		"lacks label a=b":                     {&networkv1.NetworkSpec{Type: vlan, NodeSelector: map[string]string{"a": "b"}}, nil, []*computev1.DriverStatus{driver("healthy", vlan)}, ""},
		"has no healthy network driver":       {&networkv1.NetworkSpec{Type: vlan}, nil, []*computev1.DriverStatus{{Name: "kvm", Kinds: []string{"compute"}, State: "healthy"}}, ""},
		"has no healthy network driver other": {&networkv1.NetworkSpec{Type: vlan, Driver: "other"}, nil, []*computev1.DriverStatus{driver("healthy", vlan)}, ""},
		"has network driver ovs, which is missing":            {&networkv1.NetworkSpec{Type: vlan}, nil, []*computev1.DriverStatus{driver("missing", vlan)}, ""},
		"has no network driver for type VXLAN":                {&networkv1.NetworkSpec{Type: vxlan}, nil, []*computev1.DriverStatus{driver("healthy", vlan)}, "192.0.2.1"},
		"has no uplink eth2":                                  {&networkv1.NetworkSpec{Type: vlan, Uplink: "eth2"}, nil, []*computev1.DriverStatus{driver("degraded", vlan)}, ""},
		"has no tunnel address (tunnel_address of its agent)": {&networkv1.NetworkSpec{Type: vxlan}, nil, []*computev1.DriverStatus{driver("healthy", vxlan)}, ""},
	} {
		if got := domain.NetworkReach(c.spec, c.labels, c.drivers, c.tunnel); got != want {
			t.Errorf("reach is %q, want %q", got, want)
		}
	}
}

func spec(s *networkv1.Subnet) *networkv1.NetworkSpec {
	return &networkv1.NetworkSpec{Egress: networkv1.EgressMode_EGRESS_MODE_NAT, Subnets: []*networkv1.Subnet{s}}
}

// Every address that may be given is given once, and none that may not: by trying all starts on a subnet that is filled up.
func TestAssignFillsExactly(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		subnet *networkv1.Subnet
		want   string
	}{
		"all of a /29":  {&networkv1.Subnet{Cidr: "10.0.0.0/29"}, "10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6"},
		"its gateway":   {&networkv1.Subnet{Cidr: "10.0.0.0/29", Gateway: "10.0.0.4"}, "10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.5 10.0.0.6"},
		"ranges":        {&networkv1.Subnet{Cidr: "10.0.0.0/24", Ranges: []*networkv1.AddressRange{{First: "10.0.0.254", Last: "10.0.0.255"}, {First: "10.0.0.0", Last: "10.0.0.2"}}}, "10.0.0.2 10.0.0.254"},
		"reservations":  {&networkv1.Subnet{Cidr: "10.0.0.0/30", Reservations: []*networkv1.AddressReservation{{IpAddress: "10.0.0.2"}}}, ""},
		"an IPv6 /126":  {&networkv1.Subnet{Cidr: "fd00::/126"}, "fd00::2 fd00::3"},
		"carry in IPv6": {&networkv1.Subnet{Cidr: "fd00::/32", Ranges: []*networkv1.AddressRange{{First: "fd00::ffff:ffff:ffff:ffff", Last: "fd00:0:0:1::1"}}}, "fd00:0:0:1:: fd00:0:0:1::1 fd00::ffff:ffff:ffff:ffff"},
	} {
		a := domain.AddressesOf(spec(c.subnet))[0]
		for start := range uint64(9) {
			var got []string
			for {
				ip, ok := a.Assign("", func(ip netip.Addr) bool { return slices.Contains(got, ip.String()) }, func(n uint64) uint64 { return start % n })
				if !ok {
					break
				}
				got = append(got, ip.String())
			}
			slices.Sort(got)
			if strings.Join(got, " ") != c.want {
				t.Fatalf("%s: gave %v", name, got)
			}
			if used, free := a.Use(got); int(used) != len(got) || free != 0 {
				t.Errorf("%s: used %d, free %d", name, used, free)
			}
		}
	}
}

func TestReservations(t *testing.T) {
	t.Parallel()
	a := domain.AddressesOf(spec(&networkv1.Subnet{Cidr: "10.0.0.0/24", Reservations: []*networkv1.AddressReservation{
		{IpAddress: "10.0.0.9", Mac: "52:54:00:00:00:01"}, {IpAddress: "10.0.0.10"},
	}}))[0]
	if ip, ok := a.Assign("52:54:00:00:00:01", func(netip.Addr) bool { return false }, func(uint64) uint64 { return 7 }); !ok || ip.String() != "10.0.0.9" {
		t.Errorf("the reserved one is %v", ip)
	}
	for ip, refused := range map[string]bool{"10.0.0.9": true, "10.0.0.10": false, "10.0.0.0": true, "10.0.0.1": true, "10.0.0.255": true, "10.0.0.77": false} {
		if why := a.Refuses(netip.MustParseAddr(ip), "52:54:00:00:00:02"); (why != "") != refused {
			t.Errorf("%s: %q", ip, why)
		}
	}
	if why := a.Refuses(netip.MustParseAddr("10.0.0.9"), "52:54:00:00:00:01"); why != "" {
		t.Errorf("its own: %q", why)
	}
}

// A subnet that is full but for one address is not searched for long, and one with more addresses than can be counted says so.
func TestGreatSubnets(t *testing.T) {
	t.Parallel()
	if _, free := domain.AddressesOf(spec(&networkv1.Subnet{Cidr: "fd00::/64"}))[0].Use(nil); free != math.MaxInt64 {
		t.Errorf("free is %d", free)
	}
	if _, free := domain.AddressesOf(spec(&networkv1.Subnet{Cidr: "10.0.0.0/22"}))[0].Use([]string{"10.0.1.7", "fd00::1"}); free != 1020 {
		t.Errorf("free is %d", free)
	}
	a, asked := domain.AddressesOf(spec(&networkv1.Subnet{Cidr: "10.0.0.0/22"}))[0], 0
	ip, ok := a.Assign("", func(ip netip.Addr) bool { asked++; return ip.String() != "10.0.3.254" }, func(uint64) uint64 { return 1023 })
	if !ok || ip.String() != "10.0.3.254" || asked > 1024 {
		t.Errorf("%v after %d questions", ip, asked)
	}
}

func TestFreeDefaultRange(t *testing.T) {
	t.Parallel()
	for want, taken := range map[string][]string{
		"10.64.0.0/22":    {"10.0.0.0/10", "fd00::/64", "192.168.0.0/16"},
		"10.64.4.0/22":    {"10.64.2.0/24"},
		"10.64.8.0/22":    {"10.64.0.0/22", "10.64.4.0/22"},
		"10.66.0.0/22":    {"10.64.0.0/15"},
		"10.127.252.0/22": {"10.64.0.0/11", "10.96.0.0/12", "10.112.0.0/13", "10.120.0.0/14", "10.124.0.0/15", "10.126.0.0/16", "10.127.0.0/17", "10.127.128.0/18", "10.127.192.0/19", "10.127.224.0/20", "10.127.240.0/21", "10.127.248.0/22"},
	} {
		if got, ok := domain.FreeDefaultRange(taken); !ok || got != want {
			t.Errorf("range is %s, want %s", got, want)
		}
	}
	if got, ok := domain.FreeDefaultRange([]string{"10.0.0.0/8"}); ok {
		t.Errorf("%s of none", got)
	}
	var all []string
	for i := range 4096 {
		all = append(all, fmt.Sprintf("10.%d.%d.0/22", 64+i/64, i%64*4))
	}
	if got, ok := domain.FreeDefaultRange(all); ok {
		t.Errorf("%s of none", got)
	}
}

package netspec_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/plugins/kit/netspec"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

const id = "aaaaaaaa-0000-4000-8000-000000000001"

func network() *driverv1.NetworkSpec {
	return &driverv1.NetworkSpec{
		Type: driverv1.NetworkType_NETWORK_TYPE_OVS, Uplink: "physnet1", Mtu: 1400, DomainName: "default.internal", GatewayMac: "52:54:00:00:00:01",
		Subnets: []*driverv1.SubnetSpec{
			{Cidr: "10.4.0.0/24", Gateway: "10.4.0.1", Dhcp: true, DnsServers: []string{"192.0.2.53"}, Routes: []*driverv1.RouteSpec{{Destination: "10.9.0.0/16", NextHop: "10.4.0.254"}}},
			{Cidr: "2001:db8::/64", Gateway: "2001:db8::1"},
		},
		Vni:        77,
		Vxlan:      &driverv1.VxlanTunnel{LocalAddress: "192.0.2.1", Peers: []*driverv1.VxlanPeer{{NodeId: id, Address: "192.0.2.2"}}, Fdb: []*driverv1.FdbEntry{{Mac: "52:54:00:00:00:02", IpAddresses: []string{"10.4.0.2"}, PeerAddress: "192.0.2.2"}}},
		Forwards:   []*driverv1.NetworkForward{{Protocol: "tcp", ListenPort: 8080, TargetAddress: "10.4.0.2", TargetPort: 80}},
		DnsRecords: []*driverv1.DnsRecord{{Name: "web", IpAddresses: []string{"10.4.0.2", "2001:db8::2"}}},
	}
}

func wants(t *testing.T, what, field string, v []fault.Violation) {
	t.Helper()
	if field == "" && len(v) > 0 || field != "" && !slices.ContainsFunc(v, func(v fault.Violation) bool { return v.Field == field }) {
		t.Errorf("%s: want %q, got %v", what, field, v)
	}
}

func TestNetwork(t *testing.T) {
	wants(t, "a good one", "", netspec.NetworkViolations("spec", network()))
	wants(t, "none", "spec", netspec.NetworkViolations("spec", nil))
	for field, spoil := range map[string][]func(*driverv1.NetworkSpec){
		"type":                          {func(s *driverv1.NetworkSpec) { s.Type = 0 }, func(s *driverv1.NetworkSpec) { s.Type = 99 }},
		"uplink":                        {func(s *driverv1.NetworkSpec) { s.Uplink = "-x" }, func(s *driverv1.NetworkSpec) { s.Uplink = "a\nb" }, func(s *driverv1.NetworkSpec) { s.Type, s.Uplink = 2, "" }},
		"vlan_id":                       {func(s *driverv1.NetworkSpec) { s.VlanId = 4095 }, func(s *driverv1.NetworkSpec) { s.Type = 2 }, func(s *driverv1.NetworkSpec) { s.Type, s.VlanId = 3, 5 }},
		"vni":                           {func(s *driverv1.NetworkSpec) { s.Vni = 1 << 24 }, func(s *driverv1.NetworkSpec) { s.Type = 1 }, func(s *driverv1.NetworkSpec) { s.Type, s.Vni = 3, 0 }, func(s *driverv1.NetworkSpec) { s.VlanId = 5 }},
		"vxlan":                         {func(s *driverv1.NetworkSpec) { s.Vni = 0 }, func(s *driverv1.NetworkSpec) { s.Vxlan = nil }},
		"vxlan.local_address":           {func(s *driverv1.NetworkSpec) { s.Vxlan.LocalAddress = "" }},
		"vxlan.port":                    {func(s *driverv1.NetworkSpec) { s.Vxlan.Port = 65536 }},
		"vxlan.peers[0].address":        {func(s *driverv1.NetworkSpec) { s.Vxlan.Peers[0].Address = "192.0.2.1" }, func(s *driverv1.NetworkSpec) { s.Vxlan.Peers[0].Address = "2001:db8::2" }},
		"vxlan.fdb[0].mac":              {func(s *driverv1.NetworkSpec) { s.Vxlan.Fdb[0].Mac = "01:00:5e:00:00:01" }},
		"vxlan.fdb[0].peer_address":     {func(s *driverv1.NetworkSpec) { s.Vxlan.Fdb[0].PeerAddress = "192.0.2.9" }},
		"egress":                        {func(s *driverv1.NetworkSpec) { s.Egress = 4 }},
		"mtu":                           {func(s *driverv1.NetworkSpec) { s.Mtu = 575 }, func(s *driverv1.NetworkSpec) { s.Mtu = 65536 }, func(s *driverv1.NetworkSpec) { s.Mtu = 1279 }},
		"subnets[0].cidr":               {func(s *driverv1.NetworkSpec) { s.Subnets[0].Cidr = "10.4.0.1/24" }, func(s *driverv1.NetworkSpec) { s.Subnets[0].Cidr = "0.0.0.0/0" }, func(s *driverv1.NetworkSpec) { s.Subnets[0].Cidr = "224.0.0.0/8" }},
		"subnets[1].cidr":               {func(s *driverv1.NetworkSpec) { s.Subnets[1].Cidr = "10.4.0.128/25" }, func(s *driverv1.NetworkSpec) { s.Subnets[1].Cidr = "10.5.0.0/24" }},
		"subnets[0].gateway":            {func(s *driverv1.NetworkSpec) { s.Subnets[0].Gateway = "10.5.0.1" }, func(s *driverv1.NetworkSpec) { s.Subnets[0].Gateway = "10.4.0.0" }, func(s *driverv1.NetworkSpec) { s.Subnets[0].Gateway = "10.4.0.255" }, func(s *driverv1.NetworkSpec) { s.Subnets[0].Gateway = "2001:db8::1" }},
		"subnets[0].dns_servers[0]":     {func(s *driverv1.NetworkSpec) { s.Subnets[0].DnsServers[0] = "ns1" }},
		"subnets[0].routes[0].next_hop": {func(s *driverv1.NetworkSpec) { s.Subnets[0].Routes[0].NextHop = "10.9.0.1" }},
		"subnets[0].lease_seconds":      {func(s *driverv1.NetworkSpec) { s.Subnets[0].LeaseSeconds = 1 }},
		"forwards[0].protocol":          {func(s *driverv1.NetworkSpec) { s.Forwards[0].Protocol = "TCP" }},
		"forwards[0].listen_port":       {func(s *driverv1.NetworkSpec) { s.Forwards[0].ListenPort = 0 }},
		"forwards[0].target_port":       {func(s *driverv1.NetworkSpec) { s.Forwards[0].TargetPort = 65536 }},
		"forwards[0].target_address":    {func(s *driverv1.NetworkSpec) { s.Forwards[0].TargetAddress = "192.0.2.2" }},
		"forwards[1]":                   {func(s *driverv1.NetworkSpec) { s.Forwards = append(s.Forwards, s.Forwards[0]) }},
		"domain_name":                   {func(s *driverv1.NetworkSpec) { s.DomainName = "a..b" }, func(s *driverv1.NetworkSpec) { s.DomainName = "a\nb" }, func(s *driverv1.NetworkSpec) { s.DomainName = strings.Repeat("a", 64) }},
		"dns_records[0].name":           {func(s *driverv1.NetworkSpec) { s.DnsRecords[0].Name = "-a" }, func(s *driverv1.NetworkSpec) { s.DnsRecords[0].Name = `a"b` }},
		"gateway_mac":                   {func(s *driverv1.NetworkSpec) { s.GatewayMac = "52:54:00:00:00:0A" }},
		"conntrack_zone":                {func(s *driverv1.NetworkSpec) { s.ConntrackZone = 65536 }},
	} {
		for i, f := range spoil {
			s := network()
			f(s)
			wants(t, fmt.Sprint(field, " ", i), "spec."+field, netspec.NetworkViolations("spec", s))
		}
	}
}

func TestFixed(t *testing.T) {
	s := network()
	s.Mtu, s.Egress, s.Forwards, s.GatewayMac = 1500, 2, nil, ""
	s.Subnets[0].Gateway = ""
	if f := netspec.Fixed(network(), s); f != "" {
		t.Errorf("%s cannot change", f)
	}
	for field, f := range map[string]func(){"type": func() { s.Type = 3 }, "uplink": func() { s.Uplink = "x" }, "vlan_id": func() { s.VlanId = 7 }, "vni": func() { s.Vni = 7 }, "subnets.cidr": func() { s.Subnets = s.Subnets[:1] }} {
		s = network()
		f()
		if got := netspec.Fixed(network(), s); got != field {
			t.Errorf("%s: got %q", field, got)
		}
	}
}

func TestInterface(t *testing.T) {
	good := &driverv1.InterfaceSpec{NetworkId: id, Mac: "52:54:00:00:00:02", IpAddresses: []string{"10.4.0.2", "2001:db8::2"}, ExtraAddresses: []string{"10.4.0.100", "10.5.0.0/24"}, Hostname: "web-1", RuleSetIds: []string{id}, TrunkVlanIds: []uint32{5, 6}}
	wants(t, "a good one", "", netspec.InterfaceViolations("spec", good))
	wants(t, "none", "spec", netspec.InterfaceViolations("spec", nil))
	for field, spoil := range map[string][]func(*driverv1.InterfaceSpec){
		"network_id": {func(s *driverv1.InterfaceSpec) { s.NetworkId = "x" }},
		"mac": {
			func(s *driverv1.InterfaceSpec) { s.Mac = "" }, func(s *driverv1.InterfaceSpec) { s.Mac = "01:00:5e:00:00:01" }, func(s *driverv1.InterfaceSpec) { s.Mac = "52:54:00:00:00:0A" },
			func(s *driverv1.InterfaceSpec) { s.Mac = "52-54-00-00-00-02" }, func(s *driverv1.InterfaceSpec) { s.Mac = "00:00:00:00:00:00" }, func(s *driverv1.InterfaceSpec) { s.Mac = "52:54:00:00:00:00:00:02" },
		},
		"ip_addresses[1]":    {func(s *driverv1.InterfaceSpec) { s.IpAddresses[1] = "10.4.0.3" }, func(s *driverv1.InterfaceSpec) { s.IpAddresses[1] = "fe80::1%eth0" }},
		"ip_addresses[0]":    {func(s *driverv1.InterfaceSpec) { s.IpAddresses[0] = "10.4.0.3/24" }, func(s *driverv1.InterfaceSpec) { s.IpAddresses[0] = "224.0.0.1" }},
		"extra_addresses[1]": {func(s *driverv1.InterfaceSpec) { s.ExtraAddresses[1] = "10.5.0.1/24" }},
		"hostname":           {func(s *driverv1.InterfaceSpec) { s.Hostname = "a b" }, func(s *driverv1.InterfaceSpec) { s.Hostname = "a\n" }},
		"rule_set_ids[0]":    {func(s *driverv1.InterfaceSpec) { s.RuleSetIds[0] = "x" }},
		"rule_set_ids[1]":    {func(s *driverv1.InterfaceSpec) { s.RuleSetIds = append(s.RuleSetIds, id) }},
		"queues":             {func(s *driverv1.InterfaceSpec) { s.Queues = 257 }},
		"limits.burst_bytes": {func(s *driverv1.InterfaceSpec) { s.Limits = &driverv1.InterfaceLimits{BurstBytes: -1} }},
		"trunk_vlan_ids[1]":  {func(s *driverv1.InterfaceSpec) { s.TrunkVlanIds[1] = 5 }, func(s *driverv1.InterfaceSpec) { s.TrunkVlanIds[1] = 4095 }},
	} {
		for i, f := range spoil {
			s := proto.CloneOf(good)
			f(s)
			wants(t, fmt.Sprint(field, " ", i), "spec."+field, netspec.InterfaceViolations("spec", s))
		}
	}
}

func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for i := range 20000 {
		n := netspec.DeviceName("lqt", fmt.Sprintf("%08x-0000-4000-8000-000000000000", i))
		if len(n) > 15 || seen[n] {
			t.Fatal(n)
		}
		seen[n] = true
	}
	mac, _ := net.ParseMAC("52:54:00:12:34:56")
	if a := netspec.LinkLocal(mac).String(); a != "fe80::5054:ff:fe12:3456" {
		t.Error(a)
	}
	for s, want := range map[string]bool{id: true, "": false, strings.ToUpper(id): false, id + "x": false, "../../etc": false} {
		if netspec.IsUUID(s) != want {
			t.Error(s)
		}
	}
	m := &driverv1.OwnershipMark{ClusterId: "c", NodeId: "n", ObjectId: id}
	wants(t, "a mark", "", netspec.MarkViolations("mark", m, id, netspec.Owner{ClusterID: "c", NodeID: "n"}))
	if v := netspec.MarkViolations("mark", m, "x", netspec.Owner{ClusterID: "d", NodeID: "m"}); len(v) != 3 {
		t.Error(v)
	}
}

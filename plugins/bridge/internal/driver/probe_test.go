package driver

import (
	"strings"
	"testing"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// A node on which all works offers no VLAN, because the driver makes none, and refuses one.
func TestNoVLAN(t *testing.T) {
	d := &Driver{tools: tools{filter: true, nat: true, dnsmasq: true, ipv6: true, vxlan: true, limits: true}, uplinks: []string{"eth0"}}
	spec := &driverv1.NetworkSpec{
		Type: driverv1.NetworkType_NETWORK_TYPE_BRIDGE, Uplink: "eth0", Mtu: 1500, Subnets: []*driverv1.SubnetSpec{{Cidr: "10.0.0.0/24"}},
	}
	if err := d.checkNetwork(spec); err != nil {
		t.Error(err)
	}
	spec.Type, spec.VlanId = driverv1.NetworkType_NETWORK_TYPE_VLAN, 7
	if err := d.checkNetwork(spec); err == nil || !strings.Contains(err.Error(), "spec.type") {
		t.Error("a VLAN is not refused:", err)
	}
	for _, typ := range d.tools.capabilities(nil).GetTypes() {
		if typ == driverv1.NetworkType_NETWORK_TYPE_VLAN {
			t.Error("VLAN is advertised")
		}
	}
}

package driver

import (
	"slices"
	"strings"
	"testing"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// VLANs are offered where the kernel has them, and refused elsewhere; a tag without that type is refused anywhere.
func TestVLANWhereTheKernelHasIt(t *testing.T) {
	d := &Driver{tools: tools{filter: true, nat: true, dnsmasq: true, ipv6: true, vxlan: true, limits: true}, uplinks: []string{"eth0"}}
	spec := &driverv1.NetworkSpec{
		Type: driverv1.NetworkType_NETWORK_TYPE_BRIDGE, Uplink: "eth0", Mtu: 1500, Subnets: []*driverv1.SubnetSpec{{Cidr: "10.0.0.0/24"}},
	}
	if err := d.checkNetwork(spec); err != nil {
		t.Error(err)
	}
	spec.VlanId = 7
	if err := d.checkNetwork(spec); err == nil || !strings.Contains(err.Error(), "spec.vlan_id") {
		t.Error("a tag on a bridge is not refused:", err)
	}
	spec.Type = driverv1.NetworkType_NETWORK_TYPE_VLAN
	for _, has := range []bool{false, true} {
		d.tools.vlan = has
		if err := d.checkNetwork(spec); (err == nil) != has || err != nil && !strings.Contains(err.Error(), "spec.type") {
			t.Errorf("kernel has VLANs: %v; a VLAN: %v", has, err)
		}
		if offered := slices.Contains(d.tools.capabilities(nil).GetTypes(), driverv1.NetworkType_NETWORK_TYPE_VLAN); offered != has {
			t.Errorf("kernel has VLANs: %v; offered: %v", has, offered)
		}
	}
}

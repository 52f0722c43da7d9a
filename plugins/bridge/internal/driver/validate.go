package driver

import (
	"regexp"
	"slices"

	"github.com/limiquantix/limiquantix/plugins/kit/netspec"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

var deviceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$`)

// checkIDs refuses what is no UUID; pairs of field and value.
func checkIDs(pairs ...string) error {
	var v []fault.Violation
	for i := 0; i < len(pairs); i += 2 {
		v = append(v, netspec.IDViolations(pairs[i], pairs[i+1])...)
	}
	return invalid(v)
}

func invalid(v []fault.Violation) error {
	if len(v) == 0 {
		return nil
	}
	return fault.Invalid(v...)
}

func (d *Driver) checkMark(m *driverv1.OwnershipMark, id string) error {
	return invalid(netspec.MarkViolations("mark", m, id, netspec.OwnerOf(d.host)))
}

// checkNetwork refuses a spec that can never be realised, or not here.
func (d *Driver) checkNetwork(s *driverv1.NetworkSpec) error {
	v := netspec.NetworkViolations("spec", s)
	bad := func(wrong bool, field, description string) {
		if wrong {
			v = append(v, fault.Violation{Field: field, Description: description})
		}
	}
	bad(!slices.Contains(d.tools.types(), s.GetType()), "spec.type", "is not advertised on this node")
	bad(s.GetUplink() != "" && !slices.Contains(d.uplinks, s.GetUplink()), "spec.uplink", "is none of the uplinks of the plugin's configuration")
	bad(s.GetVlanId() != 0 && s.GetType() != driverv1.NetworkType_NETWORK_TYPE_VLAN, "spec.vlan_id", "only with type VLAN")
	bad(s.GetUplink() != "" && s.GetType() == driverv1.NetworkType_NETWORK_TYPE_VXLAN, "spec.uplink", "not with VXLAN")
	bad(s.GetEgress() == driverv1.EgressMode_EGRESS_MODE_NAT && !d.tools.nat, "spec.egress", "NAT does not work on this node")
	for _, sub := range s.GetSubnets() {
		bad(sub.GetDhcp() && !d.tools.dnsmasq, "spec.subnets.dhcp", "dnsmasq is not on this node")
	}
	bad(len(s.GetForwards()) > 0 && !atNode(s), "spec.forwards", "need egress NAT or ROUTED")
	return invalid(v)
}

// checkInterface refuses a spec that can never be realised, or not here.
func checkInterface(s *driverv1.InterfaceSpec) error {
	v := netspec.InterfaceViolations("spec", s)
	if len(s.GetTrunkVlanIds()) > 0 {
		v = append(v, fault.Violation{Field: "spec.trunk_vlan_ids", Description: "TRUNK is not advertised"})
	}
	return invalid(v)
}

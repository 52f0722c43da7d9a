package netspec

import (
	"fmt"
	"net/netip"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// InterfaceViolations says all that is wrong with an interface's spec by itself; field is its path, for example "spec". Whether its addresses lie in the network's subnets is not
// looked at: shared and external addresses are lawful.
func InterfaceViolations(field string, s *driverv1.InterfaceSpec) []fault.Violation {
	var v list
	f := func(format string, args ...any) string { return field + "." + fmt.Sprintf(format, args...) }
	if s == nil {
		v.bad(true, field, "required")
		return v
	}
	v = append(v, IDViolations(f("network_id"), s.GetNetworkId())...)
	_, err := ParseMAC(s.GetMac())
	v.err(f("mac"), err)
	families := map[bool]bool{}
	for i, a := range s.GetIpAddresses() {
		ip, err := ParseAddr(a)
		if !v.err(f("ip_addresses[%d]", i), err) {
			continue
		}
		v.bad(families[ip.Is4()], f("ip_addresses[%d]", i), "a second one of this address family; further ones go to extra_addresses")
		v.bad(ip.IsMulticast() || ip.IsLoopback() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}), f("ip_addresses[%d]", i), "%s is not an interface's address", ip)
		families[ip.Is4()] = true
	}
	for i, a := range s.GetExtraAddresses() {
		_, err := ParseAddressOrCIDR(a)
		v.err(f("extra_addresses[%d]", i), err)
	}
	v.bad(s.GetHostname() != "" && !isDomain(s.GetHostname()), f("hostname"), "%.80q is not a DNS name", s.GetHostname())
	sets := map[string]bool{}
	for i, id := range s.GetRuleSetIds() {
		v = append(v, IDViolations(f("rule_set_ids[%d]", i), id)...)
		v.bad(sets[id], f("rule_set_ids[%d]", i), "comes twice")
		sets[id] = true
	}
	v.bad(s.GetQueues() > 256, f("queues"), "%d is more than 256", s.GetQueues())
	l := s.GetLimits()
	v.bad(l.GetIngressBitsPerSecond() < 0, f("limits.ingress_bits_per_second"), "is negative")
	v.bad(l.GetEgressBitsPerSecond() < 0, f("limits.egress_bits_per_second"), "is negative")
	v.bad(l.GetBurstBytes() < 0, f("limits.burst_bytes"), "is negative")
	v.bad(l.GetBurstBytes() > 1<<32-1, f("limits.burst_bytes"), "%d is more than 4 GiB", l.GetBurstBytes())
	trunk := map[uint32]bool{}
	for i, id := range s.GetTrunkVlanIds() {
		v.bad(id < 1 || id > 4094, f("trunk_vlan_ids[%d]", i), "%d is not 1-4094", id)
		v.bad(trunk[id], f("trunk_vlan_ids[%d]", i), "%d comes twice", id)
		trunk[id] = true
	}
	return v
}

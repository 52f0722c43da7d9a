package domain

import (
	"fmt"
	"net/netip"

	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

const (
	maxPortGroups     = 32
	maxExtraAddresses = 16
	minRate           = 8_000             // bits per second: less is no link
	maxRate           = 1_000_000_000_000 // bits per second
	maxBurst          = 1 << 30
)

// ValidatePort notes everything that is wrong with a port, under "port.". Whether what it refers to exists is not looked at; a port without MAC address gets one later.
func ValidatePort(v *Violations, p *networkv1.Port) {
	CheckMeta(v, "port.meta", p.GetMeta(), true)
	ValidatePortSpec(v, "port.spec", p.GetSpec())
}

// ValidatePortSpec notes everything that is wrong with a port's spec, under at.
func ValidatePortSpec(v *Violations, at string, spec *networkv1.PortSpec) {
	if m := spec.GetMac(); m != "" && !validMAC(m) {
		v.Add(at+".mac", macRule)
	}
	CheckPortAddresses(v, at+".ip_addresses", spec.GetIpAddresses())
	CheckPortGroups(v, at+".security_group_ids", spec.GetSecurityGroupIds())
	if n := len(spec.GetExtraAddresses()); n > maxExtraAddresses {
		v.Add(at+".extra_addresses", "holds %d addresses, at most %d are allowed", n, maxExtraAddresses)
	}
	seen := map[string]bool{}
	for i, x := range spec.GetExtraAddresses() {
		field := fmt.Sprintf("%s.extra_addresses[%d]", at, i)
		checkExtra(v, field, x)
		if seen[x] {
			v.Add(field, "%s is named twice", x)
		}
		seen[x] = true
	}
	if h := spec.GetHostname(); h != "" && !validLabel(h) {
		v.Add(at+".hostname", "must be a DNS label: 1-63 characters of a-z, 0-9 and '-', neither beginning nor ending with '-'")
	}
	checkQos(v, at+".qos", spec.GetQos())
	tags := map[uint32]bool{}
	for i, tag := range spec.GetTrunkVlanIds() {
		field := fmt.Sprintf("%s.trunk_vlan_ids[%d]", at, i)
		if tag < 1 || tag > maxVLAN {
			v.Add(field, "must be 1-%d", maxVLAN)
		} else if tags[tag] {
			v.Add(field, "%d is named twice", tag)
		}
		tags[tag] = true
	}
}

// CheckPortAddresses notes addresses that a port cannot ask for: at most one of each family.
func CheckPortAddresses(v *Violations, field string, addresses []string) {
	families := map[bool]bool{}
	for i, s := range addresses {
		at := fmt.Sprintf("%s[%d]", field, i)
		a, ok := checkAddress(v, at, s)
		if !ok {
			continue
		}
		if families[a.Is4()] {
			v.Add(at, "is a second address of its family: a port has at most one of IPv4 and one of IPv6")
		}
		families[a.Is4()] = true
	}
}

// CheckPortGroups notes lists of groups that no port can have.
func CheckPortGroups(v *Violations, field string, groups []string) {
	if n := len(groups); n > maxPortGroups {
		v.Add(field, "holds %d groups, at most %d are allowed", n, maxPortGroups)
	}
	for i, g := range groups {
		if !IsID(g) && !ValidName(g) {
			v.Add(fmt.Sprintf("%s[%d]", field, i), "must be a security group's id or name")
		}
	}
}

// checkExtra notes what is neither an address nor a CIDR that a guest may send from.
func checkExtra(v *Violations, field, s string) {
	p, err := netip.ParsePrefix(s)
	if err == nil {
		if _, ok := checkCIDR(v, field, s); !ok {
			return
		}
	} else {
		a, ok := checkAddress(v, field, s)
		if !ok {
			return
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if a := p.Addr(); a.IsMulticast() || a.IsLoopback() || a.IsUnspecified() && p.IsSingleIP() {
		v.Add(field, "is no address that a guest can send from")
	}
}

func checkQos(v *Violations, at string, q *networkv1.PortQos) {
	for _, r := range []struct {
		field string
		rate  int64
	}{{".ingress_bits_per_second", q.GetIngressBitsPerSecond()}, {".egress_bits_per_second", q.GetEgressBitsPerSecond()}} {
		if r.rate != 0 && (r.rate < minRate || r.rate > maxRate) {
			v.Add(at+r.field, "must be %d-%d, or 0 for no limit", minRate, int64(maxRate))
		}
	}
	if b := q.GetBurstBytes(); b < 0 || b > maxBurst {
		v.Add(at+".burst_bytes", "must be at most %d, or 0 for the driver's choice", maxBurst)
	}
}

// validLabel reports whether s is one label of a DNS name.
func validLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// PortPathAllowed says which fields of a port can change.
func PortPathAllowed(path string) (string, bool) {
	switch path {
	case "spec.ip_addresses", "spec.security_group_ids", "spec.extra_addresses", "spec.hostname", "spec.link_down", "spec.trunk_vlan_ids", "spec.delete_protection", "meta.labels", "meta.annotations":
		return "", true
	}
	switch {
	case Under(path, "spec.qos"):
		return "", true
	case Under(path, "spec.network_id", "spec.mac"):
		return "cannot change: create another port", false
	case Under(path, "meta.labels", "meta.annotations"):
		return "reaches into a map: name the whole map", false
	case Under(path, "meta", "status", "spec"):
		return "cannot change", false
	}
	return `names no field that can change: use "spec.ip_addresses", "spec.security_group_ids", "spec.extra_addresses", "spec.hostname", "spec.qos", "spec.link_down", "spec.trunk_vlan_ids", "spec.delete_protection", "meta.labels", "meta.annotations"`, false
}

// PortHostname is a port's name in DHCP and DNS; vmName is that of the VM whose NIC it is, "" = none. Empty = it has none.
func PortHostname(rec *statev1.PortRecord, vmName string) string {
	if h := rec.GetPort().GetSpec().GetHostname(); h != "" {
		return h
	}
	return vmName
}

package driver

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

var (
	uuid       = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	deviceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$`)
	label      = regexp.MustCompile(`^[a-z0-9A-Z]([a-z0-9A-Z-]{0,61}[a-z0-9A-Z])?$`)
)

// violations collects what is wrong.
type violations []fault.Violation

func (v *violations) bad(wrong bool, field, format string, args ...any) {
	if wrong {
		*v = append(*v, fault.Violation{Field: field, Description: fmt.Sprintf(format, args...)})
	}
}

func (v violations) err() error {
	if len(v) == 0 {
		return nil
	}
	return fault.Invalid(v...)
}

// checkIDs refuses what is no UUID; pairs of field and value.
func checkIDs(pairs ...string) error {
	var v violations
	for i := 0; i < len(pairs); i += 2 {
		v.bad(!uuid.MatchString(pairs[i+1]), pairs[i], "must be a UUID in lower case")
	}
	return v.err()
}

func (d *Driver) checkMark(m *driverv1.OwnershipMark, id string) error {
	var v violations
	v.bad(m.GetObjectId() != id, "mark.object_id", "must be the object's id")
	v.bad(m.GetClusterId() != d.host.GetClusterId() || m.GetNodeId() != d.host.GetNodeId(), "mark", "must carry this cluster and node")
	return v.err()
}

func domainName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for l := range strings.SplitSeq(s, ".") {
		if !label.MatchString(l) {
			return false
		}
	}
	return true
}

func validMAC(s string) bool {
	m, err := net.ParseMAC(s)
	return err == nil && len(m) == 6 && m[0]&1 == 0 && m.String() == s && s != "00:00:00:00:00:00"
}

// checkNetwork refuses a spec that can never be realised here.
func (d *Driver) checkNetwork(s *driverv1.NetworkSpec) error {
	var v violations
	vxlan := s.GetType() == driverv1.NetworkType_NETWORK_TYPE_VXLAN
	v.bad(!slices.Contains(d.tools.types(), s.GetType()), "spec.type", "%s is not advertised on this node", s.GetType())
	v.bad(s.GetUplink() != "" && !slices.Contains(d.uplinks, s.GetUplink()), "spec.uplink", "is none of the uplinks of the plugin's configuration")
	v.bad(s.GetType() != driverv1.NetworkType_NETWORK_TYPE_VLAN && s.GetVlanId() != 0, "spec.vlan_id", "only with VLAN")
	v.bad(vxlan && (s.GetVni() < 1 || s.GetVni() > 1<<24-1), "spec.vni", "must be 1-16777215")
	v.bad(!vxlan && (s.GetVni() != 0 || s.GetVxlan() != nil), "spec.vni", "only with VXLAN")
	if vxlan {
		v.tunnel(s.GetVxlan())
	}
	least, families := uint32(576), map[bool]bool{}
	for i, sub := range s.GetSubnets() {
		if p := v.subnet(fmt.Sprintf("spec.subnets[%d]", i), sub); p.IsValid() {
			v.bad(families[p.Addr().Is6()], fmt.Sprintf("spec.subnets[%d].cidr", i), "at most one subnet per address family")
			families[p.Addr().Is6()] = true
			if p.Addr().Is6() {
				least = 1280
			}
		}
	}
	v.bad(s.GetMtu() != 0 && (s.GetMtu() < least || s.GetMtu() > 65535), "spec.mtu", "must be %d-65535", least)
	v.bad(s.GetEgress() > driverv1.EgressMode_EGRESS_MODE_ROUTED, "spec.egress", "unknown")
	v.bad(s.GetDomainName() != "" && !domainName(s.GetDomainName()), "spec.domain_name", "must be a DNS name")
	v.bad(s.GetGatewayMac() != "" && !validMAC(s.GetGatewayMac()), "spec.gateway_mac", "must be unicast, lower case with colons")
	v.bad(s.GetConntrackZone() > 65535, "spec.conntrack_zone", "must be 1-65535")
	for i, f := range s.GetForwards() {
		v.forward(fmt.Sprintf("spec.forwards[%d]", i), f, s)
	}
	for i, r := range s.GetDnsRecords() {
		field := fmt.Sprintf("spec.dns_records[%d]", i)
		v.bad(!domainName(r.GetName()), field+".name", "must be as DNS labels are")
		for _, a := range r.GetIpAddresses() {
			v.bad(!plainAddr(a), field+".ip_addresses", "%.60q is no address", a)
		}
	}
	return v.err()
}

// plainAddr is an address as netip writes it, without zone.
func plainAddr(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Zone() == "" && !a.Is4In6()
}

func (v *violations) tunnel(x *driverv1.VxlanTunnel) {
	v.bad(!plainAddr(x.GetLocalAddress()), "spec.vxlan.local_address", "required: an address of this node")
	v.bad(x.GetPort() > 65535, "spec.vxlan.port", "must be 1-65535")
	peers := map[string]bool{}
	for i, p := range x.GetPeers() {
		v.bad(!plainAddr(p.GetAddress()), fmt.Sprintf("spec.vxlan.peers[%d].address", i), "must be an address")
		peers[p.GetAddress()] = true
	}
	for i, e := range x.GetFdb() {
		field := fmt.Sprintf("spec.vxlan.fdb[%d]", i)
		v.bad(!validMAC(e.GetMac()), field+".mac", "must be unicast, lower case with colons")
		v.bad(!peers[e.GetPeerAddress()], field+".peer_address", "is none of the peers'")
		for _, a := range e.GetIpAddresses() {
			v.bad(!plainAddr(a), field+".ip_addresses", "%.60q is no address", a)
		}
	}
}

func (v *violations) subnet(field string, s *driverv1.SubnetSpec) netip.Prefix {
	p, err := netip.ParsePrefix(s.GetCidr())
	if err != nil || p != p.Masked() || p.Addr().Is4In6() {
		v.bad(true, field+".cidr", "must be a CIDR with host bits zero")
		return netip.Prefix{}
	}
	v.bad(p.Bits() == 0, field+".cidr", "must not be everything")
	if g := s.GetGateway(); g != "" {
		a, err := netip.ParseAddr(g)
		v.bad(err != nil || !p.Contains(a) || a.Zone() != "", field+".gateway", "must be an address in the subnet")
	}
	for _, a := range s.GetDnsServers() {
		v.bad(!plainAddr(a), field+".dns_servers", "%.60q is no address", a)
	}
	for i, r := range s.GetRoutes() {
		to, err := netip.ParsePrefix(r.GetDestination())
		v.bad(err != nil || to != to.Masked() || to.Addr().Is6() != p.Addr().Is6(), fmt.Sprintf("%s.routes[%d].destination", field, i), "must be a CIDR of the same family, host bits zero")
		hop, err := netip.ParseAddr(r.GetNextHop())
		v.bad(err != nil || !p.Contains(hop), fmt.Sprintf("%s.routes[%d].next_hop", field, i), "must be an address in the subnet")
	}
	v.bad(s.GetLeaseSeconds() != 0 && s.GetLeaseSeconds() < 120, field+".lease_seconds", "must be at least 120")
	return p
}

func (v *violations) forward(field string, f *driverv1.NetworkForward, s *driverv1.NetworkSpec) {
	v.bad(f.GetProtocol() != "tcp" && f.GetProtocol() != "udp", field+".protocol", "must be tcp or udp")
	v.bad(f.GetListenAddress() != "" && !plainAddr(f.GetListenAddress()), field+".listen_address", "must be an address of the node")
	v.bad(f.GetListenPort() < 1 || f.GetListenPort() > 65535, field+".listen_port", "must be 1-65535")
	v.bad(f.GetTargetPort() < 1 || f.GetTargetPort() > 65535, field+".target_port", "must be 1-65535")
	to, err := netip.ParseAddr(f.GetTargetAddress())
	inside := false
	for _, sub := range s.GetSubnets() {
		p, perr := netip.ParsePrefix(sub.GetCidr())
		inside = inside || err == nil && perr == nil && p.Contains(to)
	}
	v.bad(!inside, field+".target_address", "must be an address in the network")
	if a, e := netip.ParseAddr(f.GetListenAddress()); e == nil && err == nil {
		v.bad(a.Is6() != to.Is6(), field+".listen_address", "must be of the target's family")
	}
	v.bad(s.GetEgress() < driverv1.EgressMode_EGRESS_MODE_NAT, field, "needs egress NAT or ROUTED")
}

// checkInterface refuses a spec that can never be realised here.
func checkInterface(s *driverv1.InterfaceSpec) error {
	var v violations
	v.bad(!validMAC(s.GetMac()), "spec.mac", "must be unicast, lower case with colons")
	families := map[bool]bool{}
	for i, a := range s.GetIpAddresses() {
		field := fmt.Sprintf("spec.ip_addresses[%d]", i)
		p, err := netip.ParseAddr(a)
		if err != nil || !plainAddr(a) || p.IsMulticast() || p.IsUnspecified() {
			v.bad(true, field, "must be a unicast address without prefix length")
			continue
		}
		v.bad(families[p.Is6()], field, "at most one address per family")
		families[p.Is6()] = true
	}
	for i, e := range s.GetExtraAddresses() {
		p, err := parseMember(e)
		v.bad(err != nil || p.Bits() == 0, fmt.Sprintf("spec.extra_addresses[%d]", i), "must be an address or a CIDR with host bits zero")
	}
	v.bad(s.GetHostname() != "" && !label.MatchString(s.GetHostname()), "spec.hostname", "must be as a DNS label is")
	seen := map[string]bool{}
	for i, id := range s.GetRuleSetIds() {
		v.bad(!uuid.MatchString(id) || seen[id], fmt.Sprintf("spec.rule_set_ids[%d]", i), "must be a UUID, none twice")
		seen[id] = true
	}
	v.bad(len(s.GetTrunkVlanIds()) > 0, "spec.trunk_vlan_ids", "TRUNK is not advertised")
	v.bad(s.GetQueues() > 256, "spec.queues", "must be at most 256")
	l := s.GetLimits()
	v.bad(l.GetIngressBitsPerSecond() < 0 || l.GetEgressBitsPerSecond() < 0 || l.GetBurstBytes() < 0, "spec.limits", "must not be negative")
	v.bad(l.GetBurstBytes() > 1<<30, "spec.limits.burst_bytes", "must be at most 1 GiB")
	return v.err()
}

// parseMember reads an address or a CIDR.
func parseMember(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && plainAddr(s) {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err == nil && (p != p.Masked() || p.Addr().Is4In6()) {
		err = fmt.Errorf("host bits are not zero")
	}
	return p, err
}

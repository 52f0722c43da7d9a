package conformance

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk/conformance/guest"
	"github.com/limiquantix/limiquantix/sdk/conformance/packet"
	"github.com/limiquantix/limiquantix/sdk/conformance/packetmodel"
)

// lab is a network with guests that send real packets.
type lab struct {
	*bridge
	log  *guest.Log
	nics []*nic
	// sentinel is a rule set that lets UDP to sentinelPort pass both ways: what ends each burst.
	sentinel *ruleSet
	subnets  []netip.Prefix
}

// sentinelPort is the port of UDP that every guest of a lab may send to and hear.
const sentinelPort = 9

// nic is a guest plugged into an interface under check.
type nic struct {
	*port
	*guest.Guest
	lab *lab
}

// tokens counts the packets of this process, so that none is taken for another.
var tokens atomic.Uint32

// newLab makes the n-th network, with both families when the driver knows IPv6.
func (e *Env) newLab(t T, n int) *lab {
	t.Helper()
	return e.labOf(t, n, func(*driverv1.NetworkSpec) {})
}

// labOf is newLab with a network that is shaped before it is made.
func (e *Env) labOf(t T, n int, shape func(*driverv1.NetworkSpec)) *lab {
	t.Helper()
	b := e.newNetwork(t, n)
	spec := b.req.GetSpec()
	has := func(v6 bool) bool {
		return slices.ContainsFunc(spec.GetSubnets(), func(s *driverv1.SubnetSpec) bool { return netip.MustParsePrefix(s.GetCidr()).Addr().Is6() == v6 })
	}
	if !has(true) && slices.Contains(e.caps().GetNetwork().GetFeatures(), driverv1.NetworkFeature_NETWORK_FEATURE_IPV6) {
		spec.Subnets = append(spec.Subnets, &driverv1.SubnetSpec{Cidr: fmt.Sprintf("fd42:213:%x::/64", n)})
	}
	if !has(false) {
		t.Fatalf("Options.Network.Spec gives no IPv4 subnet, which guests could have addresses of")
	}
	shape(spec)
	b.ensure(t)
	l := &lab{bridge: b, log: guest.NewLog()}
	for _, s := range spec.GetSubnets() {
		l.subnets = append(l.subnets, netip.MustParsePrefix(s.GetCidr()))
	}
	if slices.Contains(e.caps().GetNetwork().GetFeatures(), rules) {
		l.sentinel = e.allowing(t, both("sentinel", packetmodel.UDP, sentinelPort)...)
		l.sentinel.apply(t)
	}
	return l
}

// allowing thinks of a rule set with the rules given, in generation 1.
func (e *Env) allowing(t T, rules ...*driverv1.Rule) *ruleSet {
	r := e.ruleSet(t, 1)
	r.req.RuleSet.Rules = rules
	return r
}

// both allows a protocol, to one port when it is not 0, in both directions.
func both(id string, protocol, port uint32) []*driverv1.Rule {
	in := &driverv1.Rule{RuleId: id + "-in", Direction: driverv1.RuleDirection_RULE_DIRECTION_INGRESS, Protocol: proto.Uint32(protocol)}
	if port != 0 {
		in.Ports = &driverv1.PortRange{First: port, Last: port}
	}
	out := proto.CloneOf(in)
	out.RuleId, out.Direction = id+"-out", driverv1.RuleDirection_RULE_DIRECTION_EGRESS
	return []*driverv1.Rule{in, out}
}

// nic thinks of a guest with the next free addresses, and rule sets besides the sentinel's.
func (l *lab) nic(t T, sets ...*ruleSet) *nic {
	t.Helper()
	p := l.port(t)
	mac, err := net.ParseMAC(p.req.GetSpec().GetMac())
	if err != nil {
		t.Fatalf("%v", err)
	}
	var addrs []netip.Addr
	for _, s := range l.subnets {
		a := s.Addr().As16()
		a[15] += byte(10 + len(l.nics))
		addrs = append(addrs, netip.AddrFrom16(a).Unmap())
	}
	n := &nic{port: p, lab: l, Guest: guest.New(string(rune('A'+len(l.nics)%26))+fmt.Sprint(len(l.nics)/26), mac, l.log, addrs...)}
	for _, a := range addrs {
		p.req.Spec.IpAddresses = append(p.req.Spec.IpAddresses, a.String())
	}
	if l.sentinel != nil {
		p.req.Spec.RuleSetIds = []string{l.sentinel.id}
	}
	for _, s := range sets {
		p.req.Spec.RuleSetIds = append(p.req.Spec.RuleSetIds, s.id)
	}
	t.Cleanup(func() {
		if err := n.Unplug(); err != nil {
			t.Errorf("cleaning up: %v", err)
		}
	})
	l.nics = append(l.nics, n)
	return n
}

// plugged is a nic that is attached, plugged in, up and known to its bridge.
func (l *lab) plugged(t T, sets ...*ruleSet) *nic {
	t.Helper()
	n := l.nic(t, sets...)
	n.plug(t)
	n.up(t)
	return n
}

// plug attaches the interface and plugs the guest in.
func (n *nic) plug(t T) {
	t.Helper()
	i := n.attach(t)
	if i.GetState() == driverv1.InterfaceState_INTERFACE_STATE_BLOCKED {
		t.Fatalf("the interface is kept shut: %s: %s", i.GetReason(), i.GetMessage())
	}
	must(t, "plugging in", n.Plug(t.Context(), i.GetBinding(), n.e.o.Network.Packets.OVS))
}

// up waits until the driver says that the interface is up, and announces the guest.
func (n *nic) up(t T) {
	t.Helper()
	var last *driverv1.NetworkInterface
	eventually(t, 60*time.Second, "the interface that was plugged in is UP", func() bool {
		last = n.listed(t)
		return last.GetState() == driverv1.InterfaceState_INTERFACE_STATE_UP
	})
	n.Announce()
}

// packet is one from a nic to another, of the n-th family of addresses: UDP to a port.
func (n *nic) packet(to *nic, family int, dstPort uint16) packetmodel.Packet {
	return packetmodel.Packet{
		From: n.Name, To: to.Name, Src: n.Addrs[family], Dst: to.Addrs[family], Protocol: packetmodel.UDP,
		SrcPort: uint16(20000 + tokens.Load()%20000), DstPort: dstPort, //nolint:gosec // below 40000
	}
}

// send sends a packet and returns the token that it is known by.
func (n *nic) send(to *nic, p packetmodel.Packet, tcp packet.TCP) (uint32, error) {
	token := tokens.Add(1)
	return token, n.Send(packet.Frame(to.MAC, n.MAC, p, tcp, packet.Token(token)))
}

// passes waits until a packet that must pass arrives. It is sent again each second, since a switch may lose one while it is learning.
func (n *nic) passes(t T, to *nic, p packetmodel.Packet) bool {
	t.Helper()
	for range 10 {
		if n.passedOnce(t, to, p, time.Second) {
			return true
		}
	}
	return false
}

func (n *nic) passedOnce(t T, to *nic, p packetmodel.Packet, within time.Duration) bool {
	t.Helper()
	token, err := n.send(to, p, packet.TCP{Flags: packet.SYN})
	must(t, "sending", err)
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	return n.lab.log.Wait(ctx, to.Name, token)
}

// ends waits until an allowed packet from n to the other has arrived: whatever n sent before is where it goes, or dropped.
func (n *nic) ends(t T, to *nic) {
	t.Helper()
	for family := range n.Addrs {
		if !n.passes(t, to, n.packet(to, family, sentinelPort)) {
			t.Fatalf("no allowed packet gets from %s to %s", n.Addrs[family], to.Addrs[family])
		}
	}
}

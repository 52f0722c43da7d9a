package render

import (
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
	"time"

	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// NetworkColumns are the columns of a table of networks.
func NetworkColumns(now func() time.Time) []Column[*networkv1.Network] {
	type network = *networkv1.Network
	return []Column[network]{
		{Title: "NAME", Value: func(n network) string { return n.GetMeta().GetName() }},
		{Title: "STATUS", Value: func(n network) string { return Enum(n.GetStatus().GetPhase(), "NETWORK_PHASE_") }},
		{Title: "TYPE", Value: networkType},
		{Title: "SUBNETS", Value: func(n network) string {
			var all []string
			for _, s := range n.GetSpec().GetSubnets() {
				all = append(all, s.GetCidr())
			}
			return strings.Join(all, ",")
		}},
		{Title: "EGRESS", Value: egress},
		{Title: "NODES", Value: networkNodes},
		{Title: "PORTS", Value: func(n network) string { return fmt.Sprint(n.GetStatus().GetPortCount()) }},
		{Title: "AGE", Value: func(n network) string { return Age(n.GetMeta().GetCreateTime(), now()) }},
		{Title: "SEGMENT", Wide: true, Value: segment},
		{Title: "MTU", Wide: true, Value: func(n network) string { return numberOrNone(n.GetStatus().GetMtu()) }},
		{Title: "FREE", Wide: true, Value: func(n network) string {
			var all []string
			for _, s := range n.GetStatus().GetSubnets() {
				all = append(all, free(s.GetFreeAddresses()))
			}
			return strings.Join(all, ",")
		}},
		{Title: "PROJECT", Wide: true, Value: func(n network) string { return n.GetMeta().GetProjectId() }},
		{Title: "ID", Wide: true, Value: func(n network) string { return n.GetMeta().GetId() }},
		{Title: "MESSAGE", Wide: true, Value: func(n network) string { return n.GetStatus().GetMessage() }},
	}
}

func networkType(n *networkv1.Network) string {
	if t := Enum(n.GetSpec().GetType(), "NETWORK_TYPE_"); t != "" {
		return t
	}
	return "bridge"
}

// egress is how a network's ports reach what is outside, the default written out.
func egress(n *networkv1.Network) string {
	e := Enum(n.GetSpec().GetEgress(), "EGRESS_MODE_")
	switch {
	case e != "":
		return e
	case networkType(n) == "bridge" && n.GetSpec().GetUplink() == "" && len(n.GetSpec().GetSubnets()) > 0:
		return "nat"
	}
	return "none"
}

// segment is what separates a network from others on the same wire.
func segment(n *networkv1.Network) string {
	vni := n.GetStatus().GetVni()
	if vni == 0 {
		vni = n.GetSpec().GetVni()
	}
	var parts []string
	if v := n.GetSpec().GetVlanId(); v > 0 {
		parts = append(parts, fmt.Sprintf("vlan %d", v))
	}
	if vni > 0 {
		parts = append(parts, fmt.Sprintf("vni %d", vni))
	}
	return strings.Join(parts, ", ")
}

func networkNodes(n *networkv1.Network) string {
	well := 0
	for _, on := range n.GetStatus().GetNodes() {
		if on.GetHealth() == networkv1.NetworkHealth_NETWORK_HEALTH_HEALTHY {
			well++
		}
	}
	return fmt.Sprintf("%d/%d", well, len(n.GetStatus().GetNodes()))
}

func numberOrNone(n uint32) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

// free prints a number of free addresses; beyond what counts it is simply many.
func free(n int64) string {
	if n >= math.MaxInt32 {
		return "plenty"
	}
	return fmt.Sprint(n)
}

// NetworkFields describe one network; port gives a port's name for its id.
func NetworkFields(n *networkv1.Network, port func(id string) string, now time.Time) []Field {
	m, s, st := n.GetMeta(), n.GetSpec(), n.GetStatus()
	fields := []Field{
		{"Name", m.GetName()},
		{"ID", m.GetId()},
		{"Project", m.GetProjectId()},
		{"Status", Enum(st.GetPhase(), "NETWORK_PHASE_")},
		{"Reason", st.GetReason()},
		{"Message", st.GetMessage()},
		{"Type", strings.Join(nonEmpty(networkType(n), segment(n)), ", ")},
		{"Driver", s.GetDriver()},
		{"Uplink", s.GetUplink()},
		{"Egress", egress(n)},
		{"MTU", numberOrNone(st.GetMtu())},
		{"Domain", domain(n)},
		{"Node selector", Labels(s.GetNodeSelector())},
	}
	for i, sub := range s.GetSubnets() {
		use := &networkv1.SubnetStatus{}
		if i < len(st.GetSubnets()) {
			use = st.GetSubnets()[i]
		}
		fields = append(fields, subnetFields(sub, use)...)
	}
	for _, f := range s.GetForwards() {
		fields = append(fields, Field{"Forward", Listen(f) + " -> " + forwardTarget(f, port)})
	}
	fields = append(fields, Field{"Ports", fmt.Sprint(st.GetPortCount())})
	for _, on := range st.GetNodes() {
		parts := []string{on.GetNodeName() + ": " + healthOr(on)}
		if on.GetDevice() != "" {
			parts = append(parts, "device "+on.GetDevice())
		}
		if on.GetMtu() > 0 {
			parts = append(parts, fmt.Sprintf("MTU %d", on.GetMtu()))
		}
		if on.GetReason() != "" || on.GetMessage() != "" {
			parts = append(parts, strings.Join(nonEmpty(on.GetReason(), on.GetMessage()), ": "))
		}
		fields = append(fields, Field{"Node", strings.Join(parts, ", ")})
	}
	if s.GetDeleteProtection() {
		fields = append(fields, Field{"Protected", "cannot be deleted"})
	}
	return append(append(fields, conditionFields(st.GetConditions())...), Field{"Labels", Labels(m.GetLabels())},
		Field{"Created", withAge(Time(m.GetCreateTime()), Age(m.GetCreateTime(), now))})
}

func healthOr(on *networkv1.NetworkNodeStatus) string {
	if h := Enum(on.GetHealth(), "NETWORK_HEALTH_"); h != "" {
		return h
	}
	return "not reported yet"
}

func domain(n *networkv1.Network) string {
	if d := n.GetSpec().GetDomainName(); d != "" {
		return d
	}
	return n.GetMeta().GetName() + ".internal"
}

func subnetFields(sub *networkv1.Subnet, use *networkv1.SubnetStatus) []Field {
	parts := []string{sub.GetCidr()}
	gateway := use.GetGateway()
	if gateway == "" {
		gateway = sub.GetGateway()
	}
	if gateway != "" {
		parts = append(parts, "gateway "+gateway)
	}
	if sub.Dhcp != nil && !sub.GetDhcp() {
		parts = append(parts, "no DHCP")
	}
	if use.GetCidr() != "" {
		parts = append(parts, fmt.Sprintf("%d used", use.GetUsedAddresses()), free(use.GetFreeAddresses())+" free")
	}
	fields := []Field{{"Subnet", strings.Join(parts, ", ")}}
	for _, r := range sub.GetRanges() {
		fields = append(fields, Field{"  Range", r.GetFirst() + "-" + r.GetLast()})
	}
	for _, r := range sub.GetReservations() {
		text := r.GetIpAddress()
		if r.GetMac() != "" {
			text += " for " + r.GetMac()
		}
		fields = append(fields, Field{"  Reserved", strings.Join(nonEmpty(text, r.GetDescription()), ", ")})
	}
	fields = append(fields, Field{"  DNS", strings.Join(sub.GetDnsServers(), ", ")})
	for _, r := range sub.GetRoutes() {
		fields = append(fields, Field{"  Route", r.GetDestination() + " by " + r.GetNextHop()})
	}
	return fields
}

// Listen is where a forward listens, as lqctl network set --remove-forward takes it.
func Listen(f *networkv1.NetworkForward) string {
	protocol := f.GetProtocol()
	if protocol == "" {
		protocol = "tcp"
	}
	if f.GetListenAddress() == "" {
		return fmt.Sprintf("%s:%d", protocol, f.GetListenPort())
	}
	return protocol + ":" + net.JoinHostPort(f.GetListenAddress(), strconv.Itoa(int(f.GetListenPort())))
}

func forwardTarget(f *networkv1.NetworkForward, port func(id string) string) string {
	to := f.GetTargetPort()
	if to == 0 {
		to = f.GetListenPort()
	}
	if f.GetIpAddress() != "" {
		return net.JoinHostPort(f.GetIpAddress(), strconv.Itoa(int(to)))
	}
	return fmt.Sprintf("port %s:%d", port(f.GetPortId()), to)
}

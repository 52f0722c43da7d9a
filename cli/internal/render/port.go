package render

import (
	"fmt"
	"strings"
	"time"

	"github.com/limiquantix/limiquantix/cli/internal/quantity"
	"github.com/limiquantix/limiquantix/cli/internal/rule"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// PortNames gives people names for the ids that ports hold.
type PortNames struct {
	Network, VM, Node func(id string) string
	// Port is what a port is called by.
	Port func(*networkv1.Port) string
	// Group also gives a group's generation as wanted; 0 = not known.
	Group func(id string) (string, int64)
}

// PortColumns are the columns of a table of ports.
func PortColumns(now func() time.Time, names PortNames) []Column[*networkv1.Port] {
	type port = *networkv1.Port
	return []Column[port]{
		{Title: "NAME", Value: names.Port},
		{Title: "STATUS", Value: portPhase},
		{Title: "NETWORK", Value: func(p port) string { return names.Network(p.GetSpec().GetNetworkId()) }},
		{Title: "IP", Value: func(p port) string { return strings.Join(p.GetStatus().GetIpAddresses(), ",") }},
		{Title: "MAC", Value: portMAC},
		{Title: "VM", Value: func(p port) string { return names.VM(p.GetStatus().GetBinding().GetVmId()) }},
		{Title: "NODE", Value: func(p port) string { return names.Node(p.GetStatus().GetBinding().GetNodeId()) }},
		{Title: "GROUPS", Value: func(p port) string {
			var all []string
			for _, id := range p.GetSpec().GetSecurityGroupIds() {
				name, _ := names.Group(id)
				all = append(all, name)
			}
			return strings.Join(all, ",")
		}},
		{Title: "AGE", Value: func(p port) string { return Age(p.GetMeta().GetCreateTime(), now()) }},
		{Title: "DEVICE", Wide: true, Value: func(p port) string { return p.GetStatus().GetBinding().GetDevice() }},
		{Title: "HOSTNAME", Wide: true, Value: func(p port) string { return p.GetSpec().GetHostname() }},
		{Title: "PROJECT", Wide: true, Value: func(p port) string { return p.GetMeta().GetProjectId() }},
		{Title: "ID", Wide: true, Value: func(p port) string { return p.GetMeta().GetId() }},
		{Title: "MESSAGE", Wide: true, Value: func(p port) string { return p.GetStatus().GetMessage() }},
	}
}

func portPhase(p *networkv1.Port) string {
	text := Enum(p.GetStatus().GetPhase(), "PORT_PHASE_")
	if p.GetSpec().GetLinkDown() {
		text += ",link-down"
	}
	return text
}

func portMAC(p *networkv1.Port) string {
	if m := p.GetStatus().GetMac(); m != "" {
		return m
	}
	return p.GetSpec().GetMac()
}

// PortFields describe one port.
func PortFields(p *networkv1.Port, names PortNames, now time.Time) []Field {
	m, s, st := p.GetMeta(), p.GetSpec(), p.GetStatus()
	fields := []Field{
		{"Name", names.Port(p)},
		{"ID", m.GetId()},
		{"Project", m.GetProjectId()},
		{"Status", portPhase(p)},
		{"Reason", st.GetReason()},
		{"Message", st.GetMessage()},
		{"Next try", Time(st.GetNextRetryTime())},
		{"Network", names.Network(s.GetNetworkId())},
		{"MAC", portMAC(p)},
		{"Addresses", strings.Join(st.GetIpAddresses(), ", ")},
		{"Further addresses", strings.Join(s.GetExtraAddresses(), ", ")},
	}
	for _, a := range st.GetObservedAddresses() {
		text := a.GetIpAddress() + " by " + Enum(a.GetSource(), "OBSERVED_ADDRESS_SOURCE_")
		if a.GetObserveTime() != nil {
			text += ", " + Age(a.GetObserveTime(), now) + " ago"
		}
		fields = append(fields, Field{"Seen", text})
	}
	fields = append(fields, Field{"Host name", s.GetHostname()})
	if b := st.GetBinding(); b.GetVmId() != "" {
		fields = append(fields, Field{"VM", names.VM(b.GetVmId()) + ", NIC " + b.GetNicName()}, Field{"Node", bound(b, names)}, Field{"Device", b.GetDevice()})
	}
	if owner := st.GetOwnerVmId(); owner != "" {
		fields = append(fields, Field{"Lives with", "VM " + names.VM(owner)})
	}
	fields = append(fields, groupFields(p, names)...)
	if q := s.GetQos(); q.GetIngressBitsPerSecond() > 0 || q.GetEgressBitsPerSecond() > 0 {
		fields = append(fields, Field{"Limits", strings.Join(nonEmpty(rate("in", q.GetIngressBitsPerSecond()), rate("out", q.GetEgressBitsPerSecond()), burst(q)), ", ")})
	}
	var tags []string
	for _, v := range s.GetTrunkVlanIds() {
		tags = append(tags, fmt.Sprint(v))
	}
	fields = append(fields, Field{"Trunk VLANs", strings.Join(tags, ", ")})
	if s.GetDeleteProtection() {
		fields = append(fields, Field{"Protected", "cannot be deleted"})
	}
	return append(append(fields, conditionFields(st.GetConditions())...), Field{"Labels", Labels(m.GetLabels())},
		Field{"Created", withAge(Time(m.GetCreateTime()), Age(m.GetCreateTime(), now))})
}

func bound(b *networkv1.PortBinding, names PortNames) string {
	text := names.Node(b.GetNodeId())
	if b.GetMode() == networkv1.PortBindingMode_PORT_BINDING_MODE_MIGRATING {
		text += ", moves to " + names.Node(b.GetTargetNodeId())
	}
	return text
}

// groupFields say of each group of a port which generation is in force on it.
func groupFields(p *networkv1.Port, names PortNames) []Field {
	applied := map[string]int64{}
	for _, g := range p.GetStatus().GetSecurityGroups() {
		applied[g.GetSecurityGroupId()] = g.GetGeneration()
	}
	var fields []Field
	for _, id := range p.GetSpec().GetSecurityGroupIds() {
		name, wanted := names.Group(id)
		have, ok := applied[id]
		delete(applied, id)
		text := name + ", generation " + fmt.Sprint(have) + " in force"
		switch {
		case !ok && p.GetStatus().GetBinding().GetNodeId() == "":
			text = name + ", on no node"
		case !ok:
			text = name + ", not in force yet"
		case wanted > have:
			text += fmt.Sprintf(", %d on its way", wanted)
		}
		fields = append(fields, Field{"Group", text})
	}
	for _, g := range p.GetStatus().GetSecurityGroups() {
		if have, still := applied[g.GetSecurityGroupId()]; still {
			name, _ := names.Group(g.GetSecurityGroupId())
			fields = append(fields, Field{"Group", fmt.Sprintf("%s, generation %d still in force, on its way out", name, have)})
		}
	}
	return fields
}

func rate(way string, bits int64) string {
	if bits == 0 {
		return ""
	}
	return way + " " + quantity.FormatRate(bits)
}

func burst(q *networkv1.PortQos) string {
	if q.GetBurstBytes() == 0 {
		return ""
	}
	return "burst " + quantity.FormatBytes(q.GetBurstBytes())
}

// PortStatsFields are a port's counters.
func PortStatsFields(st *networkv1.GetPortStatsResponse, now time.Time) []Field {
	count := func(bytes, packets, dropped uint64) string {
		return fmt.Sprintf("%s, %s, %d dropped by the device", packetCount(packets), quantity.FormatBytes(int64(min(bytes, 1<<62))), dropped)
	}
	read := "never"
	if st.GetObserveTime() != nil {
		read = withAge(Time(st.GetObserveTime()), Age(st.GetObserveTime(), now))
	}
	return []Field{
		{"To the guest", count(st.GetReceiveBytes(), st.GetReceivePackets(), st.GetReceiveDropped())},
		{"From the guest", count(st.GetTransmitBytes(), st.GetTransmitPackets(), st.GetTransmitDropped())},
		{"Denied in", packetCount(st.GetIngressDeniedPackets()) + " that no rule allowed"},
		{"Denied out", packetCount(st.GetEgressDeniedPackets()) + " that no rule allowed"},
		{"Spoofed", packetCount(st.GetSpoofedPackets()) + " with a MAC or address that is not the guest's, or that a guest may not send"},
		{"Read", read},
	}
}

func packetCount(n uint64) string {
	if n == 1 {
		return "1 packet"
	}
	return fmt.Sprintf("%d packets", n)
}

// Verdict prints whether a packet would pass: the verdict first, then the rules that allow it, or what would.
func Verdict(x *networkv1.ExplainPacketResponse, remedy string, name func(id string) string) []string {
	word := "dropped"
	if x.GetAllowed() {
		word = "allowed"
	}
	lines := []string{oneLine(strings.TrimSuffix(word+" ("+x.GetReason()+"): "+x.GetMessage(), ": "))}
	for _, m := range x.GetRules() {
		text := "  by group " + m.GetSecurityGroupName() + ": " + rule.Text(m.GetRule(), name)
		if d := m.GetRule().GetDescription(); d != "" {
			text += " (" + d + ")"
		}
		if m.GetMemberPortId() != "" {
			text += ", as the other side is port " + m.GetMemberPortId()
		}
		lines = append(lines, oneLine(text))
	}
	if remedy != "" {
		lines = append(lines, oneLine("  to allow it: "+remedy))
	}
	if !x.GetInForce() {
		lines = append(lines, "  not in force on a node now: a change is on its way, or the port is on none")
	}
	return lines
}

package render

import (
	"fmt"
	"strings"
	"time"

	"github.com/limiquantix/limiquantix/cli/internal/quantity"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// VMColumns are the columns of a table of VMs.
func VMColumns(now func() time.Time) []Column[*computev1.VM] {
	return []Column[*computev1.VM]{
		{Title: "NAME", Value: func(v *computev1.VM) string { return v.GetMeta().GetName() }},
		{Title: "STATUS", Value: vmPhase},
		{Title: "NODE", Value: func(v *computev1.VM) string { return v.GetStatus().GetVmPlacement().GetNodeName() }},
		{Title: "CPUS", Value: func(v *computev1.VM) string { return fmt.Sprint(max(1, v.GetSpec().GetCpu().GetVcpus())) }},
		{Title: "MEMORY", Value: func(v *computev1.VM) string { return quantity.FormatBytes(v.GetSpec().GetMemoryBytes()) }},
		{Title: "IP", Value: vmAddresses},
		{Title: "AGE", Value: func(v *computev1.VM) string { return Age(v.GetMeta().GetCreateTime(), now()) }},
		{Title: "PROJECT", Wide: true, Value: func(v *computev1.VM) string { return v.GetMeta().GetProjectId() }},
		{Title: "ID", Wide: true, Value: func(v *computev1.VM) string { return v.GetMeta().GetId() }},
		{Title: "LABELS", Wide: true, Value: func(v *computev1.VM) string { return Labels(v.GetMeta().GetLabels()) }},
		{Title: "MESSAGE", Wide: true, Value: func(v *computev1.VM) string { return v.GetStatus().GetMessage() }},
	}
}

func vmPhase(v *computev1.VM) string {
	phase := Enum(v.GetStatus().GetPhase(), "VM_PHASE_")
	if v.GetStatus().GetRestartRequired() {
		phase += "*"
	}
	return phase
}

func vmAddresses(v *computev1.VM) string {
	var all []string
	for _, n := range v.GetStatus().GetNics() {
		for _, a := range n.GetIpAddresses() {
			all = append(all, strings.SplitN(a, "/", 2)[0])
		}
	}
	return strings.Join(all, ",")
}

// VMFields describes a VM.
func VMFields(v *computev1.VM, now time.Time) []Field {
	m, s, st := v.GetMeta(), v.GetSpec(), v.GetStatus()
	f := []Field{
		{"Name", m.GetName()},
		{"Project", m.GetProjectId()},
		{"ID", m.GetId()},
		{"Labels", Labels(m.GetLabels())},
		{"Status", strings.TrimSuffix(vmPhase(v), "*")},
		{"Reason", st.GetReason()},
		{"Message", st.GetMessage()},
		{"Wanted", Enum(s.GetDesiredPower(), "POWER_STATE_")},
		{"Run policy", Enum(s.GetRunPolicy(), "RUN_POLICY_")},
		{"Node", st.GetVmPlacement().GetNodeName()},
		{"Created", withAge(Time(m.GetCreateTime()), Age(m.GetCreateTime(), now))},
		{"Started", withAge(Time(st.GetStartTime()), Age(st.GetStartTime(), now))},
		{"Next try", Time(st.GetNextRetryTime())},
		{"CPUs", fmt.Sprint(max(1, s.GetCpu().GetVcpus()))},
		{"Memory", quantity.FormatBytes(s.GetMemoryBytes())},
		{"Accelerator", st.GetAccelerator()},
	}
	if st.GetPid() != 0 {
		f = append(f, Field{"Process", fmt.Sprint(st.GetPid())})
	}
	if st.GetRestartRequired() {
		f = append(f, Field{"Restart", "needed for a part of the spec"})
	}
	if k := s.GetBoot().GetKernel(); k != nil {
		f = append(f, Field{"Kernel", strings.TrimSpace(k.GetKernelImage() + " " + k.GetInitrdImage())}, Field{"Command line", k.GetCmdline()})
	}
	for _, d := range s.GetDisks() {
		f = append(f, Field{"Disk " + d.GetName(), diskText(d, st)})
	}
	for _, n := range s.GetNics() {
		f = append(f, Field{"NIC " + n.GetName(), nicText(n, st)})
	}
	if st.GetGuestAgentConnected() || st.GetGuest() != nil {
		g := st.GetGuest()
		f = append(f, Field{"Guest", strings.Join(nonEmpty(g.GetHostname(), g.GetOsName(), g.GetKernelRelease(), strings.Join(g.GetIpAddresses(), " ")), ", ")})
	}
	f = append(f, Field{"VNC", st.GetVncSocketPath()})
	for _, c := range st.GetConditions() {
		f = append(f, Field{"Condition " + c.GetType(), strings.Join(nonEmpty(Enum(c.GetStatus(), "CONDITION_STATUS_"), c.GetReason(), c.GetMessage()), ", ")})
	}
	return f
}

func diskText(d *computev1.Disk, st *computev1.VMStatus) string {
	size, image := d.GetInline().GetSizeBytes(), d.GetInline().GetImage()
	attached := ""
	for _, ds := range st.GetDisks() {
		if ds.GetName() == d.GetName() {
			if ds.GetSizeBytes() > 0 {
				size = ds.GetSizeBytes()
			}
			if ds.GetAttached() {
				attached = "attached"
			}
		}
	}
	var parts []string
	if size > 0 {
		parts = append(parts, quantity.FormatBytes(size))
	}
	if image != "" {
		parts = append(parts, "from image "+image)
	}
	if d.GetVolume() != "" {
		parts = append(parts, "volume "+d.GetVolume())
	}
	if d.GetReadOnly() {
		parts = append(parts, "read-only")
	}
	return strings.Join(nonEmpty(append(parts, Enum(d.GetBus(), "DISK_BUS_"), attached)...), ", ")
}

func nicText(n *computev1.NIC, st *computev1.VMStatus) string {
	on := nicStatus(n, st)
	parts := []string{nicMAC(n, on)}
	if u := n.GetUser(); u != nil {
		parts = append(parts, "user")
		for _, p := range u.GetForwards() {
			parts = append(parts, fmt.Sprintf("%s %s:%d -> %d", p.GetProtocol(), p.GetHostAddress(), p.GetHostPort(), p.GetGuestPort()))
		}
	} else if n.GetNetwork() != nil {
		parts = append(parts, nicPlace(n))
	}
	parts = append(parts, on.GetIpAddresses()...)
	if g := n.GetNetwork().GetSecurityGroups(); len(g) > 0 {
		parts = append(parts, "groups "+strings.Join(g, "+"))
	}
	if q := n.GetQueues(); q > 1 {
		parts = append(parts, fmt.Sprintf("%d queues", q))
	}
	return strings.Join(nonEmpty(parts...), ", ")
}

func nicStatus(n *computev1.NIC, st *computev1.VMStatus) *computev1.NICStatus {
	for _, ns := range st.GetNics() {
		if ns.GetName() == n.GetName() {
			return ns
		}
	}
	return nil
}

func nicMAC(n *computev1.NIC, on *computev1.NICStatus) string {
	if n.GetMac() != "" {
		return n.GetMac()
	}
	return on.GetMac()
}

// nicPlace is what an interface is plugged into.
func nicPlace(n *computev1.NIC) string {
	switch a := n.GetNetwork(); {
	case n.GetUser() != nil:
		return "user"
	case a.GetPort() != "":
		return "port " + a.GetPort()
	case a.GetNetwork() == "":
		return "network default"
	default:
		return "network " + a.GetNetwork()
	}
}

// NICColumns are the columns of a table of a VM's interfaces; port gives a port's name for its id.
func NICColumns(st *computev1.VMStatus, port func(id string) string) []Column[*computev1.NIC] {
	type nic = *computev1.NIC
	return []Column[nic]{
		{Title: "NAME", Value: func(n nic) string { return n.GetName() }},
		{Title: "IN", Value: nicPlace},
		{Title: "MAC", Value: func(n nic) string { return nicMAC(n, nicStatus(n, st)) }},
		{Title: "IP", Value: func(n nic) string { return strings.Join(nicStatus(n, st).GetIpAddresses(), ",") }},
		{Title: "GROUPS", Value: func(n nic) string { return strings.Join(n.GetNetwork().GetSecurityGroups(), ",") }},
		{Title: "PORT", Value: func(n nic) string { return port(nicStatus(n, st).GetPortId()) }},
		{Title: "DEVICE", Wide: true, Value: func(n nic) string { return nicStatus(n, st).GetDevice() }},
	}
}

func nonEmpty(parts ...string) []string {
	var out []string
	for _, p := range parts {
		if p != "" {
			out = append(out, p)
		}
	}
	return out
}

func withAge(at, age string) string {
	if at == "" {
		return ""
	}
	return at + " (" + age + " ago)"
}

// EventColumns are the columns of a table of VM events.
func EventColumns() []Column[*computev1.VMEvent] {
	return []Column[*computev1.VMEvent]{
		{Title: "TIME", Value: func(e *computev1.VMEvent) string { return Time(e.GetTime()) }},
		{Title: "TYPE", Value: func(e *computev1.VMEvent) string { return e.GetType() }},
		{Title: "REASON", Value: func(e *computev1.VMEvent) string { return e.GetReason() }},
		{Title: "NODE", Wide: true, Value: func(e *computev1.VMEvent) string { return e.GetNodeId() }},
		{Title: "MESSAGE", Value: func(e *computev1.VMEvent) string { return e.GetMessage() }},
	}
}

// VerdictColumns are the columns of a table of where a VM could run.
func VerdictColumns() []Column[*computev1.NodeVerdict] {
	return []Column[*computev1.NodeVerdict]{
		{Title: "NODE", Value: func(n *computev1.NodeVerdict) string { return n.GetNodeName() }},
		{Title: "FITS", Value: func(n *computev1.NodeVerdict) string {
			return map[bool]string{true: "yes", false: "no"}[n.GetFeasible()]
		}},
		{Title: "SCORE", Value: func(n *computev1.NodeVerdict) string {
			if !n.GetFeasible() {
				return ""
			}
			return fmt.Sprintf("%.2f", n.GetScore())
		}},
		{Title: "FAILED", Value: func(n *computev1.NodeVerdict) string { return strings.Join(n.GetFailedPredicates(), ",") }},
		{Title: "MESSAGE", Value: func(n *computev1.NodeVerdict) string { return n.GetMessage() }},
	}
}

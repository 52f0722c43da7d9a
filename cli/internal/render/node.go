package render

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/limiquantix/limiquantix/cli/internal/quantity"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// NodeColumns are the columns of a table of nodes.
func NodeColumns(now func() time.Time) []Column[*computev1.Node] {
	return []Column[*computev1.Node]{
		{Title: "NAME", Value: func(n *computev1.Node) string { return n.GetMeta().GetName() }},
		{Title: "STATUS", Value: nodePhase},
		{Title: "VMS", Value: func(n *computev1.Node) string { return fmt.Sprint(n.GetStatus().GetVmCount()) }},
		{Title: "CPUS", Value: func(n *computev1.Node) string {
			return amount(n.GetStatus().GetClaimed().GetCpus(), n.GetStatus().GetAllocatable().GetCpus())
		}},
		{Title: "MEMORY", Value: func(n *computev1.Node) string {
			return memory(n.GetStatus().GetClaimed(), n.GetStatus().GetAllocatable())
		}},
		{Title: "ACCEL", Value: func(n *computev1.Node) string { return n.GetStatus().GetResources().GetAccelerator() }},
		{Title: "AGENT", Value: func(n *computev1.Node) string { return n.GetStatus().GetAgentVersion() }},
		{Title: "HEARTBEAT", Value: func(n *computev1.Node) string { return Age(n.GetStatus().GetHeartbeatTime(), now()) }},
		{Title: "AGE", Wide: true, Value: func(n *computev1.Node) string { return Age(n.GetMeta().GetCreateTime(), now()) }},
		{Title: "SYSTEM", Wide: true, Value: func(n *computev1.Node) string { return n.GetStatus().GetSystem() }},
		{Title: "DRIVERS", Wide: true, Value: func(n *computev1.Node) string {
			var all []string
			for _, d := range n.GetStatus().GetDrivers() {
				all = append(all, d.GetName()+"="+d.GetState())
			}
			return strings.Join(all, ",")
		}},
		{Title: "ID", Wide: true, Value: func(n *computev1.Node) string { return n.GetMeta().GetId() }},
		{Title: "LABELS", Wide: true, Value: func(n *computev1.Node) string { return Labels(n.GetMeta().GetLabels()) }},
		{Title: "MESSAGE", Wide: true, Value: func(n *computev1.Node) string { return n.GetStatus().GetMessage() }},
	}
}

func nodePhase(n *computev1.Node) string {
	phase := Enum(n.GetStatus().GetPhase(), "NODE_PHASE_")
	if n.GetSpec().GetCordoned() {
		phase += ",cordoned"
	}
	return phase
}

func amount(used, of float64) string {
	return strconv.FormatFloat(used, 'f', -1, 64) + "/" + strconv.FormatFloat(of, 'f', -1, 64)
}

func memory(used, of *computev1.ResourceAmount) string {
	return quantity.FormatBytes(used.GetMemoryBytes()) + "/" + quantity.FormatBytes(of.GetMemoryBytes())
}

// NodeFields describes a node.
func NodeFields(n *computev1.Node, now time.Time) []Field {
	m, s, st := n.GetMeta(), n.GetSpec(), n.GetStatus()
	r := st.GetResources()
	f := []Field{
		{"Name", m.GetName()},
		{"ID", m.GetId()},
		{"Labels", Labels(m.GetLabels())},
		{"Status", nodePhase(n)},
		{"Reason", st.GetReason()},
		{"Message", st.GetMessage()},
		{"Heartbeat", withAge(Time(st.GetHeartbeatTime()), Age(st.GetHeartbeatTime(), now))},
		{"System", st.GetSystem()},
		{"Agent", st.GetAgentVersion()},
		{"Hypervisor", r.GetHypervisor()},
		{"Accelerator", strings.Join(nonEmpty(r.GetAccelerator(), r.GetAcceleratorReason()), ": ")},
		{"Certificate until", Time(st.GetCertificateExpireTime())},
		{"VMs", fmt.Sprint(st.GetVmCount())},
		{"CPUs claimed", amount(st.GetClaimed().GetCpus(), st.GetAllocatable().GetCpus())},
		{"Memory claimed", memory(st.GetClaimed(), st.GetAllocatable())},
	}
	if r.GetCpus() > 0 {
		f = append(f, Field{"Hardware", fmt.Sprintf("%d CPUs (%s), %s memory", r.GetCpus(), r.GetCpuModel(), quantity.FormatBytes(r.GetMemoryBytes()))})
	}
	for _, t := range s.GetTaints() {
		f = append(f, Field{"Taint", t.GetKey() + "=" + t.GetValue() + ":" + Enum(t.GetEffect(), "TAINT_EFFECT_")})
	}
	for _, d := range st.GetDrivers() {
		text := strings.Join(nonEmpty(strings.Join(d.GetKinds(), "+"), d.GetVersion(), d.GetState(), d.GetReason(), d.GetMessage()), ", ")
		f = append(f, Field{"Driver " + d.GetName(), text})
	}
	for _, c := range st.GetConditions() {
		f = append(f, Field{"Condition " + c.GetType(), strings.Join(nonEmpty(Enum(c.GetStatus(), "CONDITION_STATUS_"), c.GetReason(), c.GetMessage()), ", ")})
	}
	for _, o := range st.GetOrphans() {
		f = append(f, Field{"Orphan", strings.Join(nonEmpty(o.GetKind(), o.GetObjectId(), o.GetDriver(), o.GetDetail()), ", ")})
	}
	return f
}

// OrphanColumns are the columns of a table of orphans.
func OrphanColumns(now func() time.Time) []Column[*computev1.NodeOrphan] {
	return []Column[*computev1.NodeOrphan]{
		{Title: "NODE", Value: func(o *computev1.NodeOrphan) string { return o.GetNodeName() }},
		{Title: "KIND", Value: func(o *computev1.NodeOrphan) string { return o.GetOrphan().GetKind() }},
		{Title: "ID", Value: func(o *computev1.NodeOrphan) string { return o.GetOrphan().GetObjectId() }},
		{Title: "NAME", Value: func(o *computev1.NodeOrphan) string { return o.GetOrphan().GetName() }},
		{Title: "DETAIL", Value: func(o *computev1.NodeOrphan) string { return o.GetOrphan().GetDetail() }},
		{Title: "STATUS", Value: func(o *computev1.NodeOrphan) string {
			switch {
			case o.GetRemoveTime() != nil:
				return "being removed for " + Age(o.GetRemoveTime(), now())
			case o.GetOrphan().GetAdoptable():
				return "adoptable"
			}
			return "not touched"
		}},
		{Title: "SEEN", Value: func(o *computev1.NodeOrphan) string { return Age(o.GetOrphan().GetFirstSeenTime(), now()) }},
		{Title: "DRIVER", Wide: true, Value: func(o *computev1.NodeOrphan) string { return o.GetOrphan().GetDriver() }},
		{Title: "CONFIRM", Wide: true, Value: func(o *computev1.NodeOrphan) string { return o.GetConfirm() }},
	}
}

// TokenColumns are the columns of a table of join tokens.
func TokenColumns(now func() time.Time) []Column[*computev1.JoinToken] {
	return []Column[*computev1.JoinToken]{
		{Title: "ID", Value: func(t *computev1.JoinToken) string { return t.GetId() }},
		{Title: "NODE", Value: func(t *computev1.JoinToken) string { return t.GetNodeName() }},
		{Title: "EXPIRES", Value: func(t *computev1.JoinToken) string { return Time(t.GetExpireTime()) }},
		{Title: "AGE", Value: func(t *computev1.JoinToken) string { return Age(t.GetCreateTime(), now()) }},
	}
}

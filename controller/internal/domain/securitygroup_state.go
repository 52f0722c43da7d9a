package domain

import (
	"fmt"
	"slices"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// GroupMember is a port that has a group, as far as the group's state depends on it.
type GroupMember struct {
	PortID string
	// NodeID is the node that the port is bound to; empty = none. NodeName is for people.
	NodeID, NodeName string
	// Reports says that the node is heard of.
	Reports bool
	// Applied is the generation of the group that is in force on the port; 0 = none.
	Applied int64
	// Open says that packets may pass the port.
	Open bool
}

// MemberOf is what a port means to a group that it has. The node's name and whether it is heard of are the caller's to add.
func MemberOf(p *networkv1.Port, groupID string) GroupMember {
	st := p.GetStatus()
	m := GroupMember{PortID: p.GetMeta().GetId(), NodeID: st.GetBinding().GetNodeId(), Open: st.GetPhase() == networkv1.PortPhase_PORT_PHASE_UP || st.GetPhase() == networkv1.PortPhase_PORT_PHASE_UNKNOWN}
	for _, a := range st.GetSecurityGroups() {
		if a.GetSecurityGroupId() == groupID {
			m.Applied = a.GetGeneration()
		}
	}
	return m
}

// Behind reports whether the port does not have a generation of the group yet. One that nothing passes, and on which no rules are in force, gets the newest generation before
// anything does: nobody waits for it.
func (m GroupMember) Behind(generation int64) bool {
	return m.NodeID != "" && m.Applied < generation && (m.Applied > 0 || m.Open)
}

// SettleSecurityGroup derives a group's status from its ports and from what nodes refuse. referring are the groups whose rules refer to it.
func SettleSecurityGroup(rec *statev1.SecurityGroupRecord, members []GroupMember, referring []string) {
	g := rec.GetSecurityGroup()
	gen := g.GetMeta().GetGeneration()
	st := &networkv1.SecurityGroupStatus{
		Phase: networkv1.SecurityGroupPhase_SECURITY_GROUP_PHASE_READY, ObservedGeneration: gen, PortCount: int64(len(members)), ReferringSecurityGroupIds: referring,
		Conditions: g.GetStatus().GetConditions(),
	}
	g.Status = st
	var slow, silent GroupMember
	refused := map[string]GroupMember{}
	pending := map[string]bool{}
	for _, m := range members {
		if _, is := rec.GetRefusals()[m.NodeID]; is && m.NodeID != "" {
			refused[m.NodeID] = m
		}
		if !m.Behind(gen) {
			continue
		}
		st.ObservedGeneration = min(st.ObservedGeneration, m.Applied)
		pending[m.NodeID] = true
		if m.Reports && slow.NodeID == "" {
			slow = m
		}
		if !m.Reports && silent.NodeID == "" {
			silent = m
		}
	}
	for id := range pending {
		st.PendingNodeIds = append(st.PendingNodeIds, id)
	}
	slices.Sort(st.PendingNodeIds)
	switch first, words := firstRefusal(rec, refused); {
	case g.GetMeta().GetDeleteTime() != nil:
		st.Phase = networkv1.SecurityGroupPhase_SECURITY_GROUP_PHASE_DELETING
		switch {
		case len(members) > 0:
			st.Message = fmt.Sprintf("waits until %d ports have it no longer", len(members))
		case len(referring) > 0:
			st.Message = fmt.Sprintf("waits until group %s refers to it no longer", referring[0])
		}
	case words != "":
		st.Phase, st.Reason = networkv1.SecurityGroupPhase_SECURITY_GROUP_PHASE_FAILED, fault.ReasonName(metav1.Reason_REASON_BACKEND_FAILED)
		st.Message = fmt.Sprintf("node %s refuses generation %d: %s; the last good one stays in force", first.NodeName, gen, words)
	case len(st.PendingNodeIds) == 0:
	case slow.NodeID == "":
		st.Phase, st.Reason = networkv1.SecurityGroupPhase_SECURITY_GROUP_PHASE_APPLYING, fault.ReasonName(metav1.Reason_REASON_NODE_UNREACHABLE)
		st.Message = fmt.Sprintf("node %s, which does not report, may still have generation %d", silent.NodeName, silent.Applied)
	default:
		st.Phase = networkv1.SecurityGroupPhase_SECURITY_GROUP_PHASE_APPLYING
		st.Message = fmt.Sprintf("%d nodes do not have generation %d yet, node %s is one", len(st.PendingNodeIds), gen, slow.NodeName)
	}
}

func firstRefusal(rec *statev1.SecurityGroupRecord, by map[string]GroupMember) (GroupMember, string) {
	first := ""
	for id := range by {
		if first == "" || id < first {
			first = id
		}
	}
	return by[first], rec.GetRefusals()[first]
}

// SecurityGroupOutcome decides how an operation on a group stands; rec is nil when the group is gone. members gives its ports one after another until it is told to stop.
func SecurityGroupOutcome(op *operationv1.Operation, rec *statev1.SecurityGroupRecord, members func(yield func(GroupMember) bool)) Outcome {
	if op.GetState() != operationv1.OperationState_OPERATION_STATE_RUNNING {
		return Outcome{op.GetState(), op.GetReason(), op.GetMessage()}
	}
	g := rec.GetSecurityGroup()
	deleting := op.GetVerb() == VerbDeleteSecurityGroup
	switch {
	case rec == nil && deleting:
		return done()
	case rec == nil, !deleting && g.GetMeta().GetDeleteTime() != nil:
		return Outcome{operationv1.OperationState_OPERATION_STATE_SUPERSEDED, fault.ReasonName(metav1.Reason_REASON_SUPERSEDED), "the security group was deleted"}
	case deleting:
		return Outcome{State: operationv1.OperationState_OPERATION_STATE_RUNNING, Message: "waits until no port has it"}
	}
	out := done()
	for m := range members {
		if !m.Reports || !m.Behind(op.GetGeneration()) {
			continue
		}
		if words, is := rec.GetRefusals()[m.NodeID]; is {
			return Outcome{
				operationv1.OperationState_OPERATION_STATE_FAILED, fault.ReasonName(metav1.Reason_REASON_BACKEND_FAILED),
				fmt.Sprintf("node %s refuses it: %s; the last good rules stay in force", m.NodeName, words),
			}
		}
		out = Outcome{State: operationv1.OperationState_OPERATION_STATE_RUNNING, Message: fmt.Sprintf("node %s does not have it in force yet", m.NodeName)}
		if len(rec.GetRefusals()) == 0 {
			return out // one is enough to wait for
		}
	}
	return out
}

// SecurityGroupPathAllowed says which fields of a group can change.
func SecurityGroupPathAllowed(path string) (string, bool) {
	switch {
	case path == "spec.description", path == "spec.rules", path == "spec.egress_default", path == "meta.labels", path == "meta.annotations":
		return "", true
	case Under(path, "meta.labels", "meta.annotations"):
		return "reaches into a map: name the whole map", false
	case Under(path, "spec.rules"):
		return `reaches into a list: name "spec.rules"`, false
	case Under(path, "meta", "status"):
		return "cannot change", false
	}
	return `names no field that can change: use "spec.description", "spec.rules", "spec.egress_default", "meta.labels", "meta.annotations"`, false
}

// ValidateSecurityGroup notes everything that is wrong with a group, its rules apart.
func ValidateSecurityGroup(v *Violations, g *networkv1.SecurityGroup) {
	CheckMeta(v, "security_group.meta", g.GetMeta(), true)
	CheckDescription(v, "security_group.spec.description", g.GetSpec().GetDescription())
	switch g.GetSpec().GetEgressDefault() {
	case networkv1.EgressDefault_EGRESS_DEFAULT_UNSPECIFIED, networkv1.EgressDefault_EGRESS_DEFAULT_ALLOW, networkv1.EgressDefault_EGRESS_DEFAULT_DENY:
	default:
		v.Add("security_group.spec.egress_default", "must be EGRESS_DEFAULT_ALLOW, EGRESS_DEFAULT_DENY or unset")
	}
}

package domain

import (
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// AtRest reports whether nothing has to happen any more for a VM to be as its spec wants.
func AtRest(rec *statev1.VMRecord) bool {
	vm := rec.GetVm()
	st := vm.GetStatus()
	return vm.GetMeta().GetDeleteTime() == nil && AsWanted(rec) && st.GetObservedGeneration() >= vm.GetMeta().GetGeneration() &&
		st.GetObservedRestartGeneration() >= vm.GetSpec().GetRestartGeneration()
}

// Waits says whom a VM that is not at rest waits for, and why; the reason is empty where whoever it is is at work. on are the nodes on which
// something of it lies: the one where it is placed, or those of its volumes.
func Waits(rec *statev1.VMRecord, on []*computev1.Node) (reason, message string) {
	vm := rec.GetVm()
	deleting := vm.GetMeta().GetDeleteTime() != nil
	if AtRest(rec) {
		return "", ""
	}
	for _, n := range on {
		name := n.GetMeta().GetName()
		switch n.GetStatus().GetPhase() {
		case computev1.NodePhase_NODE_PHASE_READY:
		case computev1.NodePhase_NODE_PHASE_DELETING:
			return "", "node " + name + " was declared off; what is there is being taken off it"
		case computev1.NodePhase_NODE_PHASE_UNKNOWN:
			message = "waits for node " + name + ", which does not report"
			if deleting {
				message += "; it ends when the node returns or is deleted with force"
			}
			return fault.ReasonName(metav1.Reason_REASON_NODE_UNREACHABLE), message
		default:
			reason = n.GetStatus().GetReason()
			if reason == "" {
				reason = fault.ReasonName(metav1.Reason_REASON_NODE_UNREACHABLE)
			}
			return reason, "waits for node " + name + ", which is not ready: " + n.GetStatus().GetMessage()
		}
	}
	switch {
	case len(on) > 0:
		return "", "node " + on[0].GetMeta().GetName() + " is at work on it"
	case deleting:
		return "", "its record is being removed"
	}
	return "", "waits to be placed"
}

package domain

import (
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// A port's binding names the VM whose NIC it is from the moment the VM's spec says so, and the node from the VM's placement on. It ends when the node says that nothing of the
// port is left there, or when an operator declared the node off; until then nobody else gets the port, or its addresses.

// BindPort makes a port a VM's NIC. node and epoch are those of the VM's placement, empty and 0 when it has none.
func BindPort(rec *statev1.PortRecord, vmID, nic, node string, epoch int64) {
	st := portStatus(rec)
	st.Binding = &networkv1.PortBinding{VmId: vmID, NicName: nic, NodeId: node, Epoch: epoch, Mode: networkv1.PortBindingMode_PORT_BINDING_MODE_SINGLE}
	forgetPortOnNode(rec)
	if node != "" && rec.GetPort().GetMeta().GetDeleteTime() == nil {
		st.Phase = networkv1.PortPhase_PORT_PHASE_BINDING
	}
}

// UnplacePort takes a port off its node; it stays the VM's.
func UnplacePort(rec *statev1.PortRecord) {
	b := portStatus(rec).GetBinding()
	BindPort(rec, b.GetVmId(), b.GetNicName(), "", 0)
}

// FreePort ends a port's binding.
func FreePort(rec *statev1.PortRecord) {
	portStatus(rec).Binding = nil
	forgetPortOnNode(rec)
}

// forgetPortOnNode leaves of a port's status what does not depend on a node.
func forgetPortOnNode(rec *statev1.PortRecord) {
	was := portStatus(rec)
	rec.Port.Status = &networkv1.PortStatus{
		Phase: networkv1.PortPhase_PORT_PHASE_IDLE, IpAddresses: was.GetIpAddresses(), Mac: was.GetMac(), OwnerVmId: was.GetOwnerVmId(),
		ObservedGeneration: was.GetObservedGeneration(), Conditions: was.GetConditions(), Binding: was.GetBinding(),
	}
	if rec.GetPort().GetMeta().GetDeleteTime() != nil {
		rec.Port.Status.Phase = networkv1.PortPhase_PORT_PHASE_DELETING
	}
}

func portStatus(rec *statev1.PortRecord) *networkv1.PortStatus {
	if rec.GetPort().GetStatus() == nil {
		rec.Port.Status = &networkv1.PortStatus{}
	}
	return rec.GetPort().GetStatus()
}

// CanBindPort says why a port cannot be a NIC of a VM; "" = it can.
func CanBindPort(rec *statev1.PortRecord, vmID string) string {
	b := rec.GetPort().GetStatus().GetBinding()
	switch {
	case rec.GetPort().GetMeta().GetDeleteTime() != nil:
		return "is being deleted"
	case rec.GetOwnerVmId() != "":
		return "lives and dies with VM " + rec.GetOwnerVmId()
	case b.GetVmId() != "" && b.GetVmId() != vmID:
		return "is NIC " + b.GetNicName() + " of VM " + b.GetVmId()
	}
	return ""
}

// HasPort reports whether a port is a NIC of a VM by the VM's spec.
func HasPort(vm *statev1.VMRecord, portID string) bool {
	for _, p := range vm.GetNicPorts() {
		if p.GetPortId() == portID {
			return true
		}
	}
	return false
}

// PortWanted reports whether a port shall be in place on the node of its binding. vm is the record of the VM in the binding; nil = there is none. A node takes away what is
// not wanted once the VM's domain has let go of it.
func PortWanted(rec *statev1.PortRecord, vm *statev1.VMRecord) bool {
	b := rec.GetPort().GetStatus().GetBinding()
	p := vm.GetVm().GetStatus().GetVmPlacement()
	return rec.GetPort().GetMeta().GetDeleteTime() == nil && b.GetNodeId() != "" && vm != nil && vm.GetVm().GetMeta().GetDeleteTime() == nil &&
		HasPort(vm, rec.GetPort().GetMeta().GetId()) && p.GetNodeId() == b.GetNodeId() && p.GetEpoch() == b.GetEpoch()
}

// PortLeft is what becomes of a port of which nothing is left on its node; vm is as for PortWanted. remove says that its record goes, with its addresses. The same record
// comes back when the port is wanted there after all; otherwise the input is left alone.
func PortLeft(rec *statev1.PortRecord, vm *statev1.VMRecord) (next *statev1.PortRecord, remove bool) {
	if rec.GetPort().GetStatus().GetBinding().GetNodeId() == "" || PortWanted(rec, vm) {
		return rec, false
	}
	next = proto.CloneOf(rec)
	switch has := vm != nil && HasPort(vm, rec.GetPort().GetMeta().GetId()); {
	case rec.GetPort().GetMeta().GetDeleteTime() != nil, !has && rec.GetOwnerVmId() != "":
		return next, true
	case !has, vm.GetVm().GetMeta().GetDeleteTime() != nil && rec.GetOwnerVmId() == "":
		FreePort(next)
	default: // it goes with the VM, whose record is still there, or waits for the VM's next place
		UnplacePort(next)
	}
	return next, false
}

// NextPortStatus is the record after a report of the node of its binding. The same record comes back, not a copy, when the report is of another epoch or changes nothing that
// is kept; otherwise the input is left alone. Whether the reporter is that node is the caller's to check.
func NextPortStatus(rec *statev1.PortRecord, rep *agentv1.PortReport) *statev1.PortRecord {
	was := rec.GetPort().GetStatus()
	if was.GetBinding().GetNodeId() == "" || rep.GetEpoch() != was.GetBinding().GetEpoch() || rep.GetStatus() == nil {
		return rec
	}
	next := proto.CloneOf(rec)
	st, said := next.GetPort().GetStatus(), proto.CloneOf(rep.GetStatus())
	if ph := said.GetPhase(); ph != networkv1.PortPhase_PORT_PHASE_UNSPECIFIED && ph != networkv1.PortPhase_PORT_PHASE_DELETING { // it may leave the node only
		st.Phase = ph
	}
	st.Reason, st.Message, st.NextRetryTime = said.GetReason(), said.GetMessage(), said.GetNextRetryTime()
	st.ObservedAddresses, st.SecurityGroups = said.GetObservedAddresses(), said.GetSecurityGroups()
	st.Binding.Device = said.GetBinding().GetDevice()
	st.ObservedGeneration = min(max(was.GetObservedGeneration(), rep.GetObservedGeneration()), rec.GetPort().GetMeta().GetGeneration())
	if rec.GetPort().GetMeta().GetDeleteTime() != nil {
		st.Phase = networkv1.PortPhase_PORT_PHASE_DELETING
	}
	if proto.Equal(next, rec) {
		return rec
	}
	return next
}

// PortOutcome decides how an operation on a port stands; rec is nil when the port is gone. A port that is on no node has nothing to realise.
func PortOutcome(op *operationv1.Operation, rec *statev1.PortRecord) Outcome {
	if op.GetState() != operationv1.OperationState_OPERATION_STATE_RUNNING {
		return Outcome{op.GetState(), op.GetReason(), op.GetMessage()}
	}
	p := rec.GetPort()
	st := p.GetStatus()
	deleting := op.GetVerb() == VerbDeletePort
	switch {
	case rec == nil && deleting:
		return done()
	case rec == nil, !deleting && p.GetMeta().GetDeleteTime() != nil:
		return Outcome{operationv1.OperationState_OPERATION_STATE_SUPERSEDED, fault.ReasonName(metav1.Reason_REASON_SUPERSEDED), "the port was deleted"}
	case deleting:
	case st.GetBinding().GetNodeId() == "":
		return done()
	case st.GetObservedGeneration() < op.GetGeneration():
	case st.GetPhase() == networkv1.PortPhase_PORT_PHASE_UP, st.GetPhase() == networkv1.PortPhase_PORT_PHASE_IDLE,
		st.GetPhase() == networkv1.PortPhase_PORT_PHASE_BINDING, // what is in place awaits the device of a VM that does not run
		st.GetPhase() == networkv1.PortPhase_PORT_PHASE_BLOCKED && p.GetSpec().GetLinkDown():
		return done()
	}
	return Outcome{operationv1.OperationState_OPERATION_STATE_RUNNING, st.GetReason(), st.GetMessage()}
}

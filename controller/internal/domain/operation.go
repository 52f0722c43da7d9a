package domain

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// Verbs of operations on VMs and images.
const (
	VerbCreateVM    = "CreateVM"
	VerbUpdateVM    = "UpdateVM"
	VerbDeleteVM    = "DeleteVM"
	VerbStartVM     = "StartVM"
	VerbStopVM      = "StopVM"
	VerbRebootVM    = "RebootVM"
	VerbPauseVM     = "PauseVM"
	VerbResumeVM    = "ResumeVM"
	VerbUploadImage = "UploadImage"
	VerbImportImage = "ImportImage"
	VerbUpdateImage = "UpdateImage"
	VerbDeleteImage = "DeleteImage"

	// KindVM and KindImage are what Operation.object_kind says.
	KindVM    = "VM"
	KindImage = "Image"
)

// Outcome is how an operation stands.
type Outcome struct {
	State   operationv1.OperationState
	Reason  string
	Message string
}

// Ended reports whether nothing more will come of it.
func (o Outcome) Ended() bool { return o.State != operationv1.OperationState_OPERATION_STATE_RUNNING }

// OperationOutcome decides how an operation on a VM stands; rec is nil when the VM is gone. A running one's reason and message say what it waits for.
func OperationOutcome(op *operationv1.Operation, rec *statev1.VMRecord) Outcome {
	if op.GetState() != operationv1.OperationState_OPERATION_STATE_RUNNING {
		return Outcome{op.GetState(), op.GetReason(), op.GetMessage()}
	}
	deleting := op.GetVerb() == VerbDeleteVM
	vm := rec.GetVm()
	switch {
	case rec == nil && deleting:
		return done()
	case rec == nil, !deleting && vm.GetMeta().GetDeleteTime() != nil:
		return Outcome{operationv1.OperationState_OPERATION_STATE_SUPERSEDED, fault.ReasonName(metav1.Reason_REASON_SUPERSEDED), "the VM was deleted"}
	case deleting:
		return running(vm.GetStatus())
	}
	if c := Condition(vm.GetStatus().GetConditions(), CondRealisable); c.GetStatus() == metav1.ConditionStatus_CONDITION_STATUS_FALSE &&
		op.GetGeneration() == vm.GetMeta().GetGeneration() {
		return Outcome{operationv1.OperationState_OPERATION_STATE_FAILED, c.GetReason(), c.GetMessage()}
	}
	if op.GetVerb() == VerbStopVM && vm.GetStatus().GetVmPlacement() == nil && vm.GetSpec().GetDesiredPower() == computev1.PowerState_POWER_STATE_STOPPED {
		return done() // it runs nowhere
	}
	if vm.GetStatus().GetObservedGeneration() < op.GetGeneration() || !AsWanted(rec) {
		return running(vm.GetStatus())
	}
	if op.GetVerb() == VerbRebootVM && vm.GetStatus().GetObservedRestartGeneration() < vm.GetSpec().GetRestartGeneration() &&
		vm.GetSpec().GetDesiredPower() == computev1.PowerState_POWER_STATE_RUNNING {
		return running(vm.GetStatus())
	}
	return done()
}

func done() Outcome { return Outcome{State: operationv1.OperationState_OPERATION_STATE_DONE} }

func running(st *computev1.VMStatus) Outcome {
	return Outcome{operationv1.OperationState_OPERATION_STATE_RUNNING, st.GetReason(), st.GetMessage()}
}

// Supersedes reports whether a new change of a VM takes the place of an older operation that still runs. A delete replaces everything; a change of
// power replaces an older change of power. A create or an update goes on: it is done once what it asked for, as changed since, is realised.
func Supersedes(newVerb, oldVerb string) bool {
	return newVerb == VerbDeleteVM || isPower(newVerb) && isPower(oldVerb)
}

func isPower(verb string) bool {
	switch verb {
	case VerbStartVM, VerbStopVM, VerbRebootVM, VerbPauseVM, VerbResumeVM:
		return true
	}
	return false
}

// EndOperation writes an outcome into an operation.
func EndOperation(op *operationv1.Operation, o Outcome, now time.Time) {
	op.State, op.Reason, op.Message = o.State, o.Reason, o.Message
	op.EndTime = timestamppb.New(now)
}

// SupersededBy is the outcome of an operation that a newer one replaced.
func SupersededBy(verb string) Outcome {
	return Outcome{operationv1.OperationState_OPERATION_STATE_SUPERSEDED, fault.ReasonName(metav1.Reason_REASON_SUPERSEDED), "replaced by a later " + verb}
}

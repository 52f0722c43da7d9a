package domain

import (
	"time"

	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// Cancelled is the outcome of an operation that was cancelled.
func Cancelled() Outcome {
	return Outcome{operationv1.OperationState_OPERATION_STATE_CANCELLED, fault.ReasonName(metav1.Reason_REASON_CANCELLED), "cancelled by request"}
}

// CancelOperation changes rec, which the caller owns, so that the wish behind op is taken back. remove says that the VM is to be deleted. What
// cannot be taken back is WRONG_STATE, and rec is then unchanged.
func CancelOperation(op *operationv1.Operation, rec *statev1.VMRecord, now time.Time) (remove bool, err error) {
	spec := rec.GetVm().GetSpec()
	if op.GetGeneration() < rec.GetVm().GetMeta().GetGeneration() && isPower(op.GetVerb()) {
		return false, nil // a later change decides already
	}
	switch op.GetVerb() {
	case VerbCreateVM:
		return true, nil
	case VerbStartVM:
		spec.DesiredPower = computev1.PowerState_POWER_STATE_STOPPED
	case VerbStopVM, VerbPauseVM:
		spec.DesiredPower = computev1.PowerState_POWER_STATE_RUNNING
	case VerbResumeVM:
		spec.DesiredPower = computev1.PowerState_POWER_STATE_PAUSED
	case VerbRebootVM:
		spec.RestartGeneration = rec.GetVm().GetStatus().GetObservedRestartGeneration()
	default:
		return false, fault.New(metav1.Reason_REASON_WRONG_STATE, "%s cannot be cancelled", op.GetVerb()).
			WithRemedy("wait for its end, or make another change of the object")
	}
	NewGeneration(rec, now)
	return false, nil
}

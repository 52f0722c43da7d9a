package domain

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

const (
	// CondRealisable is FALSE on a VM whose present spec can never be realised.
	CondRealisable = "Realisable"
	// CondPlaced tells whether a VM has a node.
	CondPlaced = "Placed"
	// CondClaim is FALSE on a placed VM that waits for room where it lies.
	CondClaim = "ClaimGranted"
)

// NextStatus is the record after a report of its node. The same record comes back, not a copy, when the report is of an older epoch or changes
// nothing that is kept; otherwise the input is left alone. Whether the reporter is the VM's node is the caller's to check.
func NextStatus(rec *statev1.VMRecord, rep *agentv1.VMReport, now time.Time) *statev1.VMRecord {
	was := rec.GetVm().GetStatus()
	if was.GetVmPlacement() == nil || rep.GetEpoch() != was.GetVmPlacement().GetEpoch() {
		return rec
	}
	next := proto.CloneOf(rec)
	vm := next.GetVm()
	if st := rep.GetStatus(); st != nil {
		merged := proto.CloneOf(st)
		merged.VmPlacement, merged.Conditions, merged.ReportTime = was.GetVmPlacement(), was.GetConditions(), was.GetReportTime()
		if merged.Phase == computev1.VMPhase_VM_PHASE_UNSPECIFIED {
			merged.Phase = was.GetPhase()
		}
		merged.ObservedGeneration = was.GetObservedGeneration()
		merged.ObservedRestartGeneration = max(was.GetObservedRestartGeneration(), st.GetObservedRestartGeneration())
		vm.Status = merged
	}
	status := vm.GetStatus()
	status.ObservedGeneration = min(max(was.GetObservedGeneration(), rep.GetObservedGeneration()), vm.GetMeta().GetGeneration())
	if vm.GetMeta().GetDeleteTime() != nil {
		status.Phase = computev1.VMPhase_VM_PHASE_DELETING
	}
	settleRealisable(status, vm.GetMeta().GetGeneration(), rep, now)
	keepWait(status)
	stopByGuest(next, rep)
	if proto.Equal(next, rec) {
		return rec
	}
	status.ReportTime = timestamppb.New(now)
	return next
}

// keepWait says again what the VM waits for of the controller, where the node has nothing to say: a report must not wipe it out.
func keepWait(status *computev1.VMStatus) {
	if c := Condition(status.GetConditions(), CondClaim); c != nil && status.GetReason() == "" {
		status.Reason, status.Message = c.GetReason(), c.GetMessage()
	}
}

// settleRealisable keeps the permanent failure of the present spec, and forgets it once something is realised.
func settleRealisable(status *computev1.VMStatus, generation int64, rep *agentv1.VMReport, now time.Time) {
	if rep.GetAttemptedGeneration() < generation {
		return // it speaks of a spec that is not wanted any more: what became of the present one is still to come
	}
	if rep.GetPermanentFailure() {
		SetCondition(&status.Conditions, &metav1.Condition{
			Type: CondRealisable, Status: metav1.ConditionStatus_CONDITION_STATUS_FALSE,
			Reason: rep.GetStatus().GetReason(), Message: rep.GetStatus().GetMessage(),
		}, now)
		return
	}
	DropCondition(&status.Conditions, CondRealisable)
}

// stopByGuest turns a guest's own end into desired power, where its run policy says so. A report of an older generation does not count: since then
// somebody may have asked for a start.
func stopByGuest(rec *statev1.VMRecord, rep *agentv1.VMReport) {
	vm := rec.GetVm()
	if !rep.GetGuestStopped() || rep.GetObservedGeneration() < vm.GetMeta().GetGeneration() || vm.GetMeta().GetDeleteTime() != nil ||
		vm.GetSpec().GetDesiredPower() != computev1.PowerState_POWER_STATE_RUNNING ||
		vm.GetSpec().GetRunPolicy() == computev1.RunPolicy_RUN_POLICY_ALWAYS {
		return
	}
	vm.Spec.DesiredPower = computev1.PowerState_POWER_STATE_STOPPED
	vm.Meta.Generation++
}

// NewGeneration counts a change of spec and forgets what was known about the old one.
func NewGeneration(rec *statev1.VMRecord, now time.Time) {
	vm := rec.GetVm()
	vm.Meta.Generation++
	vm.Meta.UpdateTime = timestamppb.New(now)
	DropCondition(&vm.Status.Conditions, CondRealisable)
	DropCondition(&vm.Status.Conditions, CondClaim)
}

// SetCondition puts a condition in place of the one of its type; transition_time moves only when status does.
func SetCondition(list *[]*metav1.Condition, c *metav1.Condition, now time.Time) {
	c.TransitionTime = timestamppb.New(now)
	for i, old := range *list {
		if old.GetType() != c.GetType() {
			continue
		}
		if old.GetStatus() == c.GetStatus() {
			c.TransitionTime = old.GetTransitionTime()
		}
		(*list)[i] = c
		return
	}
	*list = append(*list, c)
}

// DropCondition removes the condition of a type.
func DropCondition(list *[]*metav1.Condition, kind string) {
	for i, c := range *list {
		if c.GetType() == kind {
			*list = append((*list)[:i:i], (*list)[i+1:]...)
			return
		}
	}
}

// Condition is the condition of a type; nil when there is none.
func Condition(list []*metav1.Condition, kind string) *metav1.Condition {
	for _, c := range list {
		if c.GetType() == kind {
			return c
		}
	}
	return nil
}

// AsWanted reports whether the VM is in the state that its spec wants, not counting settings.
func AsWanted(rec *statev1.VMRecord) bool {
	vm := rec.GetVm()
	phase := vm.GetStatus().GetPhase()
	switch vm.GetSpec().GetDesiredPower() {
	case computev1.PowerState_POWER_STATE_STOPPED:
		return phase == computev1.VMPhase_VM_PHASE_STOPPED
	case computev1.PowerState_POWER_STATE_PAUSED:
		return phase == computev1.VMPhase_VM_PHASE_PAUSED && ClaimGranted(rec)
	}
	return phase == computev1.VMPhase_VM_PHASE_RUNNING && ClaimGranted(rec)
}

// MarkDeleted asks for a VM's deletion. The caller frees the name in the same commit.
func MarkDeleted(rec *statev1.VMRecord, now time.Time) {
	NewGeneration(rec, now)
	vm := rec.GetVm()
	vm.Meta.DeleteTime = timestamppb.New(now)
	vm.Status.Phase = computev1.VMPhase_VM_PHASE_DELETING
	vm.Status.Reason, vm.Status.Message, vm.Status.NextRetryTime = "", "", nil
}

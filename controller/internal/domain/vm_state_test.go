package domain_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

const (
	running = computev1.VMPhase_VM_PHASE_RUNNING
	stopped = computev1.VMPhase_VM_PHASE_STOPPED
	failed  = computev1.VMPhase_VM_PHASE_FAILED
	opDone  = operationv1.OperationState_OPERATION_STATE_DONE
	opRuns  = operationv1.OperationState_OPERATION_STATE_RUNNING
	opFails = operationv1.OperationState_OPERATION_STATE_FAILED
	opOver  = operationv1.OperationState_OPERATION_STATE_SUPERSEDED
)

// placed is a VM of generation 3 on a node under epoch 2, of which generation 2 is realised.
func placed() *statev1.VMRecord {
	vm := goodVM()
	vm.Meta.Generation = 3
	vm.Status = &computev1.VMStatus{
		Phase: computev1.VMPhase_VM_PHASE_STARTING, ObservedGeneration: 2, VmPlacement: &computev1.VMPlacement{NodeId: "n", Epoch: 2},
	}
	return &statev1.VMRecord{Vm: vm, LastEpoch: 2, Claim: &statev1.Claim{NodeId: "n", Vcpus: 4, MemoryBytes: 512 * mib}}
}

func report(phase computev1.VMPhase, generation int64) *agentv1.VMReport {
	return &agentv1.VMReport{Epoch: 2, ObservedGeneration: generation, Status: &computev1.VMStatus{Phase: phase}}
}

func TestNextStatus(t *testing.T) {
	t.Parallel()
	now := time.Now()
	power := func(p computev1.PowerState) func(*statev1.VMRecord) bool {
		return func(r *statev1.VMRecord) bool { return r.GetVm().GetSpec().GetDesiredPower() == p }
	}
	for _, tc := range []struct {
		name string
		rec  func(*statev1.VMRecord)
		rep  func(*agentv1.VMReport)
		same bool
		want func(*statev1.VMRecord) bool
	}{
		{name: "running", want: func(r *statev1.VMRecord) bool {
			return r.GetVm().GetStatus().GetPhase() == running && r.GetVm().GetStatus().GetObservedGeneration() == 3
		}},
		{name: "older epoch", rep: func(r *agentv1.VMReport) { r.Epoch = 1 }, same: true},
		{name: "newer epoch", rep: func(r *agentv1.VMReport) { r.Epoch = 3 }, same: true},
		{name: "not placed", rec: func(r *statev1.VMRecord) { r.Vm.Status.VmPlacement = nil }, same: true},
		{name: "a generation of the future", rep: func(r *agentv1.VMReport) { r.ObservedGeneration = 9 }, want: func(r *statev1.VMRecord) bool {
			return r.GetVm().GetStatus().GetObservedGeneration() == 3
		}},
		{name: "generations never go back", rep: func(r *agentv1.VMReport) { r.ObservedGeneration = 1 }, want: func(r *statev1.VMRecord) bool {
			return r.GetVm().GetStatus().GetObservedGeneration() == 2
		}},
		{name: "placement is not the agent's", rep: func(r *agentv1.VMReport) { r.Status.VmPlacement = &computev1.VMPlacement{NodeId: "x"} }, want: func(r *statev1.VMRecord) bool {
			return r.GetVm().GetStatus().GetVmPlacement().GetNodeId() == "n"
		}},
		{name: "deletion outlasts phases", rec: func(r *statev1.VMRecord) { r.Vm.Meta.DeleteTime = timestamppb.Now() }, want: func(r *statev1.VMRecord) bool {
			return r.GetVm().GetStatus().GetPhase() == computev1.VMPhase_VM_PHASE_DELETING
		}},
		{name: "guest stopped", rep: func(r *agentv1.VMReport) { r.GuestStopped, r.Status.Phase = true, stopped }, want: func(r *statev1.VMRecord) bool {
			return power(computev1.PowerState_POWER_STATE_STOPPED)(r) && r.GetVm().GetMeta().GetGeneration() == 4
		}},
		{name: "guest stopped before a newer wish", rep: func(r *agentv1.VMReport) { r.GuestStopped, r.ObservedGeneration = true, 2 }, want: power(computev1.PowerState_POWER_STATE_RUNNING)},
		{
			name: "guest stopped, policy always", rec: func(r *statev1.VMRecord) { r.Vm.Spec.RunPolicy = computev1.RunPolicy_RUN_POLICY_ALWAYS },
			rep: func(r *agentv1.VMReport) { r.GuestStopped = true }, want: power(computev1.PowerState_POWER_STATE_RUNNING),
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rec, rep := placed(), report(running, 3)
			if tc.rec != nil {
				tc.rec(rec)
			}
			if tc.rep != nil {
				tc.rep(rep)
			}
			before := proto.CloneOf(rec)
			next := domain.NextStatus(rec, rep, now)
			if !proto.Equal(rec, before) {
				t.Fatal("the input was changed")
			}
			if (next == rec) != tc.same {
				t.Fatalf("same is %v", next == rec)
			}
			if tc.want != nil && !tc.want(next) {
				t.Fatalf("record is %v", next)
			}
			if again := domain.NextStatus(next, rep, now.Add(time.Second)); again != next {
				t.Fatalf("the same report again changes %v to %v", next, again)
			}
		})
	}
}

func TestOperationOutcome(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		verb string
		gen  int64
		rec  func(*statev1.VMRecord) *statev1.VMRecord
		want operationv1.OperationState
	}{
		{"not yet realised", domain.VerbUpdateVM, 3, nil, opRuns},
		{"realised", domain.VerbUpdateVM, 3, with(running, 3), opDone},
		{"realised, other power", domain.VerbStartVM, 3, with(stopped, 3), opRuns},
		{"older generation, as changed since", domain.VerbCreateVM, 1, with(running, 2), opDone},
		{"no claim yet", domain.VerbStartVM, 3, func(r *statev1.VMRecord) *statev1.VMRecord {
			r = with(running, 3)(r)
			r.Claim.MemoryBytes = mib
			return r
		}, opRuns},
		{"reboot not done", domain.VerbRebootVM, 3, func(r *statev1.VMRecord) *statev1.VMRecord {
			r = with(running, 3)(r)
			r.Vm.Spec.RestartGeneration = 1
			return r
		}, opRuns},
		{"failing, tried again", domain.VerbCreateVM, 3, with(failed, 2), opRuns},
		{"failed for good", domain.VerbCreateVM, 3, func(r *statev1.VMRecord) *statev1.VMRecord {
			rep := report(failed, 2)
			rep.PermanentFailure, rep.Status.Reason, rep.AttemptedGeneration = true, "IMAGE_REFUSED", 3
			return domain.NextStatus(r, rep, time.Now())
		}, opFails},
		{"an older spec failed for good, and its report comes late", domain.VerbUpdateVM, 3, func(r *statev1.VMRecord) *statev1.VMRecord {
			rep := report(failed, 2)
			rep.PermanentFailure, rep.Status.Reason, rep.AttemptedGeneration = true, "IMAGE_REFUSED", 2
			return domain.NextStatus(r, rep, time.Now())
		}, opRuns},
		{"failed for good, then word of an older spec", domain.VerbUpdateVM, 3, func(r *statev1.VMRecord) *statev1.VMRecord {
			rep := report(failed, 2)
			rep.PermanentFailure, rep.Status.Reason, rep.AttemptedGeneration = true, "IMAGE_REFUSED", 3
			r = domain.NextStatus(r, rep, time.Now())
			rep = report(failed, 2)
			rep.AttemptedGeneration = 2
			return domain.NextStatus(r, rep, time.Now())
		}, opFails},
		{"failed for good, then changed", domain.VerbUpdateVM, 4, func(r *statev1.VMRecord) *statev1.VMRecord {
			rep := report(failed, 2)
			rep.PermanentFailure, rep.AttemptedGeneration = true, 3
			r = domain.NextStatus(r, rep, time.Now())
			domain.NewGeneration(r, time.Now())
			return r
		}, opRuns},
		{"stop of what runs nowhere", domain.VerbStopVM, 3, func(r *statev1.VMRecord) *statev1.VMRecord {
			r.Vm.Spec.DesiredPower = computev1.PowerState_POWER_STATE_STOPPED
			r.Vm.Status = &computev1.VMStatus{Phase: computev1.VMPhase_VM_PHASE_PENDING}
			return r
		}, opDone},
		{"deleted under it", domain.VerbStartVM, 3, gone, opOver},
		{"being deleted", domain.VerbStartVM, 3, marked, opOver},
		{"delete under way", domain.VerbDeleteVM, 4, marked, opRuns},
		{"delete finished", domain.VerbDeleteVM, 4, gone, opDone},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rec := placed()
			if tc.rec != nil {
				rec = tc.rec(rec)
			}
			op := &operationv1.Operation{Verb: tc.verb, Generation: tc.gen, State: opRuns}
			if got := domain.OperationOutcome(op, rec); got.State != tc.want {
				t.Fatalf("outcome is %v", got)
			}
		})
	}
}

func with(phase computev1.VMPhase, generation int64) func(*statev1.VMRecord) *statev1.VMRecord {
	return func(r *statev1.VMRecord) *statev1.VMRecord {
		r.Vm.Status.Phase, r.Vm.Status.ObservedGeneration = phase, generation
		return r
	}
}

func gone(*statev1.VMRecord) *statev1.VMRecord { return nil }

func marked(r *statev1.VMRecord) *statev1.VMRecord {
	domain.MarkDeleted(r, time.Now())
	return r
}

func TestDemand(t *testing.T) {
	t.Parallel()
	rec := placed()
	rec.Vm.Spec.MemoryBytes = 256 * mib
	if d := domain.Demand(rec); d.GetMemoryBytes() != 512*mib {
		t.Errorf("a smaller size counts before it is realised: %v", d)
	}
	rec.Vm.Status.ObservedGeneration = 3
	if d := domain.Demand(rec); d.GetMemoryBytes() != 256*mib {
		t.Errorf("a smaller size does not count once realised: %v", d)
	}
	rec.Vm.Status.RestartRequired = true
	if d := domain.Demand(rec); d.GetMemoryBytes() != 512*mib {
		t.Errorf("a size that waits for a restart counts: %v", d)
	}
	rec.Vm.Spec.ReleaseClaimWhenStopped, rec.Vm.Spec.DesiredPower, rec.Vm.Status.Phase = true, computev1.PowerState_POWER_STATE_STOPPED, stopped
	if d := domain.Demand(rec); d != nil {
		t.Errorf("a claim that is to be given up: %v", d)
	}
}

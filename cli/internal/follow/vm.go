package follow

import (
	"context"
	"errors"
	"strings"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/nearest"
	"github.com/limiquantix/limiquantix/cli/internal/progress"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Condition is what a wait for a VM waits for.
type Condition struct {
	Text string
	met  func(vm *computev1.VM) bool
	gone bool // met when the VM is no more
	// failed tells whether a VM that failed for good can still get there.
	failed bool
}

// Conditions are the words that ParseCondition knows; condition=TYPE comes besides.
var Conditions = []string{"running", "stopped", "paused", "deleted", "guest-agent", "settled"}

// ParseCondition reads a condition.
func ParseCondition(s string) (Condition, error) {
	phase := func(p computev1.VMPhase) Condition {
		return Condition{Text: s, met: func(vm *computev1.VM) bool { return vm.GetStatus().GetPhase() == p }, failed: true}
	}
	switch s {
	case "running":
		return phase(computev1.VMPhase_VM_PHASE_RUNNING), nil
	case "stopped":
		return phase(computev1.VMPhase_VM_PHASE_STOPPED), nil
	case "paused":
		return phase(computev1.VMPhase_VM_PHASE_PAUSED), nil
	case "deleted":
		return Condition{Text: s, gone: true}, nil
	case "guest-agent":
		return Condition{Text: s, met: func(vm *computev1.VM) bool { return vm.GetStatus().GetGuestAgentConnected() }, failed: true}, nil
	case "settled":
		return Condition{Text: s, met: func(vm *computev1.VM) bool {
			return vm.GetStatus().GetObservedGeneration() >= vm.GetMeta().GetGeneration()
		}, failed: true}, nil
	}
	if kind, ok := strings.CutPrefix(s, "condition="); ok && kind != "" {
		return Condition{Text: s, met: func(vm *computev1.VM) bool { return holds(vm, kind) }, failed: true}, nil
	}
	e := failure.Usage("unknown condition %q for --for", s).WithFix("use one of %s, or condition=TYPE", strings.Join(Conditions, ", "))
	if near := nearest.Word(s, Conditions); near != "" {
		e.Message += "; did you mean \"" + near + "\"?"
	}
	return Condition{}, e
}

func holds(vm *computev1.VM, kind string) bool {
	for _, c := range vm.GetStatus().GetConditions() {
		if strings.EqualFold(c.GetType(), kind) {
			return c.GetStatus() == metav1.ConditionStatus_CONDITION_STATUS_TRUE
		}
	}
	return false
}

// VM waits until a condition is met by the VM with this id, and returns it as it is then; nil when it is gone.
func VM(ctx context.Context, c *api.Client, id, name string, cond Condition, rep progress.Reporter) (*computev1.VM, error) {
	var vm *computev1.VM
	var ended error
	seen := false
	err := c.WatchVMs(ctx, &computev1.WatchVMsRequest{Id: id}, func(e *computev1.WatchVMsResponse) error {
		switch e.GetType() {
		case computev1.WatchEventType_WATCH_EVENT_TYPE_UPDATED:
			vm, seen = e.GetVm(), true
			rep.Update(VMLine(vm))
			if cond.met != nil && cond.met(vm) {
				return api.ErrStop
			}
			if st := vm.GetStatus(); cond.failed && st.GetPhase() == computev1.VMPhase_VM_PHASE_FAILED && st.GetNextRetryTime() == nil {
				ended = failedForGood(vm)
				return api.ErrStop
			}
			return nil
		case computev1.WatchEventType_WATCH_EVENT_TYPE_BOOKMARK:
			if seen {
				return nil
			}
		}
		if vm = nil; !cond.gone {
			ended = failure.New(failure.ExitNotFound, "NOT_FOUND", "VM %s is gone", name).WithFix("lqctl vm list shows what there is")
		}
		return api.ErrStop
	})
	switch {
	case err == nil:
		return vm, ended
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return vm, overdue(vm, name, cond)
	}
	return vm, err
}

func failedForGood(vm *computev1.VM) error {
	reason := vm.GetStatus().GetReason()
	if reason == "" {
		reason = "FAILED"
	}
	name := vm.GetMeta().GetName()
	return failure.New(failure.ExitOperation, reason, "VM %s failed: %s", name, vm.GetStatus().GetMessage()).WithFix("lqctl vm events %s says more", name)
}

func overdue(vm *computev1.VM, name string, cond Condition) error {
	e := failure.New(failure.ExitUnavailable, failure.ReasonTimeout, "VM %s is not %s yet", name, cond.Text).
		WithFix("wait longer with --timeout; lqctl vm explain %s says what it waits for", name)
	if vm != nil {
		e.Message += " (" + VMLine(vm) + ")"
		if vm.GetStatus().GetReason() == "UNSCHEDULABLE" {
			e.Exit, e.Reason = failure.ExitExhausted, "UNSCHEDULABLE"
		}
	}
	return e
}

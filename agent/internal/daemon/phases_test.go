package daemon

import (
	"slices"
	"testing"

	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// phaseNames are the phases that a report tells, and whether each but a running last one has its end after its start.
func phaseNames(t *testing.T, r *agentv1.VMReport) []string {
	t.Helper()
	var out []string
	for i, p := range r.GetPhases() {
		out = append(out, p.GetName())
		if p.GetEndTime() == nil && i < len(r.GetPhases())-1 || p.GetEndTime() != nil && p.GetDuration().AsDuration() < 0 {
			t.Errorf("phase %v of %v", p, r.GetPhases())
		}
	}
	return out
}

func TestPhasesAreTold(t *testing.T) {
	l := newLab(t)
	l.host.do(func() { l.host.fail["StartDomain"] = fault.New(metav1.Reason_REASON_BACKEND_FAILED, "not yet") })
	l.ctrl.set(pool())
	l.ctrl.set(vm(1)) // its volume comes later
	l.ctrl.wait("the wait for the volume", func() bool { return slices.Equal(phaseNames(t, l.ctrl.vms[vmID]), []string{"volume"}) })
	l.ctrl.set(volume(volID))
	l.host.wait("three tries", func() bool { return l.host.calls["StartDomain"] >= 3 })
	l.host.do(func() { delete(l.host.fail, "StartDomain") })
	l.ctrl.waitPhase(vmID, 1, phaseRunning)
	l.ctrl.mu.Lock()
	last := l.ctrl.vms[vmID]
	l.ctrl.mu.Unlock()
	if got := phaseNames(t, last); !slices.Equal(got, []string{"volume", "attach", "define", "start"}) {
		t.Errorf("phases %v", last.GetPhases())
	}
	start := last.GetPhases()[len(last.GetPhases())-1]
	if start.GetTries() < 4 || start.GetEndTime() == nil || last.GetAttemptedGeneration() != 1 {
		t.Errorf("start %v, generation tried %d", start, last.GetAttemptedGeneration())
	}
	// The next wish tells only its own.
	l.ctrl.set(vm(2, power(paused)))
	l.ctrl.waitPhase(vmID, 2, computev1.VMPhase_VM_PHASE_PAUSED)
	l.ctrl.mu.Lock()
	defer l.ctrl.mu.Unlock()
	if got := phaseNames(t, l.ctrl.vms[vmID]); !slices.Equal(got, []string{"pause"}) || l.ctrl.vms[vmID].GetAttemptedGeneration() != 2 {
		t.Errorf("phases %v", l.ctrl.vms[vmID].GetPhases())
	}
}

package daemon

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	phaseRunning = computev1.VMPhase_VM_PHASE_RUNNING
	phaseStopped = computev1.VMPhase_VM_PHASE_STOPPED
	phasePaused  = computev1.VMPhase_VM_PHASE_PAUSED
)

func TestCreateRunAndDelete(t *testing.T) {
	l := newLab(t)
	// The VM first: it waits for its volume, and says so.
	l.ctrl.set(vm(1))
	l.ctrl.wait("a VM that waits for its volume", func() bool { return strings.Contains(l.ctrl.vms[vmID].GetStatus().GetMessage(), "volume") })
	l.ctrl.set(volume(volID))
	l.ctrl.wait("a volume that waits for its pool", func() bool { return l.ctrl.volumes[volID].GetStatus().GetReason() == "POOL_NOT_FOUND" })
	l.ctrl.set(pool())
	l.ctrl.waitPhase(vmID, 1, phaseRunning)
	l.ctrl.mu.Lock()
	st := l.ctrl.vms[vmID].GetStatus()
	if st.GetPid() == 0 || st.GetAccelerator() != "tcg" || !st.GetDisks()[0].GetAttached() || st.GetDisks()[0].GetVolumeId() != volID || st.GetNextRetryTime() != nil {
		t.Errorf("status %v", st)
	}
	l.ctrl.mu.Unlock()
	l.host.mu.Lock()
	d := l.host.domains[vmID]
	if m := d.GetMark(); m.GetClusterId() != testCluster || m.GetNodeId() != testNode || m.GetObjectId() != vmID || m.GetEpoch() != 1 {
		t.Errorf("mark %v", m)
	}
	l.host.mu.Unlock()

	absent := func(v *agentv1.DesiredVM) { v.Absent = true }
	l.ctrl.set(volume(volID, func(v *agentv1.DesiredVolume) { v.Absent = true })) // in use: waits for the VM
	l.ctrl.set(vm(2, absent))
	l.ctrl.wait("the VM absent", func() bool { return l.ctrl.vms[vmID].GetAbsent() })
	l.ctrl.wait("the volume absent", func() bool { return l.ctrl.volumes[volID].GetAbsent() })
	l.host.mu.Lock()
	if len(l.host.domains)+len(l.host.volumes)+len(l.host.attached) != 0 {
		t.Errorf("left on the host: %v %v %v", l.host.domains, l.host.volumes, l.host.attached)
	}
	l.host.mu.Unlock()

	// Told again, also after a restart and of what nobody knows, it is confirmed again.
	l.stop()
	l.ctrl.mu.Lock()
	delete(l.ctrl.vms, vmID)
	l.ctrl.mu.Unlock()
	l.start()
	l.ctrl.wait("absent again", func() bool { return l.ctrl.vms[vmID].GetAbsent() })
	other := vm(1, absent, func(v *agentv1.DesiredVM) { v.VmId, v.Volumes, v.Spec = "dddd", nil, nil })
	other.Key.Id = "dddd"
	l.ctrl.set(other)
	l.ctrl.wait("the unknown absent", func() bool { return l.ctrl.vms["dddd"].GetAbsent() })
}

func TestPower(t *testing.T) {
	l := newLab(t)
	pid := l.running()
	l.ctrl.set(vm(2, power(paused)))
	l.ctrl.waitPhase(vmID, 2, phasePaused)
	l.ctrl.set(vm(3))
	l.ctrl.waitPhase(vmID, 3, phaseRunning)
	l.samePID(pid)
	l.ctrl.set(vm(4, power(stopped)))
	l.ctrl.waitPhase(vmID, 4, phaseStopped)
	l.ctrl.set(vm(5))
	l.ctrl.waitPhase(vmID, 5, phaseRunning)
	l.ctrl.set(vm(6, power(paused)))
	l.ctrl.waitPhase(vmID, 6, phasePaused)
	l.ctrl.set(vm(7, power(stopped))) // a halted guest hears nothing: it goes on first
	l.ctrl.waitPhase(vmID, 7, phaseStopped)
	if n := l.host.count("UpdateDomain"); n != 0 {
		t.Errorf("power changes made %d new definitions", n)
	}
}

func TestStopGraceThenForce(t *testing.T) {
	l := newLab(t)
	l.running()
	l.host.do(func() { l.host.deafTo = true })
	l.ctrl.set(vm(2, power(stopped)))
	l.ctrl.waitPhase(vmID, 2, phaseStopped)
	l.ctrl.wait("the event", l.event("StopForced"))
	if n := l.host.count("StopDomain"); n != 2 {
		t.Errorf("%d stops, want one graceful and one by force", n)
	}
}

// A forced stop does not wait for the grace of the graceful one before it, and neither does a new wish to run.
func TestLongGraceIsInterrupted(t *testing.T) {
	l := newLab(t)
	pid := l.running()
	l.host.do(func() { l.host.deafTo = true })
	long := func(v *agentv1.DesiredVM) { v.Spec.StopGrace = durationpb.New(time.Hour) }
	l.ctrl.set(vm(2, power(stopped), long))
	l.host.wait("a graceful stop", func() bool { return l.host.calls["StopDomain"] == 1 })
	l.ctrl.set(vm(3, long))
	l.ctrl.waitPhase(vmID, 3, phaseRunning)
	l.samePID(pid)
	l.ctrl.set(vm(4, power(stopped), long))
	l.host.wait("a second graceful stop", func() bool { return l.host.calls["StopDomain"] == 2 })
	l.ctrl.set(vm(5, power(stopped), long, func(v *agentv1.DesiredVM) { v.ForceStop = true }))
	l.ctrl.waitPhase(vmID, 5, phaseStopped)
}

func TestRebootOnce(t *testing.T) {
	l := newLab(t)
	pid := l.running()
	again := func(n int64) func(*agentv1.DesiredVM) {
		return func(v *agentv1.DesiredVM) { v.Spec.RestartGeneration = n }
	}
	var onDisk bool
	l.host.do(func() { l.host.reboots = func() { onDisk = l.countedOnDisk() } })
	l.ctrl.set(vm(2, again(1)))
	l.ctrl.waitPhase(vmID, 2, phaseRunning)
	l.host.do(func() {
		if !onDisk {
			t.Error("the reboot was issued before it was counted on disk")
		}
		l.host.reboots = nil
	})
	l.ctrl.wait("the reboot counted", func() bool { return l.ctrl.vms[vmID].GetStatus().GetObservedRestartGeneration() == 1 })
	l.stop()
	l.start() // counted on disk: not done again
	l.ctrl.set(vm(3, again(1)))
	l.ctrl.waitPhase(vmID, 3, phaseRunning)
	if n := l.host.count("RebootDomain"); n != 1 {
		t.Errorf("%d reboots, want 1", n)
	}
	l.samePID(pid)
	// One that fails is counted as well, and said.
	l.host.do(func() { l.host.fail["RebootDomain"] = fault.New(metav1.Reason_REASON_BACKEND_FAILED, "no") })
	l.ctrl.set(vm(4, again(2)))
	l.ctrl.wait("the failure", l.event("RebootFailed"))
	l.ctrl.waitPhase(vmID, 4, phaseRunning)
	// A start is a reboot, too.
	l.ctrl.set(vm(5, again(2), power(stopped)))
	l.ctrl.waitPhase(vmID, 5, phaseStopped)
	l.ctrl.set(vm(6, again(3)))
	l.ctrl.waitPhase(vmID, 6, phaseRunning)
	if n := l.host.count("RebootDomain"); n != 2 {
		t.Errorf("%d reboots, want 2", n)
	}
}

// countedOnDisk reports whether the state file, as it lies there now, holds the VM's first reboot.
func (l *lab) countedOnDisk() bool {
	b, err := os.ReadFile(filepath.Join(l.dir, "realised.db"))
	must(l.t, err)
	return bytes.Contains(b, []byte(`"restart_done":1`))
}

func TestRunPolicy(t *testing.T) {
	for _, tc := range []struct {
		policy  computev1.RunPolicy
		state   driverv1.DomainState
		why     driverv1.StopReason
		started bool
	}{
		{computev1.RunPolicy_RUN_POLICY_UNSPECIFIED, driverv1.DomainState_DOMAIN_STATE_STOPPED, driverv1.StopReason_STOP_REASON_SHUTDOWN, false},
		{computev1.RunPolicy_RUN_POLICY_ON_FAILURE, driverv1.DomainState_DOMAIN_STATE_CRASHED, driverv1.StopReason_STOP_REASON_CRASHED, true},
		{computev1.RunPolicy_RUN_POLICY_ALWAYS, driverv1.DomainState_DOMAIN_STATE_STOPPED, driverv1.StopReason_STOP_REASON_SHUTDOWN, true},
		{computev1.RunPolicy_RUN_POLICY_MANUAL, driverv1.DomainState_DOMAIN_STATE_CRASHED, driverv1.StopReason_STOP_REASON_CRASHED, false},
	} {
		t.Run(tc.policy.String()+"/"+tc.why.String(), func(t *testing.T) {
			l := newLab(t)
			pid := l.running()
			policy := func(v *agentv1.DesiredVM) { v.Spec.RunPolicy = tc.policy }
			l.ctrl.set(vm(2, policy))
			l.ctrl.waitPhase(vmID, 2, phaseRunning)
			l.host.end(vmID, tc.state, tc.why)
			if tc.started {
				l.ctrl.wait("the restart", func() bool {
					s := l.ctrl.vms[vmID].GetStatus()
					return s.GetPhase() == phaseRunning && s.GetPid() > pid
				})
				l.ctrl.wait("the event", l.event("Restarted"))
				return
			}
			l.ctrl.wait("word of the guest's end", func() bool { v := l.ctrl.vms[vmID]; return v.GetGuestStopped() && v.GetObservedGeneration() == 2 })
			// It stays off, also over a restart of the agent, until somebody wants it to run anew.
			l.stop()
			l.ctrl.mu.Lock()
			delete(l.ctrl.vms, vmID)
			l.ctrl.mu.Unlock()
			l.start()
			l.ctrl.wait("word again", func() bool { return l.ctrl.vms[vmID].GetGuestStopped() })
			l.ctrl.set(vm(3, policy, power(stopped)))
			l.ctrl.waitPhase(vmID, 3, phaseStopped)
			l.ctrl.set(vm(4, policy))
			l.ctrl.waitPhase(vmID, 4, phaseRunning)
		})
	}
}

func TestStaleEpochIsRefused(t *testing.T) {
	l := newLab(t)
	l.ctrl.set(pool())
	l.ctrl.set(volume(volID))
	epoch := func(n int64) func(*agentv1.DesiredVM) { return func(v *agentv1.DesiredVM) { v.Epoch = n } }
	l.ctrl.set(vm(1, epoch(5)))
	l.ctrl.waitPhase(vmID, 1, phaseRunning)
	pid := l.pid()
	l.ctrl.set(vm(9, epoch(4), func(v *agentv1.DesiredVM) { v.Absent = true }))
	l.ctrl.wait("the refusal", l.event("STALE_EPOCH"))
	l.stop()
	l.start()
	l.ctrl.wait("the refusal after a restart", func() bool {
		return len(slices.DeleteFunc(slices.Clone(l.ctrl.events), func(e *agentv1.EventReport) bool { return e.GetReason() != "STALE_EPOCH" })) >= 2
	})
	l.samePID(pid)
	l.ctrl.set(vm(10, epoch(6)))
	l.ctrl.waitPhase(vmID, 10, phaseRunning)
	l.samePID(pid)
}

func TestPermanentFailureEndsAndUndoes(t *testing.T) {
	l := newLab(t)
	l.host.do(func() {
		l.host.fail["CreateDomain"] = fault.Invalid(fault.Violation{Field: "spec.cpu.model", Description: "unknown"})
	})
	l.ctrl.set(pool())
	l.ctrl.set(volume(volID))
	l.ctrl.set(vm(1))
	l.ctrl.wait("the permanent failure", func() bool {
		v := l.ctrl.vms[vmID]
		return v.GetPermanentFailure() && v.GetStatus().GetPhase() == computev1.VMPhase_VM_PHASE_FAILED && v.GetStatus().GetReason() == "INVALID_FIELD"
	})
	l.host.wait("the volume detached again", func() bool { return len(l.host.attached) == 0 })
	if n := l.host.count("CreateDomain"); n != 1 {
		t.Errorf("tried %d times", n)
	}
	l.host.do(func() { delete(l.host.fail, "CreateDomain") })
	l.ctrl.set(vm(2))
	l.ctrl.waitPhase(vmID, 2, phaseRunning)
}

func TestRetryNamesTheWait(t *testing.T) {
	l := newLab(t)
	l.host.do(func() { l.host.fail["StartDomain"] = fault.New(metav1.Reason_REASON_BACKEND_FAILED, "libvirt says no") })
	l.ctrl.set(pool())
	l.ctrl.set(volume(volID))
	l.ctrl.set(vm(1))
	l.ctrl.wait("the failure", func() bool {
		s := l.ctrl.vms[vmID].GetStatus()
		return s.GetReason() == "BACKEND_FAILED" && s.GetNextRetryTime() != nil && strings.Contains(s.GetMessage(), "libvirt says no") && strings.Contains(s.GetMessage(), "next try in")
	})
	l.host.wait("three tries", func() bool { return l.host.calls["StartDomain"] >= 3 })
	l.host.do(func() { delete(l.host.fail, "StartDomain") })
	l.ctrl.waitPhase(vmID, 1, phaseRunning)
}

// One VM whose driver call hangs delays neither another VM nor the heartbeat.
func TestHungCallDelaysNobody(t *testing.T) {
	l := newLab(t)
	l.running()
	l.host.do(func() { l.host.hang["PauseDomain"] = true })
	l.ctrl.set(vm(2, power(paused)))
	l.host.wait("the hanging call", func() bool { return l.host.calls["PauseDomain"] == 1 })
	other := vm(1, func(v *agentv1.DesiredVM) { v.VmId, v.Volumes, v.Spec.Disks = "eeee", nil, nil })
	other.Key.Id = "eeee"
	l.ctrl.set(other)
	l.ctrl.waitPhase("eeee", 1, phaseRunning)
	l.ctrl.mu.Lock()
	beats := l.ctrl.beats
	l.ctrl.mu.Unlock()
	l.ctrl.wait("more heartbeats", func() bool { return l.ctrl.beats > beats+3 })
}

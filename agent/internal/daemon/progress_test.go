package daemon

import (
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

func call(p *computev1.Progress, method string) *computev1.DriverCall {
	for _, c := range p.GetCalls() {
		if c.GetMethod() == method {
			return c
		}
	}
	return nil
}

// A driver call that hangs is named, with its age, as long as it does, and never again after that; a new controller is told too.
func TestHungCallIsTold(t *testing.T) {
	l := newLab(t)
	l.running()
	if p := l.progressOf(vmID); p != nil {
		t.Errorf("something is told of a VM that runs as wanted: %v", p)
	}
	l.host.do(func() { l.host.hang["PauseDomain"] = true })
	l.ctrl.set(vm(2, power(paused)))
	hangs := func() bool {
		c := call(l.ctrl.progress[vmID], "PauseDomain")
		return c.GetDriver() == "kvm" && !c.GetQueued() && time.Since(c.GetStartTime().AsTime()) >= longEnough && c.GetDeadline() != nil &&
			l.ctrl.progress[vmID].GetDoing() == "pausing it"
	}
	l.ctrl.wait("word of the hanging call", hangs)
	l.ctrl.mu.Lock()
	clear(l.ctrl.progress)
	l.ctrl.mu.Unlock()
	l.ctrl.cut()
	l.ctrl.wait("word of it to a controller that knows nothing", hangs)
	l.host.do(func() { delete(l.host.hang, "PauseDomain") })
	l.ctrl.set(vm(3)) // the call goes on until its deadline; the end of this test shortens that
	l.stop()
}

const longEnough = time.Second

func TestFailureIsTold(t *testing.T) {
	l := newLab(t)
	l.host.do(func() {
		l.host.fail["StartDomain"] = fault.New(metav1.Reason_REASON_BACKEND_FAILED, "libvirt says no").WithRemedy("look at its log")
	})
	l.ctrl.set(pool())
	l.ctrl.set(volume(volID))
	l.ctrl.set(vm(1))
	l.ctrl.wait("the third failure", func() bool {
		p := l.ctrl.progress[vmID]
		f := p.GetLastError()
		return p.GetTries() >= 3 && p.GetDoing() == "starting it" && p.GetNextTryTime() != nil && f.GetCode() == "INTERNAL" && f.GetReason() == "BACKEND_FAILED" &&
			f.GetMessage() == "libvirt says no" && f.GetRemedy() == "look at its log" && f.GetTime() != nil
	})
	l.host.do(func() {
		l.host.fail["StartDomain"] = fault.Invalid(fault.Violation{Field: "cpu", Description: "is no good"})
	})
	l.ctrl.wait("the failure for good", func() bool {
		p := l.ctrl.progress[vmID]
		return p.GetLastError().GetReason() == "INVALID_FIELD" && p.GetNextTryTime() == nil && p.GetWaitsFor() == "a change of what is wanted"
	})
	l.host.do(func() { delete(l.host.fail, "StartDomain") })
	l.ctrl.set(vm(2))
	l.ctrl.waitPhase(vmID, 2, phaseRunning)
	l.ctrl.wait("word that nothing is under way", func() bool { return l.ctrl.progress[vmID] == nil })
}

// What a VM waits for is named, and so is the failure of what it waits for.
func TestWaitIsTold(t *testing.T) {
	l := newLab(t)
	l.host.do(func() { l.host.fail["CreateVolume"] = fault.New(metav1.Reason_REASON_NO_SPACE, "the pool is full") })
	l.ctrl.set(pool())
	l.ctrl.set(volume(volID))
	l.ctrl.set(vm(1))
	l.ctrl.wait("the volume's failure and the VM's wait", func() bool {
		v, d := l.ctrl.progress[vmID], l.ctrl.progress[volID]
		return v.GetWaitsFor() != "" && v.GetLastError() == nil && d.GetLastError().GetReason() == "NO_SPACE" && d.GetWaitsFor() == "room" && d.GetNextTryTime() != nil
	})
	// Nobody asks for it any more: nothing is left to tell.
	l.ctrl.remove(vmKey(vmID))
	l.ctrl.remove(volKey(volID))
	l.ctrl.wait("nothing to tell", func() bool { return len(l.ctrl.progress) == 0 })
}

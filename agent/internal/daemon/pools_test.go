package daemon

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

const otherPool = "aaaaaaaa-0000-4000-8000-000000000001"

func namedPool(id, name string) *agentv1.DesiredObject {
	o := pool()
	o.Key.Id, o.GetPool().Pool.Meta.Id, o.GetPool().Pool.Meta.Name = id, id, name
	return o
}

func inPool(id string) func(*agentv1.DesiredVolume) {
	return func(v *agentv1.DesiredVolume) { v.Volume.Spec.PoolId = id }
}

func (l *lab) volumeReady(id string) func() bool {
	return func() bool {
		return l.ctrl.volumes[id].GetStatus().GetPhase() == storagev1.VolumePhase_VOLUME_PHASE_READY
	}
}

// A pool that stops answering is unhealthy, with its reason; its VMs say so and run on; what was under way in it ends; the other pool of the same plugin and heartbeats notice
// nothing; and all is well when it answers again.
func TestHungPool(t *testing.T) {
	l := newPoolLab(t)
	pid := l.running()
	l.ctrl.set(namedPool(otherPool, "other"))
	l.ctrl.wait("the other pool", func() bool {
		return l.ctrl.pools[otherPool].GetStatus().GetHealth() == storagev1.PoolHealth_POOL_HEALTH_HEALTHY
	})
	const calls = 3 * 32 // more than a plugin has places
	l.host.do(func() { l.host.hung[poolID] = true })
	for i := range calls {
		l.ctrl.set(volume(fmt.Sprintf("hung-%d", i)))
	}
	l.ctrl.mu.Lock()
	beats := l.ctrl.beats
	l.ctrl.mu.Unlock()
	begin := time.Now()
	for i := range 20 {
		id := fmt.Sprintf("well-%d", i)
		l.ctrl.set(volume(id, inPool(otherPool)))
		l.ctrl.wait("a volume of the other pool", l.volumeReady(id))
	}
	took := time.Since(begin)
	l.ctrl.wait("word of the hung pool", func() bool {
		s := l.ctrl.pools[poolID].GetStatus()
		return s.GetHealth() == storagev1.PoolHealth_POOL_HEALTH_UNHEALTHY && s.GetReason() == "BACKEND_TIMEOUT" && s.GetCapacityBytes() > 0
	})
	l.ctrl.wait("word of its VM", func() bool {
		s := l.ctrl.vms[vmID].GetStatus()
		return s.GetPhase() == phaseRunning && s.GetReason() == "POOL_UNHEALTHY" && strings.Contains(s.GetMessage(), `disk "root": pool local`)
	})
	l.ctrl.wait("its volumes told", func() bool {
		for i := range calls {
			if l.ctrl.volumes[fmt.Sprintf("hung-%d", i)].GetStatus().GetReason() != "POOL_UNHEALTHY" {
				return false
			}
		}
		return true
	})
	l.host.wait("the end of what was under way", func() bool { return l.host.ended["CreateVolume"] > 0 })
	l.ctrl.mu.Lock()
	if l.ctrl.pools[otherPool].GetStatus().GetHealth() != storagev1.PoolHealth_POOL_HEALTH_HEALTHY {
		t.Errorf("the other pool: %v", l.ctrl.pools[otherPool])
	}
	if per := took / time.Duration(l.ctrl.beats-beats+1); per > 2*time.Second { // one is sent every 100 ms
		t.Errorf("a heartbeat every %s", per)
	}
	l.ctrl.mu.Unlock()

	l.host.do(func() { delete(l.host.hung, poolID) })
	l.ctrl.wait("the pool well again", func() bool {
		return l.ctrl.pools[poolID].GetStatus().GetHealth() == storagev1.PoolHealth_POOL_HEALTH_HEALTHY
	})
	l.ctrl.wait("its VM well again", func() bool { return l.ctrl.vms[vmID].GetStatus().GetReason() == "" })
	for i := range calls {
		l.ctrl.wait("its volumes", l.volumeReady(fmt.Sprintf("hung-%d", i)))
	}
	l.samePID(pid)
	l.ctrl.wait("both events", func() bool { return l.event("PoolQuarantined")() && l.event("PoolRecovered")() })
}

// A pool that answers that it does not work is unhealthy in the driver's words, and so are its VMs.
func TestSickPool(t *testing.T) {
	l := newPoolLab(t)
	l.running()
	l.host.do(func() { l.host.sick = "no monitor answers" })
	l.ctrl.wait("word of the VM", func() bool {
		s := l.ctrl.vms[vmID].GetStatus()
		return s.GetReason() == "POOL_UNHEALTHY" && strings.Contains(s.GetMessage(), "no monitor answers") && s.GetPhase() == phaseRunning
	})
	l.ctrl.wait("word of the pool", func() bool {
		s := l.ctrl.pools[poolID].GetStatus()
		return s.GetHealth() == storagev1.PoolHealth_POOL_HEALTH_UNHEALTHY && s.GetMessage() == "no monitor answers"
	})
	l.host.do(func() { l.host.sick = "" })
	l.ctrl.wait("the VM well again", func() bool { return l.ctrl.vms[vmID].GetStatus().GetReason() == "" })
}

// A new pool that fails in a way that may pass is unhealthy at once, and not settled until it has failed for a while; one whose parameters are wrong is.
func TestPoolSettles(t *testing.T) {
	l := newPoolLab(t)
	status := func(what string, ok func(*storagev1.PoolNodeStatus) bool) {
		t.Helper()
		l.ctrl.wait(what, func() bool { return ok(l.ctrl.pools[otherPool].GetStatus()) })
	}
	unhealthy := func(generation int64) func(*storagev1.PoolNodeStatus) bool {
		return func(s *storagev1.PoolNodeStatus) bool {
			return s.GetHealth() == storagev1.PoolHealth_POOL_HEALTH_UNHEALTHY && s.GetObservedGeneration() == generation
		}
	}
	l.host.do(func() { l.host.noPool = fault.New(metav1.Reason_REASON_BACKEND_UNAVAILABLE, "no server answers") })
	l.ctrl.set(namedPool(otherPool, "other"))
	status("an unsettled pool", unhealthy(0))
	status("a settled pool", unhealthy(1))
	l.host.do(func() { l.host.noPool = nil })
	status("a pool", func(s *storagev1.PoolNodeStatus) bool {
		return s.GetHealth() == storagev1.PoolHealth_POOL_HEALTH_HEALTHY && s.GetObservedGeneration() == 1
	})
	l.host.do(func() {
		l.host.noPool = fault.Invalid(fault.Violation{Field: "parameters.path", Description: "is no folder"})
		delete(l.host.pools, otherPool)
	})
	changed := namedPool(otherPool, "other")
	changed.GetPool().Pool.Meta.Generation = 2
	began := time.Now()
	l.ctrl.set(changed)
	status("a wrong pool", unhealthy(2))
	if d := time.Since(began); d > 4*time.Second {
		t.Errorf("wrong parameters were settled after %s", d)
	}
}

// In a shared pool an executor works while its lease lives: what is under way ends with it, nothing is begun after it, and a new one lets it go on. Disks are attached all the same.
func TestLease(t *testing.T) {
	l := newPoolLab(t)
	l.host.do(func() { l.host.shared = true })
	l.ctrl.set(pool())
	l.ctrl.set(volume("early"))
	l.ctrl.wait("a volume that waits for a lease", func() bool {
		s := l.ctrl.volumes["early"].GetStatus()
		return s.GetReason() == "POOL_UNHEALTHY" && strings.Contains(s.GetMessage(), "lease")
	})
	if n := l.host.count("CreateVolume"); n != 0 {
		t.Errorf("%d calls without a lease", n)
	}
	grant := func(d time.Duration) {
		l.ctrl.mu.Lock()
		defer l.ctrl.mu.Unlock()
		l.ctrl.lease = d
	}
	grant(2 * time.Second)
	l.ctrl.wait("the volume", l.volumeReady("early"))
	l.ctrl.set(volume(volID))
	l.ctrl.wait("another volume", l.volumeReady(volID))

	l.host.do(func() { l.host.hang["CreateVolume"] = true })
	before := l.host.count("CreateVolume")
	l.ctrl.set(volume("late"))
	l.host.wait("a call under way", func() bool { return l.host.calls["CreateVolume"] > before })
	begun := time.Now()
	l.ctrl.wait("heartbeats for longer than a lease", func() bool { return time.Since(begun) > 3*time.Second })
	l.host.do(func() {
		if l.host.ended["CreateVolume"] != 0 {
			t.Error("a call ended whose lease was extended")
		}
	})
	grant(0)
	l.host.wait("the end of the call", func() bool { return l.host.ended["CreateVolume"] == 1 })
	l.ctrl.wait("word of it", func() bool {
		return strings.Contains(l.ctrl.volumes["late"].GetStatus().GetMessage(), "lease is over")
	})
	l.host.do(func() { delete(l.host.hang, "CreateVolume") })
	l.ctrl.set(vm(1))
	l.ctrl.waitPhase(vmID, 1, phaseRunning)
	calls := l.host.count("CreateVolume")
	if calls != before+1 {
		t.Errorf("%d calls were begun without a lease", calls-before-1)
	}
	grant(time.Minute)
	l.ctrl.wait("the volume", l.volumeReady("late"))
}

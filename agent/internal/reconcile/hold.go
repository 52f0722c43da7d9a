package reconcile

import (
	"github.com/limiquantix/limiquantix/agent/internal/realised"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// diskUser is a VM of this node that has a volume as a disk.
type diskUser struct {
	vm, driver string
	on         bool // its domain has the volume open, or may soon
}

// holdVolume keeps VMs from being started on a volume, and others from working on it, until release; who found it held runs then. With off the VMs that use it must be
// off: else VOLUME_IN_USE.
func (e *Engine) holdVolume(id string, off bool, who realised.Key) (release func(), user *diskUser, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.heldFrom(id, who) {
		return nil, nil, fault.New(metav1.Reason_REASON_BUSY, "volume %s is being worked on", id)
	}
	for k, w := range e.wants {
		if k.Kind != realised.KindVM {
			continue
		}
		for _, v := range w.obj.GetVm().GetVolumes() {
			s := e.vms[k.ID]
			if v.GetVolumeId() != id || s == nil && e.recordOf(k).Driver == "" {
				continue // it has no domain yet, and gets none while the volume is held
			}
			if s == nil || !s.lookedOnce {
				return nil, nil, fault.New(metav1.Reason_REASON_BUSY, "VM %s, which uses volume %s, was not looked at yet", k.ID, id)
			}
			u := &diskUser{vm: k.ID, driver: s.driver, on: isOn(s.domain) || s.starting}
			if off && u.on {
				return nil, nil, fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is in use by VM %s", id, k.ID).WithRemedy("stop the VM first")
			}
			if s.starting {
				return nil, nil, fault.New(metav1.Reason_REASON_BUSY, "VM %s, which uses volume %s, is being started", k.ID, id)
			}
			if user == nil || u.on {
				user = u
			}
		}
	}
	e.held[id] = map[realised.Key]bool{}
	return func() {
		e.mu.Lock()
		waiting := e.held[id]
		delete(e.held, id)
		e.mu.Unlock()
		for k := range waiting {
			e.queue.add(k)
		}
	}, user, nil
}

// heldFrom reports whether a volume is held, and notes who waits for its release. Called under Engine.mu.
func (e *Engine) heldFrom(id string, who realised.Key) bool {
	waiting, held := e.held[id]
	if held {
		waiting[who] = true
	}
	return held
}

func (e *Engine) recordOf(k realised.Key) realised.Record {
	r, _ := e.store.Record(k)
	return r
}

// snapshotUnderWay reports whether a snapshot of a volume is wanted and not taken yet: the domain may have gone over to an overlay that is not the volume yet, so
// until then nothing is defined or started by what the storage driver says. Called under Engine.mu.
func (e *Engine) snapshotUnderWay(volume string) bool {
	for k, w := range e.wants {
		d := w.obj.GetVolumeSnapshot()
		if d == nil || d.GetSnapshot().GetSpec().GetVolumeId() != volume || e.hopeless[k] == w {
			continue
		}
		if rec := e.recordOf(k); !rec.Made && (rec.Begun || !d.GetAbsent()) {
			return true
		}
	}
	return false
}

// mayStart notes that a VM is being started, unless a volume of it is held.
func (r *vmRun) mayStart() error {
	r.e.mu.Lock()
	defer r.e.mu.Unlock()
	for _, v := range r.d.GetVolumes() {
		if r.e.heldFrom(v.GetVolumeId(), r.key) || r.e.snapshotUnderWay(v.GetVolumeId()) {
			return fault.New(metav1.Reason_REASON_BUSY, "its volume %s is being worked on", v.GetVolumeId())
		}
	}
	if r.s.moved {
		return fault.New(metav1.Reason_REASON_BUSY, "its volumes changed and are attached anew first")
	}
	r.s.starting = true
	return nil
}

func (r *vmRun) started() {
	r.e.mu.Lock()
	r.s.starting = false
	r.e.mu.Unlock()
}

// sourcesChanged says that a volume's bytes are elsewhere now: a domain that is off gets a definition with the new place before it is started.
func (e *Engine) sourcesChanged(volume string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for k, w := range e.wants {
		for _, v := range w.obj.GetVm().GetVolumes() {
			if s := e.vms[k.ID]; k.Kind == realised.KindVM && v.GetVolumeId() == volume && s != nil {
				s.moved = true
			}
		}
	}
}

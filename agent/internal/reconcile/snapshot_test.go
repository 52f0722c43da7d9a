package reconcile

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

const (
	running = driverv1.DomainState_DOMAIN_STATE_RUNNING
	shutOff = driverv1.DomainState_DOMAIN_STATE_STOPPED

	best  = storagev1.SnapshotConsistency_SNAPSHOT_CONSISTENCY_UNSPECIFIED
	crash = storagev1.SnapshotConsistency_SNAPSHOT_CONSISTENCY_CRASH
	quiet = storagev1.SnapshotConsistency_SNAPSHOT_CONSISTENCY_QUIESCED
)

var errNotNow = fault.New(metav1.Reason_REASON_BACKEND_FAILED, "not now")

// snapshot wants one of the volume.
func (e *Engine) snapshot(c storagev1.SnapshotConsistency, absent bool) *want {
	return e.want(&agentv1.DesiredObject{
		Key: &agentv1.DesiredKey{Kind: agentv1.DesiredKind_DESIRED_KIND_VOLUME_SNAPSHOT, Id: "snap"},
		Object: &agentv1.DesiredObject_VolumeSnapshot{VolumeSnapshot: &agentv1.DesiredVolumeSnapshot{
			Epoch: 1, Absent: absent, Snapshot: &storagev1.Snapshot{
				Meta: &metav1.ObjectMeta{Id: "snap", Generation: 1}, Spec: &storagev1.SnapshotSpec{VolumeId: "vol", Consistency: c},
				Status: &storagev1.SnapshotStatus{PoolId: "pool"},
			},
		}},
	})
}

func (f *fakeDrivers) did() string {
	defer func() { f.calls = nil }()
	return strings.Join(f.calls, " ")
}

// settled fails unless a run left the guest going, and nothing held or noted that is not so.
func settled(t *testing.T, e *Engine, f *fakeDrivers) {
	t.Helper()
	rec, _ := e.store.Record(realised.Key{Kind: realised.KindSnapshot, ID: "snap"})
	if f.frozen || rec.Frozen != "" {
		t.Errorf("the guest stands still: %v; noted: %q", f.frozen, rec.Frozen)
	}
	if len(e.held) != 0 {
		t.Errorf("held: %v", slices.Collect(maps.Keys(e.held)))
	}
}

func TestSnapshotSteps(t *testing.T) {
	for name, c := range map[string]struct {
		state       driverv1.DomainState
		consistency storagev1.SnapshotConsistency
		agent       bool
		pending     bool
		fail        string
		want        string
		quiesced    bool
		permanent   bool
	}{
		"of a VM that is off":                   {state: shutOff, consistency: quiet, want: "create", quiesced: true},
		"by the storage":                        {state: running, agent: true, want: "quiesce create thaw", quiesced: true},
		"by switching":                          {state: running, agent: true, pending: true, want: "quiesce create switch commit thaw", quiesced: true},
		"by switching, of a VM that is off":     {state: shutOff, pending: true, want: "create commit", quiesced: true},
		"as after a crash":                      {state: running, consistency: crash, agent: true, want: "create"},
		"of a guest that does not answer":       {state: running, agent: true, fail: "quiesce", want: "quiesce thaw create"},
		"of a guest that cannot be asked":       {state: running, want: "create"},
		"quiesced, of one that does not answer": {state: running, consistency: quiet, agent: true, fail: "quiesce", want: "quiesce thaw", permanent: true},
		"quiesced, of one that cannot be asked": {state: running, consistency: quiet, want: "", permanent: true},
	} {
		t.Run(name, func(t *testing.T) {
			e, f := newFake(t)
			e.vmIs(c.state)
			f.agent, f.pending = c.agent, c.pending
			if c.fail != "" {
				f.fail[c.fail] = errNotNow
			}
			w := e.snapshot(c.consistency, false)
			after, _ := e.reconcileSnapshot(t.Context(), w)
			if got := f.did(); got != c.want {
				t.Errorf("did %q, want %q", got, c.want)
			}
			settled(t, e, f)
			st := f.told.GetStatus()
			if c.permanent {
				if !f.told.GetPermanentFailure() || st.GetPhase() != storagev1.SnapshotPhase_SNAPSHOT_PHASE_FAILED || st.GetReason() != "QUIESCE_FAILED" || after != never {
					t.Errorf("told %v, again in %s", f.told, after)
				}
				e.reconcileSnapshot(t.Context(), w)
				if got := f.did(); got != "" {
					t.Errorf("what cannot be was tried again: %s", got)
				}
				return
			}
			if st.GetPhase() != storagev1.SnapshotPhase_SNAPSHOT_PHASE_READY || st.GetQuiesced() != c.quiesced || f.snaps["snap"].GetPending() {
				t.Errorf("told %v of %v", f.told, f.snaps["snap"])
			}
			e.reconcileSnapshot(t.Context(), w)
			if got := f.did(); got != "list" || f.told.GetStatus().GetQuiesced() != c.quiesced {
				t.Errorf("again: %q, told %v", got, f.told)
			}
			if moved := e.vmState("vm").moved; moved != c.pending {
				t.Errorf("the VM's definition is to be made anew: %v", moved)
			}
		})
	}
}

// Whatever step fails, the guest goes on, and the next try brings the snapshot to its end.
func TestSnapshotGoesOn(t *testing.T) {
	for _, step := range []string{"create", "switch", "commit"} {
		e, f := newFake(t)
		e.vmIs(running)
		f.agent, f.pending = true, true
		f.once[step] = errNotNow
		w := e.snapshot(best, false)
		after, _ := e.reconcileSnapshot(t.Context(), w)
		settled(t, e, f)
		if st := f.told.GetStatus(); after <= 0 || st.GetPhase() != storagev1.SnapshotPhase_SNAPSHOT_PHASE_CREATING || st.GetReason() != "BACKEND_FAILED" || st.GetNextRetryTime() == nil {
			t.Errorf("%s: again in %s; told %v", step, after, f.told)
		}
		if !e.snapshotUnderWay("vol") {
			t.Errorf("%s: a VM could be started on what may be no volume any more", step)
		}
		e.reconcileSnapshot(t.Context(), w)
		settled(t, e, f)
		if f.told.GetStatus().GetPhase() != storagev1.SnapshotPhase_SNAPSHOT_PHASE_READY || e.snapshotUnderWay("vol") {
			t.Errorf("%s: told %v", step, f.told)
		}
	}
}

// A guest that a run before left standing still is the first to be seen to; while it cannot be, nothing else is done, and that it stands stays noted.
func TestGuestIsThawedFirst(t *testing.T) {
	e, f := newFake(t)
	e.vmIs(running)
	f.agent, f.frozen = true, true
	key := realised.Key{Kind: realised.KindSnapshot, ID: "snap"}
	e.store.Put(realised.Record{Kind: key.Kind, ID: key.ID, Begun: true, Frozen: "vm", FrozenBy: "compute"})
	f.once["thaw"] = errNotNow
	w := e.snapshot(crash, true)
	e.reconcileSnapshot(t.Context(), w)
	if rec, _ := e.store.Record(key); f.did() != "thaw" || rec.Frozen != "vm" || !f.frozen {
		t.Errorf("noted %v", rec)
	}
	e.reconcileSnapshot(t.Context(), w)
	if got := f.did(); got != "thaw delete" || !f.told.GetAbsent() {
		t.Errorf("did %q; told %v", got, f.told)
	}
	settled(t, e, f)
	f.frozen = true // its guest is gone, and with it what stood still
	e.store.Put(realised.Record{Kind: key.Kind, ID: key.ID, Frozen: "vm", FrozenBy: "compute"})
	f.fail["thaw"] = fault.New(metav1.Reason_REASON_DOMAIN_NOT_FOUND, "no domain")
	e.reconcileSnapshot(t.Context(), e.snapshot(crash, false))
	if rec, _ := e.store.Record(key); f.did() != "thaw create" || rec.Frozen != "" {
		t.Errorf("noted %v", rec)
	}
}

// A snapshot that is half taken goes on to its end before it is removed; one that was lost is not taken anew in silence.
func TestSnapshotIsRemovedOrLost(t *testing.T) {
	e, f := newFake(t)
	e.vmIs(shutOff)
	f.pending = true
	f.once["delete"] = fault.New(metav1.Reason_REASON_WRONG_STATE, "half taken")
	e.reconcileSnapshot(t.Context(), e.snapshot(best, true))
	if got := f.did(); got != "delete create commit delete" || !f.told.GetAbsent() || len(f.snaps) != 0 {
		t.Errorf("did %q; told %v; left %v", got, f.told, f.snaps)
	}
	e.reconcileSnapshot(t.Context(), e.snapshot(best, false))
	f.did()
	clear(f.snaps)
	e.reconcileSnapshot(t.Context(), e.snapshot(best, false))
	if got := f.did(); got != "list" || f.told.GetStatus().GetReason() != "SNAPSHOT_NOT_FOUND" {
		t.Errorf("did %q; told %v", got, f.told)
	}
	f.fail["delete"] = fault.New(metav1.Reason_REASON_NOT_OURS, "another's")
	if after, _ := e.reconcileSnapshot(t.Context(), e.snapshot(best, true)); after <= 0 {
		t.Error("a deletion was given up")
	}
}

// The mark of what lies in a shared pool names no node.
func TestSharedSnapshotIsTheClusters(t *testing.T) {
	e, f := newFake(t)
	e.vmIs(shutOff)
	w := e.snapshot(best, false)
	e.reconcileSnapshot(t.Context(), w)
	if m := f.snaps["snap"].GetMark(); m.GetNodeId() != "n" || m.GetClusterId() != "c" || m.GetEpoch() != 1 {
		t.Errorf("mark %v", m)
	}
	clear(f.snaps)
	e.store.Delete(realised.Key{Kind: realised.KindSnapshot, ID: "snap"})
	w.obj.GetVolumeSnapshot().SharedPool = true
	e.reconcileSnapshot(t.Context(), w)
	if m := f.snaps["snap"].GetMark(); m.GetNodeId() != "" || m.GetClusterId() != "c" {
		t.Errorf("mark %v", m)
	}
}

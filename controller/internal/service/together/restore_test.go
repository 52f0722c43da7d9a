package together_test

import (
	"testing"

	"connectrpc.com/connect"

	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// A VM that is asked to start while its volume is set back starts once that is done; nothing else is done to the volume meanwhile.
func TestStartWaitsForRestore(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a := r.join("n1", 8, 1<<34)
	id := r.madeVolume("data", &storagev1.VolumeSpec{SizeBytes: 1 << 20})
	vm := r.mustCreate("a", &computev1.VMSpec{MemoryBytes: 1 << 30, Disks: []*computev1.Disk{{Name: "d", Source: &computev1.Disk_Volume{Volume: "data"}}}}).GetVm().GetMeta().GetId()
	r.untilPhase(vm, computev1.VMPhase_VM_PHASE_RUNNING)
	snap, err := r.snapshot("s1", "data")
	if err != nil {
		t.Fatal(err)
	}
	r.done(snap.GetOperation().GetId())
	if _, err := r.VM.StopVM(admin(), connect.NewRequest(&computev1.StopVMRequest{Id: vm})); err != nil {
		t.Fatal(err)
	}
	r.untilPhase(vm, computev1.VMPhase_VM_PHASE_STOPPED)
	a.set(func(a *fakeAgent) { a.frozen = true })
	back, err := r.Snapshot.RestoreSnapshot(admin(), connect.NewRequest(&storagev1.RestoreSnapshotRequest{Id: "s1"}))
	if err != nil {
		t.Fatal(err)
	}
	if v := back.Msg.GetVolume(); v.GetMeta().GetId() != id || v.GetStatus().GetPhase() != storagev1.VolumePhase_VOLUME_PHASE_RESTORING {
		t.Errorf("the answer holds %v", v)
	}
	_, err = r.Volume.ResizeVolume(admin(), connect.NewRequest(&storagev1.ResizeVolumeRequest{Id: id, SizeBytes: 2 << 20}))
	wantReason(t, err, metav1.Reason_REASON_WRONG_STATE)
	_, err = r.snapshot("s2", "data")
	wantReason(t, err, metav1.Reason_REASON_WRONG_STATE)
	_, err = r.Snapshot.DeleteSnapshot(admin(), connect.NewRequest(&storagev1.DeleteSnapshotRequest{Id: "s1"}))
	wantReason(t, err, metav1.Reason_REASON_SNAPSHOT_IN_USE)
	on, err := r.VM.StartVM(admin(), connect.NewRequest(&computev1.StartVMRequest{Id: vm}))
	if err != nil {
		t.Fatal(err)
	}
	a.settled(vm)
	if d := a.known(vm); d.GetSpec().GetDesiredPower() != computev1.PowerState_POWER_STATE_STOPPED {
		t.Fatalf("it is to run while its volume is set back: %v", d)
	}
	a.report(a.ctx, &agentv1.ReportStatusRequest{Vms: []*agentv1.VMReport{vmReport(a.known(vm))}})
	a.mu.Lock()
	d := a.volumes[id]
	a.mu.Unlock()
	a.report(a.ctx, &agentv1.ReportStatusRequest{Volumes: []*agentv1.VolumeReport{{ // a word on the way is not the end
		VolumeId: id, Epoch: d.GetEpoch(), ObservedGeneration: 1, Status: &storagev1.VolumeStatus{Phase: storagev1.VolumePhase_VOLUME_PHASE_READY, SizeBytes: 1 << 20},
	}}})
	if p := r.volume(id).GetStatus().GetPhase(); p != storagev1.VolumePhase_VOLUME_PHASE_RESTORING {
		t.Errorf("it is %v", p)
	}
	a.set(func(a *fakeAgent) { a.frozen = false })
	a.report(a.ctx, answer(&agentv1.DesiredObject{Object: &agentv1.DesiredObject_Volume{Volume: d}}))
	r.done(back.Msg.GetOperation().GetId())
	r.done(on.Msg.GetOperation().GetId())
	r.untilPhase(vm, computev1.VMPhase_VM_PHASE_RUNNING)
}

// A restore that can never succeed ends its operation and keeps nobody's VM off.
func TestRestoreThatFails(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a := r.join("n1", 8, 1<<34)
	id := r.madeVolume("data", &storagev1.VolumeSpec{SizeBytes: 1 << 20})
	vm := r.mustCreate("a", &computev1.VMSpec{
		MemoryBytes: 1 << 30, DesiredPower: computev1.PowerState_POWER_STATE_STOPPED,
		Disks: []*computev1.Disk{{Name: "d", Source: &computev1.Disk_Volume{Volume: "data"}}},
	}).GetVm().GetMeta().GetId()
	r.untilPhase(vm, computev1.VMPhase_VM_PHASE_STOPPED)
	snap, err := r.snapshot("s1", "data")
	if err != nil {
		t.Fatal(err)
	}
	r.done(snap.GetOperation().GetId())
	a.set(func(a *fakeAgent) { a.frozen = true })
	back, err := r.Snapshot.RestoreSnapshot(admin(), connect.NewRequest(&storagev1.RestoreSnapshotRequest{Id: "s1"}))
	if err != nil {
		t.Fatal(err)
	}
	r.until("the node has it", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return a.volumes[id].GetRestore() != nil })
	a.report(a.ctx, &agentv1.ReportStatusRequest{Volumes: []*agentv1.VolumeReport{{VolumeId: id, Epoch: 1, ObservedGeneration: 1, PermanentFailure: true, Status: &storagev1.VolumeStatus{
		Phase: storagev1.VolumePhase_VOLUME_PHASE_FAILED, Reason: "SNAPSHOT_NOT_FOUND", Message: "the backend has no such snapshot",
	}}}})
	if op := r.ended(back.Msg.GetOperation().GetId()); op.GetReason() != "SNAPSHOT_NOT_FOUND" {
		t.Errorf("%v", op)
	}
	a.set(func(a *fakeAgent) { a.frozen = false })
	on, err := r.VM.StartVM(admin(), connect.NewRequest(&computev1.StartVMRequest{Id: vm}))
	if err != nil {
		t.Fatal(err)
	}
	r.done(on.Msg.GetOperation().GetId())
}

package together_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

func (r *rig) createVolume(name string, spec *storagev1.VolumeSpec) (*storagev1.CreateVolumeResponse, error) {
	resp, err := r.Volume.CreateVolume(admin(), connect.NewRequest(&storagev1.CreateVolumeRequest{Volume: &storagev1.Volume{Meta: &metav1.ObjectMeta{Name: name}, Spec: spec}}))
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

// madeVolume makes a volume and waits until it is there.
func (r *rig) madeVolume(name string, spec *storagev1.VolumeSpec) string {
	r.t.Helper()
	made, err := r.createVolume(name, spec)
	if err != nil {
		r.t.Fatal(err)
	}
	r.done(made.GetOperation().GetId())
	return made.GetVolume().GetMeta().GetId()
}

func (r *rig) volume(id string) *storagev1.Volume {
	resp, err := r.Volume.GetVolume(admin(), connect.NewRequest(&storagev1.GetVolumeRequest{Id: id}))
	if err != nil {
		return nil
	}
	return resp.Msg.GetVolume()
}

func (r *rig) attach(volume, vm string) (*storagev1.AttachVolumeResponse, error) {
	resp, err := r.Volume.AttachVolume(admin(), connect.NewRequest(&storagev1.AttachVolumeRequest{Id: volume, Vm: vm}))
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

func (r *rig) snapshot(name, volume string) (*storagev1.CreateSnapshotResponse, error) {
	resp, err := r.Snapshot.CreateSnapshot(admin(), connect.NewRequest(&storagev1.CreateSnapshotRequest{Snapshot: &storagev1.Snapshot{
		Meta: &metav1.ObjectMeta{Name: name}, Spec: &storagev1.SnapshotSpec{VolumeId: volume},
	}}))
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

func (r *rig) deleteVolume(id string) (*storagev1.DeleteVolumeResponse, error) {
	resp, err := r.Volume.DeleteVolume(admin(), connect.NewRequest(&storagev1.DeleteVolumeRequest{Id: id}))
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

// A volume is made on the node with the most room, grows, is attached to a running VM and let go of, and goes.
func TestVolumeLife(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a := r.join("n1", 8, 1<<34)
	id := r.madeVolume("data", &storagev1.VolumeSpec{SizeBytes: 1 << 20})
	v := r.volume(id)
	if v.GetStatus().GetNodeId() != a.id || v.GetStatus().GetPhase() != storagev1.VolumePhase_VOLUME_PHASE_READY || v.GetStatus().GetSizeBytes() != 1<<20 {
		t.Errorf("%v", v)
	}
	_, err := r.createVolume("data", &storagev1.VolumeSpec{SizeBytes: 1 << 20})
	wantReason(t, err, metav1.Reason_REASON_NAME_TAKEN)
	for _, spec := range []*storagev1.VolumeSpec{
		{},
		{SizeBytes: 100},
		{SizeBytes: 512, PoolId: "nowhere"},
		{Source: &storagev1.VolumeSource{Source: &storagev1.VolumeSource_ImageId{ImageId: "none"}}},
		{SizeBytes: 512, Source: &storagev1.VolumeSource{Source: &storagev1.VolumeSource_VolumeId{VolumeId: "data"}}},
		{SizeBytes: 512, Qos: &storagev1.VolumeQos{Iops: -1}},
	} {
		if _, err := r.createVolume("other", spec); len(fault.From(err).Violations) != 1 {
			t.Errorf("%v: %v", spec, err)
		}
	}

	resize := func(size int64) (string, error) {
		resp, err := r.Volume.ResizeVolume(admin(), connect.NewRequest(&storagev1.ResizeVolumeRequest{Id: "data", SizeBytes: size}))
		if err != nil {
			return "", err
		}
		return resp.Msg.GetOperation().GetId(), nil
	}
	op, err := resize(2 << 20)
	if err != nil {
		t.Fatal(err)
	}
	r.done(op)
	_, err = resize(1 << 20)
	wantReason(t, err, metav1.Reason_REASON_SIZE_OUT_OF_RANGE)

	vm := r.mustCreate("a", spec(1<<30)).GetVm().GetMeta().GetId()
	r.untilPhase(vm, computev1.VMPhase_VM_PHASE_RUNNING)
	at, err := r.attach("data", "a")
	if err != nil {
		t.Fatal(err)
	}
	r.done(at.GetOperation().GetId())
	d := a.known(vm)
	if len(d.GetVolumes()) != 1 || d.GetVolumes()[0].GetVolumeId() != id || d.GetSpec().GetDisks()[0].GetVolume() != id {
		t.Errorf("the node has %v", d)
	}
	r.until("the attachment is confirmed", func() bool {
		at := r.volume(id).GetStatus().GetAttachments()
		return len(at) == 1 && at[0].GetAttached() && at[0].GetNodeId() == a.id && at[0].GetVmId() == vm
	})
	if again, err := r.attach("data", "a"); err != nil || len(again.GetVolume().GetStatus().GetAttachments()) != 1 {
		t.Errorf("attached again: %v, %v", again, err)
	}
	other := r.mustCreate("b", spec(1<<30)).GetVm().GetMeta().GetId()
	_, err = r.attach("data", "b")
	wantReason(t, err, metav1.Reason_REASON_VOLUME_IN_USE)
	_, err = r.create(&computev1.CreateVMRequest{Vm: &computev1.VM{Meta: &metav1.ObjectMeta{Name: "c"}, Spec: &computev1.VMSpec{
		MemoryBytes: 1 << 30, Disks: []*computev1.Disk{{Name: "d", Source: &computev1.Disk_Volume{Volume: "data"}}},
	}}})
	if f := fault.From(err); len(f.Violations) != 1 || !strings.Contains(f.Violations[0].Description, "is attached to VM") {
		t.Errorf("%v", err)
	}
	_, err = r.deleteVolume("data")
	wantReason(t, err, metav1.Reason_REASON_VOLUME_IN_USE)

	// The node has not let go yet: it stays attached, to this VM alone.
	a.set(func(a *fakeAgent) { a.frozen = true })
	det, err := r.Volume.DetachVolume(admin(), connect.NewRequest(&storagev1.DetachVolumeRequest{Id: "data"}))
	if err != nil {
		t.Fatal(err)
	}
	a.settled(vm)
	_, err = r.attach("data", "b")
	wantReason(t, err, metav1.Reason_REASON_VOLUME_IN_USE)
	a.report(a.ctx, &agentv1.ReportStatusRequest{Vms: []*agentv1.VMReport{vmReport(a.known(vm))}})
	r.done(det.Msg.GetOperation().GetId())
	r.until("it is free", func() bool { return len(r.volume(id).GetStatus().GetAttachments()) == 0 })
	a.set(func(a *fakeAgent) { a.frozen = false })
	if at, err = r.attach("data", other); err != nil {
		t.Fatal(err)
	}
	r.done(at.GetOperation().GetId())

	// With its VM gone the volume is free and whole.
	if _, err := r.VM.DeleteVM(admin(), connect.NewRequest(&computev1.DeleteVMRequest{Id: "b"})); err != nil {
		t.Fatal(err)
	}
	r.until("it is free again", func() bool { return r.vm(other) == nil && len(r.volume(id).GetStatus().GetAttachments()) == 0 })
	gone, err := r.deleteVolume("data")
	if err != nil {
		t.Fatal(err)
	}
	r.done(gone.GetOperation().GetId())
	if r.volume(id) != nil {
		t.Error("it is still there")
	}
}

// A snapshot is taken by the node that has the volume open; the volume is set back while its VM is off; volumes made from it stand by themselves.
func TestSnapshotLife(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a := r.join("n1", 8, 1<<34)
	id := r.madeVolume("data", &storagev1.VolumeSpec{SizeBytes: 1 << 20})
	vm := r.mustCreate("a", &computev1.VMSpec{MemoryBytes: 1 << 30, Disks: []*computev1.Disk{{Name: "d", Source: &computev1.Disk_Volume{Volume: "data"}}}}).GetVm().GetMeta().GetId()
	r.untilPhase(vm, computev1.VMPhase_VM_PHASE_RUNNING)
	made, err := r.snapshot("s1", "data")
	if err != nil {
		t.Fatal(err)
	}
	r.done(made.GetOperation().GetId())
	snap := made.GetSnapshot().GetMeta().GetId()
	a.mu.Lock()
	d := a.snapped[snap]
	a.mu.Unlock()
	if d.GetVmId() != vm || d.GetSnapshot().GetSpec().GetVolumeId() != id {
		t.Errorf("the node has %v", d)
	}
	_, err = r.snapshot("s1", "data")
	wantReason(t, err, metav1.Reason_REASON_NAME_TAKEN)
	_, err = r.snapshot("s2", "nothing")
	wantReason(t, err, metav1.Reason_REASON_VOLUME_NOT_FOUND)
	if n := r.volume(id).GetStatus().GetSnapshotCount(); n != 1 {
		t.Errorf("%d snapshots", n)
	}

	restore := func() (*storagev1.RestoreSnapshotResponse, error) {
		resp, err := r.Snapshot.RestoreSnapshot(admin(), connect.NewRequest(&storagev1.RestoreSnapshotRequest{Id: "s1"}))
		if err != nil {
			return nil, err
		}
		return resp.Msg, nil
	}
	_, err = restore()
	wantReason(t, err, metav1.Reason_REASON_VOLUME_IN_USE)
	if _, err := r.VM.StopVM(admin(), connect.NewRequest(&computev1.StopVMRequest{Id: "a"})); err != nil {
		t.Fatal(err)
	}
	r.untilPhase(vm, computev1.VMPhase_VM_PHASE_STOPPED)
	for n := int64(1); n <= 2; n++ { // each is done once
		back, err := restore()
		if err != nil {
			t.Fatal(err)
		}
		r.done(back.GetOperation().GetId())
		a.mu.Lock()
		got := a.restores[len(a.restores)-1]
		a.mu.Unlock()
		r.until("what is done is asked for no longer", func() bool { // an agent without its memory would do it again
			a.mu.Lock()
			defer a.mu.Unlock()
			return a.volumes[id].GetRestore() == nil
		})
		if got.GetRestoreGeneration() != n || got.GetSnapshotId() != snap {
			t.Errorf("the node has %v", got)
		}
	}
	clone := r.madeVolume("clone", &storagev1.VolumeSpec{Source: &storagev1.VolumeSource{Source: &storagev1.VolumeSource_SnapshotId{SnapshotId: "s1"}}})
	if v := r.volume(clone); v.GetSpec().GetSizeBytes() != 1<<20 || v.GetSpec().GetSource().GetSnapshotId() != snap {
		t.Errorf("%v", v)
	}
	if _, err := r.VM.DeleteVM(admin(), connect.NewRequest(&computev1.DeleteVMRequest{Id: "a"})); err != nil {
		t.Fatal(err)
	}
	r.until("the volume is free", func() bool { return len(r.volume(id).GetStatus().GetAttachments()) == 0 })
	_, err = r.deleteVolume("data")
	wantReason(t, err, metav1.Reason_REASON_VOLUME_IN_USE)
	gone, err := r.Snapshot.DeleteSnapshot(admin(), connect.NewRequest(&storagev1.DeleteSnapshotRequest{Id: "s1"}))
	if err != nil {
		t.Fatal(err)
	}
	r.done(gone.Msg.GetOperation().GetId())
	if _, err := r.deleteVolume("data"); err != nil {
		t.Error(err)
	}
}

// A VM goes where its volume lies, or says why it cannot; of many that want one volume at once, one gets it.
func TestVolumeHasOneWriter(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	first := r.join("n1", 8, 1<<34)
	r.madeVolume("data", &storagev1.VolumeSpec{SizeBytes: 1 << 20})
	r.join("n2", 64, 1<<38)
	var all sync.WaitGroup
	var mu sync.Mutex
	var won []string
	for i := range 16 {
		all.Go(func() {
			resp, err := r.create(&computev1.CreateVMRequest{Vm: &computev1.VM{Meta: &metav1.ObjectMeta{Name: fmt.Sprintf("vm-%d", i)}, Spec: &computev1.VMSpec{
				MemoryBytes: 1 << 30, Disks: []*computev1.Disk{{Name: "d", Source: &computev1.Disk_Volume{Volume: "data"}}},
			}}})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won = append(won, resp.GetVm().GetMeta().GetId())
			} else if !fault.Is(err, metav1.Reason_REASON_INVALID_FIELD) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if len(won) != 1 {
		t.Fatalf("%d VMs have the volume", len(won))
	}
	r.untilPhase(won[0], computev1.VMPhase_VM_PHASE_RUNNING)
	if on := r.vm(won[0]).GetStatus().GetVmPlacement().GetNodeId(); on != first.id {
		t.Errorf("it is on %s, its volume on %s", on, first.id)
	}
	elsewhere := r.mustCreate("elsewhere", &computev1.VMSpec{MemoryBytes: 1 << 30, Placement: &computev1.Placement{Node: "n2"}}).GetVm().GetMeta().GetId()
	r.untilPhase(elsewhere, computev1.VMPhase_VM_PHASE_RUNNING)
	second := r.madeVolume("more", &storagev1.VolumeSpec{SizeBytes: 1 << 20})
	target := "elsewhere"
	if r.volume(second).GetStatus().GetNodeId() != first.id {
		target = won[0]
	}
	_, err := r.attach("more", target)
	wantReason(t, err, metav1.Reason_REASON_WRONG_STATE)
}

// What promises more of a pool than it may is refused; a cordoned pool takes nothing; a fenced node's data is said to be gone, never made anew in silence.
func TestPoolsAreNotPromisedTwice(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a := r.join("n1", 8, 1<<34)
	made, err := r.createPool("tight", &storagev1.StoragePoolSpec{Driver: "local", Overcommit: 1.5})
	if err != nil {
		t.Fatal(err)
	}
	r.done(made.GetOperation().GetId())
	id := r.madeVolume("big", &storagev1.VolumeSpec{PoolId: "tight", SizeBytes: 1 << 40})
	_, err = r.createVolume("more", &storagev1.VolumeSpec{PoolId: "tight", SizeBytes: 1 << 40})
	wantReason(t, err, metav1.Reason_REASON_NO_SPACE)
	_, err = r.Volume.ResizeVolume(admin(), connect.NewRequest(&storagev1.ResizeVolumeRequest{Id: "big", SizeBytes: 2 << 40}))
	wantReason(t, err, metav1.Reason_REASON_NO_SPACE)
	if p := r.pool("tight"); p.GetStatus().GetProvisionedBytes() != 1<<40 || p.GetStatus().GetVolumeCount() != 1 {
		t.Errorf("%v", p.GetStatus())
	}
	a.stop()
	r.until("the node is unknown", func() bool { return r.volume(id).GetStatus().GetPhase() == storagev1.VolumePhase_VOLUME_PHASE_UNKNOWN })
	gone, err := r.deleteVolume("big")
	if err != nil {
		t.Fatal(err)
	}
	if msg := r.volume(id).GetStatus().GetMessage(); !strings.Contains(msg, "node n1 does not report") {
		t.Errorf("it says %q", msg)
	}
	if op := r.Cache.Row(state.KindOperation, gone.GetOperation().GetId()).Operation().GetOperation(); op.GetState() != operationv1.OperationState_OPERATION_STATE_RUNNING {
		t.Errorf("%v", op)
	}
}

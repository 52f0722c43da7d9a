package together_test

import (
	"context"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

func (r *rig) orphans(node string) []*computev1.NodeOrphan {
	r.t.Helper()
	resp, err := r.Node.ListOrphans(context.Background(), connect.NewRequest(&computev1.ListOrphansRequest{NodeId: node}))
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.Msg.GetOrphans()
}

func (r *rig) adopt(id, name string) (*computev1.VM, error) {
	resp, err := r.Node.AdoptOrphan(context.Background(), connect.NewRequest(&computev1.AdoptOrphanRequest{NodeId: "n1", ObjectId: id, Name: name}))
	if err != nil {
		return nil, err
	}
	return resp.Msg.GetVm(), nil
}

func (r *rig) removeOrphan(id, confirm string) error {
	_, err := r.Node.RemoveOrphan(context.Background(), connect.NewRequest(&computev1.RemoveOrphanRequest{NodeId: "n1", ObjectId: id, Confirm: confirm}))
	return err
}

func wantReason(t *testing.T, err error, reason metav1.Reason) {
	t.Helper()
	f := fault.From(err)
	if err == nil || f.Reason != reason || f.Remedy == "" && len(f.Violations) == 0 {
		t.Errorf("got %v (%v), want %v with a remedy", err, f, reason)
	}
}

// lostVM is a VM that this controller knows nothing of, as its node reports it.
func (r *rig) lostVM(name string, memory int64) (vm *agentv1.DesiredVM, rep *agentv1.ReportStatusRequest) {
	id, vol := domain.NewID(time.Now()), domain.NewID(time.Now())
	vm = &agentv1.DesiredVM{
		VmId: id, Name: name, ProjectId: "default", Generation: 7, Epoch: 4,
		Spec: &computev1.VMSpec{
			Cpu: &computev1.CPU{Vcpus: 1}, MemoryBytes: memory, DesiredPower: computev1.PowerState_POWER_STATE_RUNNING, Disks: spec(memory, "root").GetDisks(),
		},
		Volumes: []*agentv1.VMVolume{{DiskName: "root", VolumeId: vol}},
	}
	pool := r.Cache.ByName("default", state.KindPool, "local")
	return vm, &agentv1.ReportStatusRequest{
		OrphansKnown: true,
		Orphans: []*computev1.Orphan{
			{Kind: "domain", ObjectId: id, Driver: "fake", Name: name, Epoch: 5, Adoptable: true, Detail: "runs"},
			{Kind: "volume", ObjectId: vol, Driver: "local", PoolId: pool, Epoch: 3},
		},
		OrphanDetails: []*agentv1.OrphanDetail{{Vm: vm, Volumes: []*agentv1.DesiredVolume{{
			Epoch: 2, Volume: &storagev1.Volume{Meta: &metav1.ObjectMeta{Id: vol, Name: "root", Generation: 1}, Spec: &storagev1.VolumeSpec{PoolId: pool, SizeBytes: 1 << 20}},
		}}}},
	}
}

// A guest that the state forgot becomes a VM again, where it lies, with its disks and its claim; nothing is made anew.
func TestAdoptOrphan(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a := r.join("n1", 8, 256*mib)
	lost, rep := r.lostVM("web", 64*mib)
	if _, err := r.adopt(lost.GetVmId(), ""); !fault.Is(err, metav1.Reason_REASON_NOT_FOUND) {
		t.Errorf("adopted before it was reported: %v", err)
	}
	a.report(a.ctx, rep)
	if got := r.orphans(""); len(got) != 2 || got[0].GetConfirm() != "web" || got[0].GetNodeName() != "n1" || got[1].GetConfirm() != lost.GetVolumes()[0].GetVolumeId() {
		t.Fatalf("orphans %v", got)
	}
	other := r.mustCreate("web", spec(64*mib))
	r.done(other.GetOperation().GetId())
	_, err := r.adopt(lost.GetVmId(), "")
	wantReason(t, err, metav1.Reason_REASON_NAME_TAKEN)
	vm, err := r.adopt(lost.GetVmId(), "web-again")
	if err != nil {
		t.Fatal(err)
	}
	if p := vm.GetStatus().GetVmPlacement(); p.GetNodeId() != a.id || p.GetEpoch() != 5 || vm.GetMeta().GetGeneration() != 7 {
		t.Errorf("adopted as %v", vm)
	}
	r.untilPhase(lost.GetVmId(), computev1.VMPhase_VM_PHASE_RUNNING)
	if d := a.known(lost.GetVmId()); d.GetEpoch() != 5 || d.GetGeneration() != 7 || d.GetAbsent() || d.GetVolumes()[0].GetVolumeId() != lost.GetVolumes()[0].GetVolumeId() {
		t.Errorf("the node is told %v", d)
	}
	if rec := a.record(); rec.GetClaimedMemoryBytes() != 128*mib || rec.GetClaimedVcpus() != 2 {
		t.Errorf("claimed %d bytes, %d CPUs", rec.GetClaimedMemoryBytes(), rec.GetClaimedVcpus())
	}
	v := r.Cache.Row(state.KindVolume, lost.GetVolumes()[0].GetVolumeId()).Volume()
	if v.GetOwnerVmId() != lost.GetVmId() || v.GetExecutorNodeId() != a.id || v.GetExecutorEpoch() != 3 {
		t.Errorf("its volume is %v", v)
	}
	if got := r.orphans("n1"); len(got) != 0 {
		t.Errorf("orphans are left: %v", got)
	}
	_, err = r.adopt(lost.GetVmId(), "")
	if !fault.Is(err, metav1.Reason_REASON_NOT_FOUND) {
		t.Errorf("adopted twice: %v", err)
	}
	// It is a VM as any other.
	r.done(r.delete(lost.GetVmId()).GetOperation().GetId())
	if rec := a.record(); rec.GetClaimedMemoryBytes() != 64*mib {
		t.Errorf("claimed %d bytes after its end", rec.GetClaimedMemoryBytes())
	}
}

// What cannot be adopted is refused with what helps, and nothing is written.
func TestAdoptOrphanRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a := r.join("n1", 8, 256*mib)
	big, rep := r.lostVM("big", 512*mib)
	a.report(a.ctx, rep)
	_, err := r.adopt(big.GetVmId(), "")
	wantReason(t, err, metav1.Reason_REASON_UNSCHEDULABLE)

	r.until("the node is connected", func() bool { connected, _ := r.Agent.Stream(a.id); return connected })
	lost, rep := r.lostVM("web", 64*mib)
	details := rep.OrphanDetails
	rep.OrphanDetails = nil
	a.report(a.ctx, rep)
	_, err = r.adopt(lost.GetVmId(), "")
	wantReason(t, err, metav1.Reason_REASON_WRONG_STATE)

	rep.OrphanDetails = details
	disks := rep.OrphanDetails[0].Volumes
	rep.OrphanDetails[0].Volumes = nil
	a.report(a.ctx, rep)
	_, err = r.adopt(lost.GetVmId(), "")
	wantReason(t, err, metav1.Reason_REASON_WRONG_STATE)

	rep.OrphanDetails[0].Volumes = disks
	rep.Orphans[0].ObjectId = r.mustCreate("known", spec(64*mib)).GetVm().GetMeta().GetId()
	a.report(a.ctx, rep)
	_, err = r.adopt(rep.Orphans[0].GetObjectId(), "")
	wantReason(t, err, metav1.Reason_REASON_WRONG_STATE)
	if got := r.Cache.Row(state.KindVM, lost.GetVmId()); got != nil {
		t.Errorf("a refused adoption left %v", got.VM())
	}
}

// An orphan is removed by its typed name only, through the desired set of its node, and lasts in the list until the node says that it is gone.
func TestRemoveOrphan(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a := r.join("n1", 8, 256*mib)
	lost, rep := r.lostVM("web", 64*mib)
	volID := lost.GetVolumes()[0].GetVolumeId()
	a.report(a.ctx, rep)
	wantReason(t, r.removeOrphan(lost.GetVmId(), ""), metav1.Reason_REASON_INVALID_FIELD)
	wantReason(t, r.removeOrphan(lost.GetVmId(), "wrong"), metav1.Reason_REASON_INVALID_FIELD)
	wantReason(t, r.removeOrphan(volID, volID), metav1.Reason_REASON_VOLUME_IN_USE)
	a.set(func(a *fakeAgent) { a.frozen = true })
	for range 2 { // a repetition changes nothing
		if err := r.removeOrphan(lost.GetVmId(), "web"); err != nil {
			t.Fatal(err)
		}
	}
	r.until("the node is told", func() bool { return a.known(lost.GetVmId()).GetAbsent() })
	if d := a.known(lost.GetVmId()); d.GetEpoch() != 6 {
		t.Errorf("told %v: an epoch that the node knows may be taken for done", d)
	}
	// The node lists it no longer, as it is wanted absent; and it is not gone.
	rep.Orphans, rep.OrphanDetails = rep.Orphans[1:], nil
	a.report(a.ctx, rep)
	if got := r.orphans("n1"); len(got) != 2 || got[0].GetRemoveTime() == nil {
		t.Errorf("orphans %v", got)
	}
	if _, err := r.adopt(lost.GetVmId(), ""); !fault.Is(err, metav1.Reason_REASON_WRONG_STATE) {
		t.Errorf("adopted while it is removed: %v", err)
	}
	// A word from before counts for nothing; its own does.
	a.report(a.ctx, &agentv1.ReportStatusRequest{Vms: []*agentv1.VMReport{{VmId: lost.GetVmId(), Epoch: 5, Absent: true}}})
	if got := r.orphans("n1"); len(got) != 2 {
		t.Errorf("an older word ended the removal: %v", got)
	}
	a.report(a.ctx, &agentv1.ReportStatusRequest{Vms: []*agentv1.VMReport{{VmId: lost.GetVmId(), Epoch: 6, Absent: true}}})
	r.until("the node need not know it any more", func() bool { return a.known(lost.GetVmId()) == nil && len(r.orphans("n1")) == 1 })
	// Another agent, which does at once what it is told, confirms the volume by itself.
	a.set(func(a *fakeAgent) { a.frozen = false })
	if err := r.removeOrphan(volID, volID); err != nil {
		t.Fatal(err)
	}
	a.report(a.ctx, &agentv1.ReportStatusRequest{OrphansKnown: true})
	r.until("the volume is gone", func() bool { return len(r.orphans("")) == 0 && len(a.record().GetOrphanRemovals()) == 0 })
}

package agent

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

func (r *report) vm(rep *agentv1.VMReport) *state.Writer {
	row := r.ownVM(rep.GetVmId(), rep.GetEpoch())
	if row == nil {
		return nil
	}
	rec := row.VM()
	next := domain.NextStatus(rec, rep, r.s.cfg.Now())
	if next == rec {
		return nil
	}
	var w state.Writer
	w.Same(row)
	w.Put(state.Key(state.KindVM, row.ID), next)
	return &w
}

// vmsAbsent takes VMs off the node: nothing is left of them there. Their volumes are told apart by themselves; the records go when those are gone.
func (r *report) vmsAbsent(reps []*agentv1.VMReport) *state.Writer {
	node := r.s.cfg.Cache.Row(state.KindNode, r.node)
	if node == nil {
		return nil
	}
	var w state.Writer
	rec := node.Node()
	for _, rep := range reps {
		row := r.ownVM(rep.GetVmId(), rep.GetEpoch())
		if row == nil || !row.Deleting {
			continue // wanted after all: the agent is told so by its stream
		}
		vm := row.VM()
		domain.SetClaim(rec, vm, nil)
		st := vm.GetVm().GetStatus()
		st.VmPlacement, st.Disks, st.Nics, st.Pid, st.StartTime = nil, nil, nil, 0, nil
		st.Reason, st.Message, st.NextRetryTime = "", "its disks are being removed", nil
		w.Same(row)
		w.Put(state.Key(state.KindVM, row.ID), vm)
	}
	if w.Size() == 0 {
		return nil
	}
	w.Same(node)
	w.Put(state.Key(state.KindNode, node.ID), rec)
	return &w
}

// allocationStep is the growth of a volume that is worth a write.
const allocationStep = 64 << 20

func (r *report) volume(rep *agentv1.VolumeReport) *state.Writer {
	row := r.s.cfg.Cache.Row(state.KindVolume, rep.GetVolumeId())
	if row == nil {
		return nil
	}
	rec := row.Volume()
	if rec.GetExecutorNodeId() != r.node || rec.GetExecutorEpoch() != rep.GetEpoch() {
		return nil
	}
	before := proto.CloneOf(rec)
	var w state.Writer
	w.Same(row)
	if rep.GetAbsent() {
		if !r.s.renderVolume(r.node, row.ID).GetAbsent() {
			return nil // wanted after all
		}
		w.Delete(state.Key(state.KindVolume, row.ID))
		return &w
	}
	was := rec.GetVolume().GetStatus()
	st := proto.CloneOf(rep.GetStatus())
	if st == nil {
		return nil
	}
	st.NodeId, st.Attachments, st.OwnerVmId = was.GetNodeId(), was.GetAttachments(), was.GetOwnerVmId() // the controller's
	st.SnapshotCount, st.Conditions = was.GetSnapshotCount(), was.GetConditions()
	st.ObservedGeneration = min(max(was.GetObservedGeneration(), rep.GetObservedGeneration()), rec.GetVolume().GetMeta().GetGeneration())
	if st.Phase == storagev1.VolumePhase_VOLUME_PHASE_UNSPECIFIED {
		st.Phase = was.GetPhase()
	}
	if grown := st.GetAllocationBytes() - was.GetAllocationBytes(); was.GetAllocationBytes() >= 0 && grown > -allocationStep && grown < allocationStep {
		st.AllocationBytes = was.GetAllocationBytes()
	}
	if rep.GetPermanentFailure() {
		domain.SetCondition(&st.Conditions, &metav1.Condition{
			Type: domain.CondRealisable, Status: metav1.ConditionStatus_CONDITION_STATUS_FALSE, Reason: st.GetReason(), Message: st.GetMessage(),
		}, r.s.cfg.Now())
	}
	if restore := rec.GetRestore(); restore != nil {
		restore.Done = restore.GetDone() || rep.GetRestoredGeneration() >= restore.GetRestoreGeneration()
	}
	if move := rec.GetMove(); move != nil {
		move.Done = move.GetDone() || rep.GetMovedGeneration() >= move.GetMoveGeneration()
	}
	if st.GetPhase() == storagev1.VolumePhase_VOLUME_PHASE_READY {
		switch {
		case domain.Moving(rec):
			st.Phase = storagev1.VolumePhase_VOLUME_PHASE_MOVING
		case domain.Restoring(rec):
			st.Phase = storagev1.VolumePhase_VOLUME_PHASE_RESTORING
		case rec.GetVolume().GetSpec().GetSizeBytes() == 0: // it was to be as large as its source, whose size was not known then
			rec.Volume.Spec.SizeBytes = st.GetSizeBytes()
		}
	}
	if row.Deleting {
		st.Phase = storagev1.VolumePhase_VOLUME_PHASE_DELETING
	}
	rec.Volume.Status = st
	if proto.Equal(before, rec) {
		return nil
	}
	w.Put(state.Key(state.KindVolume, row.ID), rec)
	return &w
}

// attachment takes in what a node's word about a VM says of a volume that is, or was, a disk of it: once the VM's present spec is realised its volumes are attached, and
// those that are its disks no longer are let go of.
func (r *report) attachment(rep *agentv1.VMReport, id string) *state.Writer {
	vmRow, row := r.ownVM(rep.GetVmId(), rep.GetEpoch()), r.s.cfg.Cache.Row(state.KindVolume, id)
	if vmRow == nil || row == nil || row.Owner == vmRow.ID {
		return nil
	}
	vm, rec := vmRow.VM(), row.Volume()
	a := domain.Attachment(rec.GetVolume(), vmRow.ID)
	if a == nil || rep.GetObservedGeneration() < vm.GetVm().GetMeta().GetGeneration() || rep.GetStatus().GetRestartRequired() {
		return nil
	}
	wanted := slices.ContainsFunc(vm.GetDiskVolumes(), func(d *statev1.DiskVolume) bool { return d.GetVolumeId() == id })
	switch {
	case !wanted:
		domain.Detach(rec.GetVolume(), vmRow.ID)
	case !a.GetAttached() && !r.s.mustWait(r.node, vmRow.ID, vm): // else the VM is off only since it waits
		a.Attached = true
	default:
		return nil
	}
	var w state.Writer
	w.Same(row)
	w.Same(vmRow)
	w.Put(state.Key(state.KindVolume, id), rec)
	return &w
}

// snapshot takes in how a snapshot is.
func (r *report) snapshot(rep *agentv1.VolumeSnapshotReport) *state.Writer {
	row := r.s.cfg.Cache.Row(state.KindSnapshot, rep.GetSnapshotId())
	if row == nil {
		return nil
	}
	rec := row.Snapshot()
	if rec.GetExecutorNodeId() != r.node || rec.GetExecutorEpoch() != rep.GetEpoch() {
		return nil
	}
	var w state.Writer
	w.Same(row)
	key := state.Key(state.KindSnapshot, row.ID)
	was := rec.GetSnapshot().GetStatus()
	switch {
	case rep.GetAbsent() && row.Deleting:
		w.Delete(key)
		return &w
	case rep.GetAbsent():
		return nil // wanted after all
	case rep.GetStatus() == nil:
		return nil
	}
	st := proto.CloneOf(rep.GetStatus())
	st.PoolId, st.NodeId, st.Conditions = was.GetPoolId(), was.GetNodeId(), was.GetConditions() // the controller's
	st.ObservedGeneration = min(max(was.GetObservedGeneration(), st.GetObservedGeneration()), rec.GetSnapshot().GetMeta().GetGeneration())
	switch {
	case row.Deleting:
		st.Phase = storagev1.SnapshotPhase_SNAPSHOT_PHASE_DELETING
	case rep.GetPermanentFailure():
		st.Phase = storagev1.SnapshotPhase_SNAPSHOT_PHASE_FAILED
	case st.GetPhase() == storagev1.SnapshotPhase_SNAPSHOT_PHASE_FAILED: // it is tried again
		st.Phase = storagev1.SnapshotPhase_SNAPSHOT_PHASE_CREATING
	}
	if proto.Equal(was, st) {
		return nil
	}
	rec.Snapshot.Status = st
	w.Put(key, rec)
	return &w
}

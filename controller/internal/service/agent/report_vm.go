package agent

import (
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
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
	if row == nil || len(row.Nodes) == 0 || row.Nodes[0] != r.node {
		return nil
	}
	rec := row.Volume()
	if rec.GetExecutorEpoch() != rep.GetEpoch() {
		return nil
	}
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
	if proto.Equal(was, st) {
		return nil
	}
	rec.Volume.Status = st
	w.Put(state.Key(state.KindVolume, row.ID), rec)
	return &w
}

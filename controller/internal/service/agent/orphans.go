package agent

import (
	"slices"

	"github.com/limiquantix/limiquantix/controller/internal/state"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// An orphan that an operator had removed is desired to be absent, as anything else that has to go, until its node says that it is. Its epoch is newer than
// all that the node knows, so that no earlier word of its absence counts.

func removalsOf(row *state.Row) []*statev1.OrphanRemoval { return row.Node().GetOrphanRemovals() }

func orphanKey(o *computev1.Orphan) key {
	if o.GetKind() == "volume" {
		return key{kindVolume, o.GetObjectId()}
	}
	return key{kindVM, o.GetObjectId()}
}

// removal is an orphan of a node that has to go; nil when there is none by that key.
func (s *Service) removal(nodeID string, k key) *computev1.Orphan {
	for _, o := range removalsOf(s.cfg.Cache.Row(state.KindNode, nodeID)) {
		if orphanKey(o.GetOrphan()) == k {
			return o.GetOrphan()
		}
	}
	return nil
}

func (s *Service) renderOrphanVM(nodeID, id string) *agentv1.DesiredVM {
	o := s.removal(nodeID, key{kindVM, id})
	if o == nil {
		return nil
	}
	return &agentv1.DesiredVM{
		VmId: id, Name: o.GetName(), Generation: 1, Epoch: o.GetEpoch() + 1, Absent: true, ForceStop: true,
		Spec: &computev1.VMSpec{Placement: &computev1.Placement{ComputeDriver: o.GetDriver()}},
	}
}

func (s *Service) renderOrphanVolume(nodeID, id string) *agentv1.DesiredVolume {
	o := s.removal(nodeID, key{kindVolume, id})
	if o == nil {
		return nil
	}
	return &agentv1.DesiredVolume{
		Volume: &storagev1.Volume{Meta: &metav1.ObjectMeta{Id: id, Name: o.GetName(), Generation: 1}, Spec: &storagev1.VolumeSpec{PoolId: o.GetPoolId()}},
		Epoch:  o.GetEpoch() + 1, Absent: true,
	}
}

// ofOrphans reports whether a report may end the removal of an orphan.
func (r *report) ofOrphans() bool {
	return r.req.GetOrphansKnown() || slices.ContainsFunc(r.req.GetVms(), (*agentv1.VMReport).GetAbsent) ||
		slices.ContainsFunc(r.req.GetVolumes(), (*agentv1.VolumeReport).GetAbsent)
}

// orphansGone ends removals of what is gone, and of what is wanted here after all.
func (r *report) orphansGone() *state.Writer {
	row := r.s.cfg.Cache.Row(state.KindNode, r.node)
	if len(removalsOf(row)) == 0 || row.Deleting {
		return nil
	}
	absent := map[key]int64{}
	for _, v := range r.req.GetVms() {
		if v.GetAbsent() {
			absent[key{kindVM, v.GetVmId()}] = v.GetEpoch()
		}
	}
	for _, v := range r.req.GetVolumes() {
		if v.GetAbsent() {
			absent[key{kindVolume, v.GetVolumeId()}] = v.GetEpoch()
		}
	}
	rec := row.Node()
	before := len(rec.GetOrphanRemovals())
	rec.OrphanRemovals = slices.DeleteFunc(rec.GetOrphanRemovals(), func(o *statev1.OrphanRemoval) bool {
		k := orphanKey(o.GetOrphan())
		epoch, gone := absent[k]
		return gone && epoch > o.GetOrphan().GetEpoch() || r.s.wantedOn(r.node, k)
	})
	if len(rec.GetOrphanRemovals()) == before {
		return nil
	}
	var w state.Writer
	w.Same(row)
	w.Put(state.Key(state.KindNode, row.ID), rec)
	return &w
}

// wantedOn reports whether a VM or volume belongs to a node.
func (s *Service) wantedOn(nodeID string, k key) bool {
	kind := state.KindVM
	if k.kind == kindVolume {
		kind = state.KindVolume
	}
	row := s.cfg.Cache.Row(kind, k.id)
	return row != nil && slices.Contains(row.Nodes, nodeID)
}

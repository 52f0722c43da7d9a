package agent

import (
	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// mustWait reports whether a VM may not be started on its node yet, since a volume of it is being worked on: set back, or, before the node confirmed for the first time that it has
// the volume, changed or snapshotted by another node. A guest that runs is never stopped for that: what is done to a volume in use is done by the node that uses it.
func (s *Service) mustWait(nodeID, vmID string, vm *statev1.VMRecord) bool {
	for _, d := range vm.GetDiskVolumes() {
		row := s.cfg.Cache.Row(state.KindVolume, d.GetVolumeId())
		rec := row.Volume()
		if rec == nil || row.Owner == vmID {
			continue
		}
		st := rec.GetVolume().GetStatus()
		if domain.Restoring(rec) && domain.Condition(st.GetConditions(), domain.CondRealisable) == nil {
			return true
		}
		if domain.Attachment(rec.GetVolume(), vmID).GetAttached() {
			continue
		}
		made := st.GetObservedGeneration() > 0
		if made && rec.GetExecutorNodeId() != nodeID && !domain.VolumeAtRest(rec) {
			return true
		}
		for _, snap := range s.cfg.Cache.Find(state.Query{Kind: state.KindSnapshot, Owner: row.ID}).Rows {
			if sr := snap.Snapshot(); sr.GetExecutorNodeId() != "" && sr.GetExecutorNodeId() != nodeID && !domain.SnapshotAtRest(sr) {
				return true
			}
		}
	}
	return false
}

// markWaiting looks again at the VMs that use a volume when what is being done to it, or to a snapshot of it, is done or begins.
func (s *Service) markWaiting(c state.Change, revision int64) {
	var volume *state.Row
	switch row := c.Row(); row.Kind {
	case state.KindVolume:
		if c.Old == nil || c.New == nil {
			return
		}
		was, is := c.Old.Volume(), c.New.Volume()
		if row.Owner != "" || domain.VolumeAtRest(was) == domain.VolumeAtRest(is) && domain.Restoring(was) == domain.Restoring(is) && was.GetExecutorNodeId() == is.GetExecutorNodeId() &&
			domain.Condition(was.GetVolume().GetStatus().GetConditions(), domain.CondRealisable).GetStatus() == domain.Condition(is.GetVolume().GetStatus().GetConditions(), domain.CondRealisable).GetStatus() {
			return
		}
		volume = c.New
	default:
		volume = s.cfg.Cache.Row(state.KindVolume, row.Owner)
	}
	for _, a := range volume.Volume().GetVolume().GetStatus().GetAttachments() {
		if a.GetNodeId() != "" {
			s.mark(a.GetNodeId(), key{kindVM, a.GetVmId()}, revision)
		}
	}
}

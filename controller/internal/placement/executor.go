package placement

import (
	"context"
	"fmt"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// executors gives volumes that stand by themselves, and snapshots, a node that makes them. One that has a node keeps it.
func (w *worker) executors(ctx context.Context) error {
	waiting := map[string]state.Kind{}
	note := func(row *state.Row) {
		delete(waiting, row.ID)
		if needsExecutor(row) {
			waiting[row.ID] = row.Kind
		}
	}
	try := func() error {
		for len(waiting) > 0 {
			var outs []*state.Writer
			for id, kind := range waiting {
				row := w.Cache.Row(kind, id)
				if !needsExecutor(row) {
					delete(waiting, id)
					continue
				}
				if out := w.choose(row); out != nil {
					outs = append(outs, out)
				}
				if len(outs) == roundSize {
					break
				}
			}
			if len(outs) == 0 {
				return nil // they wait for a change
			}
			if _, err := w.commit(ctx, outs); err != nil {
				return err
			}
		}
		return nil
	}
	return w.follow(ctx, func() error {
		for _, kind := range []state.Kind{state.KindVolume, state.KindSnapshot} {
			for _, row := range w.Cache.Find(state.Query{Kind: kind}).Rows {
				note(row)
			}
		}
		return try()
	}, func(changes []state.Change) error {
		for _, c := range changes {
			if row := c.New; row != nil && (row.Kind == state.KindVolume || row.Kind == state.KindSnapshot) {
				note(row)
			}
		}
		return try()
	})
}

// needsExecutor reports whether somebody has to be named who makes an object. A VM's own volumes go where the VM goes.
func needsExecutor(row *state.Row) bool {
	switch {
	case row == nil:
		return false
	case row.Kind == state.KindSnapshot:
		return len(row.Nodes) == 0 && row.Phase != int32(storagev1.SnapshotPhase_SNAPSHOT_PHASE_FAILED)
	}
	return row.Owner == "" && row.Phase != int32(storagev1.VolumePhase_VOLUME_PHASE_FAILED) && row.Volume().GetExecutorNodeId() == ""
}

// choose names the executor of an object, or notes why there is none; nil when there is nothing new to write. What was never made and shall go is removed.
func (w *worker) choose(row *state.Row) *state.Writer {
	var out state.Writer
	out.Same(row)
	key := state.Key(row.Kind, row.ID)
	if row.Deleting {
		out.Delete(key)
		return &out
	}
	if row.Kind == state.KindSnapshot {
		rec := row.Snapshot()
		vol := w.Cache.Row(state.KindVolume, row.Owner).Volume()
		st := rec.GetSnapshot().GetStatus()
		if vol.GetExecutorNodeId() == "" {
			why := "its volume is not made yet"
			if vol == nil {
				why = "its volume is gone"
			}
			if st.GetMessage() == why {
				return nil
			}
			st.Message = why
		} else {
			rec.ExecutorNodeId, rec.ExecutorEpoch = whoSnapshots(vol), rec.GetExecutorEpoch()+1
			st.NodeId, st.Message = vol.GetVolume().GetStatus().GetNodeId(), ""
			st.Phase = storagev1.SnapshotPhase_SNAPSHOT_PHASE_CREATING
		}
		out.Put(key, rec)
		return &out
	}
	rec := row.Volume()
	st := rec.GetVolume().GetStatus()
	node, why := w.nodeFor(rec)
	if node == "" {
		reason := fault.ReasonName(metav1.Reason_REASON_UNSCHEDULABLE)
		if st.GetMessage() == why && st.GetReason() == reason {
			return nil
		}
		st.Reason, st.Message = reason, why
		out.Put(key, rec)
		return &out
	}
	pool := w.Cache.Row(state.KindPool, row.InPool)
	SetExecutor(rec, node, pool.Pool().GetPool().GetStatus().GetShared())
	st.Phase, st.Reason, st.Message = storagev1.VolumePhase_VOLUME_PHASE_CREATING, "", ""
	out.Put(key, rec)
	return &out
}

// SetExecutor makes a node the executor of a volume that has none. In a pool that is each node's own the volume lies there from now on.
func SetExecutor(rec *statev1.VolumeRecord, node string, shared bool) {
	rec.ExecutorNodeId = node
	rec.ExecutorEpoch++
	if !shared {
		rec.Volume.Status.NodeId = node
	}
}

// whoSnapshots is the node that has the volume open, else the one that made it.
func whoSnapshots(vol *statev1.VolumeRecord) string {
	for _, a := range vol.GetVolume().GetStatus().GetAttachments() {
		if a.GetNodeId() != "" {
			return a.GetNodeId()
		}
	}
	return vol.GetExecutorNodeId()
}

// nodeFor chooses the node with the most room among those that are ready, reach the pool, and have what the volume is made from.
func (w *worker) nodeFor(rec *statev1.VolumeRecord) (node, why string) {
	spec := rec.GetVolume().GetSpec()
	row := w.Cache.Row(state.KindPool, spec.GetPoolId())
	pool := row.Pool().GetPool()
	if pool == nil || row.Deleting {
		return "", "its pool is gone"
	}
	shared := pool.GetStatus().GetShared()
	if at := rec.GetVolume().GetStatus().GetAttachments(); len(at) > 0 && at[0].GetNodeId() != "" && domain.PoolUsable(pool, at[0].GetNodeId()) {
		return at[0].GetNodeId(), ""
	}
	only := ""
	if !shared {
		switch src := spec.GetSource().GetSource().(type) {
		case *storagev1.VolumeSource_SnapshotId:
			only = w.Cache.Row(state.KindSnapshot, src.SnapshotId).Snapshot().GetExecutorNodeId()
		case *storagev1.VolumeSource_VolumeId:
			only = w.Cache.Row(state.KindVolume, src.VolumeId).Volume().GetExecutorNodeId()
		}
		if src := spec.GetSource(); only == "" && (src.GetSnapshotId() != "" || src.GetVolumeId() != "") {
			return "", "what it is made from lies on no node yet"
		}
	}
	most := int64(-1)
	why = fmt.Sprintf("no node that is ready reaches pool %s", row.Name)
	for _, n := range pool.GetStatus().GetNodes() {
		id := n.GetNodeId()
		host := w.Cache.Row(state.KindNode, id)
		if host == nil || host.Deleting || computev1.NodePhase(host.Phase) != computev1.NodePhase_NODE_PHASE_READY || !domain.PoolUsable(pool, id) || only != "" && id != only {
			continue
		}
		if img := spec.GetSource().GetImageId(); img != "" && !w.hasCopy(img, pool.GetMeta().GetId(), id, shared) {
			why = fmt.Sprintf("no node that reaches pool %s has a copy of the image there", row.Name)
			continue
		}
		if free := max(0, n.GetCapacityBytes()-n.GetUsedBytes()); free > most {
			node, most = id, free
		}
	}
	return node, why
}

func (w *worker) hasCopy(image, pool, node string, shared bool) bool {
	for _, c := range w.Cache.Row(state.KindImage, image).Image().GetImage().GetStatus().GetCopies() {
		if c.GetPoolId() == pool && (shared || c.GetNodeId() == node) && c.GetPhase() == storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_READY {
			return true
		}
	}
	return false
}

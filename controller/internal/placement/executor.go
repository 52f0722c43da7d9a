package placement

import (
	"context"
	"fmt"
	"slices"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// executors gives volumes that stand by themselves, and snapshots, a node that acts for them. One that has a node keeps it, unless takeOver says otherwise.
func (w *worker) executors(ctx context.Context) error {
	waiting := map[string]state.Kind{}
	return w.follow(ctx, func() error {
		for _, kind := range []state.Kind{state.KindVolume, state.KindSnapshot, state.KindImage} {
			for _, row := range w.Cache.Find(state.Query{Kind: kind}).Rows {
				w.noteWaiting(waiting, row)
			}
		}
		return w.chooseAll(ctx, waiting)
	}, func(changes []state.Change) error {
		for _, c := range changes {
			if row := c.New; row != nil && (row.Kind == state.KindVolume || row.Kind == state.KindSnapshot || row.Kind == state.KindImage) {
				w.noteWaiting(waiting, row)
			} else if row != nil && row.Kind == state.KindVM && row.Deleting && len(row.Nodes) == 0 {
				for _, v := range w.Cache.Find(state.Query{Kind: state.KindVolume, Owner: row.ID}).Rows {
					w.noteWaiting(waiting, v)
				}
			}
		}
		return w.chooseAll(ctx, waiting)
	})
}

func (w *worker) noteWaiting(waiting map[string]state.Kind, row *state.Row) {
	delete(waiting, row.ID)
	if w.needsExecutor(row) {
		waiting[row.ID] = row.Kind
	}
}

// chooseAll names executors until those that are left have to wait for a change.
func (w *worker) chooseAll(ctx context.Context, waiting map[string]state.Kind) error {
	for len(waiting) > 0 {
		var outs []*state.Writer
		for id, kind := range waiting {
			row := w.Cache.Row(kind, id)
			if !w.needsExecutor(row) {
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
			return nil
		}
		if _, err := w.commit(ctx, outs); err != nil {
			return err
		}
	}
	return nil
}

// needsExecutor reports whether somebody has to be named who acts for an object. A VM's own volumes go where the VM goes, and are removed by anybody once it is gone.
func (w *worker) needsExecutor(row *state.Row) bool {
	switch {
	case row == nil:
		return false
	case row.Kind == state.KindImage:
		return slices.ContainsFunc(row.Image().GetImage().GetStatus().GetCopies(), func(c *storagev1.ImageCopy) bool { return needsMaker(row.Image(), c) })
	case row.Kind == state.KindSnapshot:
		return len(row.Nodes) == 0 && (row.Deleting || row.Phase != int32(storagev1.SnapshotPhase_SNAPSHOT_PHASE_FAILED))
	}
	if w.doomed(row) {
		rec := row.Volume()
		return rec.GetExecutorNodeId() == "" && rec.GetExecutorEpoch() > 0 && w.shared(row.InPool)
	}
	return row.Owner == "" && (row.Deleting || row.Phase != int32(storagev1.VolumePhase_VOLUME_PHASE_FAILED)) && row.Volume().GetExecutorNodeId() == ""
}

// doomed reports whether a volume was a VM's own, and nothing is left of the VM on any node.
func (w *worker) doomed(row *state.Row) bool {
	if row.Kind != state.KindVolume || row.Owner == "" {
		return false
	}
	vm := w.Cache.Row(state.KindVM, row.Owner)
	return vm == nil || vm.Deleting && len(vm.Nodes) == 0
}

// choose names the executor of an object, or notes why there is none; nil when there is nothing new to write. What was never made and shall go is removed.
func (w *worker) choose(row *state.Row) *state.Writer {
	if out := w.removeUnmade(row); out != nil {
		return out
	}
	var out state.Writer
	out.Same(row)
	key := state.Key(row.Kind, row.ID)
	if row.Kind == state.KindImage {
		rec := row.Image()
		if !w.giveCopies(rec) {
			return nil
		}
		out.Put(key, rec)
		return &out
	}
	if row.Kind == state.KindSnapshot {
		rec := row.Snapshot()
		if !w.giveSnapshot(rec) {
			return nil
		}
		out.Put(key, rec)
		return &out
	}
	rec := row.Volume()
	st := rec.GetVolume().GetStatus()
	node, why := w.nodeFor(rec, want{})
	if node == "" {
		reason := fault.ReasonName(metav1.Reason_REASON_UNSCHEDULABLE)
		if st.GetMessage() == why && st.GetReason() == reason {
			return nil
		}
		st.Reason, st.Message = reason, why
		out.Put(key, rec)
		return &out
	}
	w.give(rec, node)
	out.Put(key, rec)
	return &out
}

// give makes a node the executor of a volume.
func (w *worker) give(rec *statev1.VolumeRecord, node string) {
	vol := rec.GetVolume()
	SetExecutor(rec, node, w.shared(vol.GetSpec().GetPoolId()))
	if vol.GetStatus().GetPhase() == storagev1.VolumePhase_VOLUME_PHASE_PENDING {
		vol.Status.Phase = storagev1.VolumePhase_VOLUME_PHASE_CREATING
	}
	vol.Status.Reason, vol.Status.Message = "", ""
}

// giveSnapshot names the executor of a snapshot, or notes why there is none; false when nothing is new.
func (w *worker) giveSnapshot(rec *statev1.SnapshotRecord) bool {
	vol := w.Cache.Row(state.KindVolume, rec.GetSnapshot().GetSpec().GetVolumeId()).Volume()
	st := rec.GetSnapshot().GetStatus()
	node, why := "", "its volume is gone"
	switch deleting := rec.GetSnapshot().GetMeta().GetDeleteTime() != nil; {
	case vol == nil && !deleting:
	case domain.UsedOn(vol.GetVolume()) != "":
		node = domain.UsedOn(vol.GetVolume())
	case vol != nil && vol.GetExecutorEpoch() == 0:
		why = "its volume is not made yet"
	case w.shared(st.GetPoolId()) && !w.reports(vol.GetExecutorNodeId()):
		node, why = w.bestNode(st.GetPoolId(), want{})
	default:
		node = vol.GetExecutorNodeId()
	}
	if node == "" {
		if st.GetMessage() == why {
			return false
		}
		st.Message = why
		return true
	}
	rec.ExecutorNodeId, rec.ExecutorEpoch = node, rec.GetExecutorEpoch()+1
	st.NodeId, st.Reason, st.Message = vol.GetVolume().GetStatus().GetNodeId(), "", ""
	if st.GetPhase() == storagev1.SnapshotPhase_SNAPSHOT_PHASE_PENDING {
		st.Phase = storagev1.SnapshotPhase_SNAPSHOT_PHASE_CREATING
	}
	return true
}

// needsMaker reports whether a copy in a shared pool needs a node that makes or removes it. One that is being uploaded has the node that the upload goes to.
func needsMaker(rec *statev1.ImageRecord, c *storagev1.ImageCopy) bool {
	return c.GetNodeId() == "" && rec.GetExecutors()[c.GetPoolId()].GetNodeId() == "" &&
		(c.GetPhase() == storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_PENDING || c.GetPhase() == storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_DELETING)
}

// giveCopies names the executors of copies in shared pools; false when nothing is new.
func (w *worker) giveCopies(rec *statev1.ImageRecord) bool {
	did := false
	for _, c := range rec.GetImage().GetStatus().GetCopies() {
		if !needsMaker(rec, c) {
			continue
		}
		node, why := w.bestNode(c.GetPoolId(), want{})
		if node == "" {
			did = did || c.GetMessage() != why
			c.Message = why
			continue
		}
		if rec.Executors == nil {
			rec.Executors = map[string]*statev1.Executor{}
		}
		rec.Executors[c.GetPoolId()] = &statev1.Executor{NodeId: node, Epoch: rec.GetExecutors()[c.GetPoolId()].GetEpoch() + 1}
		c.Message, did = "", true
	}
	return did
}

// SetExecutor makes a node the executor of a volume. In a pool that is each node's own the volume lies there from now on.
func SetExecutor(rec *statev1.VolumeRecord, node string, shared bool) {
	rec.ExecutorNodeId = node
	rec.ExecutorEpoch++
	if !shared {
		rec.Volume.Status.NodeId = node
	}
}

// shared reports whether a pool is one place for several nodes.
func (w *worker) shared(poolID string) bool {
	return w.Cache.Row(state.KindPool, poolID).Pool().GetPool().GetStatus().GetShared()
}

// reports reports whether a node is there and is heard of.
func (w *worker) reports(nodeID string) bool {
	row := w.Cache.Row(state.KindNode, nodeID)
	return row != nil && !row.Deleting && computev1.NodePhase(row.Phase) != computev1.NodePhase_NODE_PHASE_UNKNOWN
}

// nodeFor chooses a node for a volume: the one that uses it, else the best of those that have what is asked, and what the volume is made from.
func (w *worker) nodeFor(rec *statev1.VolumeRecord, ask want) (node, why string) {
	vol := rec.GetVolume()
	spec := vol.GetSpec()
	pool := w.Cache.Row(state.KindPool, spec.GetPoolId())
	if on := domain.UsedOn(vol); on != "" {
		if domain.PoolUsable(pool.Pool().GetPool(), on) {
			return on, ""
		}
		return "", fmt.Sprintf("node %s, on which a VM uses it, does not reach its pool", w.nodeName(on))
	}
	if rec.GetExecutorEpoch() == 0 { // later it is made already, or half made
		ask.bytes, ask.image = spec.GetSizeBytes(), spec.GetSource().GetImageId()
	}
	if domain.Moving(rec) {
		ask.also = rec.GetMove().GetFromPoolId()
	}
	if !w.shared(spec.GetPoolId()) {
		src := spec.GetSource()
		switch {
		case src.GetSnapshotId() != "":
			ask.only = w.Cache.Row(state.KindSnapshot, src.GetSnapshotId()).Snapshot().GetExecutorNodeId()
		case src.GetVolumeId() != "":
			ask.only = w.Cache.Row(state.KindVolume, src.GetVolumeId()).Volume().GetExecutorNodeId()
		}
		if ask.only == "" && (src.GetSnapshotId() != "" || src.GetVolumeId() != "") {
			return "", "what it is made from lies on no node yet"
		}
	}
	return w.bestNode(spec.GetPoolId(), ask)
}

// want is what is asked of a node that shall act in a pool.
type want struct {
	only, not string // by id; "" = any
	also      string // another pool that it must reach
	image     string // of which it must reach a copy
	bytes     int64  // that are promised there
	open      bool   // it must not be cordoned
}

// bestNode is the node with the most room among those that are ready and have what is asked; one that is cordoned comes last.
func (w *worker) bestNode(poolID string, ask want) (node, why string) {
	row := w.Cache.Row(state.KindPool, poolID)
	pool := row.Pool().GetPool()
	if pool == nil {
		return "", "its pool is gone"
	}
	shared := pool.GetStatus().GetShared()
	most, bestCordoned := int64(-1), false
	why = fmt.Sprintf("no node that is ready reaches pool %s", row.Name)
	if m := pool.GetStatus().GetMessage(); m != "" {
		why += " (" + m + ")"
	}
	for _, n := range pool.GetStatus().GetNodes() {
		id := n.GetNodeId()
		host := w.Cache.Row(state.KindNode, id)
		if host == nil || host.Deleting || computev1.NodePhase(host.Phase) != computev1.NodePhase_NODE_PHASE_READY || !domain.PoolUsable(pool, id) ||
			id == ask.not || ask.only != "" && id != ask.only {
			continue
		}
		if ask.also != "" && !domain.PoolUsable(w.Cache.Row(state.KindPool, ask.also).Pool().GetPool(), id) {
			why = fmt.Sprintf("no node reaches both pool %s and pool %s", row.Name, w.poolName(ask.also))
			continue
		}
		if ask.image != "" && !w.hasCopy(ask.image, poolID, id, shared) {
			why = fmt.Sprintf("no node that reaches pool %s has a copy of the image there", row.Name)
			continue
		}
		if limit := pool.GetSpec().GetOvercommit() * float64(n.GetCapacityBytes()); !shared && ask.bytes > 0 && limit > 0 && float64(w.promisedOn(poolID, id)+ask.bytes) > limit {
			why = fmt.Sprintf("no node has room left in pool %s for %d more bytes, by its overcommit of %g", row.Name, ask.bytes, pool.GetSpec().GetOvercommit())
			continue
		}
		cordoned := host.Node().GetNode().GetSpec().GetCordoned()
		if cordoned && ask.open {
			continue
		}
		free := max(0, n.GetCapacityBytes()-n.GetUsedBytes())
		if node == "" || bestCordoned && !cordoned || cordoned == bestCordoned && free > most {
			node, most, bestCordoned = id, free, cordoned
		}
	}
	return node, why
}

// promisedOn is the sum of the sizes that volumes of a node-local pool promise on a node.
func (w *worker) promisedOn(poolID, nodeID string) int64 {
	var sum int64
	for _, v := range w.Cache.Find(state.Query{Kind: state.KindVolume, Pool: poolID, Node: nodeID}).Rows {
		sum += v.Size
	}
	return sum
}

func (w *worker) hasCopy(image, pool, node string, shared bool) bool {
	for _, c := range w.Cache.Row(state.KindImage, image).Image().GetImage().GetStatus().GetCopies() {
		if c.GetPoolId() == pool && (shared || c.GetNodeId() == node) && c.GetPhase() == storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_READY {
			return true
		}
	}
	return false
}

func (w *worker) nodeName(id string) string {
	if row := w.Cache.Row(state.KindNode, id); row != nil {
		return row.Name
	}
	return id
}

func (w *worker) poolName(id string) string {
	if row := w.Cache.Row(state.KindPool, id); row != nil {
		return row.Name
	}
	return id
}

package placement

import (
	"context"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// empty takes everything off a node whose host an operator declared off for good, and then removes the node. Its VMs wait to be placed anew.
func (w *worker) empty(ctx context.Context, node *state.Row) error {
	for {
		outs := w.unplaceSome(node.ID)
		if len(outs) == 0 {
			for _, row := range w.Cache.Find(state.Query{Kind: state.KindVolume, Node: node.ID, Limit: roundSize}).Rows {
				outs = append(outs, w.dropVolume(row, &metav1.ObjectMeta{Id: node.ID, Name: node.Name}))
			}
			for _, row := range w.Cache.Find(state.Query{Kind: state.KindPort, Node: node.ID, Limit: roundSize}).Rows {
				outs = append(outs, w.dropPort(row))
			}
		}
		for _, row := range w.Cache.Find(state.Query{Kind: state.KindSnapshot, Node: node.ID, Limit: roundSize}).Rows {
			outs = append(outs, dropSnapshot(row, node.Name))
		}
		for _, row := range w.Cache.Find(state.Query{Kind: state.KindImage, Node: node.ID, Limit: roundSize}).Rows {
			outs = append(outs, dropCopies(row, node.ID))
		}
		for _, row := range w.Cache.Find(state.Query{Kind: state.KindPool}).Rows {
			if out := dropPoolNode(row, node.ID); out != nil {
				outs = append(outs, out)
			}
		}
		for _, row := range w.Cache.Find(state.Query{Kind: state.KindNetwork, Node: node.ID, Limit: roundSize}).Rows {
			if out := dropNetworkNode(row, node.ID); out != nil {
				outs = append(outs, out)
			}
		}
		last := len(outs) == 0
		if last {
			row := w.Cache.Row(state.KindNode, node.ID)
			if row == nil {
				return nil
			}
			var out state.Writer
			out.Same(row)
			out.Delete(state.Key(state.KindNode, node.ID))
			outs = append(outs, &out)
		}
		done, err := w.commit(ctx, outs)
		if err != nil {
			return err
		}
		if last && done[0] {
			w.Live.Forget(node.ID)
			w.Seen.Forget(node.ID)
			w.Log.Info("fenced node removed", "node", node.ID, "name", node.Name)
			return nil
		}
	}
}

// unplaceSome takes some VMs off a node in one transaction, since each gives its claim back to the node's record; none when there is none.
func (w *worker) unplaceSome(nodeID string) []*state.Writer {
	row := w.Cache.Row(state.KindNode, nodeID)
	if row == nil {
		return nil
	}
	var out state.Writer
	rec := row.Node()
	for _, vm := range w.Cache.Find(state.Query{Kind: state.KindVM, Node: nodeID, Limit: roundSize}).Rows {
		if out.Size() > 0 && out.Size()+2+len(vm.VM().GetDiskVolumes())+len(vm.VM().GetNicPorts()) > maxOps {
			break
		}
		w.unplace(&out, rec, vm)
	}
	if out.Size() == 0 {
		return nil
	}
	out.Same(row)
	out.Put(state.Key(state.KindNode, nodeID), rec)
	return []*state.Writer{&out}
}

// unplace takes a VM off its node, with the volumes that only that node had, and ends what binds its ports there.
func (w *worker) unplace(out *state.Writer, node *statev1.NodeRecord, row *state.Row) {
	rec, now := row.VM(), w.Now()
	domain.SetClaim(node, rec, nil)
	vm := rec.GetVm()
	phase, message := computev1.VMPhase_VM_PHASE_PENDING, "its node was declared off; waits to be placed anew"
	if row.Deleting {
		phase, message = computev1.VMPhase_VM_PHASE_DELETING, ""
	} else {
		rec.PendingSince = timestamppb.New(now)
	}
	vm.Status = &computev1.VMStatus{Phase: phase, Message: message, ObservedRestartGeneration: vm.GetSpec().GetRestartGeneration()}
	out.Same(row)
	out.Put(state.Key(state.KindVM, row.ID), rec)
	rows, vols, _ := volumesOf(w.Cache, rec)
	for i, v := range vols {
		w.resetVolume(v, node.GetNode().GetMeta())
		out.Same(rows[i])
		out.Put(state.Key(state.KindVolume, rows[i].ID), v)
	}
	rows, ports, _ := portsOf(w.Cache, rec)
	for i, p := range ports {
		domain.UnplacePort(p)
		out.Same(rows[i])
		out.Put(state.Key(state.KindPort, rows[i].ID), p)
	}
	w.History.Add(row.ID, &computev1.VMEvent{Time: timestamppb.New(now), Type: "NodeFenced", Message: "its node was declared off by an operator"})
}

// resetVolume takes a volume off a node that is no more. What lies in a shared pool is still there. Of the rest, one that was a VM's own is made anew; of one that stood by itself
// the data is gone, and it says so.
func (w *worker) resetVolume(v *statev1.VolumeRecord, node *metav1.ObjectMeta) {
	st := v.GetVolume().GetStatus()
	shared := w.shared(v.GetVolume().GetSpec().GetPoolId())
	if v.GetOwnerVmId() != "" && !shared {
		v.ExecutorNodeId = ""
		v.Volume.Status = &storagev1.VolumeStatus{
			Phase: storagev1.VolumePhase_VOLUME_PHASE_PENDING, AllocationBytes: -1, OwnerVmId: v.GetOwnerVmId(),
		}
		return
	}
	if shared && slices.ContainsFunc(st.GetAttachments(), func(a *storagev1.VolumeAttachment) bool { return a.GetNodeId() == node.GetId() }) {
		v.FencedNodeIds = append(v.GetFencedNodeIds(), node.GetId()) // the backend still takes it for attached there
	}
	st.Attachments = slices.DeleteFunc(st.GetAttachments(), func(a *storagev1.VolumeAttachment) bool {
		return a.GetNodeId() == node.GetId() && !w.wanted(a.GetVmId(), v.GetVolume().GetMeta().GetId()) // the node was about to let go of it
	})
	for _, a := range st.GetAttachments() {
		if a.GetNodeId() == node.GetId() {
			a.NodeId, a.Epoch, a.Attached = "", 0, false
		}
	}
	if v.GetExecutorNodeId() != node.GetId() {
		return
	}
	v.ExecutorNodeId = ""
	if !shared && st.GetNodeId() == node.GetId() {
		st.Phase, st.Reason = storagev1.VolumePhase_VOLUME_PHASE_FAILED, fault.ReasonName(metav1.Reason_REASON_NODE_UNREACHABLE)
		st.Message = "its data was on node " + node.GetName() + ", which an operator declared off for good"
	}
}

// wanted reports whether a volume is a disk of a VM by its spec.
func (w *worker) wanted(vmID, volumeID string) bool {
	return slices.ContainsFunc(w.Cache.Row(state.KindVM, vmID).VM().GetDiskVolumes(), func(d *statev1.DiskVolume) bool { return d.GetVolumeId() == volumeID })
}

func (w *worker) dropVolume(row *state.Row, node *metav1.ObjectMeta) *state.Writer {
	v := row.Volume()
	w.resetVolume(v, node)
	var out state.Writer
	out.Same(row)
	out.Put(state.Key(state.KindVolume, row.ID), v)
	return &out
}

// dropSnapshot takes a snapshot off a node that is no more; in a shared pool another node takes it over.
func dropSnapshot(row *state.Row, name string) *state.Writer {
	rec := row.Snapshot()
	st := rec.GetSnapshot().GetStatus()
	rec.ExecutorNodeId = ""
	var out state.Writer
	out.Same(row)
	if st.GetNodeId() != "" {
		st.Phase, st.Reason = storagev1.SnapshotPhase_SNAPSHOT_PHASE_FAILED, fault.ReasonName(metav1.Reason_REASON_NODE_UNREACHABLE)
		st.Message = "its data was on node " + name + ", which an operator declared off for good"
	}
	out.Put(state.Key(state.KindSnapshot, row.ID), rec)
	return &out
}

func dropCopies(row *state.Row, nodeID string) *state.Writer {
	rec := row.Image()
	st := rec.GetImage().GetStatus()
	st.Copies = slices.DeleteFunc(st.GetCopies(), func(c *storagev1.ImageCopy) bool { return c.GetNodeId() == nodeID })
	for _, ex := range rec.GetExecutors() { // those in shared pools are still there
		if ex.GetNodeId() == nodeID {
			ex.NodeId = ""
		}
	}
	domain.SettleImage(rec.GetImage())
	var out state.Writer
	out.Same(row)
	out.Put(state.Key(state.KindImage, row.ID), rec)
	return &out
}

// dropGoneNodes takes out of pools, images and networks what they say of nodes that are no more: nobody would ever confirm that nothing is left there.
func (w *worker) dropGoneNodes(ctx context.Context) error {
	gone := func(id string) bool { return id != "" && w.Cache.Row(state.KindNode, id) == nil }
	for {
		var outs []*state.Writer
		for _, row := range w.Cache.Find(state.Query{Kind: state.KindPool}).Rows {
			for _, n := range row.Pool().GetPool().GetStatus().GetNodes() {
				if gone(n.GetNodeId()) {
					outs = append(outs, dropPoolNode(row, n.GetNodeId()))
					break
				}
			}
		}
		for _, row := range w.Cache.Find(state.Query{Kind: state.KindImage}).Rows {
			for _, c := range row.Image().GetImage().GetStatus().GetCopies() {
				if gone(c.GetNodeId()) {
					outs = append(outs, dropCopies(row, c.GetNodeId()))
					break
				}
			}
		}
		outs = append(outs, w.goneNodes(gone)...)
		if len(outs) == 0 {
			return nil
		}
		if _, err := w.commit(ctx, outs[:min(len(outs), roundSize)]); err != nil {
			return err
		}
	}
}

func dropPoolNode(row *state.Row, nodeID string) *state.Writer {
	rec := row.Pool()
	st := rec.GetPool().GetStatus()
	was := len(st.GetNodes())
	st.Nodes = slices.DeleteFunc(st.GetNodes(), func(n *storagev1.PoolNodeStatus) bool { return n.GetNodeId() == nodeID })
	if len(st.GetNodes()) == was {
		return nil
	}
	domain.SettlePool(rec.GetPool())
	var out state.Writer
	out.Same(row)
	out.Put(state.Key(state.KindPool, row.ID), rec)
	return &out
}

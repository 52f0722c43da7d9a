package placement

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/scheduler"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// maxOps bounds the writes of one node's transaction; the store takes 128.
const maxOps = 120

// round works out and commits one batch: one transaction for each node, which changes the node's claims and the VMs together.
func (w *worker) round(ctx context.Context, q *queue) error {
	w.Index.catchUp()
	r := &round{w: w, q: q, plans: map[string]*plan{}, full: map[string]string{}}
	for _, id := range q.take(roundSize) {
		row := w.Cache.Row(state.KindVM, id)
		switch {
		case row == nil || row.Deleting:
			q.forget(id)
		case unplaced(row):
			r.place(row)
		case len(row.Nodes) > 0 && claimOff(row.VM()):
			r.adjust(row)
		default:
			q.forget(id)
		}
	}
	return r.commit(ctx)
}

type round struct {
	w     *worker
	q     *queue
	plans map[string]*plan
	order []*plan
	full  map[string]string // shape -> why nothing fits
}

// plan is what one node takes on.
type plan struct {
	node   *state.Row
	rec    *statev1.NodeRecord
	may    *computev1.ResourceAmount // be claimed
	out    state.Writer
	vms    []string
	events []*computev1.VMEvent
}

// plan is that of a node; nil when the node's record is not the one that the index chose by, since the commit is conditional on that one.
func (r *round) plan(nodeID string) *plan {
	if p := r.plans[nodeID]; p != nil {
		return p
	}
	row := r.w.Cache.Row(state.KindNode, nodeID)
	if row == nil || row.Revision != r.w.Index.nodeRevision(nodeID) {
		return nil
	}
	p := &plan{node: row, rec: row.Node()}
	p.may = r.w.Index.Allocatable(p.rec.GetNode())
	r.plans[nodeID] = p
	r.order = append(r.order, p)
	return p
}

// place finds a node for a VM and adds it to that node's plan.
func (r *round) place(row *state.Row) {
	rec := row.VM()
	volRows, vols, ok := volumesOf(r.w.Cache, rec)
	if !ok {
		r.park(row.ID, "a volume of it is gone")
		return
	}
	portRows, ports, ok := portsOf(r.w.Cache, rec)
	if !ok {
		r.park(row.ID, "a port of it is gone")
		return
	}
	req := newRequest(r.w.Cache, rec, vols)
	kind := shape(req)
	if why, tried := r.full[kind]; tried && kind != "" {
		r.park(row.ID, why)
		return
	}
	d, why, ok := r.w.Index.place(req, rec.GetVm().GetSpec().GetPlacement().GetAffinity())
	if !ok {
		text := reasonText(why)
		r.full[kind] = text
		r.park(row.ID, text)
		return
	}
	p := r.plan(d.NodeID)
	fits := p != nil && !p.node.Deleting && p.room(req.VCPUs, req.MemoryBytes)
	if !fits || p.out.Size()+1+len(volRows)+len(portRows) > maxOps {
		r.w.Index.settle(row.ID)
		if p == nil || len(p.vms) > 0 {
			r.q.push(row.ID) // the next round sees the node as it is then
		} else {
			r.park(row.ID, "the node that was chosen has no room by its record")
		}
		return
	}
	now := r.w.Now()
	assign(rec, p, now)
	p.out.Same(row)
	p.out.Put(state.Key(state.KindVM, row.ID), rec)
	for i, v := range vols {
		r.w.attach(v, rec, rec.GetVm().GetSpec().GetDisks()[i])
		p.out.Same(volRows[i])
		p.out.Put(state.Key(state.KindVolume, volRows[i].ID), v)
	}
	for i, port := range ports {
		at := rec.GetVm().GetStatus().GetVmPlacement()
		domain.BindPort(port, row.ID, rec.GetNicPorts()[i].GetNicName(), at.GetNodeId(), at.GetEpoch())
		p.out.Same(portRows[i])
		p.out.Put(state.Key(state.KindPort, portRows[i].ID), port)
	}
	p.vms = append(p.vms, row.ID)
	p.events = append(p.events, &computev1.VMEvent{
		Time: timestamppb.New(now), Type: "Placed", NodeId: d.NodeID, Message: fmt.Sprintf("placed on node %s", p.node.Name),
	})
}

// assign gives a VM to a node, under a new epoch.
func assign(rec *statev1.VMRecord, p *plan, now time.Time) {
	spec := rec.GetVm().GetSpec()
	rec.LastEpoch++
	rec.PendingSince = nil
	domain.SetClaim(p.rec, rec, &statev1.Claim{NodeId: p.node.ID, Vcpus: spec.GetCpu().GetVcpus(), MemoryBytes: spec.GetMemoryBytes()})
	st := rec.GetVm().GetStatus()
	st.Phase, st.Reason, st.Message = computev1.VMPhase_VM_PHASE_PROVISIONING, "", ""
	st.VmPlacement = &computev1.VMPlacement{NodeId: p.node.ID, NodeName: p.node.Name, Epoch: rec.GetLastEpoch(), PlaceTime: timestamppb.New(now)}
	domain.SetCondition(&st.Conditions, &metav1.Condition{Type: domain.CondPlaced, Status: metav1.ConditionStatus_CONDITION_STATUS_TRUE}, now)
}

// attach makes a VM's node the executor of its volume. A volume that stands by itself and has one that still works on it keeps that one; the VM waits there.
func (w *worker) attach(v *statev1.VolumeRecord, vm *statev1.VMRecord, disk *computev1.Disk) {
	p := vm.GetVm().GetStatus().GetVmPlacement()
	if v.GetOwnerVmId() == "" {
		shared := w.shared(v.GetVolume().GetSpec().GetPoolId())
		domain.Attach(v.GetVolume(), vm.GetVm().GetMeta().GetId(), p.GetNodeId(), p.GetEpoch(), disk.GetReadOnly())
		if v.GetExecutorNodeId() == "" {
			w.give(v, p.GetNodeId())
		} else {
			domain.HandOver(v, shared, w.reports)
		}
		return
	}
	SetExecutor(v, p.GetNodeId(), w.shared(v.GetVolume().GetSpec().GetPoolId()))
	mode := storagev1.VolumeAttachmentMode_VOLUME_ATTACHMENT_MODE_SINGLE_WRITER
	if disk.GetReadOnly() {
		mode = storagev1.VolumeAttachmentMode_VOLUME_ATTACHMENT_MODE_READ_ONLY
	}
	v.Volume.Status.Attachments = []*storagev1.VolumeAttachment{{
		VmId: vm.GetVm().GetMeta().GetId(), NodeId: p.GetNodeId(), Epoch: p.GetEpoch(), Mode: mode,
	}}
}

// left is what may still be claimed; negative on a node that shrank.
func (p *plan) left() (vcpus float64, memory int64) {
	return p.may.GetCpus() - float64(p.rec.GetClaimedVcpus()), p.may.GetMemoryBytes() - p.rec.GetClaimedMemoryBytes()
}

// room reports whether a node can take so much more. One that is overcommitted in anything takes nothing, not even none of it.
func (p *plan) room(vcpus int32, memory int64) bool {
	c, m := p.left()
	return float64(vcpus) <= c && memory <= m
}

// adjust brings a placed VM's claim to what it ought to be. Growth needs room; giving back never does.
func (r *round) adjust(row *state.Row) {
	rec := row.VM()
	p := r.plan(row.Nodes[0])
	if p == nil {
		if r.w.Cache.Row(state.KindNode, row.Nodes[0]) != nil {
			r.q.push(row.ID) // the next round knows its present record
		}
		return
	}
	if p.node.Deleting {
		return // the node is being emptied
	}
	if p.out.Size()+1 > maxOps {
		r.q.push(row.ID)
		return
	}
	want, held := domain.Demand(rec), rec.GetClaim()
	cpus, memory := want.GetVcpus()-held.GetVcpus(), want.GetMemoryBytes()-held.GetMemoryBytes()
	if (cpus > 0 || memory > 0) && !p.room(max(0, cpus), max(0, memory)) {
		freeC, freeM := p.left()
		r.park(row.ID, fmt.Sprintf("waits for room on node %s, where it lies: %d CPUs and %d MiB of memory more are needed, %.4g and %d MiB are free",
			p.node.Name, max(0, cpus), max(0, memory)>>20, max(0, freeC), max(0, freeM)>>20))
		return
	}
	domain.SetClaim(p.rec, rec, want)
	domain.DropCondition(&rec.Vm.Status.Conditions, domain.CondClaim)
	if rec.GetVm().GetStatus().GetReason() == unschedulable {
		rec.Vm.Status.Reason, rec.Vm.Status.Message = "", ""
	}
	p.out.Same(row)
	p.out.Put(state.Key(state.KindVM, row.ID), rec)
	p.vms = append(p.vms, row.ID)
	p.events = append(p.events, nil)
}

// commit writes the plans. A plan that was overtaken is worked out anew from what is so then.
func (r *round) commit(ctx context.Context) error {
	var outs []*state.Writer
	var plans []*plan
	for _, p := range r.order {
		if len(p.vms) == 0 {
			continue
		}
		p.out.Same(p.node)
		p.out.Put(state.Key(state.KindNode, p.node.ID), p.rec)
		outs, plans = append(outs, &p.out), append(plans, p)
	}
	if len(outs) == 0 {
		return nil
	}
	done, err := r.w.commit(ctx, outs)
	for i, p := range plans {
		for j, id := range p.vms {
			r.w.Index.settle(id)
			switch {
			case done == nil || !done[i]:
				r.q.push(id)
			default:
				r.q.forget(id)
				if ev := p.events[j]; ev != nil {
					r.w.History.Add(id, ev)
				}
			}
		}
	}
	return err
}

// park sets a VM aside until something changes, and has the reason written down if it lasts.
func (r *round) park(id, why string) {
	r.q.parked[id] = struct{}{}
	r.q.notes[id] = why
	if r.q.due.IsZero() {
		r.q.due = time.Now().Add(noteDelay)
	}
}

// unschedulable is the reason of a VM for which nothing fits.
var unschedulable = fault.ReasonName(metav1.Reason_REASON_UNSCHEDULABLE)

func reasonText(e *scheduler.Explanation) string {
	if e.Suggestion == "" {
		return e.Summary
	}
	return e.Summary + "; " + e.Suggestion
}

// writeNotes writes down why parked VMs wait.
func (w *worker) writeNotes(ctx context.Context, q *queue) error {
	now := w.Now()
	var outs []*state.Writer
	var ids []string
	for id, why := range q.notes {
		delete(q.notes, id)
		row := w.Cache.Row(state.KindVM, id)
		if _, parked := q.parked[id]; !parked || row == nil || row.Deleting {
			continue
		}
		rec := row.VM()
		st := rec.GetVm().GetStatus()
		kind := domain.CondPlaced
		if st.GetVmPlacement() != nil {
			kind = domain.CondClaim
		}
		said := domain.Condition(st.GetConditions(), kind)
		if said.GetReason() == unschedulable && (said.GetMessage() == why || now.Sub(q.noted[id]) < noteEvery) {
			continue
		}
		st.Reason, st.Message = unschedulable, why
		domain.SetCondition(&st.Conditions, &metav1.Condition{
			Type: kind, Status: metav1.ConditionStatus_CONDITION_STATUS_FALSE, Reason: unschedulable, Message: why,
		}, now)
		var out state.Writer
		out.Same(row)
		out.Put(state.Key(state.KindVM, id), rec)
		outs, ids = append(outs, &out), append(ids, id)
		if len(outs) == roundSize {
			break
		}
	}
	q.due = time.Time{}
	if len(q.notes) > 0 {
		q.due = time.Now().Add(noteDelay)
	}
	if len(outs) == 0 {
		return nil
	}
	done, err := w.commit(ctx, outs)
	for i, id := range ids {
		if done != nil && done[i] {
			q.noted[id] = now
			w.History.Add(id, &computev1.VMEvent{Time: timestamppb.New(now), Type: "Unschedulable", Reason: unschedulable, Message: w.Cache.Row(state.KindVM, id).VM().GetVm().GetStatus().GetMessage()})
		}
	}
	return err
}

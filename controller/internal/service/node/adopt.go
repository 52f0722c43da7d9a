package node

import (
	"cmp"
	"context"
	"slices"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// AdoptOrphan makes a VM of a domain that no VM knows, out of what its node still knows of it. The VM has the generation and epoch that the domain was made
// with, so that the node finds it to be as wanted already and leaves the guest alone.
func (s *Service) AdoptOrphan(ctx context.Context, req *connect.Request[computev1.AdoptOrphanRequest]) (*connect.Response[computev1.AdoptOrphanResponse], error) {
	m := req.Msg
	call := request.Call{Method: computev1connect.NodeServiceAdoptOrphanProcedure, Body: m, RequestID: m.GetRequestId()}
	return respond(request.Do(ctx, s.cfg.Runner, call, func(context.Context) (*request.Plan[*computev1.AdoptOrphanResponse], error) {
		row, err := s.find(m.GetNodeId())
		if err != nil {
			return nil, err
		}
		if row.Deleting {
			return nil, fault.New(metav1.Reason_REASON_BEING_DELETED, "node %s is being deleted", row.Name)
		}
		a := adoption{s: s, node: row, rec: row.Node()}
		if err := a.look(m.GetObjectId()); err != nil {
			return nil, err
		}
		return a.plan(cmp.Or(m.GetName(), a.detail.GetVm().GetName()))
	}))
}

// adoption is one that is being worked out.
type adoption struct {
	s      *Service
	node   *state.Row
	rec    *statev1.NodeRecord
	orphan *computev1.Orphan
	detail *agentv1.OrphanDetail
	w      state.Writer
}

// look finds the orphan and what is known of it.
func (a *adoption) look(id string) error {
	o, err := findOrphan(a.node, a.rec, id, "domain")
	if err != nil {
		return err
	}
	if o.GetRemoveTime() != nil {
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "orphan %s is being removed", id).WithRemedy("nothing can be done for it any more")
	}
	if row := a.s.cfg.Cache.Row(state.KindVM, id); row != nil {
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "VM %s (%s) exists, so the domain on node %s is a leftover of it", row.Name, id, a.node.Name).
			WithRemedy("remove the orphan")
	}
	a.orphan, a.detail = o.GetOrphan(), a.s.cfg.Nodes.OrphanDetail(a.node.ID, id)
	if a.detail != nil {
		return nil
	}
	if !a.s.cfg.Nodes.Leading() {
		return fault.New(metav1.Reason_REASON_NOT_LEADER, "this controller is not the leader, and only the leader is told what nodes know of orphans").WithRemedy("ask the leader")
	}
	if connected, _ := a.s.cfg.Nodes.Stream(a.node.ID); !connected {
		return fault.New(metav1.Reason_REASON_NODE_UNREACHABLE, "node %s is not connected now, and it alone knows what %s was wanted as", a.node.Name, id).
			WithRemedy("try again when its agent is back")
	}
	return fault.New(metav1.Reason_REASON_WRONG_STATE, "node %s no longer knows what domain %s was wanted as", a.node.Name, id).
		WithRemedy("save what its disks hold, make a new VM of it, then remove the orphan")
}

func (a *adoption) plan(name string) (*request.Plan[*computev1.AdoptOrphanResponse], error) {
	d, now := a.detail.GetVm(), a.s.cfg.Now()
	project := domain.Project(d.GetProjectId())
	var v domain.Violations
	domain.CheckName(&v, "name", name)
	if err := v.Err(); err != nil {
		return nil, err
	}
	nameKey := state.NameKey(project, state.KindVM, name)
	taken := fault.New(metav1.Reason_REASON_NAME_TAKEN, "a VM named %q exists in project %q", name, project).WithRemedy("adopt it under another name")
	if a.s.cfg.Cache.ByName(project, state.KindVM, name) != "" {
		return nil, taken
	}
	meta := domain.NewMeta(d.GetVmId(), name, project, nil, nil)
	meta.CreateTime, meta.UpdateTime, meta.Generation = timestamppb.New(now), timestamppb.New(now), max(d.GetGeneration(), 1)
	epoch := max(a.orphan.GetEpoch(), d.GetEpoch())
	rec := &statev1.VMRecord{
		SchemaVersion: 1, LastEpoch: epoch, ForceRestartGeneration: d.GetForceRestartGeneration(),
		Vm: &computev1.VM{Meta: meta, Spec: d.GetSpec(), Status: &computev1.VMStatus{
			Phase: computev1.VMPhase_VM_PHASE_PROVISIONING, Message: "adopted; waits for word from its node",
			VmPlacement: &computev1.VMPlacement{NodeId: a.node.ID, NodeName: a.node.Name, Epoch: epoch, PlaceTime: timestamppb.New(now)},
		}},
	}
	if ci := rec.GetVm().GetSpec().GetCloudInit(); ci != nil {
		ci.UserDataSha256 = "" // secrets are not kept on nodes: the document is lost
	}
	domain.SetCondition(&rec.Vm.Status.Conditions, &metav1.Condition{Type: domain.CondPlaced, Status: metav1.ConditionStatus_CONDITION_STATUS_TRUE}, now)
	if err := a.claim(rec); err != nil {
		return nil, err
	}
	for i, vv := range d.GetVolumes() {
		if err := a.volume(rec, i, vv); err != nil {
			return nil, err
		}
	}
	st := a.rec.GetNode().GetStatus()
	st.Orphans = slices.DeleteFunc(st.GetOrphans(), func(o *computev1.Orphan) bool { return orphanID(o) == orphanID(a.orphan) })
	a.w.Same(a.node)
	a.w.Put(state.Key(state.KindNode, a.node.ID), a.rec)
	vmKey := state.Key(state.KindVM, d.GetVmId())
	a.w.Require(store.KeyAbsent(nameKey), store.KeyAbsent(vmKey))
	a.w.Put(vmKey, rec)
	a.w.PutText(nameKey, d.GetVmId())
	a.s.cfg.Log.Info("orphan is adopted", "node", a.node.ID, "vm", d.GetVmId(), "name", name)
	txn, err := a.w.Txn()
	return &request.Plan[*computev1.AdoptOrphanResponse]{
		Txn: txn, ObjectID: d.GetVmId(), Response: &computev1.AdoptOrphanResponse{Vm: proto.CloneOf(rec.GetVm())},
		Refused: func(c store.Check) error {
			if c.Condition.Key == nameKey && c.Current != nil {
				return taken
			}
			return nil
		},
	}, request.Fault(err)
}

// claim takes what the VM needs of its node. It holds that much already, but no commit may make claims exceed what may be claimed.
func (a *adoption) claim(rec *statev1.VMRecord) error {
	want := domain.Demand(rec)
	may := a.s.cfg.Allocatable(a.rec.GetNode())
	a.rec.ClaimedVcpus += int64(want.GetVcpus())
	a.rec.ClaimedMemoryBytes += want.GetMemoryBytes()
	rec.Claim = want
	if float64(a.rec.GetClaimedVcpus()) <= may.GetCpus() && a.rec.GetClaimedMemoryBytes() <= may.GetMemoryBytes() {
		return nil
	}
	return fault.New(metav1.Reason_REASON_UNSCHEDULABLE, "node %s has no room left to claim for %d CPUs and %d MiB of memory", a.node.Name, want.GetVcpus(), want.GetMemoryBytes()>>20).
		WithRemedy("stop or delete VMs there, or raise the node's overcommit")
}

// volume makes a volume the VM's: the one that is known, or else the one that the node tells of.
func (a *adoption) volume(vm *statev1.VMRecord, i int, vv *agentv1.VMVolume) error {
	id, owner := vv.GetVolumeId(), vm.GetVm().GetMeta()
	vm.DiskVolumes = append(vm.DiskVolumes, &statev1.DiskVolume{DiskName: vv.GetDiskName(), VolumeId: id})
	key, row := state.Key(state.KindVolume, id), a.s.cfg.Cache.Row(state.KindVolume, id)
	rec := row.Volume()
	switch {
	case row == nil:
		j := slices.IndexFunc(a.detail.GetVolumes(), func(v *agentv1.DesiredVolume) bool { return v.GetVolume().GetMeta().GetId() == id })
		if j < 0 {
			return fault.New(metav1.Reason_REASON_WRONG_STATE, "nothing is known of volume %s, disk %q of the domain", id, vv.GetDiskName()).
				WithRemedy("save what its disks hold, make a new VM of it, then remove the orphan")
		}
		was := a.detail.GetVolumes()[j]
		if pool := a.s.cfg.Cache.Row(state.KindPool, was.GetVolume().GetSpec().GetPoolId()); pool == nil || pool.Deleting {
			return fault.New(metav1.Reason_REASON_WRONG_STATE, "the pool %s of disk %q is not known here", was.GetVolume().GetSpec().GetPoolId(), vv.GetDiskName()).
				WithRemedy("bring the pool back first")
		}
		meta := domain.NewMeta(id, vv.GetDiskName(), owner.GetProjectId(), nil, nil)
		meta.CreateTime, meta.UpdateTime, meta.Generation = owner.GetCreateTime(), owner.GetCreateTime(), max(was.GetVolume().GetMeta().GetGeneration(), 1)
		rec = &statev1.VolumeRecord{SchemaVersion: 1, ExecutorEpoch: a.volumeEpoch(id, was.GetEpoch()), Volume: &storagev1.Volume{
			Meta: meta, Spec: was.GetVolume().GetSpec(),
			Status: &storagev1.VolumeStatus{Phase: storagev1.VolumePhase_VOLUME_PHASE_PENDING, AllocationBytes: -1},
		}}
		a.w.Require(store.KeyAbsent(key))
	case row.Deleting, rec.GetOwnerVmId() != "" && rec.GetOwnerVmId() != owner.GetId(), len(rec.GetVolume().GetStatus().GetAttachments()) > 0 && rec.GetOwnerVmId() == "",
		len(row.Nodes) > 0 && row.Nodes[0] != a.node.ID:
		return fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s, disk %q of the domain, belongs to another VM, to another node, or is being deleted", id, vv.GetDiskName()).
			WithRemedy("free it first, or remove the orphan")
	default:
		a.w.Same(row)
	}
	rec.ExecutorNodeId, rec.OwnerVmId = a.node.ID, owner.GetId()
	mode := storagev1.VolumeAttachmentMode_VOLUME_ATTACHMENT_MODE_SINGLE_WRITER
	if disks := vm.GetVm().GetSpec().GetDisks(); i < len(disks) && disks[i].GetReadOnly() {
		mode = storagev1.VolumeAttachmentMode_VOLUME_ATTACHMENT_MODE_READ_ONLY
	}
	st := rec.GetVolume().GetStatus()
	st.NodeId, st.OwnerVmId = a.node.ID, owner.GetId()
	st.Attachments = []*storagev1.VolumeAttachment{{VmId: owner.GetId(), NodeId: a.node.ID, Epoch: vm.GetLastEpoch(), Mode: mode}}
	orphans := a.rec.GetNode().GetStatus()
	orphans.Orphans = slices.DeleteFunc(orphans.GetOrphans(), func(o *computev1.Orphan) bool { return o.GetKind() == "volume" && o.GetObjectId() == id })
	if slices.ContainsFunc(a.rec.GetOrphanRemovals(), func(r *statev1.OrphanRemoval) bool { return orphanID(r.GetOrphan()) == "volume/"+id }) {
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "volume %s, disk %q of the domain, is being removed", id, vv.GetDiskName()).WithRemedy("remove the orphan, too")
	}
	a.w.Put(key, rec)
	return nil
}

// volumeEpoch is the highest epoch that the node knows of a volume.
func (a *adoption) volumeEpoch(id string, epoch int64) int64 {
	for _, o := range a.rec.GetNode().GetStatus().GetOrphans() {
		if o.GetKind() == "volume" && o.GetObjectId() == id {
			epoch = max(epoch, o.GetEpoch())
		}
	}
	return max(epoch, 1)
}

package volume

import (
	"context"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
)

// pair is a volume and a VM under change, both in one commit.
type pair struct {
	row   *state.Row // of the volume
	rec   *statev1.VolumeRecord
	vmRow *state.Row
	vm    *statev1.VMRecord
}

func (s *Service) pair(id, vm, project, etag string) (*pair, error) {
	row, err := s.find(id, project)
	if err != nil {
		return nil, err
	}
	if err := domain.CheckEtag(etag, row.Revision); err != nil {
		return nil, err
	}
	vmRow := s.cfg.Cache.Resolve(state.KindVM, domain.Project(project), vm)
	switch {
	case vmRow == nil:
		return nil, fault.New(metav1.Reason_REASON_NOT_FOUND, "there is no VM %q in project %q", vm, domain.Project(project)).WithRemedy("list VMs to see which there are")
	case vmRow.Deleting:
		return nil, fault.New(metav1.Reason_REASON_BEING_DELETED, "VM %s (%s) is being deleted", vmRow.Name, vmRow.ID)
	case vmRow.Project != row.Project:
		return nil, fault.Invalid(fault.Violation{Field: "vm", Description: "is in another project than the volume"})
	}
	return &pair{row: row, rec: row.Volume(), vmRow: vmRow, vm: vmRow.VM()}, nil
}

// commit writes both; the operation follows the VM's change.
func (p *pair) commit(verb string, now time.Time, changed bool) (*state.Writer, *operationv1.Operation) {
	if changed {
		domain.NewGeneration(p.vm, now)
	}
	meta := p.vm.GetVm().GetMeta()
	op := &operationv1.Operation{
		Id: domain.NewID(now), ProjectId: meta.GetProjectId(), Verb: verb, ObjectKind: domain.KindVM, ObjectId: meta.GetId(), ObjectName: meta.GetName(),
		Generation: meta.GetGeneration(), State: operationv1.OperationState_OPERATION_STATE_RUNNING, CreateTime: timestamppb.New(now),
	}
	var w state.Writer
	w.Same(p.row)
	w.Same(p.vmRow)
	if changed {
		p.vm.OperationId = op.GetId()
		w.Put(state.Key(state.KindVM, p.vmRow.ID), p.vm)
		w.Put(state.Key(state.KindVolume, p.row.ID), p.rec)
	} else if o := domain.OperationOutcome(op, p.vm); o.Ended() {
		domain.EndOperation(op, o, now)
	}
	w.Put(state.Key(state.KindOperation, op.GetId()), &statev1.OperationRecord{SchemaVersion: 1, Operation: op})
	return &w, op
}

// AttachVolume adds a volume as a disk to a VM's spec.
func (s *Service) AttachVolume(ctx context.Context, req *connect.Request[storagev1.AttachVolumeRequest]) (*connect.Response[storagev1.AttachVolumeResponse], error) {
	m, now := req.Msg, s.cfg.Now()
	resp, err := request.Do(ctx, s.cfg.Runner, request.Call{
		Method: storagev1connect.VolumeServiceAttachVolumeProcedure, Body: m, RequestID: m.GetRequestId(),
	}, func(context.Context) (*request.Plan[*storagev1.AttachVolumeResponse], error) {
		p, err := s.pair(m.GetId(), m.GetVm(), m.GetProjectId(), m.GetEtag())
		if err != nil {
			return nil, err
		}
		vol, spec := p.rec.GetVolume(), p.vm.GetVm().GetSpec()
		there := slices.ContainsFunc(p.vm.GetDiskVolumes(), func(d *statev1.DiskVolume) bool { return d.GetVolumeId() == p.row.ID })
		if !there {
			if err := s.mayAttach(p); err != nil {
				return nil, err
			}
			name := m.GetDiskName()
			if name == "" {
				name = p.row.Name
			}
			spec.Disks = append(spec.Disks, &computev1.Disk{
				Name: name, Source: &computev1.Disk_Volume{Volume: p.row.ID}, ReadOnly: m.GetReadOnly(), Serial: m.GetSerial(),
			})
			domain.DefaultVM(spec, p.vmRow.ID)
			var v domain.Violations
			domain.ValidateVMSpec(&v, spec)
			if err := v.Err(); err != nil {
				return nil, err
			}
			p.vm.DiskVolumes = append(p.vm.GetDiskVolumes(), &statev1.DiskVolume{DiskName: name, VolumeId: p.row.ID})
			at := p.vm.GetVm().GetStatus().GetVmPlacement()
			domain.Attach(vol, p.vmRow.ID, at.GetNodeId(), at.GetEpoch(), m.GetReadOnly())
			domain.HandOver(p.rec, s.shared(p.row), s.reports)
		}
		w, op := p.commit(domain.VerbAttachVolume, now, !there)
		txn, err := w.Txn()
		return &request.Plan[*storagev1.AttachVolumeResponse]{
			Txn: txn, Response: &storagev1.AttachVolumeResponse{Volume: s.view(p.rec, 0), Operation: op}, ObjectID: p.row.ID, OperationID: op.GetId(), Refused: staleEtag(p.row, m.GetEtag()),
		}, request.Fault(err)
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

// mayAttach refuses what could never be realised where the VM lies, or would give a volume two writers.
func (s *Service) mayAttach(p *pair) error {
	vol := p.rec.GetVolume()
	if why := domain.CanAttach(p.rec, p.vmRow.ID); why != "" {
		remedy := "detach it there first"
		if domain.Moving(p.rec) || domain.Restoring(p.rec) {
			remedy = "wait until that is done"
		}
		return fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s %s", p.row.Name, why).WithRemedy("%s", remedy)
	}
	if vol.GetStatus().GetPhase() == storagev1.VolumePhase_VOLUME_PHASE_FAILED {
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "volume %s: %s", p.row.Name, vol.GetStatus().GetMessage())
	}
	at := p.vm.GetVm().GetStatus().GetVmPlacement()
	if at == nil {
		return nil // the scheduler looks
	}
	if on := vol.GetStatus().GetNodeId(); on != "" && on != at.GetNodeId() {
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "volume %s lies on node %s, VM %s on node %s, and its pool is each node's own", p.row.Name, s.nodeName(on), p.vmRow.Name, at.GetNodeName()).
			WithRemedy("use a volume on that node, or one in a shared pool")
	}
	if pool := s.cfg.Cache.Row(state.KindPool, p.row.InPool); pool == nil || !domain.PoolUsable(pool.Pool().GetPool(), at.GetNodeId()) {
		return fault.New(metav1.Reason_REASON_POOL_UNHEALTHY, "node %s, on which VM %s lies, does not reach the pool of volume %s", at.GetNodeName(), p.vmRow.Name, p.row.Name).
			WithRemedy("look at the pool's status on that node")
	}
	return s.mayUse(p, at.GetNodeId())
}

// mayUse refuses a volume on which another node than the VM's is at work: the guest may run, and would have it open beside that.
func (s *Service) mayUse(p *pair, nodeID string) error {
	busy := p.rec.GetExecutorNodeId() != nodeID && p.rec.GetVolume().GetStatus().GetObservedGeneration() > 0 && !domain.VolumeAtRest(p.rec)
	for _, snap := range s.cfg.Cache.Find(state.Query{Kind: state.KindSnapshot, Owner: p.row.ID}).Rows {
		rec := snap.Snapshot()
		busy = busy || rec.GetExecutorNodeId() != nodeID && !domain.SnapshotAtRest(rec)
	}
	if busy {
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "node %s is at work on volume %s", s.nodeName(p.rec.GetExecutorNodeId()), p.row.Name).WithRemedy("wait until the volume and its snapshots are READY")
	}
	return nil
}

func (s *Service) nodeName(id string) string {
	if row := s.cfg.Cache.Row(state.KindNode, id); row != nil {
		return row.Name
	}
	return id
}

// DetachVolume takes a volume's disk out of a VM's spec. While the VM is placed the attachment stays until the node has let go of it.
func (s *Service) DetachVolume(ctx context.Context, req *connect.Request[storagev1.DetachVolumeRequest]) (*connect.Response[storagev1.DetachVolumeResponse], error) {
	m, now := req.Msg, s.cfg.Now()
	resp, err := request.Do(ctx, s.cfg.Runner, request.Call{
		Method: storagev1connect.VolumeServiceDetachVolumeProcedure, Body: m, RequestID: m.GetRequestId(),
	}, func(context.Context) (*request.Plan[*storagev1.DetachVolumeResponse], error) {
		row, err := s.find(m.GetId(), m.GetProjectId())
		if err != nil {
			return nil, err
		}
		vm := m.GetVm()
		if vm == "" {
			switch users := row.Volume().GetVolume().GetStatus().GetAttachments(); len(users) {
			case 0:
			case 1:
				vm = users[0].GetVmId()
			default:
				return nil, fault.Invalid(fault.Violation{Field: "vm", Description: "is required: the volume is attached to several VMs"})
			}
		}
		var p *pair
		if vm != "" {
			if p, err = s.pair(m.GetId(), vm, m.GetProjectId(), m.GetEtag()); err != nil {
				return nil, err
			}
		}
		i := -1
		if p != nil {
			i = slices.IndexFunc(p.vm.GetDiskVolumes(), func(d *statev1.DiskVolume) bool { return d.GetVolumeId() == row.ID })
		}
		if i < 0 && (p == nil || domain.Attachment(p.rec.GetVolume(), p.vmRow.ID) == nil) { // not attached
			return &request.Plan[*storagev1.DetachVolumeResponse]{Response: &storagev1.DetachVolumeResponse{Volume: s.view(row.Volume(), row.Revision)}}, nil
		}
		if i >= 0 {
			if p.rec.GetOwnerVmId() != "" {
				return nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "volume %s lives and dies with VM %s", row.ID, p.vmRow.Name)
			}
			name := p.vm.GetDiskVolumes()[i].GetDiskName()
			p.vm.DiskVolumes = slices.Delete(p.vm.GetDiskVolumes(), i, i+1)
			spec := p.vm.GetVm().GetSpec()
			spec.Disks = slices.DeleteFunc(spec.GetDisks(), func(d *computev1.Disk) bool { return d.GetName() == name })
			if p.vm.GetVm().GetStatus().GetVmPlacement() == nil {
				domain.Detach(p.rec.GetVolume(), p.vmRow.ID)
			}
		}
		w, op := p.commit(domain.VerbDetachVolume, now, i >= 0)
		txn, err := w.Txn()
		return &request.Plan[*storagev1.DetachVolumeResponse]{
			Txn: txn, Response: &storagev1.DetachVolumeResponse{Volume: s.view(p.rec, 0), Operation: op}, ObjectID: row.ID, OperationID: op.GetId(), Refused: staleEtag(p.row, m.GetEtag()),
		}, request.Fault(err)
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

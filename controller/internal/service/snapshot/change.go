package snapshot

import (
	"context"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/service/volume"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
)

// CreateSnapshot accepts a snapshot in one commit; the leader chooses who takes it.
func (s *Service) CreateSnapshot(ctx context.Context, req *connect.Request[storagev1.CreateSnapshotRequest]) (*connect.Response[storagev1.CreateSnapshotResponse], error) {
	now, given := s.cfg.Now(), req.Msg.GetSnapshot()
	meta := domain.NewMeta(domain.NewID(now), given.GetMeta().GetName(), domain.Project(given.GetMeta().GetProjectId()), given.GetMeta().GetLabels(), given.GetMeta().GetAnnotations())
	meta.CreateTime, meta.UpdateTime = timestamppb.New(now), timestamppb.New(now)
	var v domain.Violations
	domain.CheckMeta(&v, "snapshot.meta", meta, true)
	if given.GetSpec().GetVolumeId() == "" {
		v.Add("snapshot.spec.volume_id", "is required: a volume's id or name")
	}
	if c := given.GetSpec().GetConsistency(); storagev1.SnapshotConsistency_name[int32(c)] == "" {
		v.Add("snapshot.spec.consistency", "%d is no known value", c)
	}
	if err := v.Err(); err != nil {
		return nil, err
	}
	resp, err := request.Do(ctx, s.cfg.Runner, request.Call{
		Method: storagev1connect.SnapshotServiceCreateSnapshotProcedure, Body: req.Msg, RequestID: req.Msg.GetRequestId(),
	}, func(context.Context) (*request.Plan[*storagev1.CreateSnapshotResponse], error) {
		nameKey := state.NameKey(meta.GetProjectId(), state.KindSnapshot, meta.GetName())
		if other := s.cfg.Cache.ByName(meta.GetProjectId(), state.KindSnapshot, meta.GetName()); other != "" {
			return nil, nameTaken(meta, other)
		}
		of := s.cfg.Cache.Resolve(state.KindVolume, meta.GetProjectId(), given.GetSpec().GetVolumeId())
		if of == nil || of.Deleting {
			return nil, fault.New(metav1.Reason_REASON_VOLUME_NOT_FOUND, "there is no volume %q in project %q", given.GetSpec().GetVolumeId(), meta.GetProjectId()).
				WithRemedy("list volumes to see which there are; one that lives with a VM is named by its id")
		}
		if domain.Moving(of.Volume()) || domain.Restoring(of.Volume()) {
			return nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "volume %s is being changed: it is %s", of.Name, volume.PhaseName(of.Volume().GetVolume())).WithRemedy("wait until it is READY")
		}
		spec := proto.CloneOf(given.GetSpec())
		spec.VolumeId = of.ID
		snap := &storagev1.Snapshot{Meta: meta, Spec: spec, Status: &storagev1.SnapshotStatus{
			Phase: storagev1.SnapshotPhase_SNAPSHOT_PHASE_PENDING, PoolId: of.InPool, SizeBytes: of.Size, Message: "waits to be taken",
		}}
		op := newOperation(domain.VerbCreateSnapshot, snap, now)
		var w state.Writer
		w.Same(of)
		w.Put(state.Key(state.KindVolume, of.ID), of.Volume()) // whoever deletes it meanwhile has to look again
		w.Put(state.Key(state.KindSnapshot, meta.GetId()), &statev1.SnapshotRecord{SchemaVersion: 1, Snapshot: snap, OperationId: op.GetId()})
		w.Put(state.Key(state.KindOperation, op.GetId()), &statev1.OperationRecord{SchemaVersion: 1, Operation: op})
		w.PutText(nameKey, meta.GetId())
		w.Require(store.KeyAbsent(nameKey))
		txn, err := w.Txn()
		return &request.Plan[*storagev1.CreateSnapshotResponse]{
			Txn: txn, Response: &storagev1.CreateSnapshotResponse{Snapshot: proto.CloneOf(snap), Operation: op}, ObjectID: meta.GetId(), OperationID: op.GetId(),
			Refused: func(c store.Check) error {
				if c.Condition.Key == nameKey && c.Current != nil {
					return nameTaken(meta, string(c.Current.Value))
				}
				return nil
			},
		}, request.Fault(err)
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

// UpdateSnapshot changes exactly what the mask names; nothing of it has to be realised.
func (s *Service) UpdateSnapshot(ctx context.Context, req *connect.Request[storagev1.UpdateSnapshotRequest]) (*connect.Response[storagev1.UpdateSnapshotResponse], error) {
	m, now := req.Msg, s.cfg.Now()
	meta := m.GetSnapshot().GetMeta()
	resp, err := request.Do(ctx, s.cfg.Runner, request.Call{
		Method: storagev1connect.SnapshotServiceUpdateSnapshotProcedure, Body: m, RequestID: m.GetRequestId(),
	}, func(context.Context) (*request.Plan[*storagev1.UpdateSnapshotResponse], error) {
		name := meta.GetId()
		if name == "" {
			name = meta.GetName()
		}
		row, err := s.find(name, meta.GetProjectId())
		if err != nil {
			return nil, err
		}
		if row.Deleting {
			return nil, fault.New(metav1.Reason_REASON_BEING_DELETED, "snapshot %s (%s) is being deleted", row.Name, row.ID)
		}
		if err := domain.CheckEtag(meta.GetEtag(), row.Revision); err != nil {
			return nil, err
		}
		rec := row.Snapshot()
		var v domain.Violations
		domain.ApplyMask(&v, rec.GetSnapshot(), m.GetSnapshot(), m.GetUpdateMask(), domain.SnapshotPathAllowed)
		if len(v) == 0 {
			domain.CheckLabels(&v, "snapshot.meta.labels", rec.GetSnapshot().GetMeta().GetLabels())
			domain.CheckAnnotations(&v, "snapshot.meta.annotations", rec.GetSnapshot().GetMeta().GetAnnotations())
		}
		if err := v.Err(); err != nil {
			return nil, err
		}
		rec.Snapshot.Meta.UpdateTime = timestamppb.New(now)
		op := newOperation(domain.VerbUpdateSnapshot, rec.GetSnapshot(), now)
		domain.EndOperation(op, domain.Outcome{State: operationv1.OperationState_OPERATION_STATE_DONE}, now)
		var w state.Writer
		w.Same(row)
		w.Put(state.Key(state.KindSnapshot, row.ID), rec)
		w.Put(state.Key(state.KindOperation, op.GetId()), &statev1.OperationRecord{SchemaVersion: 1, Operation: op})
		txn, err := w.Txn()
		return &request.Plan[*storagev1.UpdateSnapshotResponse]{
			Txn: txn, Response: &storagev1.UpdateSnapshotResponse{Snapshot: proto.CloneOf(rec.GetSnapshot()), Operation: op}, ObjectID: row.ID, OperationID: op.GetId(), Refused: staleEtag(row, meta.GetEtag()),
		}, request.Fault(err)
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

// RestoreSnapshot asks that the snapshot's volume be set back. VMs that use it must be off, and be wanted so.
func (s *Service) RestoreSnapshot(ctx context.Context, req *connect.Request[storagev1.RestoreSnapshotRequest]) (*connect.Response[storagev1.RestoreSnapshotResponse], error) {
	m, now := req.Msg, s.cfg.Now()
	resp, err := request.Do(ctx, s.cfg.Runner, request.Call{
		Method: storagev1connect.SnapshotServiceRestoreSnapshotProcedure, Body: m, RequestID: m.GetRequestId(),
	}, func(context.Context) (*request.Plan[*storagev1.RestoreSnapshotResponse], error) {
		row, err := s.find(m.GetId(), m.GetProjectId())
		if err != nil {
			return nil, err
		}
		if err := domain.CheckEtag(m.GetEtag(), row.Revision); err != nil {
			return nil, err
		}
		if row.Deleting || row.Phase != int32(storagev1.SnapshotPhase_SNAPSHOT_PHASE_READY) {
			return nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "snapshot %s is not there to go back to", row.Name).WithRemedy("wait until its phase is READY")
		}
		of := s.cfg.Cache.Row(state.KindVolume, row.Owner)
		if of == nil || of.Deleting {
			return nil, fault.New(metav1.Reason_REASON_VOLUME_NOT_FOUND, "the volume of snapshot %s is gone", row.Name).WithRemedy("create a volume from the snapshot")
		}
		rec := of.Volume()
		if !domain.VolumeAtRest(rec) && !domain.Restoring(rec) {
			return nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "volume %s is being changed: it is %s", of.Name, volume.PhaseName(rec.GetVolume())).WithRemedy("wait until it is READY")
		}
		var w state.Writer
		for _, a := range rec.GetVolume().GetStatus().GetAttachments() {
			user := s.cfg.Cache.Row(state.KindVM, a.GetVmId())
			vm := user.VM().GetVm()
			if vm == nil {
				continue
			}
			if vm.GetSpec().GetDesiredPower() != computev1.PowerState_POWER_STATE_STOPPED || vm.GetStatus().GetPhase() != computev1.VMPhase_VM_PHASE_STOPPED && vm.GetStatus().GetVmPlacement() != nil {
				return nil, fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is in use by VM %s", of.Name, user.Name).WithRemedy("stop the VM first: lqctl vm stop %s", user.Name)
			}
			w.Same(user)
		}
		domain.HandOver(rec, s.shared(row), s.reports)
		rec.Restore = &statev1.VolumeRestore{SnapshotId: row.ID, RestoreGeneration: rec.GetRestore().GetRestoreGeneration() + 1}
		domain.DropCondition(&rec.Volume.Status.Conditions, domain.CondRealisable)
		rec.Volume.Status.Phase, rec.Volume.Status.Reason, rec.Volume.Status.Message = storagev1.VolumePhase_VOLUME_PHASE_RESTORING, "", ""
		op := volume.NewOperation(domain.VerbRestoreSnapshot, rec.GetVolume(), rec.GetRestore().GetRestoreGeneration(), now)
		w.Same(row)
		w.Same(of)
		w.Put(state.Key(state.KindVolume, of.ID), rec)
		w.Put(state.Key(state.KindOperation, op.GetId()), &statev1.OperationRecord{SchemaVersion: 1, Operation: op})
		txn, err := w.Txn()
		return &request.Plan[*storagev1.RestoreSnapshotResponse]{
			Txn: txn, Response: &storagev1.RestoreSnapshotResponse{Snapshot: s.view(row), Operation: op, Volume: proto.CloneOf(rec.GetVolume())}, ObjectID: of.ID, OperationID: op.GetId(), Refused: staleEtag(row, m.GetEtag()),
		}, request.Fault(err)
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

// DeleteSnapshot marks a snapshot; its name is free at once.
func (s *Service) DeleteSnapshot(ctx context.Context, req *connect.Request[storagev1.DeleteSnapshotRequest]) (*connect.Response[storagev1.DeleteSnapshotResponse], error) {
	m, now := req.Msg, s.cfg.Now()
	resp, err := request.Do(ctx, s.cfg.Runner, request.Call{
		Method: storagev1connect.SnapshotServiceDeleteSnapshotProcedure, Body: m, RequestID: m.GetRequestId(),
	}, func(context.Context) (*request.Plan[*storagev1.DeleteSnapshotResponse], error) {
		row, err := s.find(m.GetId(), m.GetProjectId())
		switch {
		case err != nil && domain.IsID(m.GetId()):
			return &request.Plan[*storagev1.DeleteSnapshotResponse]{Response: &storagev1.DeleteSnapshotResponse{}}, nil
		case err != nil:
			return nil, err
		case row.Deleting:
			return &request.Plan[*storagev1.DeleteSnapshotResponse]{Response: &storagev1.DeleteSnapshotResponse{
				Snapshot: s.view(row), Operation: s.cfg.Cache.Row(state.KindOperation, row.Snapshot().GetOperationId()).Operation().GetOperation(),
			}}, nil
		}
		if err := domain.CheckEtag(m.GetEtag(), row.Revision); err != nil {
			return nil, err
		}
		rec, same := row.Snapshot(), []*state.Row{row}
		snap := rec.GetSnapshot()
		if snap.GetSpec().GetDeleteProtection() {
			return nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "snapshot %s is protected from deletion", row.Name).WithRemedy("set spec.delete_protection to false first")
		}
		if err := s.checkUnused(row); err != nil {
			return nil, err
		}
		if of := s.cfg.Cache.Row(state.KindVolume, row.Owner); of != nil {
			domain.HandOverSnapshot(rec, of.Volume().GetVolume(), s.shared(row), s.reports)
			same = append(same, of) // who uses it decides who acts
		}
		snap.Meta.DeleteTime = timestamppb.New(now)
		snap.Meta.Generation++
		snap.Status.Phase, snap.Status.Reason, snap.Status.Message = storagev1.SnapshotPhase_SNAPSHOT_PHASE_DELETING, "", ""
		op := newOperation(domain.VerbDeleteSnapshot, snap, now)
		rec.OperationId = op.GetId()
		var w state.Writer
		for _, r := range same {
			w.Same(r)
		}
		w.Put(state.Key(state.KindSnapshot, row.ID), rec)
		w.Delete(state.NameKey(row.Project, state.KindSnapshot, row.Name))
		w.Put(state.Key(state.KindOperation, op.GetId()), &statev1.OperationRecord{SchemaVersion: 1, Operation: op})
		txn, err := w.Txn()
		return &request.Plan[*storagev1.DeleteSnapshotResponse]{
			Txn: txn, Response: &storagev1.DeleteSnapshotResponse{Snapshot: proto.CloneOf(snap), Operation: op}, ObjectID: row.ID, OperationID: op.GetId(), Refused: staleEtag(row, m.GetEtag()),
		}, request.Fault(err)
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

// checkUnused refuses while a volume is being made from the snapshot, or set back to it. One that was made stays whole.
func (s *Service) checkUnused(row *state.Row) error {
	made := s.cfg.Cache.Find(state.Query{Kind: state.KindVolume, Ref: state.RefSnapshot(row.ID), Limit: 1, Keep: func(r *state.Row) bool {
		return r.Phase == int32(storagev1.VolumePhase_VOLUME_PHASE_PENDING) || r.Phase == int32(storagev1.VolumePhase_VOLUME_PHASE_CREATING)
	}}).Rows
	if len(made) > 0 {
		return fault.New(metav1.Reason_REASON_SNAPSHOT_IN_USE, "volume %s (%s) is being made from snapshot %s", made[0].Name, made[0].ID, row.Name).WithRemedy("wait until that is done")
	}
	if r := s.cfg.Cache.Row(state.KindVolume, row.Owner).Volume().GetRestore(); r.GetSnapshotId() == row.ID && !r.GetDone() {
		return fault.New(metav1.Reason_REASON_SNAPSHOT_IN_USE, "the volume of snapshot %s is being set back to it", row.Name).WithRemedy("wait until that is done")
	}
	return nil
}

func nameTaken(meta *metav1.ObjectMeta, other string) error {
	return fault.New(metav1.Reason_REASON_NAME_TAKEN, "a snapshot named %q exists in project %q (%s)", meta.GetName(), meta.GetProjectId(), other).
		WithRemedy("choose another name, or delete that snapshot").WithMetadata("id", other)
}

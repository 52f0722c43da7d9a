package volume

import (
	"context"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
)

// change describes a mutation of one volume's spec or meta.
type change struct {
	call              request.Call
	verb              string
	id, project, etag string
	// apply changes vol and reports whether something has to be realised.
	apply func(row *state.Row, vol *storagev1.Volume, w *state.Writer) (realise bool, err error)
}

func mutate[R proto.Message](ctx context.Context, s *Service, c change, answer func(*storagev1.Volume, *operationv1.Operation) R) (R, error) {
	return request.Do(ctx, s.cfg.Runner, c.call, func(context.Context) (*request.Plan[R], error) {
		row, err := s.find(c.id, c.project)
		if err != nil {
			return nil, err
		}
		if row.Deleting {
			return nil, fault.New(metav1.Reason_REASON_BEING_DELETED, "volume %s (%s) is being deleted", row.Name, row.ID)
		}
		if err := domain.CheckEtag(c.etag, row.Revision); err != nil {
			return nil, err
		}
		if err := settled(row); err != nil && c.verb == domain.VerbResizeVolume {
			return nil, err
		}
		rec, now := row.Volume(), s.cfg.Now()
		before, was := proto.CloneOf(rec.GetVolume()), proto.CloneOf(rec)
		var w state.Writer
		realise, err := c.apply(row, rec.GetVolume(), &w)
		if err != nil {
			return nil, err
		}
		vol := rec.GetVolume()
		if realise {
			domain.HandOver(was, s.shared(row), s.reports) // by how it was before
			rec.ExecutorNodeId, rec.ExecutorEpoch = was.GetExecutorNodeId(), was.GetExecutorEpoch()
			vol.Meta.Generation++
			domain.DropCondition(&vol.Status.Conditions, domain.CondRealisable)
		}
		op := NewOperation(c.verb, vol, vol.GetMeta().GetGeneration(), now)
		w.Same(row)
		if !realise {
			domain.EndOperation(op, domain.Outcome{State: operationv1.OperationState_OPERATION_STATE_DONE}, now)
		}
		if !proto.Equal(before, vol) {
			vol.Meta.UpdateTime = timestamppb.New(now)
			rec.OperationId = op.GetId()
			w.Put(state.Key(state.KindVolume, row.ID), rec)
		}
		w.Put(state.Key(state.KindOperation, op.GetId()), &statev1.OperationRecord{SchemaVersion: 1, Operation: op})
		txn, err := w.Txn()
		return &request.Plan[R]{
			Txn: txn, Response: answer(s.view(rec, 0), op), ObjectID: row.ID, OperationID: op.GetId(), Refused: staleEtag(row, c.etag),
		}, request.Fault(err)
	})
}

// UpdateVolume changes exactly what the mask names.
func (s *Service) UpdateVolume(ctx context.Context, req *connect.Request[storagev1.UpdateVolumeRequest]) (*connect.Response[storagev1.UpdateVolumeResponse], error) {
	m := req.Msg
	meta := m.GetVolume().GetMeta()
	name := meta.GetId()
	if name == "" {
		name = meta.GetName()
	}
	resp, err := mutate(ctx, s, change{
		call: request.Call{Method: storagev1connect.VolumeServiceUpdateVolumeProcedure, Body: m, RequestID: m.GetRequestId()},
		verb: domain.VerbUpdateVolume, id: name, project: meta.GetProjectId(), etag: meta.GetEtag(),
		apply: func(_ *state.Row, vol *storagev1.Volume, _ *state.Writer) (bool, error) {
			was := proto.CloneOf(vol.GetSpec())
			var v domain.Violations
			domain.ApplyMask(&v, vol, m.GetVolume(), m.GetUpdateMask(), domain.VolumePathAllowed)
			if len(v) == 0 {
				domain.CheckLabels(&v, "volume.meta.labels", vol.GetMeta().GetLabels())
				domain.CheckAnnotations(&v, "volume.meta.annotations", vol.GetMeta().GetAnnotations())
				if q := vol.GetSpec().GetQos(); q.GetIops() < 0 || q.GetBytesPerSecond() < 0 {
					v.Add("volume.spec.qos", "must not be negative; 0 is no limit")
				}
			}
			if err := v.Err(); err != nil {
				return false, err
			}
			if was.GetShared() != vol.GetSpec().GetShared() && len(vol.GetStatus().GetAttachments()) > 0 {
				return false, fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "spec.shared of volume %s cannot change while it is attached", vol.GetMeta().GetName()).WithRemedy("detach it first")
			}
			return !proto.Equal(was.GetQos(), vol.GetSpec().GetQos()), nil
		},
	}, func(v *storagev1.Volume, op *operationv1.Operation) *storagev1.UpdateVolumeResponse {
		return &storagev1.UpdateVolumeResponse{Volume: v, Operation: op}
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

// ResizeVolume grows a volume.
func (s *Service) ResizeVolume(ctx context.Context, req *connect.Request[storagev1.ResizeVolumeRequest]) (*connect.Response[storagev1.ResizeVolumeResponse], error) {
	m := req.Msg
	resp, err := mutate(ctx, s, change{
		call: request.Call{Method: storagev1connect.VolumeServiceResizeVolumeProcedure, Body: m, RequestID: m.GetRequestId()},
		verb: domain.VerbResizeVolume, id: m.GetId(), project: m.GetProjectId(), etag: m.GetEtag(),
		apply: func(row *state.Row, vol *storagev1.Volume, w *state.Writer) (bool, error) {
			size, now := m.GetSizeBytes(), vol.GetSpec().GetSizeBytes()
			switch {
			case size <= 0 || size%512 != 0:
				return false, fault.Invalid(fault.Violation{Field: "size_bytes", Description: "must be a multiple of 512, more than 0"})
			case size < now || size > 64<<40:
				return false, fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "size_bytes %d is outside %d to %d: volumes only grow", size, now, int64(64)<<40).WithRemedy("create a smaller volume, and copy what you need")
			case size == now:
				return vol.GetStatus().GetObservedGeneration() < vol.GetMeta().GetGeneration(), nil
			}
			if pool := s.cfg.Cache.Row(state.KindPool, row.InPool); pool != nil {
				if err := TakeRoom(s.cfg.Cache, w, pool, size-now, false); err != nil {
					return false, err
				}
			}
			vol.Spec.SizeBytes = size
			return true, nil
		},
	}, func(v *storagev1.Volume, op *operationv1.Operation) *storagev1.ResizeVolumeResponse {
		return &storagev1.ResizeVolumeResponse{Volume: v, Operation: op}
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

// DeleteVolume marks a volume that nothing uses; its name is free at once.
func (s *Service) DeleteVolume(ctx context.Context, req *connect.Request[storagev1.DeleteVolumeRequest]) (*connect.Response[storagev1.DeleteVolumeResponse], error) {
	m, now := req.Msg, s.cfg.Now()
	resp, err := request.Do(ctx, s.cfg.Runner, request.Call{
		Method: storagev1connect.VolumeServiceDeleteVolumeProcedure, Body: m, RequestID: m.GetRequestId(),
	}, func(context.Context) (*request.Plan[*storagev1.DeleteVolumeResponse], error) {
		row, err := s.find(m.GetId(), m.GetProjectId())
		switch {
		case err != nil && domain.IsID(m.GetId()):
			return &request.Plan[*storagev1.DeleteVolumeResponse]{Response: &storagev1.DeleteVolumeResponse{}}, nil
		case err != nil:
			return nil, err
		case row.Deleting:
			return &request.Plan[*storagev1.DeleteVolumeResponse]{Response: &storagev1.DeleteVolumeResponse{
				Volume: s.view(row.Volume(), row.Revision), Operation: s.cfg.Cache.Row(state.KindOperation, row.Volume().GetOperationId()).Operation().GetOperation(),
			}}, nil
		}
		if err := domain.CheckEtag(m.GetEtag(), row.Revision); err != nil {
			return nil, err
		}
		rec := row.Volume()
		if err := s.checkUnused(row, rec); err != nil {
			return nil, err
		}
		domain.HandOver(rec, s.shared(row), s.reports)
		vol := rec.GetVolume()
		vol.Meta.DeleteTime = timestamppb.New(now)
		vol.Meta.Generation++
		vol.Status.Phase = storagev1.VolumePhase_VOLUME_PHASE_DELETING
		vol.Status.Reason, vol.Status.Message = "", ""
		op := NewOperation(domain.VerbDeleteVolume, vol, vol.GetMeta().GetGeneration(), now)
		rec.OperationId = op.GetId()
		var w state.Writer
		w.Same(row)
		w.Put(state.Key(state.KindVolume, row.ID), rec)
		w.Delete(state.NameKey(row.Project, state.KindVolume, row.Name))
		w.Put(state.Key(state.KindOperation, op.GetId()), &statev1.OperationRecord{SchemaVersion: 1, Operation: op})
		txn, err := w.Txn()
		return &request.Plan[*storagev1.DeleteVolumeResponse]{
			Txn: txn, Response: &storagev1.DeleteVolumeResponse{Volume: s.view(rec, 0), Operation: op}, ObjectID: row.ID, OperationID: op.GetId(), Refused: staleEtag(row, m.GetEtag()),
		}, request.Fault(err)
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

func (s *Service) checkUnused(row *state.Row, rec *statev1.VolumeRecord) error {
	vol := rec.GetVolume()
	switch {
	case rec.GetOwnerVmId() != "":
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "volume %s lives and dies with VM %s", row.ID, rec.GetOwnerVmId()).WithRemedy("delete the VM")
	case vol.GetSpec().GetDeleteProtection():
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "volume %s is protected from deletion", row.Name).WithRemedy("set spec.delete_protection to false first")
	case len(vol.GetStatus().GetAttachments()) > 0:
		return fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is attached to VM %s", row.Name, vol.GetStatus().GetAttachments()[0].GetVmId()).WithRemedy("detach it first")
	}
	if snaps := s.cfg.Cache.Find(state.Query{Kind: state.KindSnapshot, Owner: row.ID, Limit: 1}).Rows; len(snaps) > 0 {
		return fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s has snapshot %s (%s)", row.Name, snaps[0].Name, snaps[0].ID).WithRemedy("delete its snapshots first")
	}
	made := s.cfg.Cache.Find(state.Query{Kind: state.KindVolume, Ref: state.RefVolume(row.ID), Limit: 1, Keep: func(r *state.Row) bool {
		return r.Phase == int32(storagev1.VolumePhase_VOLUME_PHASE_PENDING) || r.Phase == int32(storagev1.VolumePhase_VOLUME_PHASE_CREATING)
	}}).Rows
	if len(made) > 0 {
		return fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s (%s) is being made from volume %s", made[0].Name, made[0].ID, row.Name).WithRemedy("wait until that is done")
	}
	return nil
}

// settled refuses while a volume is on its way to another pool, or back to a snapshot.
func settled(row *state.Row) error {
	rec, what := row.Volume(), ""
	switch {
	case domain.Moving(rec):
		what = "moved to another pool"
	case domain.Restoring(rec):
		what = "set back to a snapshot"
	default:
		return nil
	}
	return fault.New(metav1.Reason_REASON_WRONG_STATE, "volume %s is being %s", row.Name, what).WithRemedy("wait until that is done")
}

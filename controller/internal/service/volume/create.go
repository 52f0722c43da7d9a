package volume

import (
	"context"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
)

// CreateVolume accepts a volume in one commit: the volume, its name and its operation. The leader chooses who makes it.
func (s *Service) CreateVolume(ctx context.Context, req *connect.Request[storagev1.CreateVolumeRequest]) (*connect.Response[storagev1.CreateVolumeResponse], error) {
	now, given := s.cfg.Now(), req.Msg.GetVolume()
	spec := proto.CloneOf(given.GetSpec())
	if spec == nil {
		spec = &storagev1.VolumeSpec{}
	}
	if spec.GetPoolId() == "" {
		spec.PoolId = domain.DefaultPool
	}
	meta := domain.NewMeta(domain.NewID(now), given.GetMeta().GetName(), domain.Project(given.GetMeta().GetProjectId()), given.GetMeta().GetLabels(), given.GetMeta().GetAnnotations())
	meta.CreateTime, meta.UpdateTime = timestamppb.New(now), timestamppb.New(now)
	var v domain.Violations
	domain.ValidateVolume(&v, &storagev1.Volume{Meta: meta, Spec: spec})
	if err := v.Err(); err != nil {
		return nil, err
	}
	resp, err := request.Do(ctx, s.cfg.Runner, request.Call{
		Method: storagev1connect.VolumeServiceCreateVolumeProcedure, Body: req.Msg, RequestID: req.Msg.GetRequestId(),
	}, func(context.Context) (*request.Plan[*storagev1.CreateVolumeResponse], error) {
		nameKey := state.NameKey(meta.GetProjectId(), state.KindVolume, meta.GetName())
		if other := s.cfg.Cache.ByName(meta.GetProjectId(), state.KindVolume, meta.GetName()); other != "" {
			return nil, nameTaken(meta, other)
		}
		vol := &storagev1.Volume{Meta: meta, Spec: proto.CloneOf(spec), Status: &storagev1.VolumeStatus{
			Phase: storagev1.VolumePhase_VOLUME_PHASE_PENDING, AllocationBytes: -1, Message: "waits for a node that makes it",
		}}
		var w state.Writer
		if err := s.refer(&w, vol); err != nil {
			return nil, err
		}
		op := NewOperation(domain.VerbCreateVolume, vol, 1, now)
		w.Put(state.Key(state.KindVolume, meta.GetId()), &statev1.VolumeRecord{SchemaVersion: 1, Volume: vol, OperationId: op.GetId()})
		w.Put(state.Key(state.KindOperation, op.GetId()), &statev1.OperationRecord{SchemaVersion: 1, Operation: op})
		w.PutText(nameKey, meta.GetId())
		w.Require(store.KeyAbsent(nameKey))
		txn, err := w.Txn()
		return &request.Plan[*storagev1.CreateVolumeResponse]{
			Txn: txn, Response: &storagev1.CreateVolumeResponse{Volume: proto.CloneOf(vol), Operation: op}, ObjectID: meta.GetId(), OperationID: op.GetId(),
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

// refer puts ids in place of names, completes the size, and makes the commit conditional on what the volume is made from.
func (s *Service) refer(w *state.Writer, vol *storagev1.Volume) error {
	var v domain.Violations
	spec, project := vol.GetSpec(), vol.GetMeta().GetProjectId()
	pool := PoolRow(s.cfg.Cache, project, spec.GetPoolId())
	if pool == nil {
		v.Add("volume.spec.pool_id", "there is no pool %q: list storage pools to see which there are", spec.GetPoolId())
		return v.Err()
	}
	spec.PoolId = pool.ID
	var size int64
	switch src := spec.GetSource().GetSource().(type) {
	case *storagev1.VolumeSource_ImageId:
		row := s.cfg.Cache.Resolve(state.KindImage, project, src.ImageId)
		if row == nil || row.Deleting {
			v.Add("volume.spec.source.image_id", "there is no image %q in project %q", src.ImageId, project)
			break
		}
		spec.Source = &storagev1.VolumeSource{Source: &storagev1.VolumeSource_ImageId{ImageId: row.ID}}
		size = row.Image().GetImage().GetStatus().GetVirtualSizeBytes()
		w.Same(row)
	case *storagev1.VolumeSource_SnapshotId:
		row := s.cfg.Cache.Resolve(state.KindSnapshot, project, src.SnapshotId)
		if row == nil || row.Deleting {
			v.Add("volume.spec.source.snapshot_id", "there is no snapshot %q in project %q", src.SnapshotId, project)
			break
		}
		if row.InPool != pool.ID {
			v.Add("volume.spec.source.snapshot_id", "snapshot %q lies in another pool: leave pool_id out, or export and import it", src.SnapshotId)
		}
		spec.Source = &storagev1.VolumeSource{Source: &storagev1.VolumeSource_SnapshotId{SnapshotId: row.ID}}
		size = row.Size
		w.Same(row)
		w.Put(state.Key(state.KindSnapshot, row.ID), row.Snapshot()) // whoever deletes it meanwhile has to look again
	case *storagev1.VolumeSource_VolumeId:
		row := s.cfg.Cache.Resolve(state.KindVolume, project, src.VolumeId)
		if row == nil || row.Deleting {
			v.Add("volume.spec.source.volume_id", "there is no volume %q in project %q", src.VolumeId, project)
			break
		}
		from := row.Volume().GetVolume()
		if row.InPool != pool.ID {
			v.Add("volume.spec.source.volume_id", "volume %q lies in another pool", src.VolumeId)
		}
		if err := settled(row); err != nil {
			return err
		}
		if len(from.GetStatus().GetAttachments()) > 0 {
			return fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is attached to VM %s", row.Name, from.GetStatus().GetAttachments()[0].GetVmId()).
				WithRemedy("detach it, or take a snapshot and make the volume from that")
		}
		spec.Source = &storagev1.VolumeSource{Source: &storagev1.VolumeSource_VolumeId{VolumeId: row.ID}}
		size = max(from.GetSpec().GetSizeBytes(), from.GetStatus().GetSizeBytes())
		w.Same(row)
		w.Put(state.Key(state.KindVolume, row.ID), row.Volume()) // whoever deletes or attaches it meanwhile has to look again
	}
	if spec.GetSizeBytes() == 0 {
		spec.SizeBytes = size
	} else if spec.GetSizeBytes() < size {
		v.Add("volume.spec.size_bytes", "is smaller than its source, which needs %d", size)
	}
	if err := v.Err(); err != nil {
		return err
	}
	return TakeRoom(s.cfg.Cache, w, pool, spec.GetSizeBytes(), true)
}

func nameTaken(meta *metav1.ObjectMeta, other string) error {
	return fault.New(metav1.Reason_REASON_NAME_TAKEN, "a volume named %q exists in project %q (%s)", meta.GetName(), meta.GetProjectId(), other).
		WithRemedy("choose another name, or delete that volume").WithMetadata("id", other)
}

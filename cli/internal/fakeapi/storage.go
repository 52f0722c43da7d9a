package fakeapi

import (
	"context"
	"fmt"
	"slices"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
)

type pools struct {
	storagev1connect.UnimplementedStoragePoolServiceHandler
	*Server
}

// meta is any object that carries meta.
type withMeta interface{ GetMeta() *metav1.ObjectMeta }

func findIn[T withMeta](list []T, id string, reason metav1.Reason, kind string) (T, error) {
	i := slices.IndexFunc(list, func(o T) bool { return o.GetMeta().GetId() == id || o.GetMeta().GetName() == id })
	if i < 0 {
		var none T
		return none, Error(fault.New(reason, "there is no %s %q", kind, id))
	}
	return list[i], nil
}

func without[T withMeta](list []T, id string) []T {
	return slices.DeleteFunc(list, func(o T) bool { return o.GetMeta().GetId() == id })
}

func (p pools) CreateStoragePool(_ context.Context, req *connect.Request[storagev1.CreateStoragePoolRequest]) (*connect.Response[storagev1.CreateStoragePoolResponse], error) {
	p.Lock()
	defer p.Unlock()
	pool := req.Msg.GetStoragePool()
	pool.Meta = newMeta(pool.GetMeta(), fmt.Sprintf("pool-%d", len(p.Pools)+1))
	pool.Status = &storagev1.StoragePoolStatus{
		Phase: storagev1.StoragePoolPhase_STORAGE_POOL_PHASE_READY, CapacityBytes: 100 << 30, UsedBytes: 10 << 30,
		Nodes: []*storagev1.PoolNodeStatus{{NodeId: "n1", NodeName: "host1", Health: storagev1.PoolHealth_POOL_HEALTH_HEALTHY, CapacityBytes: 100 << 30, UsedBytes: 10 << 30}},
	}
	p.Secrets = map[string][]byte{}
	for name, b := range pool.GetSpec().GetSecrets() {
		p.Secrets[name] = b
		pool.Status.SecretNames = append(pool.Status.SecretNames, name)
	}
	pool.Spec.Secrets = nil
	p.Pools = append(p.Pools, pool)
	return connect.NewResponse(&storagev1.CreateStoragePoolResponse{StoragePool: pool, Operation: p.operate("CreateStoragePool", "StoragePool", pool.GetMeta())}), nil
}

func (p pools) GetStoragePool(_ context.Context, req *connect.Request[storagev1.GetStoragePoolRequest]) (*connect.Response[storagev1.GetStoragePoolResponse], error) {
	p.Lock()
	defer p.Unlock()
	pool, err := findIn(p.Pools, req.Msg.GetId(), metav1.Reason_REASON_POOL_NOT_FOUND, "storage pool")
	return connect.NewResponse(&storagev1.GetStoragePoolResponse{StoragePool: pool}), err
}

func (p pools) ListStoragePools(context.Context, *connect.Request[storagev1.ListStoragePoolsRequest]) (*connect.Response[storagev1.ListStoragePoolsResponse], error) {
	p.Lock()
	defer p.Unlock()
	return connect.NewResponse(&storagev1.ListStoragePoolsResponse{StoragePools: slices.Clone(p.Pools)}), nil
}

func (p pools) UpdateStoragePool(_ context.Context, req *connect.Request[storagev1.UpdateStoragePoolRequest]) (*connect.Response[storagev1.UpdateStoragePoolResponse], error) {
	p.Lock()
	defer p.Unlock()
	pool, err := findIn(p.Pools, req.Msg.GetStoragePool().GetMeta().GetName(), metav1.Reason_REASON_POOL_NOT_FOUND, "storage pool")
	if err != nil {
		return nil, err
	}
	p.Masks = append(p.Masks, req.Msg.GetUpdateMask().GetPaths())
	pool.Spec.Cordoned = req.Msg.GetStoragePool().GetSpec().GetCordoned()
	return connect.NewResponse(&storagev1.UpdateStoragePoolResponse{StoragePool: pool, Operation: p.operate("UpdateStoragePool", "StoragePool", pool.GetMeta())}), nil
}

func (p pools) DeleteStoragePool(_ context.Context, req *connect.Request[storagev1.DeleteStoragePoolRequest]) (*connect.Response[storagev1.DeleteStoragePoolResponse], error) {
	p.Lock()
	defer p.Unlock()
	pool, err := findIn(p.Pools, req.Msg.GetId(), metav1.Reason_REASON_POOL_NOT_FOUND, "storage pool")
	if err != nil {
		return nil, err
	}
	p.Pools = without(p.Pools, pool.GetMeta().GetId())
	return connect.NewResponse(&storagev1.DeleteStoragePoolResponse{StoragePool: pool, Operation: p.operate("DeleteStoragePool", "StoragePool", pool.GetMeta())}), nil
}

type volumes struct {
	storagev1connect.UnimplementedVolumeServiceHandler
	*Server
}

func (v volumes) CreateVolume(_ context.Context, req *connect.Request[storagev1.CreateVolumeRequest]) (*connect.Response[storagev1.CreateVolumeResponse], error) {
	v.Lock()
	defer v.Unlock()
	vol := req.Msg.GetVolume()
	vol.Meta = newMeta(vol.GetMeta(), fmt.Sprintf("volume-%d", len(v.Volumes)+1))
	vol.Status = &storagev1.VolumeStatus{Phase: storagev1.VolumePhase_VOLUME_PHASE_READY, AllocationBytes: 1 << 20, SizeBytes: vol.GetSpec().GetSizeBytes()}
	v.Volumes = append(v.Volumes, vol)
	return connect.NewResponse(&storagev1.CreateVolumeResponse{Volume: vol, Operation: v.operate("CreateVolume", "Volume", vol.GetMeta())}), nil
}

func (v volumes) find(id string) (*storagev1.Volume, error) {
	return findIn(v.Volumes, id, metav1.Reason_REASON_VOLUME_NOT_FOUND, "volume")
}

func (v volumes) GetVolume(_ context.Context, req *connect.Request[storagev1.GetVolumeRequest]) (*connect.Response[storagev1.GetVolumeResponse], error) {
	v.Lock()
	defer v.Unlock()
	vol, err := v.find(req.Msg.GetId())
	return connect.NewResponse(&storagev1.GetVolumeResponse{Volume: vol}), err
}

func (v volumes) ListVolumes(context.Context, *connect.Request[storagev1.ListVolumesRequest]) (*connect.Response[storagev1.ListVolumesResponse], error) {
	v.Lock()
	defer v.Unlock()
	return connect.NewResponse(&storagev1.ListVolumesResponse{Volumes: slices.Clone(v.Volumes)}), nil
}

func (v volumes) UpdateVolume(_ context.Context, req *connect.Request[storagev1.UpdateVolumeRequest]) (*connect.Response[storagev1.UpdateVolumeResponse], error) {
	v.Lock()
	defer v.Unlock()
	in := req.Msg.GetVolume()
	vol, err := v.find(either(in.GetMeta()))
	if err != nil {
		return nil, err
	}
	qos := proto.CloneOf(vol.GetSpec().GetQos())
	if qos == nil {
		qos = &storagev1.VolumeQos{}
	}
	for _, path := range req.Msg.GetUpdateMask().GetPaths() {
		switch path {
		case "spec.qos.iops":
			qos.Iops, vol.Spec.Qos = in.GetSpec().GetQos().GetIops(), qos
		case "spec.qos.bytes_per_second":
			qos.BytesPerSecond, vol.Spec.Qos = in.GetSpec().GetQos().GetBytesPerSecond(), qos
		case "spec.shared":
			vol.Spec.Shared = in.GetSpec().GetShared()
		case "spec.delete_protection":
			vol.Spec.DeleteProtection = in.GetSpec().GetDeleteProtection()
		}
	}
	return connect.NewResponse(&storagev1.UpdateVolumeResponse{Volume: vol, Operation: v.operate("UpdateVolume", "Volume", vol.GetMeta())}), nil
}

func (v volumes) ResizeVolume(_ context.Context, req *connect.Request[storagev1.ResizeVolumeRequest]) (*connect.Response[storagev1.ResizeVolumeResponse], error) {
	v.Lock()
	defer v.Unlock()
	vol, err := v.find(req.Msg.GetId())
	if err != nil {
		return nil, err
	}
	if req.Msg.GetSizeBytes() < vol.GetSpec().GetSizeBytes() {
		return nil, Error(fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "volumes only grow"))
	}
	vol.Spec.SizeBytes = req.Msg.GetSizeBytes()
	return connect.NewResponse(&storagev1.ResizeVolumeResponse{Volume: vol, Operation: v.operate("ResizeVolume", "Volume", vol.GetMeta())}), nil
}

func (v volumes) MoveVolume(_ context.Context, req *connect.Request[storagev1.MoveVolumeRequest]) (*connect.Response[storagev1.MoveVolumeResponse], error) {
	v.Lock()
	defer v.Unlock()
	vol, err := v.find(req.Msg.GetId())
	if err != nil {
		return nil, err
	}
	vol.Spec.PoolId = req.Msg.GetPool()
	return connect.NewResponse(&storagev1.MoveVolumeResponse{Volume: vol, Operation: v.operate("MoveVolume", "Volume", vol.GetMeta())}), nil
}

func (v volumes) ExportVolume(_ context.Context, req *connect.Request[storagev1.ExportVolumeRequest], s *connect.ServerStream[storagev1.ExportVolumeResponse]) error {
	if name := req.Msg.GetVolume(); name != "" {
		v.Lock()
		_, err := v.find(name)
		v.Unlock()
		if err != nil {
			return err
		}
	}
	if err := s.Send(&storagev1.ExportVolumeResponse{Data: []byte("content"), SizeBytes: 1 << 20}); err != nil {
		return err
	}
	return s.Send(&storagev1.ExportVolumeResponse{Offset: 7, HoleBytes: 1<<20 - 7, SizeBytes: 1 << 20})
}

func (v volumes) AttachVolume(_ context.Context, req *connect.Request[storagev1.AttachVolumeRequest]) (*connect.Response[storagev1.AttachVolumeResponse], error) {
	v.Lock()
	defer v.Unlock()
	vol, err := v.find(req.Msg.GetId())
	if err != nil {
		return nil, err
	}
	vol.Status.Attachments = []*storagev1.VolumeAttachment{{VmId: req.Msg.GetVm(), Attached: true, Mode: storagev1.VolumeAttachmentMode_VOLUME_ATTACHMENT_MODE_SINGLE_WRITER}}
	return connect.NewResponse(&storagev1.AttachVolumeResponse{Volume: vol, Operation: v.operate("AttachVolume", "VM", vol.GetMeta())}), nil
}

func (v volumes) DetachVolume(_ context.Context, req *connect.Request[storagev1.DetachVolumeRequest]) (*connect.Response[storagev1.DetachVolumeResponse], error) {
	v.Lock()
	defer v.Unlock()
	vol, err := v.find(req.Msg.GetId())
	if err != nil || len(vol.GetStatus().GetAttachments()) == 0 {
		return connect.NewResponse(&storagev1.DetachVolumeResponse{Volume: vol}), err
	}
	vol.Status.Attachments = nil
	return connect.NewResponse(&storagev1.DetachVolumeResponse{Volume: vol, Operation: v.operate("DetachVolume", "VM", vol.GetMeta())}), nil
}

func (v volumes) DeleteVolume(_ context.Context, req *connect.Request[storagev1.DeleteVolumeRequest]) (*connect.Response[storagev1.DeleteVolumeResponse], error) {
	v.Lock()
	defer v.Unlock()
	vol, err := v.find(req.Msg.GetId())
	if err != nil {
		return nil, err
	}
	if len(vol.GetStatus().GetAttachments()) > 0 {
		return nil, Error(fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is attached", vol.GetMeta().GetName()))
	}
	v.Volumes = without(v.Volumes, vol.GetMeta().GetId())
	return connect.NewResponse(&storagev1.DeleteVolumeResponse{Volume: vol, Operation: v.operate("DeleteVolume", "Volume", vol.GetMeta())}), nil
}

type snapshots struct {
	storagev1connect.UnimplementedSnapshotServiceHandler
	*Server
}

func (s snapshots) find(id string) (*storagev1.Snapshot, error) {
	return findIn(s.Snapshots, id, metav1.Reason_REASON_SNAPSHOT_NOT_FOUND, "snapshot")
}

func (s snapshots) CreateSnapshot(_ context.Context, req *connect.Request[storagev1.CreateSnapshotRequest]) (*connect.Response[storagev1.CreateSnapshotResponse], error) {
	s.Lock()
	defer s.Unlock()
	snap := req.Msg.GetSnapshot()
	snap.Meta = newMeta(snap.GetMeta(), fmt.Sprintf("snapshot-%d", len(s.Snapshots)+1))
	snap.Status = &storagev1.SnapshotStatus{Phase: storagev1.SnapshotPhase_SNAPSHOT_PHASE_READY, SizeBytes: 1 << 30, SnapshotTime: timestamppb.New(Epoch), Quiesced: true}
	s.Snapshots = append(s.Snapshots, snap)
	return connect.NewResponse(&storagev1.CreateSnapshotResponse{Snapshot: snap, Operation: s.operate("CreateSnapshot", "Snapshot", snap.GetMeta())}), nil
}

func (s snapshots) GetSnapshot(_ context.Context, req *connect.Request[storagev1.GetSnapshotRequest]) (*connect.Response[storagev1.GetSnapshotResponse], error) {
	s.Lock()
	defer s.Unlock()
	snap, err := s.find(req.Msg.GetId())
	return connect.NewResponse(&storagev1.GetSnapshotResponse{Snapshot: snap}), err
}

func (s snapshots) ListSnapshots(context.Context, *connect.Request[storagev1.ListSnapshotsRequest]) (*connect.Response[storagev1.ListSnapshotsResponse], error) {
	s.Lock()
	defer s.Unlock()
	return connect.NewResponse(&storagev1.ListSnapshotsResponse{Snapshots: slices.Clone(s.Snapshots)}), nil
}

func (s snapshots) RestoreSnapshot(_ context.Context, req *connect.Request[storagev1.RestoreSnapshotRequest]) (*connect.Response[storagev1.RestoreSnapshotResponse], error) {
	s.Lock()
	defer s.Unlock()
	snap, err := s.find(req.Msg.GetId())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&storagev1.RestoreSnapshotResponse{Snapshot: snap, Operation: s.operate("RestoreSnapshot", "Volume", snap.GetMeta())}), nil
}

func (s snapshots) DeleteSnapshot(_ context.Context, req *connect.Request[storagev1.DeleteSnapshotRequest]) (*connect.Response[storagev1.DeleteSnapshotResponse], error) {
	s.Lock()
	defer s.Unlock()
	snap, err := s.find(req.Msg.GetId())
	if err != nil {
		return nil, err
	}
	s.Snapshots = without(s.Snapshots, snap.GetMeta().GetId())
	return connect.NewResponse(&storagev1.DeleteSnapshotResponse{Snapshot: snap, Operation: s.operate("DeleteSnapshot", "Snapshot", snap.GetMeta())}), nil
}

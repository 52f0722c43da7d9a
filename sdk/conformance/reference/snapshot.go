package reference

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// snapshot reads a snapshot of ours.
func (s *storageDriver) snapshot(x *tx, pool, id string) (*driverv1.Snapshot, error) {
	snap := &driverv1.Snapshot{}
	if !x.get(snapshotTable, pool+"/"+id, snap) {
		return nil, notFound(metav1.Reason_REASON_SNAPSHOT_NOT_FOUND, "snapshot", id)
	}
	if !s.ours(snap.GetMark()) {
		return nil, notOurs("snapshot", id)
	}
	return snap, nil
}

func (s *storageDriver) CreateSnapshot(ctx context.Context, req *driverv1.CreateSnapshotRequest) (*driverv1.CreateSnapshotResponse, error) {
	pool, id := req.GetPoolId(), req.GetSnapshotId()
	if err := checkIDs("snapshot_id", id, "volume_id", req.GetVolumeId()); err != nil {
		return nil, err
	}
	if err := s.checkMark(req.GetMark(), id); err != nil {
		return nil, err
	}
	r := &driverv1.CreateSnapshotResponse{}
	return r, s.on(ctx, pool, "snapshot", id, func(x *tx) (err error) {
		if x.has(snapshotTable, pool+"/"+id) {
			if r.Snapshot, err = s.snapshot(x, pool, id); err == nil && r.Snapshot.GetVolumeId() != req.GetVolumeId() {
				err = conflict("snapshot", id)
			}
			return err
		}
		v, err := s.volume(x, pool, req.GetVolumeId())
		if err != nil {
			return err
		}
		if v.GetAttached() {
			return inUse(req.GetVolumeId())
		}
		r.Snapshot = &driverv1.Snapshot{
			PoolId: pool, SnapshotId: id, VolumeId: req.GetVolumeId(), Mark: req.GetMark(), SizeBytes: v.GetSizeBytes(), CreateTime: timestamppb.Now(), Handle: handleOf(id),
		}
		x.putBytes(frozenTable, pool+"/"+id, x.bytes(contentTable, pool+"/"+req.GetVolumeId()))
		return x.put(snapshotTable, pool+"/"+id, r.Snapshot)
	})
}

func (s *storageDriver) DeleteSnapshot(ctx context.Context, req *driverv1.DeleteSnapshotRequest) (*driverv1.DeleteSnapshotResponse, error) {
	pool, id := req.GetPoolId(), req.GetSnapshotId()
	return &driverv1.DeleteSnapshotResponse{}, s.on(ctx, pool, "snapshot", id, func(x *tx) error {
		if _, err := s.snapshot(x, pool, id); err != nil {
			if fault.Is(err, metav1.Reason_REASON_SNAPSHOT_NOT_FOUND) {
				return nil
			}
			return err
		}
		x.del(snapshotTable, pool+"/"+id)
		x.del(frozenTable, pool+"/"+id)
		return nil
	})
}

func (s *storageDriver) ListSnapshots(_ context.Context, req *driverv1.ListSnapshotsRequest) (*driverv1.ListSnapshotsResponse, error) {
	r := &driverv1.ListSnapshotsResponse{}
	return r, s.in(req.GetPoolId(), func(x *tx) error {
		byID, ids := map[string]*driverv1.Snapshot{}, []string(nil)
		for _, key := range x.keys(snapshotTable) {
			snap := &driverv1.Snapshot{}
			if strings.HasPrefix(key, req.GetPoolId()+"/") && x.get(snapshotTable, key, snap) && s.ours(snap.GetMark()) &&
				(req.GetVolumeId() == "" || req.GetVolumeId() == snap.GetVolumeId()) {
				byID[snap.GetSnapshotId()], ids = snap, append(ids, snap.GetSnapshotId())
			}
		}
		ids, r.NextPageToken = page(ids, req.GetPageSize(), req.GetPageToken())
		for _, id := range ids {
			r.Snapshots = append(r.Snapshots, byID[id])
		}
		return nil
	})
}

func (s *storageDriver) RestoreSnapshot(ctx context.Context, req *driverv1.RestoreSnapshotRequest) (*driverv1.RestoreSnapshotResponse, error) {
	pool, id := req.GetPoolId(), req.GetVolumeId()
	r := &driverv1.RestoreSnapshotResponse{}
	return r, s.on(ctx, pool, "volume", id, func(x *tx) error {
		snap, err := s.snapshot(x, pool, req.GetSnapshotId())
		if err != nil {
			return err
		}
		if r.Volume, err = s.volume(x, pool, id); err != nil {
			return err
		}
		switch {
		case snap.GetVolumeId() != id:
			return fault.Invalid(fault.Violation{Field: "volume_id", Description: "the snapshot is of another volume"})
		case r.Volume.GetAttached():
			return inUse(id)
		}
		r.Volume.SizeBytes = snap.GetSizeBytes()
		x.putBytes(contentTable, pool+"/"+id, x.bytes(frozenTable, pool+"/"+req.GetSnapshotId()))
		return x.put(volumeTable, pool+"/"+id, r.Volume)
	})
}

// ExportVolume streams the content, and what is beyond it as one hole.
func (s *storageDriver) ExportVolume(req *driverv1.ExportVolumeRequest, out grpc.ServerStreamingServer[driverv1.ExportVolumeResponse]) error {
	pool := req.GetPoolId()
	var content []byte
	var size int64
	err := s.in(pool, func(x *tx) error {
		if id := req.GetSnapshotId(); id != "" {
			snap, err := s.snapshot(x, pool, id)
			content, size = x.bytes(frozenTable, pool+"/"+id), snap.GetSizeBytes()
			return err
		}
		v, err := s.volume(x, pool, req.GetVolumeId())
		if err == nil && v.GetAttached() {
			err = inUse(req.GetVolumeId())
		}
		content, size = x.bytes(contentTable, pool+"/"+req.GetVolumeId()), v.GetSizeBytes()
		return err
	})
	if err != nil {
		return err
	}
	for at := 0; at < len(content); at += 1 << 20 {
		part := content[at:min(len(content), at+1<<20)]
		if err := out.Send(&driverv1.ExportVolumeResponse{Offset: int64(at), Data: part}); err != nil {
			return err
		}
	}
	if hole := size - int64(len(content)); hole > 0 {
		return out.Send(&driverv1.ExportVolumeResponse{Offset: int64(len(content)), HoleBytes: hole})
	}
	return nil
}

package driver

import (
	"context"

	"github.com/limiquantix/limiquantix/plugins/ceph/internal/rbdpool"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// CreateSnapshot takes a snapshot of a volume, attached or not; it is never pending.
func (d *Driver) CreateSnapshot(ctx context.Context, req *driverv1.CreateSnapshotRequest) (*driverv1.CreateSnapshotResponse, error) {
	return do(ctx, d, req.GetPoolId(), func(s *rbdpool.Session) (*driverv1.CreateSnapshotResponse, error) {
		snap, err := s.CreateSnapshot(req)
		return &driverv1.CreateSnapshotResponse{Snapshot: snap}, err
	}, "snapshot/"+req.GetSnapshotId(), "volume/"+req.GetVolumeId())
}

// DeleteSnapshot removes a snapshot.
func (d *Driver) DeleteSnapshot(ctx context.Context, req *driverv1.DeleteSnapshotRequest) (*driverv1.DeleteSnapshotResponse, error) {
	return do(ctx, d, req.GetPoolId(), func(s *rbdpool.Session) (*driverv1.DeleteSnapshotResponse, error) {
		return &driverv1.DeleteSnapshotResponse{}, s.DeleteSnapshot(req.GetSnapshotId())
	}, "snapshot/"+req.GetSnapshotId())
}

// ListSnapshots pages through snapshots; the token is the last id.
func (d *Driver) ListSnapshots(ctx context.Context, req *driverv1.ListSnapshotsRequest) (*driverv1.ListSnapshotsResponse, error) {
	return do(ctx, d, req.GetPoolId(), func(s *rbdpool.Session) (*driverv1.ListSnapshotsResponse, error) {
		list, next, err := s.ListSnapshots(req.GetVolumeId(), req.GetPageToken(), limit(req.GetPageSize()))
		return &driverv1.ListSnapshotsResponse{Snapshots: list, NextPageToken: next}, err
	})
}

// RestoreSnapshot sets a volume back.
func (d *Driver) RestoreSnapshot(ctx context.Context, req *driverv1.RestoreSnapshotRequest) (*driverv1.RestoreSnapshotResponse, error) {
	return do(ctx, d, req.GetPoolId(), func(s *rbdpool.Session) (*driverv1.RestoreSnapshotResponse, error) {
		v, err := s.RestoreSnapshot(req.GetSnapshotId(), req.GetVolumeId())
		return &driverv1.RestoreSnapshotResponse{Volume: v}, err
	}, "snapshot/"+req.GetSnapshotId(), "volume/"+req.GetVolumeId())
}

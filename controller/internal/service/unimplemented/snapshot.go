package unimplemented

import (
	"context"

	"connectrpc.com/connect"

	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
)

// Snapshot implements storagev1connect.SnapshotServiceHandler: every call says which release brings it.
type Snapshot struct{}

var _ storagev1connect.SnapshotServiceHandler = Snapshot{}

// CreateSnapshot comes later.
func (Snapshot) CreateSnapshot(context.Context, *connect.Request[storagev1.CreateSnapshotRequest]) (*connect.Response[storagev1.CreateSnapshotResponse], error) {
	return nil, StorageMethod("CreateSnapshot")
}

// GetSnapshot comes later.
func (Snapshot) GetSnapshot(context.Context, *connect.Request[storagev1.GetSnapshotRequest]) (*connect.Response[storagev1.GetSnapshotResponse], error) {
	return nil, StorageMethod("GetSnapshot")
}

// ListSnapshots comes later.
func (Snapshot) ListSnapshots(context.Context, *connect.Request[storagev1.ListSnapshotsRequest]) (*connect.Response[storagev1.ListSnapshotsResponse], error) {
	return nil, StorageMethod("ListSnapshots")
}

// UpdateSnapshot comes later.
func (Snapshot) UpdateSnapshot(context.Context, *connect.Request[storagev1.UpdateSnapshotRequest]) (*connect.Response[storagev1.UpdateSnapshotResponse], error) {
	return nil, StorageMethod("UpdateSnapshot")
}

// RestoreSnapshot comes later.
func (Snapshot) RestoreSnapshot(context.Context, *connect.Request[storagev1.RestoreSnapshotRequest]) (*connect.Response[storagev1.RestoreSnapshotResponse], error) {
	return nil, StorageMethod("RestoreSnapshot")
}

// DeleteSnapshot comes later.
func (Snapshot) DeleteSnapshot(context.Context, *connect.Request[storagev1.DeleteSnapshotRequest]) (*connect.Response[storagev1.DeleteSnapshotResponse], error) {
	return nil, StorageMethod("DeleteSnapshot")
}

package unimplemented

import (
	"context"

	"connectrpc.com/connect"

	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
)

// Volume implements storagev1connect.VolumeServiceHandler: every call says which release brings it.
type Volume struct{}

var _ storagev1connect.VolumeServiceHandler = Volume{}

// CreateVolume comes later.
func (Volume) CreateVolume(context.Context, *connect.Request[storagev1.CreateVolumeRequest]) (*connect.Response[storagev1.CreateVolumeResponse], error) {
	return nil, StorageMethod("CreateVolume")
}

// GetVolume comes later.
func (Volume) GetVolume(context.Context, *connect.Request[storagev1.GetVolumeRequest]) (*connect.Response[storagev1.GetVolumeResponse], error) {
	return nil, StorageMethod("GetVolume")
}

// ListVolumes comes later.
func (Volume) ListVolumes(context.Context, *connect.Request[storagev1.ListVolumesRequest]) (*connect.Response[storagev1.ListVolumesResponse], error) {
	return nil, StorageMethod("ListVolumes")
}

// UpdateVolume comes later.
func (Volume) UpdateVolume(context.Context, *connect.Request[storagev1.UpdateVolumeRequest]) (*connect.Response[storagev1.UpdateVolumeResponse], error) {
	return nil, StorageMethod("UpdateVolume")
}

// ResizeVolume comes later.
func (Volume) ResizeVolume(context.Context, *connect.Request[storagev1.ResizeVolumeRequest]) (*connect.Response[storagev1.ResizeVolumeResponse], error) {
	return nil, StorageMethod("ResizeVolume")
}

// AttachVolume comes later.
func (Volume) AttachVolume(context.Context, *connect.Request[storagev1.AttachVolumeRequest]) (*connect.Response[storagev1.AttachVolumeResponse], error) {
	return nil, StorageMethod("AttachVolume")
}

// DetachVolume comes later.
func (Volume) DetachVolume(context.Context, *connect.Request[storagev1.DetachVolumeRequest]) (*connect.Response[storagev1.DetachVolumeResponse], error) {
	return nil, StorageMethod("DetachVolume")
}

// MoveVolume comes later.
func (Volume) MoveVolume(context.Context, *connect.Request[storagev1.MoveVolumeRequest]) (*connect.Response[storagev1.MoveVolumeResponse], error) {
	return nil, StorageMethod("MoveVolume")
}

// ExportVolume comes later.
func (Volume) ExportVolume(context.Context, *connect.Request[storagev1.ExportVolumeRequest], *connect.ServerStream[storagev1.ExportVolumeResponse]) error {
	return StorageMethod("ExportVolume")
}

// DeleteVolume comes later.
func (Volume) DeleteVolume(context.Context, *connect.Request[storagev1.DeleteVolumeRequest]) (*connect.Response[storagev1.DeleteVolumeResponse], error) {
	return nil, StorageMethod("DeleteVolume")
}

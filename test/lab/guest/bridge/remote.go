package main

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// remote passes every call on as it is.
type remote struct {
	driverv1.UnimplementedStorageDriverServiceServer
	c driverv1.StorageDriverServiceClient
}

func (r remote) EnsurePool(ctx context.Context, req *driverv1.EnsurePoolRequest) (*driverv1.EnsurePoolResponse, error) {
	return r.c.EnsurePool(ctx, req)
}

func (r remote) ReleasePool(ctx context.Context, req *driverv1.ReleasePoolRequest) (*driverv1.ReleasePoolResponse, error) {
	return r.c.ReleasePool(ctx, req)
}

func (r remote) GetPool(ctx context.Context, req *driverv1.GetPoolRequest) (*driverv1.GetPoolResponse, error) {
	return r.c.GetPool(ctx, req)
}

func (r remote) CreateVolume(ctx context.Context, req *driverv1.CreateVolumeRequest) (*driverv1.CreateVolumeResponse, error) {
	return r.c.CreateVolume(ctx, req)
}

func (r remote) DeleteVolume(ctx context.Context, req *driverv1.DeleteVolumeRequest) (*driverv1.DeleteVolumeResponse, error) {
	return r.c.DeleteVolume(ctx, req)
}

func (r remote) GetVolume(ctx context.Context, req *driverv1.GetVolumeRequest) (*driverv1.GetVolumeResponse, error) {
	return r.c.GetVolume(ctx, req)
}

func (r remote) ListVolumes(ctx context.Context, req *driverv1.ListVolumesRequest) (*driverv1.ListVolumesResponse, error) {
	return r.c.ListVolumes(ctx, req)
}

func (r remote) ResizeVolume(ctx context.Context, req *driverv1.ResizeVolumeRequest) (*driverv1.ResizeVolumeResponse, error) {
	return r.c.ResizeVolume(ctx, req)
}

func (r remote) AttachVolume(ctx context.Context, req *driverv1.AttachVolumeRequest) (*driverv1.AttachVolumeResponse, error) {
	return r.c.AttachVolume(ctx, req)
}

func (r remote) DetachVolume(ctx context.Context, req *driverv1.DetachVolumeRequest) (*driverv1.DetachVolumeResponse, error) {
	return r.c.DetachVolume(ctx, req)
}

func (r remote) CreateSnapshot(ctx context.Context, req *driverv1.CreateSnapshotRequest) (*driverv1.CreateSnapshotResponse, error) {
	return r.c.CreateSnapshot(ctx, req)
}

func (r remote) CommitSnapshot(ctx context.Context, req *driverv1.CommitSnapshotRequest) (*driverv1.CommitSnapshotResponse, error) {
	return r.c.CommitSnapshot(ctx, req)
}

func (r remote) DeleteSnapshot(ctx context.Context, req *driverv1.DeleteSnapshotRequest) (*driverv1.DeleteSnapshotResponse, error) {
	return r.c.DeleteSnapshot(ctx, req)
}

func (r remote) ListSnapshots(ctx context.Context, req *driverv1.ListSnapshotsRequest) (*driverv1.ListSnapshotsResponse, error) {
	return r.c.ListSnapshots(ctx, req)
}

func (r remote) RestoreSnapshot(ctx context.Context, req *driverv1.RestoreSnapshotRequest) (*driverv1.RestoreSnapshotResponse, error) {
	return r.c.RestoreSnapshot(ctx, req)
}

// ImportImage passes a stream on.
func (r remote) ImportImage(s driverv1.StorageDriverService_ImportImageServer) error {
	to, err := r.c.ImportImage(s.Context())
	if err != nil {
		return err
	}
	return passOn(s, to)
}

func (r remote) GetImage(ctx context.Context, req *driverv1.GetImageRequest) (*driverv1.GetImageResponse, error) {
	return r.c.GetImage(ctx, req)
}

func (r remote) ListImages(ctx context.Context, req *driverv1.ListImagesRequest) (*driverv1.ListImagesResponse, error) {
	return r.c.ListImages(ctx, req)
}

func (r remote) DeleteImage(ctx context.Context, req *driverv1.DeleteImageRequest) (*driverv1.DeleteImageResponse, error) {
	return r.c.DeleteImage(ctx, req)
}

func (r remote) AttachImage(ctx context.Context, req *driverv1.AttachImageRequest) (*driverv1.AttachImageResponse, error) {
	return r.c.AttachImage(ctx, req)
}

// ExportVolume passes a stream on.
func (r remote) ExportVolume(req *driverv1.ExportVolumeRequest, s driverv1.StorageDriverService_ExportVolumeServer) error {
	from, err := r.c.ExportVolume(s.Context(), req)
	if err != nil {
		return err
	}
	for {
		m, err := from.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = s.Send(m)
		}
		if err != nil {
			return err
		}
	}
}

// ImportVolume passes a stream on.
func (r remote) ImportVolume(s driverv1.StorageDriverService_ImportVolumeServer) error {
	to, err := r.c.ImportVolume(s.Context())
	if err != nil {
		return err
	}
	return passOn(s, to)
}

// passOn passes on what a client sends, and the answer to it.
func passOn[Req, Res any](from grpc.ClientStreamingServer[Req, Res], to grpc.ClientStreamingClient[Req, Res]) error {
	for {
		m, err := from.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if to.Send(m) != nil {
			break // the answer says why
		}
	}
	a, err := to.CloseAndRecv()
	if err != nil {
		return err
	}
	return from.SendAndClose(a)
}

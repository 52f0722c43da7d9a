package driver

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	"github.com/limiquantix/limiquantix/plugins/nfs/internal/worker"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

type client = driverv1.StorageDriverServiceClient

// relay hands a call to the worker of its pool.
func relay[Q interface{ GetPoolId() string }, R any](ctx context.Context, d *Driver, req Q, method func(client, context.Context, Q, ...grpc.CallOption) (R, error)) (R, error) {
	var none R
	p, err := d.pool(req.GetPoolId())
	if err != nil {
		return none, err
	}
	ctx, cancel := context.WithTimeout(ctx, p.limits.call)
	defer cancel()
	w, err := p.client(ctx)
	if err != nil {
		return none, err
	}
	r, err := method(w, ctx, req)
	if err != nil {
		return none, p.answered(ctx, w, err)
	}
	return r, nil
}

// CreateVolume makes a volume.
func (d *Driver) CreateVolume(ctx context.Context, req *driverv1.CreateVolumeRequest) (*driverv1.CreateVolumeResponse, error) {
	return relay(ctx, d, req, client.CreateVolume)
}

// DeleteVolume removes a volume.
func (d *Driver) DeleteVolume(ctx context.Context, req *driverv1.DeleteVolumeRequest) (*driverv1.DeleteVolumeResponse, error) {
	return relay(ctx, d, req, client.DeleteVolume)
}

// GetVolume reads a volume.
func (d *Driver) GetVolume(ctx context.Context, req *driverv1.GetVolumeRequest) (*driverv1.GetVolumeResponse, error) {
	return relay(ctx, d, req, client.GetVolume)
}

// ListVolumes pages through volumes.
func (d *Driver) ListVolumes(ctx context.Context, req *driverv1.ListVolumesRequest) (*driverv1.ListVolumesResponse, error) {
	return relay(ctx, d, req, client.ListVolumes)
}

// ResizeVolume grows a detached volume.
func (d *Driver) ResizeVolume(ctx context.Context, req *driverv1.ResizeVolumeRequest) (*driverv1.ResizeVolumeResponse, error) {
	return relay(ctx, d, req, client.ResizeVolume)
}

// AttachVolume says where a volume's file is.
func (d *Driver) AttachVolume(ctx context.Context, req *driverv1.AttachVolumeRequest) (*driverv1.AttachVolumeResponse, error) {
	return relay(ctx, d, req, client.AttachVolume)
}

// DetachVolume ends a volume's use.
func (d *Driver) DetachVolume(ctx context.Context, req *driverv1.DetachVolumeRequest) (*driverv1.DetachVolumeResponse, error) {
	return relay(ctx, d, req, client.DetachVolume)
}

// CreateSnapshot takes a snapshot, or makes the overlay for one of a volume in use.
func (d *Driver) CreateSnapshot(ctx context.Context, req *driverv1.CreateSnapshotRequest) (*driverv1.CreateSnapshotResponse, error) {
	return relay(ctx, d, req, client.CreateSnapshot)
}

// CommitSnapshot makes a snapshot's overlay the volume.
func (d *Driver) CommitSnapshot(ctx context.Context, req *driverv1.CommitSnapshotRequest) (*driverv1.CommitSnapshotResponse, error) {
	return relay(ctx, d, req, client.CommitSnapshot)
}

// DeleteSnapshot removes a snapshot.
func (d *Driver) DeleteSnapshot(ctx context.Context, req *driverv1.DeleteSnapshotRequest) (*driverv1.DeleteSnapshotResponse, error) {
	return relay(ctx, d, req, client.DeleteSnapshot)
}

// ListSnapshots pages through snapshots.
func (d *Driver) ListSnapshots(ctx context.Context, req *driverv1.ListSnapshotsRequest) (*driverv1.ListSnapshotsResponse, error) {
	return relay(ctx, d, req, client.ListSnapshots)
}

// RestoreSnapshot sets a volume back.
func (d *Driver) RestoreSnapshot(ctx context.Context, req *driverv1.RestoreSnapshotRequest) (*driverv1.RestoreSnapshotResponse, error) {
	return relay(ctx, d, req, client.RestoreSnapshot)
}

// GetImage reads an image copy.
func (d *Driver) GetImage(ctx context.Context, req *driverv1.GetImageRequest) (*driverv1.GetImageResponse, error) {
	return relay(ctx, d, req, client.GetImage)
}

// ListImages pages through image copies.
func (d *Driver) ListImages(ctx context.Context, req *driverv1.ListImagesRequest) (*driverv1.ListImagesResponse, error) {
	return relay(ctx, d, req, client.ListImages)
}

// DeleteImage removes an image copy.
func (d *Driver) DeleteImage(ctx context.Context, req *driverv1.DeleteImageRequest) (*driverv1.DeleteImageResponse, error) {
	return relay(ctx, d, req, client.DeleteImage)
}

// AttachImage says where an image copy's file is.
func (d *Driver) AttachImage(ctx context.Context, req *driverv1.AttachImageRequest) (*driverv1.AttachImageResponse, error) {
	return relay(ctx, d, req, client.AttachImage)
}

// ExportVolume streams content from the worker.
func (d *Driver) ExportVolume(req *driverv1.ExportVolumeRequest, out grpc.ServerStreamingServer[driverv1.ExportVolumeResponse]) error {
	p, w, err := d.of(out.Context(), req.GetPoolId())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(out.Context())
	defer cancel()
	in, err := w.ExportVolume(ctx, req)
	for err == nil {
		var part *driverv1.ExportVolumeResponse
		if part, err = in.Recv(); err == nil {
			if err := out.Send(part); err != nil {
				return err
			}
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return p.answered(out.Context(), w, err)
}

func (d *Driver) of(ctx context.Context, id string) (*pool, *worker.Worker, error) {
	p, err := d.pool(id)
	if err != nil {
		return nil, nil, err
	}
	w, err := p.client(ctx)
	return p, w, err
}

// ImportImage hands a stream to the worker.
func (d *Driver) ImportImage(in grpc.ClientStreamingServer[driverv1.ImportImageRequest, driverv1.ImportImageResponse]) error {
	return pump(d, in, client.ImportImage, func(m *driverv1.ImportImageRequest) (string, bool) {
		return m.GetHeader().GetPoolId(), m.GetHeader() != nil
	})
}

// ImportVolume hands a stream to the worker.
func (d *Driver) ImportVolume(in grpc.ClientStreamingServer[driverv1.ImportVolumeRequest, driverv1.ImportVolumeResponse]) error {
	return pump(d, in, client.ImportVolume, func(m *driverv1.ImportVolumeRequest) (string, bool) {
		return m.GetHeader().GetPoolId(), m.GetHeader() != nil
	})
}

// pump hands a stream of messages to the worker of the pool that the first one names, and its answer back, also one that comes before the end of the stream.
func pump[Q, R any](
	d *Driver, in grpc.ClientStreamingServer[Q, R], method func(client, context.Context, ...grpc.CallOption) (grpc.ClientStreamingClient[Q, R], error), poolOf func(*Q) (string, bool),
) error {
	first, err := in.Recv()
	if err != nil {
		return err
	}
	id, ok := poolOf(first)
	if !ok {
		return fault.Invalid(fault.Violation{Field: "header", Description: "must come first"})
	}
	p, w, err := d.of(in.Context(), id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(in.Context())
	defer cancel()
	out, err := method(w, ctx)
	if err != nil {
		return p.answered(in.Context(), w, err)
	}
	go func() { // ends with the call: in.Recv fails when this handler returns
		var err error
		for m := first; err == nil; m, err = in.Recv() {
			if out.Send(m) != nil {
				return // the answer says why
			}
		}
		if !errors.Is(err, io.EOF) {
			cancel()
			return
		}
		_ = out.CloseSend()
	}()
	answer := new(R)
	if err := out.RecvMsg(answer); err != nil {
		return p.answered(in.Context(), w, err)
	}
	return in.SendAndClose(answer)
}

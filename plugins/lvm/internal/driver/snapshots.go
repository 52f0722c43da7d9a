package driver

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// CreateSnapshot takes a snapshot, of a volume in use or not.
func (d *Driver) CreateSnapshot(ctx context.Context, req *driverv1.CreateSnapshotRequest) (*driverv1.CreateSnapshotResponse, error) {
	p, unlock, err := d.locked(req.GetPoolId(), "snapshot/"+req.GetSnapshotId(), "volume/"+req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	s, err := p.CreateSnapshot(ctx, req)
	if err != nil {
		return nil, err
	}
	return &driverv1.CreateSnapshotResponse{Snapshot: s}, nil
}

// CommitSnapshot is for drivers that make overlays.
func (d *Driver) CommitSnapshot(context.Context, *driverv1.CommitSnapshotRequest) (*driverv1.CommitSnapshotResponse, error) {
	return nil, fault.New(metav1.Reason_REASON_NO_CAPABILITY, "the lvm driver takes snapshots by itself: none is ever pending")
}

// DeleteSnapshot removes a snapshot.
func (d *Driver) DeleteSnapshot(ctx context.Context, req *driverv1.DeleteSnapshotRequest) (*driverv1.DeleteSnapshotResponse, error) {
	p, unlock, err := d.locked(req.GetPoolId(), "snapshot/"+req.GetSnapshotId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	return &driverv1.DeleteSnapshotResponse{}, p.DeleteSnapshot(ctx, req.GetSnapshotId())
}

// ListSnapshots pages through snapshots; the token is the last id.
func (d *Driver) ListSnapshots(ctx context.Context, req *driverv1.ListSnapshotsRequest) (*driverv1.ListSnapshotsResponse, error) {
	p, err := d.pool(req.GetPoolId())
	if err != nil {
		return nil, err
	}
	list, next, err := p.ListSnapshots(ctx, req.GetVolumeId(), req.GetPageToken(), limit(req.GetPageSize()))
	if err != nil {
		return nil, err
	}
	return &driverv1.ListSnapshotsResponse{Snapshots: list, NextPageToken: next}, nil
}

// RestoreSnapshot sets a volume back.
func (d *Driver) RestoreSnapshot(ctx context.Context, req *driverv1.RestoreSnapshotRequest) (*driverv1.RestoreSnapshotResponse, error) {
	p, unlock, err := d.locked(req.GetPoolId(), "snapshot/"+req.GetSnapshotId(), "volume/"+req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	v, err := p.RestoreSnapshot(ctx, req.GetSnapshotId(), req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	return &driverv1.RestoreSnapshotResponse{Volume: v}, nil
}

// ExportVolume streams the content of a volume, a snapshot or an image copy.
func (d *Driver) ExportVolume(req *driverv1.ExportVolumeRequest, out grpc.ServerStreamingServer[driverv1.ExportVolumeResponse]) error {
	var keys []string
	switch x := req.GetSubject().(type) {
	case *driverv1.ExportVolumeRequest_VolumeId:
		keys = append(keys, "volume/"+x.VolumeId)
	case *driverv1.ExportVolumeRequest_SnapshotId:
		keys = append(keys, "snapshot/"+x.SnapshotId)
	}
	p, unlock, err := d.locked(req.GetPoolId(), keys...)
	if err != nil {
		return err
	}
	defer unlock()
	return p.Export(out.Context(), req, out.Send)
}

// ImportVolume makes a volume from a stream.
func (d *Driver) ImportVolume(in grpc.ClientStreamingServer[driverv1.ImportVolumeRequest, driverv1.ImportVolumeResponse]) error {
	first, err := in.Recv()
	if err != nil {
		return err
	}
	h := first.GetHeader()
	if h == nil {
		return fault.Invalid(fault.Violation{Field: "header", Description: "must come first"})
	}
	p, unlock, err := d.locked(h.GetPoolId(), "volume/"+h.GetVolumeId())
	if err != nil {
		return err
	}
	defer unlock()
	v, err := p.ImportVolume(in.Context(), h, func() (*driverv1.ExportVolumeResponse, error) {
		m, err := in.Recv()
		if errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		if err != nil {
			return nil, fault.New(metav1.Reason_REASON_CANCELLED, "the import's stream broke: %w", err)
		}
		if m.GetPart() == nil {
			return nil, fault.Invalid(fault.Violation{Field: "header", Description: "comes once only"})
		}
		return m.GetPart(), nil
	})
	if err != nil {
		return err
	}
	return in.SendAndClose(&driverv1.ImportVolumeResponse{Volume: v})
}

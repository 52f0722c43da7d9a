package driver

import (
	"context"

	"github.com/limiquantix/limiquantix/plugins/ceph/internal/rbdpool"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// CreateVolume makes a volume.
func (d *Driver) CreateVolume(ctx context.Context, req *driverv1.CreateVolumeRequest) (*driverv1.CreateVolumeResponse, error) {
	return do(ctx, d, req.GetPoolId(), func(s *rbdpool.Session) (*driverv1.CreateVolumeResponse, error) {
		v, err := s.CreateVolume(req)
		return &driverv1.CreateVolumeResponse{Volume: v}, err
	}, "volume/"+req.GetVolumeId())
}

// DeleteVolume removes a volume.
func (d *Driver) DeleteVolume(ctx context.Context, req *driverv1.DeleteVolumeRequest) (*driverv1.DeleteVolumeResponse, error) {
	return do(ctx, d, req.GetPoolId(), func(s *rbdpool.Session) (*driverv1.DeleteVolumeResponse, error) {
		return &driverv1.DeleteVolumeResponse{}, s.DeleteVolume(req.GetVolumeId())
	}, "volume/"+req.GetVolumeId())
}

// GetVolume reads a volume.
func (d *Driver) GetVolume(ctx context.Context, req *driverv1.GetVolumeRequest) (*driverv1.GetVolumeResponse, error) {
	return do(ctx, d, req.GetPoolId(), func(s *rbdpool.Session) (*driverv1.GetVolumeResponse, error) {
		v, err := s.GetVolume(req.GetVolumeId())
		return &driverv1.GetVolumeResponse{Volume: v}, err
	})
}

// ListVolumes pages through volumes; the token is the last id.
func (d *Driver) ListVolumes(ctx context.Context, req *driverv1.ListVolumesRequest) (*driverv1.ListVolumesResponse, error) {
	return do(ctx, d, req.GetPoolId(), func(s *rbdpool.Session) (*driverv1.ListVolumesResponse, error) {
		vs, next, err := s.ListVolumes(req.GetPageToken(), limit(req.GetPageSize()))
		return &driverv1.ListVolumesResponse{Volumes: vs, NextPageToken: next}, err
	})
}

// ResizeVolume grows a volume, attached or not.
func (d *Driver) ResizeVolume(ctx context.Context, req *driverv1.ResizeVolumeRequest) (*driverv1.ResizeVolumeResponse, error) {
	return do(ctx, d, req.GetPoolId(), func(s *rbdpool.Session) (*driverv1.ResizeVolumeResponse, error) {
		v, err := s.ResizeVolume(req.GetVolumeId(), req.GetSizeBytes())
		return &driverv1.ResizeVolumeResponse{Volume: v}, err
	}, "volume/"+req.GetVolumeId())
}

// AttachVolume says where the hypervisor finds a volume.
func (d *Driver) AttachVolume(ctx context.Context, req *driverv1.AttachVolumeRequest) (*driverv1.AttachVolumeResponse, error) {
	return do(ctx, d, req.GetPoolId(), func(s *rbdpool.Session) (*driverv1.AttachVolumeResponse, error) {
		src, err := s.AttachVolume(req)
		return &driverv1.AttachVolumeResponse{Source: src}, err
	}, "volume/"+req.GetVolumeId())
}

// DetachVolume ends a volume's use.
func (d *Driver) DetachVolume(ctx context.Context, req *driverv1.DetachVolumeRequest) (*driverv1.DetachVolumeResponse, error) {
	return do(ctx, d, req.GetPoolId(), func(s *rbdpool.Session) (*driverv1.DetachVolumeResponse, error) {
		return &driverv1.DetachVolumeResponse{}, s.DetachVolume(req.GetVolumeId())
	}, "volume/"+req.GetVolumeId())
}

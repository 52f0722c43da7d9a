package driver

import (
	"context"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// CreateVolume makes a volume.
func (d *Driver) CreateVolume(ctx context.Context, req *driverv1.CreateVolumeRequest) (*driverv1.CreateVolumeResponse, error) {
	p, unlock, err := d.locked(req.GetPoolId(), append(sourceKeys(req.GetSource()), "volume/"+req.GetVolumeId())...)
	if err != nil {
		return nil, err
	}
	defer unlock()
	v, err := p.CreateVolume(ctx, req)
	if err != nil {
		return nil, err
	}
	return &driverv1.CreateVolumeResponse{Volume: v}, nil
}

// sourceKeys are the keys of what a volume is made from: it stays while the volume is made.
func sourceKeys(s *driverv1.VolumeSource) []string {
	switch x := s.GetSource().(type) {
	case *driverv1.VolumeSource_ImageId:
		return nil // many volumes are made from one image at once; DeleteImage looks for them
	case *driverv1.VolumeSource_SnapshotId:
		return []string{"snapshot/" + x.SnapshotId}
	case *driverv1.VolumeSource_VolumeId:
		return []string{"volume/" + x.VolumeId}
	}
	return nil
}

// DeleteVolume removes a volume.
func (d *Driver) DeleteVolume(ctx context.Context, req *driverv1.DeleteVolumeRequest) (*driverv1.DeleteVolumeResponse, error) {
	p, unlock, err := d.locked(req.GetPoolId(), "volume/"+req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	return &driverv1.DeleteVolumeResponse{}, p.DeleteVolume(ctx, req.GetVolumeId())
}

// GetVolume reads a volume.
func (d *Driver) GetVolume(ctx context.Context, req *driverv1.GetVolumeRequest) (*driverv1.GetVolumeResponse, error) {
	p, err := d.pool(req.GetPoolId())
	if err != nil {
		return nil, err
	}
	v, err := p.GetVolume(ctx, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	return &driverv1.GetVolumeResponse{Volume: v}, nil
}

// ListVolumes pages through volumes; the token is the last id.
func (d *Driver) ListVolumes(ctx context.Context, req *driverv1.ListVolumesRequest) (*driverv1.ListVolumesResponse, error) {
	p, err := d.pool(req.GetPoolId())
	if err != nil {
		return nil, err
	}
	vs, next, err := p.ListVolumes(ctx, req.GetPageToken(), limit(req.GetPageSize()))
	if err != nil {
		return nil, err
	}
	return &driverv1.ListVolumesResponse{Volumes: vs, NextPageToken: next}, nil
}

// ResizeVolume grows a volume.
func (d *Driver) ResizeVolume(ctx context.Context, req *driverv1.ResizeVolumeRequest) (*driverv1.ResizeVolumeResponse, error) {
	p, unlock, err := d.locked(req.GetPoolId(), "volume/"+req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	v, err := p.ResizeVolume(ctx, req.GetVolumeId(), req.GetSizeBytes())
	if err != nil {
		return nil, err
	}
	return &driverv1.ResizeVolumeResponse{Volume: v}, nil
}

// AttachVolume makes a volume's device.
func (d *Driver) AttachVolume(ctx context.Context, req *driverv1.AttachVolumeRequest) (*driverv1.AttachVolumeResponse, error) {
	p, unlock, err := d.locked(req.GetPoolId(), "volume/"+req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	src, err := p.AttachVolume(ctx, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	return &driverv1.AttachVolumeResponse{Source: src}, nil
}

// DetachVolume ends a volume's use.
func (d *Driver) DetachVolume(ctx context.Context, req *driverv1.DetachVolumeRequest) (*driverv1.DetachVolumeResponse, error) {
	p, unlock, err := d.locked(req.GetPoolId(), "volume/"+req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	return &driverv1.DetachVolumeResponse{}, p.DetachVolume(ctx, req.GetVolumeId())
}

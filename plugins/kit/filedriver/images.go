package filedriver

import (
	"context"

	"github.com/limiquantix/limiquantix/plugins/kit/imagestream"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// ImportImage stores a stream as an image copy.
func (d *Driver) ImportImage(stream driverv1.StorageDriverService_ImportImageServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	h := first.GetHeader()
	if h == nil {
		return fault.Invalid(fault.Violation{Field: "header", Description: "must come first"})
	}
	p, unlock, err := d.locked(h.GetPoolId(), "image/"+h.GetImageId())
	if err != nil {
		return err
	}
	defer unlock()
	img, err := p.ImportImage(stream.Context(), h, imagestream.New(stream))
	if err != nil {
		return err
	}
	return stream.SendAndClose(&driverv1.ImportImageResponse{Image: img})
}

// GetImage reads an image copy.
func (d *Driver) GetImage(_ context.Context, req *driverv1.GetImageRequest) (*driverv1.GetImageResponse, error) {
	p, err := d.pool(req.GetPoolId())
	if err != nil {
		return nil, err
	}
	img, err := p.GetImage(req.GetImageId())
	if err != nil {
		return nil, err
	}
	return &driverv1.GetImageResponse{Image: img}, nil
}

// ListImages pages through image copies; the token is the last id.
func (d *Driver) ListImages(_ context.Context, req *driverv1.ListImagesRequest) (*driverv1.ListImagesResponse, error) {
	p, err := d.pool(req.GetPoolId())
	if err != nil {
		return nil, err
	}
	imgs, next, err := p.ListImages(req.GetPageToken(), limit(req.GetPageSize()))
	if err != nil {
		return nil, err
	}
	return &driverv1.ListImagesResponse{Images: imgs, NextPageToken: next}, nil
}

// DeleteImage removes an image copy.
func (d *Driver) DeleteImage(_ context.Context, req *driverv1.DeleteImageRequest) (*driverv1.DeleteImageResponse, error) {
	p, unlock, err := d.locked(req.GetPoolId(), "image/"+req.GetImageId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	return &driverv1.DeleteImageResponse{}, p.DeleteImage(req.GetImageId())
}

// AttachImage says where an image copy's file is.
func (d *Driver) AttachImage(_ context.Context, req *driverv1.AttachImageRequest) (*driverv1.AttachImageResponse, error) {
	p, err := d.pool(req.GetPoolId())
	if err != nil {
		return nil, err
	}
	src, err := p.AttachImage(req.GetImageId())
	if err != nil {
		return nil, err
	}
	return &driverv1.AttachImageResponse{Source: src}, nil
}

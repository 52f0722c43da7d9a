package driver

import (
	"context"
	"errors"
	"io"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
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
	img, err := p.ImportImage(stream.Context(), h, &content{stream: stream})
	if err != nil {
		return err
	}
	return stream.SendAndClose(&driverv1.ImportImageResponse{Image: img})
}

// content reads the data messages of an import.
type content struct {
	stream driverv1.StorageDriverService_ImportImageServer
	rest   []byte
}

func (c *content) Read(b []byte) (int, error) {
	for len(c.rest) == 0 {
		m, err := c.stream.Recv()
		if errors.Is(err, io.EOF) {
			return 0, io.EOF
		}
		if err != nil {
			return 0, fault.New(metav1.Reason_REASON_CANCELLED, "the import's stream broke: %w", err)
		}
		if m.GetHeader() != nil {
			return 0, fault.Invalid(fault.Violation{Field: "header", Description: "comes once only"})
		}
		c.rest = m.GetData()
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// GetImage reads an image copy.
func (d *Driver) GetImage(ctx context.Context, req *driverv1.GetImageRequest) (*driverv1.GetImageResponse, error) {
	p, err := d.pool(req.GetPoolId())
	if err != nil {
		return nil, err
	}
	img, err := p.GetImage(ctx, req.GetImageId())
	if err != nil {
		return nil, err
	}
	return &driverv1.GetImageResponse{Image: img}, nil
}

// ListImages pages through image copies; the token is the last id.
func (d *Driver) ListImages(ctx context.Context, req *driverv1.ListImagesRequest) (*driverv1.ListImagesResponse, error) {
	p, err := d.pool(req.GetPoolId())
	if err != nil {
		return nil, err
	}
	imgs, next, err := p.ListImages(ctx, req.GetPageToken(), limit(req.GetPageSize()))
	if err != nil {
		return nil, err
	}
	return &driverv1.ListImagesResponse{Images: imgs, NextPageToken: next}, nil
}

// DeleteImage removes an image copy.
func (d *Driver) DeleteImage(ctx context.Context, req *driverv1.DeleteImageRequest) (*driverv1.DeleteImageResponse, error) {
	p, unlock, err := d.locked(req.GetPoolId(), "image/"+req.GetImageId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	return &driverv1.DeleteImageResponse{}, p.DeleteImage(ctx, req.GetImageId())
}

// AttachImage makes an image copy's device.
func (d *Driver) AttachImage(ctx context.Context, req *driverv1.AttachImageRequest) (*driverv1.AttachImageResponse, error) {
	p, err := d.pool(req.GetPoolId())
	if err != nil {
		return nil, err
	}
	src, err := p.AttachImage(ctx, req.GetImageId())
	if err != nil {
		return nil, err
	}
	return &driverv1.AttachImageResponse{Source: src}, nil
}

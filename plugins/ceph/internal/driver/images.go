package driver

import (
	"context"
	"errors"
	"io"

	"github.com/limiquantix/limiquantix/plugins/ceph/internal/rbdpool"
	"github.com/limiquantix/limiquantix/plugins/kit/imagestream"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// ImportImage stores a stream as an image copy.
func (d *Driver) ImportImage(stream driverv1.StorageDriverService_ImportImageServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err //nolint:wrapcheck // gRPC's own
	}
	h := first.GetHeader()
	if h == nil {
		return headerFirst()
	}
	var img *driverv1.Image
	err = d.stream(stream.Context(), h.GetPoolId(), func(s *rbdpool.Session) (err error) {
		img, err = s.ImportImage(h, imagestream.New(stream))
		return err
	}, "image/"+h.GetImageId())
	if err != nil {
		return err
	}
	return stream.SendAndClose(&driverv1.ImportImageResponse{Image: img})
}

func headerFirst() error {
	return fault.Invalid(fault.Violation{Field: "header", Description: "must come first"})
}

func headerOnce() error {
	return fault.Invalid(fault.Violation{Field: "header", Description: "comes once only"})
}

// received tells the end of a stream from its breaking off.
func received(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return fault.New(metav1.Reason_REASON_CANCELLED, "the import's stream broke: %w", err)
}

// GetImage reads an image copy.
func (d *Driver) GetImage(ctx context.Context, req *driverv1.GetImageRequest) (*driverv1.GetImageResponse, error) {
	return do(ctx, d, req.GetPoolId(), func(s *rbdpool.Session) (*driverv1.GetImageResponse, error) {
		img, err := s.GetImage(req.GetImageId())
		return &driverv1.GetImageResponse{Image: img}, err
	})
}

// ListImages pages through image copies; the token is the last id.
func (d *Driver) ListImages(ctx context.Context, req *driverv1.ListImagesRequest) (*driverv1.ListImagesResponse, error) {
	return do(ctx, d, req.GetPoolId(), func(s *rbdpool.Session) (*driverv1.ListImagesResponse, error) {
		imgs, next, err := s.ListImages(req.GetPageToken(), limit(req.GetPageSize()))
		return &driverv1.ListImagesResponse{Images: imgs, NextPageToken: next}, err
	})
}

// DeleteImage removes an image copy.
func (d *Driver) DeleteImage(ctx context.Context, req *driverv1.DeleteImageRequest) (*driverv1.DeleteImageResponse, error) {
	return do(ctx, d, req.GetPoolId(), func(s *rbdpool.Session) (*driverv1.DeleteImageResponse, error) {
		return &driverv1.DeleteImageResponse{}, s.DeleteImage(req.GetImageId())
	}, "image/"+req.GetImageId())
}

// AttachImage says where the hypervisor finds an image copy.
func (d *Driver) AttachImage(ctx context.Context, req *driverv1.AttachImageRequest) (*driverv1.AttachImageResponse, error) {
	return do(ctx, d, req.GetPoolId(), func(s *rbdpool.Session) (*driverv1.AttachImageResponse, error) {
		src, err := s.AttachImage(req.GetImageId())
		return &driverv1.AttachImageResponse{Source: src}, err
	})
}

// ExportVolume streams the content of a volume, snapshot or image copy. A volume is kept from other calls meanwhile.
func (d *Driver) ExportVolume(req *driverv1.ExportVolumeRequest, stream driverv1.StorageDriverService_ExportVolumeServer) error {
	var keys []string
	if id := req.GetVolumeId(); id != "" {
		keys = append(keys, "volume/"+id)
	}
	return d.stream(stream.Context(), req.GetPoolId(), func(s *rbdpool.Session) error {
		return s.Export(req, func(part *driverv1.ExportVolumeResponse) error {
			if err := stream.Send(part); err != nil {
				return fault.New(metav1.Reason_REASON_CANCELLED, "the export's stream broke: %w", err)
			}
			return nil
		})
	}, keys...)
}

// ImportVolume makes a volume from a stream as ExportVolume gives it.
func (d *Driver) ImportVolume(stream driverv1.StorageDriverService_ImportVolumeServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err //nolint:wrapcheck // gRPC's own
	}
	h := first.GetHeader()
	if h == nil {
		return headerFirst()
	}
	next := func() (*driverv1.ExportVolumeResponse, error) {
		m, err := stream.Recv()
		if err != nil {
			return nil, received(err)
		}
		if m.GetHeader() != nil {
			return nil, headerOnce()
		}
		return m.GetPart(), nil
	}
	var v *driverv1.Volume
	err = d.stream(stream.Context(), h.GetPoolId(), func(s *rbdpool.Session) (err error) {
		v, err = s.ImportVolume(h, next)
		return err
	}, "volume/"+h.GetVolumeId())
	if err != nil {
		return err
	}
	return stream.SendAndClose(&driverv1.ImportVolumeResponse{Volume: v})
}

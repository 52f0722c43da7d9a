package reference

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"strings"

	"google.golang.org/grpc"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

func (s *storageDriver) ImportImage(in grpc.ClientStreamingServer[driverv1.ImportImageRequest, driverv1.ImportImageResponse]) error {
	first, err := in.Recv()
	if err != nil {
		return err
	}
	h := first.GetHeader()
	if h == nil {
		return fault.Invalid(fault.Violation{Field: "header", Description: "the first message must describe the image"})
	}
	pool, id := h.GetPoolId(), h.GetImageId()
	if err := checkIDs("header.pool_id", pool, "header.image_id", id); err != nil {
		return err
	}
	if err := s.checkMark(h.GetMark(), id); err != nil {
		return err
	}
	if h.GetFormat() != driverv1.VolumeFormat_VOLUME_FORMAT_RAW {
		return fault.New(metav1.Reason_REASON_IMAGE_REFUSED, "only RAW images are taken")
	}
	unlock, err := s.keys.Lock("image/" + pool + "/" + id)
	if err != nil {
		return err
	}
	defer unlock()
	img := &driverv1.Image{}
	complete := false
	err = s.in(pool, func(x *tx) error {
		if complete = x.get(imageTable, pool+"/"+id, img); complete && h.GetSha256() != "" && h.GetSha256() != img.GetSha256() {
			return conflict("image", id)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if complete {
		return in.SendAndClose(&driverv1.ImportImageResponse{Image: img})
	}
	content, err := receive(in, h)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(content)
	img = &driverv1.Image{
		PoolId: pool, ImageId: id, Mark: h.GetMark(), VirtualSizeBytes: roundUp(int64(len(content))), ContentBytes: int64(len(content)),
		Format: h.GetFormat(), Sha256: hex.EncodeToString(sum[:]),
	}
	if h.GetSha256() != "" && h.GetSha256() != img.GetSha256() && !s.defect("no-checksum") {
		return fault.New(metav1.Reason_REASON_CHECKSUM_MISMATCH, "image %s has sha256 %s, declared was %s", id, img.GetSha256(), h.GetSha256())
	}
	err = s.change(in.Context(), func(x *tx) error {
		return s.ensured(x, pool, func(x *tx) error {
			x.putBytes(pictureTable, pool+"/"+id, content)
			return x.put(imageTable, pool+"/"+id, img)
		})
	})
	if err != nil {
		return err
	}
	return in.SendAndClose(&driverv1.ImportImageResponse{Image: img})
}

// receive reads the content of an import: as much as was declared, no more and no less.
func receive(in grpc.ClientStreamingServer[driverv1.ImportImageRequest, driverv1.ImportImageResponse], h *driverv1.ImportImageHeader) ([]byte, error) {
	var content bytes.Buffer
	for {
		m, err := in.Recv()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		content.Write(m.GetData())
		if content.Len() > maxContent {
			return nil, fault.New(metav1.Reason_REASON_SIZE_OUT_OF_RANGE, "more than %d bytes", maxContent)
		}
	}
	if want := h.GetContentBytes(); want != 0 && want != int64(content.Len()) {
		return nil, fault.Invalid(fault.Violation{Field: "header.content_bytes", Description: "another number of bytes came"})
	}
	if content.Len() == 0 {
		return nil, fault.New(metav1.Reason_REASON_IMAGE_REFUSED, "no content")
	}
	return content.Bytes(), nil
}

// image reads an image of ours.
func (s *storageDriver) image(x *tx, pool, id string) (*driverv1.Image, error) {
	img := &driverv1.Image{}
	if !x.get(imageTable, pool+"/"+id, img) {
		return nil, notFound(metav1.Reason_REASON_IMAGE_NOT_FOUND, "image", id)
	}
	if !s.ours(img.GetMark()) {
		return nil, notOurs("image", id)
	}
	return img, nil
}

func (s *storageDriver) GetImage(_ context.Context, req *driverv1.GetImageRequest) (*driverv1.GetImageResponse, error) {
	if err := checkID("image_id", req.GetImageId()); err != nil {
		return nil, err
	}
	r := &driverv1.GetImageResponse{}
	return r, s.in(req.GetPoolId(), func(x *tx) (err error) {
		r.Image, err = s.image(x, req.GetPoolId(), req.GetImageId())
		return err
	})
}

func (s *storageDriver) ListImages(_ context.Context, req *driverv1.ListImagesRequest) (*driverv1.ListImagesResponse, error) {
	r := &driverv1.ListImagesResponse{}
	return r, s.in(req.GetPoolId(), func(x *tx) error {
		byID, ids := map[string]*driverv1.Image{}, []string(nil)
		for _, key := range x.keys(imageTable) {
			img := &driverv1.Image{}
			if strings.HasPrefix(key, req.GetPoolId()+"/") && x.get(imageTable, key, img) && s.ours(img.GetMark()) {
				byID[img.GetImageId()], ids = img, append(ids, img.GetImageId())
			}
		}
		ids, r.NextPageToken = page(ids, req.GetPageSize(), req.GetPageToken())
		for _, id := range ids {
			r.Images = append(r.Images, byID[id])
		}
		return nil
	})
}

// DeleteImage removes an image copy. Volumes are whole copies here, so none depends on it.
func (s *storageDriver) DeleteImage(ctx context.Context, req *driverv1.DeleteImageRequest) (*driverv1.DeleteImageResponse, error) {
	pool, id := req.GetPoolId(), req.GetImageId()
	return &driverv1.DeleteImageResponse{}, s.on(ctx, pool, "image", id, func(x *tx) error {
		if _, err := s.image(x, pool, id); err != nil {
			if fault.Is(err, metav1.Reason_REASON_IMAGE_NOT_FOUND) {
				return nil
			}
			return err
		}
		x.del(imageTable, pool+"/"+id)
		x.del(pictureTable, pool+"/"+id)
		return nil
	})
}

func (s *storageDriver) AttachImage(_ context.Context, req *driverv1.AttachImageRequest) (*driverv1.AttachImageResponse, error) {
	err := s.in(req.GetPoolId(), func(x *tx) error {
		_, err := s.image(x, req.GetPoolId(), req.GetImageId())
		return err
	})
	if err != nil {
		return nil, err
	}
	return &driverv1.AttachImageResponse{Source: s.file(req.GetPoolId(), req.GetImageId())}, nil
}

package failpoint_test

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"

	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

func (r *rig) image(ctx context.Context) (*storagev1.Image, error) {
	return r.upload(ctx, r.name("image"), r.name("upload"), content)
}

func (r *rig) removeImage(ctx context.Context, id string) error {
	_, err := call(ctx, r, r.images.DeleteImage, &storagev1.DeleteImageRequest{Id: id, RequestId: r.name("delete")})
	if err != nil && !isNotFound(err) {
		return err
	}
	return r.until(ctx, "image "+id+" is gone", func() (bool, string) {
		m, err := r.images.GetImage(ctx, connect.NewRequest(&storagev1.GetImageRequest{Id: id}))
		return isNotFound(err), fmt.Sprint(m, err)
	})
}

func actImage(ctx context.Context, r *rig) error {
	img, err := r.image(ctx)
	if err != nil {
		return err
	}
	return r.removeImage(ctx, img.GetMeta().GetId())
}

func actImageTwice(ctx context.Context, r *rig) error {
	name, id := r.name("image"), r.name("upload")
	first, err := r.upload(ctx, name, id, content)
	if err != nil {
		return err
	}
	second, err := r.upload(ctx, name, id, content)
	if err != nil {
		return err
	}
	if first.GetMeta().GetId() != second.GetMeta().GetId() {
		return fmt.Errorf("one request id made images %s and %s", first.GetMeta().GetId(), second.GetMeta().GetId())
	}
	return r.removeImage(ctx, first.GetMeta().GetId())
}

// actBrokenUpload begins an upload and breaks it off.
func actBrokenUpload(ctx context.Context, r *rig) error {
	name := r.name("image")
	err := r.until(ctx, "an upload is under way", func() (bool, string) {
		once, cancel := context.WithCancel(ctx)
		defer cancel()
		return r.beginUpload(once, name)
	})
	if err != nil {
		return err
	}
	return r.noImage(ctx, name)
}

// beginUpload sends a part of an image and returns when the controller has begun to take it, if it does.
func (r *rig) beginUpload(ctx context.Context, name string) (bool, string) {
	s := r.images.UploadImage(ctx)
	_ = s.Send(&storagev1.UploadImageRequest{Message: &storagev1.UploadImageRequest_Header{Header: &storagev1.UploadImageHeader{
		Name: name, Format: storagev1.ImageFormat_IMAGE_FORMAT_RAW,
	}}})
	_ = s.Send(&storagev1.UploadImageRequest{Message: &storagev1.UploadImageRequest_Data{Data: content}})
	seen, times := "", 0
	for range 50 {
		m, err := r.images.GetImage(ctx, connect.NewRequest(&storagev1.GetImageRequest{Id: name}))
		seen = fmt.Sprint(m, err)
		switch {
		case err != nil:
		case m.Msg.GetImage().GetStatus().GetPhase() != storagev1.ImagePhase_IMAGE_PHASE_IMPORTING:
			return false, seen // the node did not take it
		default:
			if times++; times == 10 {
				return true, ""
			}
		}
		_ = pause(ctx, 10*time.Millisecond)
	}
	return false, seen
}

func (r *rig) noImage(ctx context.Context, name string) error {
	return r.until(ctx, "nothing is left of image "+name, func() (bool, string) {
		m, err := r.images.GetImage(ctx, connect.NewRequest(&storagev1.GetImageRequest{Id: name}))
		return isNotFound(err), fmt.Sprint(m, err)
	})
}

// actUploadCut kills the controller while it carries an upload.
func actUploadCut(ctx context.Context, r *rig) error {
	name := r.name("image")
	once, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := r.until(ctx, "an upload is under way", func() (bool, string) { return r.beginUpload(once, name) }); err != nil {
		return err
	}
	if err := r.killController(ctx); err != nil {
		return err
	}
	return r.noImage(ctx, name)
}

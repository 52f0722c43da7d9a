package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// moveVolume brings a volume from another pool of this node. Where it is whole already it is not copied again, and it is deleted where it was only after that; so
// at every moment one of the two is the volume, and done again it does what is left.
func (e *Engine) moveVolume(ctx context.Context, w *want) (*driverv1.Volume, error) {
	d := w.obj.GetVolume()
	id, to, from := d.GetVolume().GetMeta().GetId(), d.GetVolume().GetSpec().GetPoolId(), d.GetMove().GetFromPoolId()
	target, err := e.poolReady(to)
	if err != nil {
		return nil, err
	}
	source, err := e.poolReady(from)
	if err != nil {
		return nil, err
	}
	release, _, err := e.holdVolume(id, true, volumeKey(id))
	if err != nil {
		return nil, err
	}
	defer release()
	vol, err := e.lookUpVolume(ctx, target, to, id)
	if err != nil && fault.From(err).Code == codes.NotFound && !fault.Is(err, metav1.Reason_REASON_POOL_NOT_FOUND) {
		vol, err = e.copyVolume(ctx, w, source, target)
	}
	if err != nil {
		return nil, err
	}
	err = e.poolCall(ctx, source, from, "DeleteVolume", usualCall, func(ctx context.Context) error {
		_, err := e.plugins.Storage(source).DeleteVolume(ctx, &driverv1.DeleteVolumeRequest{PoolId: from, VolumeId: id})
		return err
	})
	return vol, err
}

func (e *Engine) lookUpVolume(ctx context.Context, driver, pool, id string) (vol *driverv1.Volume, err error) {
	err = e.poolCall(ctx, driver, pool, "GetVolume", usualCall, func(ctx context.Context) error {
		r, err := e.plugins.Storage(driver).GetVolume(ctx, &driverv1.GetVolumeRequest{PoolId: pool, VolumeId: id})
		vol = r.GetVolume()
		return err
	})
	return vol, err
}

// copyVolume reads a volume out of one pool into another. The driver there keeps nothing of a copy that is not whole.
func (e *Engine) copyVolume(ctx context.Context, w *want, source, target string) (vol *driverv1.Volume, err error) {
	d := w.obj.GetVolume()
	id, to, from := d.GetVolume().GetMeta().GetId(), d.GetVolume().GetSpec().GetPoolId(), d.GetMove().GetFromPoolId()
	was, err := e.lookUpVolume(ctx, source, from, id)
	if err != nil {
		return nil, err
	}
	e.reportVolume(w, &storagev1.VolumeStatus{Phase: storagev1.VolumePhase_VOLUME_PHASE_MOVING, AllocationBytes: -1, SizeBytes: was.GetSizeBytes()}, false)
	header := e.createVolume(d)
	header.Source, header.SizeBytes = nil, was.GetSizeBytes()
	err = e.poolCall(ctx, target, to, "ImportVolume", copyCall, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		out, err := e.plugins.Storage(source).ExportVolume(ctx, &driverv1.ExportVolumeRequest{PoolId: from, Subject: &driverv1.ExportVolumeRequest_VolumeId{VolumeId: id}})
		if err != nil {
			return err
		}
		in, err := e.plugins.Storage(target).ImportVolume(ctx)
		if err != nil {
			return err
		}
		err = in.Send(&driverv1.ImportVolumeRequest{Message: &driverv1.ImportVolumeRequest_Header{Header: header}})
		for err == nil {
			part, rerr := out.Recv()
			if errors.Is(rerr, io.EOF) {
				break
			}
			if rerr != nil {
				return fmt.Errorf("read volume %s from pool %s: %w", id, from, rerr)
			}
			err = in.Send(&driverv1.ImportVolumeRequest{Message: &driverv1.ImportVolumeRequest_Part{Part: part}})
		}
		if err != nil && !errors.Is(err, io.EOF) { // io.EOF: the driver has answered already
			return err
		}
		r, err := in.CloseAndRecv()
		vol = r.GetVolume()
		return err
	})
	return vol, err
}

package reconcile

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// imageRetry is how often a copy that is missing, or a deletion that failed, is looked at.
const imageRetry = 15 * time.Second

// reconcileImage says whether the copy is there, or removes it. Its content comes by an upload.
func (e *Engine) reconcileImage(ctx context.Context, w *want) (time.Duration, string) {
	d := w.obj.GetImage()
	id, pool := d.GetImage().GetMeta().GetId(), d.GetPoolId()
	rep := &agentv1.ImageCopyReport{ImageId: id, PoolId: pool}
	driver, err := e.poolReady(pool)
	if err == nil && d.GetAbsent() {
		err = e.poolCall(ctx, driver, pool, "DeleteImage", usualCall, func(ctx context.Context) error {
			_, err := e.plugins.Storage(driver).DeleteImage(ctx, &driverv1.DeleteImageRequest{PoolId: pool, ImageId: id})
			return err
		})
		rep.Absent = err == nil
	} else if err == nil {
		var img *driverv1.Image
		err = e.poolCall(ctx, driver, pool, "GetImage", usualCall, func(ctx context.Context) error {
			r, err := e.plugins.Storage(driver).GetImage(ctx, &driverv1.GetImageRequest{PoolId: pool, ImageId: id})
			img = r.GetImage()
			return err
		})
		if err == nil {
			rep = CopyReport(img)
		} else if fault.From(err).Code == codes.NotFound {
			rep.Message = "no copy here: waits for the content to be uploaded"
		}
	}
	if ctx.Err() != nil {
		return never, resultFailed
	}
	if err != nil && rep.Message == "" {
		rep.Message = err.Error()
	}
	if e.current(w) {
		e.reporter.Image(rep)
	}
	if err != nil {
		e.progress.failed(keyOf(w.obj.GetKey()), "looking for the copy", err, 1, imageRetry)
		return imageRetry, resultWait
	}
	return never, resultOK
}

// CopyReport is the report of a complete image copy.
func CopyReport(img *driverv1.Image) *agentv1.ImageCopyReport {
	return &agentv1.ImageCopyReport{
		ImageId: img.GetImageId(), PoolId: img.GetPoolId(), Ready: true, Sha256: img.GetSha256(),
		VirtualSizeBytes: img.GetVirtualSizeBytes(), ContentBytes: img.GetContentBytes(),
	}
}

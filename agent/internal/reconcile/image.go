package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	// imageRetry is how often a copy that is missing, or a deletion that failed, is looked at.
	imageRetry = 15 * time.Second
	// fetchCall bounds one fetch of an image.
	fetchCall = 12 * time.Hour
	// fetchReport is how often the progress of a fetch is told.
	fetchReport = 2 * time.Second
	fetchPart   = 256 << 10
)

// reconcileImage says whether the copy is there, fetches it, or removes it. Content that is not fetched comes by an upload.
func (e *Engine) reconcileImage(ctx context.Context, w *want) (time.Duration, string) {
	d := w.obj.GetImage()
	id, pool := d.GetImage().GetMeta().GetId(), d.GetPoolId()
	rep := &agentv1.ImageCopyReport{ImageId: id, PoolId: pool}
	doing := "looking for the copy"
	driver, err := e.poolReady(pool)
	if err == nil && d.GetAbsent() {
		err = e.poolCall(ctx, driver, pool, "DeleteImage", usualCall, func(ctx context.Context) error {
			_, err := e.plugins.Storage(driver).DeleteImage(ctx, &driverv1.DeleteImageRequest{PoolId: pool, ImageId: id})
			return err
		})
		if rep.Absent = err == nil; rep.Absent {
			e.keptGone(keptImage, pool, id)
		}
	} else if err == nil {
		var img *driverv1.Image
		err = e.poolCall(ctx, driver, pool, "GetImage", usualCall, func(ctx context.Context) error {
			r, err := e.plugins.Storage(driver).GetImage(ctx, &driverv1.GetImageRequest{PoolId: pool, ImageId: id})
			img = r.GetImage()
			return err
		})
		missing := err != nil && fault.From(err).Code == codes.NotFound && !fault.Is(err, metav1.Reason_REASON_POOL_NOT_FOUND)
		if missing && d.GetFetch() {
			doing = "fetching the image"
			img, err = e.fetchImage(ctx, w, driver)
		} else if missing {
			rep.Message = "no copy here: waits for the content to be uploaded"
		}
		if err == nil {
			rep = CopyReport(img)
			if missing { // it is here now
				e.dependents(realised.Key{Kind: realised.KindImage, ID: id})
			}
		}
	}
	if ctx.Err() != nil {
		return never, resultFailed
	}
	retry, result := never, resultOK
	if err != nil {
		retry, result = imageRetry, resultWait
		if rep.Message == "" {
			pr := problemOf(doing, err, 1)
			rep.Message, rep.Reason = err.Error(), pr.reason
			rep.PermanentFailure = d.GetFetch() && !d.GetAbsent() && neverFetched(err)
		}
		if rep.GetPermanentFailure() {
			retry, result = never, resultFailed
		}
		e.progress.failed(keyOf(w.obj.GetKey()), doing, err, 1, retry)
	}
	rep.Epoch = d.GetEpoch()
	if e.current(w) {
		e.reporter.Image(rep)
	}
	return retry, result
}

// neverFetched reports whether the source, or what comes from it, can never be the image.
func neverFetched(err error) bool {
	for _, r := range []metav1.Reason{
		metav1.Reason_REASON_SOURCE_REFUSED, metav1.Reason_REASON_IMAGE_REFUSED, metav1.Reason_REASON_CHECKSUM_MISMATCH, metav1.Reason_REASON_SIZE_OUT_OF_RANGE,
		metav1.Reason_REASON_INVALID_FIELD, metav1.Reason_REASON_NO_CAPABILITY,
	} {
		if fault.Is(err, r) {
			return true
		}
	}
	return false
}

// fetchImage reads the image from its source into the pool. The driver checks it; nothing is left of what was not whole.
func (e *Engine) fetchImage(ctx context.Context, w *want, driver string) (img *driverv1.Image, err error) {
	d := w.obj.GetImage()
	meta, spec, pool := d.GetImage().GetMeta(), d.GetImage().GetSpec(), d.GetPoolId()
	e.progress.doing(keyOf(w.obj.GetKey()), "fetching image "+meta.GetName())
	content, size, err := e.fetcher.Open(ctx, spec.GetSourceUrl())
	if err != nil {
		return nil, err
	}
	defer func() { _ = content.Close() }()
	if want := spec.GetContentBytes(); want > 0 && size >= 0 && size != want {
		return nil, fault.New(metav1.Reason_REASON_IMAGE_REFUSED, "the source announces %d bytes, the image has %d", size, want)
	}
	mark := e.mark(meta.GetId(), meta.GetGeneration(), d.GetEpoch())
	if d.GetSharedPool() {
		mark.NodeId = "" // the cluster's
	}
	err = e.poolCall(ctx, driver, pool, "ImportImage", fetchCall, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		imp, err := e.plugins.Storage(driver).ImportImage(ctx)
		if err != nil {
			return err
		}
		err = imp.Send(&driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_Header{Header: &driverv1.ImportImageHeader{
			PoolId: pool, ImageId: meta.GetId(), Mark: mark, Format: driverv1.VolumeFormat(spec.GetFormat()), Sha256: spec.GetSha256(), ContentBytes: spec.GetContentBytes(),
		}}})
		if err == nil {
			err = pour(content, func(part []byte, done int64) error {
				e.tellFetched(w, done, size)
				return imp.Send(&driverv1.ImportImageRequest{Message: &driverv1.ImportImageRequest_Data{Data: part}})
			})
		}
		if err != nil && !errors.Is(err, io.EOF) { // io.EOF: the driver has answered already, well or not
			return err
		}
		r, err := imp.CloseAndRecv()
		img = r.GetImage()
		return err
	})
	return img, err
}

// pour hands content on in parts. It returns io.EOF only when take did.
func pour(content io.Reader, take func(part []byte, done int64) error) error {
	var done int64
	for {
		part := make([]byte, fetchPart) // it belongs to whoever sends it
		n, err := io.ReadFull(content, part)
		if n > 0 {
			done += int64(n)
			if err := take(part[:n], done); err != nil {
				return err
			}
		}
		switch err { //nolint:errorlint // ReadFull's own: a source that breaks off wraps the same
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return nil
		default:
			return fmt.Errorf("read the source: %w", err)
		}
	}
}

// tellFetched reports how much is there, now and then.
func (e *Engine) tellFetched(w *want, done, size int64) {
	d := w.obj.GetImage()
	k := keyOf(w.obj.GetKey())
	now := e.now()
	e.mu.Lock()
	due := now.Sub(e.fetched[k]) >= fetchReport
	if due {
		e.fetched[k] = now
	}
	e.mu.Unlock()
	if due && e.current(w) {
		e.reporter.Image(&agentv1.ImageCopyReport{
			ImageId: d.GetImage().GetMeta().GetId(), PoolId: d.GetPoolId(), Epoch: d.GetEpoch(), StoredBytes: done, ContentBytes: max(size, 0),
		})
	}
}

// CopyReport is the report of a complete image copy.
func CopyReport(img *driverv1.Image) *agentv1.ImageCopyReport {
	return &agentv1.ImageCopyReport{
		ImageId: img.GetImageId(), PoolId: img.GetPoolId(), Ready: true, Sha256: img.GetSha256(),
		VirtualSizeBytes: img.GetVirtualSizeBytes(), ContentBytes: img.GetContentBytes(),
	}
}

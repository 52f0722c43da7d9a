package placement

import (
	"context"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/state"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// uploadsEvery is how often uploads are looked for that nobody carries.
const uploadsEvery = 2 * time.Second

// uploads ends what is left of uploads whose carrier could not end them itself: the store did not answer when it tried, or it did not learn that its
// beginning was stored.
func (w *worker) uploads(ctx context.Context) error {
	tick := time.NewTicker(uploadsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if err := w.abandonUploads(ctx); err != nil {
			return err
		}
	}
}

// abandonUploads deletes images whose upload nobody carries, as after the end of a former leader: the bytes are lost with it. Uploads need the leader,
// to which the nodes' tunnels lead, so whoever carries one is in this process.
func (w *worker) abandonUploads(ctx context.Context) error {
	importing := []int32{int32(storagev1.ImagePhase_IMAGE_PHASE_IMPORTING), int32(storagev1.ImagePhase_IMAGE_PHASE_PENDING)}
	for _, row := range w.Cache.Find(state.Query{Kind: state.KindImage, Phases: importing}).Rows {
		if row.Deleting || w.Uploading != nil && w.Uploading(row.ID) {
			continue
		}
		rec := row.Image()
		if rec.GetImage().GetSpec().GetSourceUrl() != "" { // nodes fetch it, whoever leads
			continue
		}
		var out state.Writer
		out.Same(row)
		MarkImage(&out, rec, w.Now())
		if _, err := w.commit(ctx, []*state.Writer{&out}); err != nil {
			return err
		}
	}
	return nil
}

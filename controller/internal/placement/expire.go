package placement

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

const (
	// keepFor is how long ended operations and request ids are remembered.
	keepFor = 24 * time.Hour
	// expireEvery is how often what is older is looked for.
	expireEvery = 10 * time.Minute
	expireBatch = 100
)

// expire forgets what is past its time.
func (w *worker) expire(ctx context.Context) error {
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for {
		if err := w.expireOperations(ctx); err != nil {
			return err
		}
		if err := w.expireRequests(ctx); err != nil {
			return err
		}
		if err := w.expireTokens(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// expireOperations walks from the oldest; ids sort by creation, so the walk ends at the first young one.
func (w *worker) expireOperations(ctx context.Context) error {
	after, limit := "", w.Now().Add(-keepFor)
	for {
		page := w.Cache.Find(state.Query{Kind: state.KindOperation, After: after, Limit: expireBatch})
		var out state.Writer
		for _, row := range page.Rows {
			after = row.ID
			op := row.Operation().GetOperation()
			if op.GetCreateTime().AsTime().After(limit) {
				page.More = false
				break
			}
			if op.GetState() != operationv1.OperationState_OPERATION_STATE_RUNNING && op.GetEndTime().AsTime().Before(limit) {
				out.Delete(state.Key(state.KindOperation, row.ID))
			}
		}
		if err := w.drop(ctx, &out); err != nil || !page.More {
			return err
		}
	}
}

func (w *worker) expireRequests(ctx context.Context) error {
	opts, limit := store.ListOptions{Limit: expireBatch}, w.Now().Add(-keepFor)
	for {
		res, err := w.Store.List(ctx, state.RequestPrefix, opts)
		if err != nil {
			return err
		}
		var out state.Writer
		for _, kv := range res.KVs {
			var rec statev1.RequestRecord
			if proto.Unmarshal(kv.Value, &rec) != nil || rec.GetCreateTime().AsTime().Before(limit) {
				out.Delete(kv.Key)
			}
		}
		if err := w.drop(ctx, &out); err != nil || !res.More {
			return err
		}
		opts.From = res.Next
	}
}

func (w *worker) expireTokens(ctx context.Context) error {
	var out state.Writer
	for _, row := range w.Cache.Find(state.Query{Kind: state.KindJoinToken, Limit: expireBatch}).Rows {
		if w.Now().After(row.JoinToken().GetExpireTime().AsTime()) {
			out.Delete(state.Key(state.KindJoinToken, row.ID))
		}
	}
	return w.drop(ctx, &out)
}

func (w *worker) drop(ctx context.Context, out *state.Writer) error {
	if out.Size() == 0 {
		return nil
	}
	_, err := w.commit(ctx, []*state.Writer{out})
	return err
}

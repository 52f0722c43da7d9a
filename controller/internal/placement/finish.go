package placement

import (
	"context"

	"github.com/limiquantix/limiquantix/controller/internal/state"
)

// finish completes what no node has to confirm: the deletion of VMs that lie nowhere, and of images without copies; and it empties nodes that an
// operator declared off.
func (w *worker) finish(ctx context.Context) error {
	return w.follow(ctx, func() error {
		for _, kind := range []state.Kind{state.KindVM, state.KindImage, state.KindNode} {
			for _, row := range w.Cache.Find(state.Query{Kind: kind, Keep: func(r *state.Row) bool { return r.Deleting }}).Rows {
				if err := w.finishOne(ctx, row); err != nil {
					return err
				}
			}
		}
		return nil
	}, func(changes []state.Change) error {
		for _, c := range changes {
			row := c.New
			if row == nil && c.Old.Kind == state.KindVolume && c.Old.Owner != "" {
				row = w.Cache.Row(state.KindVM, c.Old.Owner)
			}
			if row == nil || !row.Deleting {
				continue
			}
			if err := w.finishOne(ctx, row); err != nil {
				return err
			}
		}
		return nil
	})
}

// finishOne does what can be done for one object; it looks at the object as it is now, again and again while it is overtaken.
func (w *worker) finishOne(ctx context.Context, row *state.Row) error {
	for {
		now := w.Cache.Row(row.Kind, row.ID)
		if now == nil || !now.Deleting {
			return nil
		}
		var out *state.Writer
		switch row.Kind {
		case state.KindVM:
			out = RemoveVM(w.Cache, now)
		case state.KindImage:
			out = RemoveImage(now)
		case state.KindNode:
			return w.empty(ctx, now)
		}
		if out == nil {
			return nil // a node has to confirm first
		}
		done, err := w.commit(ctx, []*state.Writer{out})
		if err != nil || done[0] {
			return err
		}
	}
}

// RemoveVM removes a VM that is being deleted, with its volumes and secrets; nil while a node has not confirmed that nothing is left of it there.
func RemoveVM(cache *state.Cache, row *state.Row) *state.Writer {
	if len(row.Nodes) > 0 {
		return nil
	}
	var out state.Writer
	out.Same(row)
	for _, v := range cache.Find(state.Query{Kind: state.KindVolume, Owner: row.ID}).Rows {
		if len(v.Nodes) > 0 {
			return nil
		}
		out.Same(v)
		out.Delete(state.Key(state.KindVolume, v.ID))
	}
	out.Delete(state.Key(state.KindVM, row.ID))
	out.DeletePrefix(state.SecretKey(row.ID, ""))
	return &out
}

// RemoveImage removes an image that is being deleted; nil while copies of it are left.
func RemoveImage(row *state.Row) *state.Writer {
	if len(row.Image().GetImage().GetStatus().GetCopies()) > 0 {
		return nil
	}
	var out state.Writer
	out.Same(row)
	out.Delete(state.Key(state.KindImage, row.ID))
	return &out
}

package placement

import (
	"context"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
)

// finish completes what no node has to confirm: the deletion of VMs that lie nowhere, and of images without copies; and it empties nodes that an
// operator declared off.
func (w *worker) finish(ctx context.Context) error {
	return w.follow(ctx, func() error {
		var rows []*state.Row
		for _, kind := range []state.Kind{state.KindVM, state.KindImage, state.KindVolume, state.KindSnapshot, state.KindPool, state.KindNetwork, state.KindPort, state.KindSecurityGroup, state.KindNode} {
			rows = append(rows, w.Cache.Find(state.Query{Kind: kind, Keep: func(r *state.Row) bool { return r.Deleting }}).Rows...)
		}
		if err := w.dropGoneNodes(ctx); err != nil {
			return err
		}
		return w.finishAll(ctx, rows)
	}, func(changes []state.Change) error {
		var rows []*state.Row
		seen := map[string]bool{}
		for _, c := range changes {
			row := c.New
			if row == nil && c.Row().Kind == state.KindNode {
				if err := w.dropGoneNodes(ctx); err != nil {
					return err
				}
			}
			for _, g := range w.releasedGroups(c) {
				if !seen[g.ID] {
					seen[g.ID] = true
					rows = append(rows, g)
				}
			}
			if v := c.Row(); (v.Kind == state.KindVolume || v.Kind == state.KindSnapshot) && c.New == nil && v.InPool != "" { // a pool may have waited for it
				if p := w.Cache.Row(state.KindPool, v.InPool); p != nil && p.Deleting && !seen[p.ID] {
					seen[p.ID] = true
					rows = append(rows, p)
				}
			}
			if p := c.Row(); p.Kind == state.KindPort { // its network or its VM may have waited for it
				for _, waiting := range w.waitsForPort(c) {
					if !seen[waiting.ID] {
						seen[waiting.ID] = true
						rows = append(rows, waiting)
					}
				}
			}
			if v := c.Row(); v.Kind == state.KindVolume && v.Owner != "" { // it is gone, or lies on no node any more
				row = w.Cache.Row(state.KindVM, v.Owner)
			}
			if row != nil && row.Deleting && !seen[row.ID] {
				seen[row.ID] = true
				rows = append(rows, row)
			}
		}
		return w.finishAll(ctx, rows)
	})
}

// finishAll does what can be done now for objects that are being deleted; it looks at them as they are, again and again while it is overtaken.
func (w *worker) finishAll(ctx context.Context, rows []*state.Row) error {
	for len(rows) > 0 {
		var outs []*state.Writer
		var tried, later []*state.Row
		for i, row := range rows {
			if len(outs) == roundSize {
				later = rows[i:]
				break
			}
			now := w.Cache.Row(row.Kind, row.ID)
			if now == nil || !now.Deleting {
				continue
			}
			var out *state.Writer
			switch row.Kind {
			case state.KindVM:
				out = RemoveVM(w.Cache, now)
			case state.KindImage:
				out = RemoveImage(now)
			case state.KindVolume, state.KindSnapshot:
				out = w.removeUnmade(now)
			case state.KindSecurityGroup:
				out = RemoveSecurityGroup(w.Cache, now)
			case state.KindPool:
				out = RemovePool(w.Cache, now)
			case state.KindNetwork:
				out = RemoveNetwork(w.Cache, now)
			case state.KindPort:
				out = removePort(now)
			case state.KindNode:
				if err := w.empty(ctx, now); err != nil {
					return err
				}
			}
			if out != nil { // otherwise a node has to confirm first
				outs, tried = append(outs, out), append(tried, row)
			}
		}
		if len(outs) == 0 {
			rows = later
			continue
		}
		done, err := w.commit(ctx, outs)
		if err != nil {
			return err
		}
		rows = nil
		for i, row := range tried {
			if !done[i] {
				rows = append(rows, row)
			}
		}
		rows = append(rows, later...)
	}
	return nil
}

// RemoveVM removes a VM that is being deleted, with its volumes, ports and secrets; nil while a node has not confirmed that nothing is left of it there.
func RemoveVM(cache *state.Cache, row *state.Row) *state.Writer {
	if len(row.Nodes) > 0 {
		return nil
	}
	var out state.Writer
	out.Same(row)
	for _, v := range cache.Find(state.Query{Kind: state.KindVolume, Owner: row.ID}).Rows {
		if len(v.Nodes) > 0 || v.Volume().GetExecutorEpoch() > 0 && cache.Row(state.KindPool, v.InPool).Pool().GetPool().GetStatus().GetShared() {
			return nil // it may still lie there: somebody has to remove it
		}
		out.Same(v)
		out.Delete(state.Key(state.KindVolume, v.ID))
	}
	for _, v := range cache.Find(state.Query{Kind: state.KindVolume, Ref: state.RefVM(row.ID)}).Rows {
		if v.Owner == row.ID {
			continue
		}
		rec := v.Volume()
		domain.Detach(rec.GetVolume(), row.ID)
		out.Same(v)
		out.Put(state.Key(state.KindVolume, v.ID), rec)
	}
	if !removePorts(cache, &out, row.ID) {
		return nil
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

// RemovePool removes a pool that is being deleted; nil while a node has not let go of it, or something is still kept in it.
func RemovePool(cache *state.Cache, row *state.Row) *state.Writer {
	if len(row.Pool().GetPool().GetStatus().GetNodes()) > 0 || cache.Count(state.Query{Kind: state.KindVolume, Pool: row.ID, Limit: 1}) > 0 ||
		cache.Count(state.Query{Kind: state.KindSnapshot, Pool: row.ID, Limit: 1}) > 0 {
		return nil
	}
	var out state.Writer
	out.Same(row)
	out.Delete(state.Key(state.KindPool, row.ID))
	out.DeletePrefix(state.SecretKey(row.ID, ""))
	return &out
}

// removeUnmade removes a volume or snapshot that is being deleted and of which nothing is left anywhere: no node ever had it, or the only place where it was is gone.
func (w *worker) removeUnmade(row *state.Row) *state.Writer {
	if !row.Deleting {
		return nil
	}
	switch row.Kind {
	case state.KindVolume:
		rec := row.Volume()
		if row.Owner != "" || rec.GetExecutorNodeId() != "" || rec.GetExecutorEpoch() > 0 && w.shared(row.InPool) {
			return nil
		}
	case state.KindSnapshot:
		rec := row.Snapshot()
		if rec.GetExecutorNodeId() != "" || rec.GetExecutorEpoch() > 0 && w.shared(row.InPool) {
			return nil
		}
	default:
		return nil
	}
	var out state.Writer
	out.Same(row)
	out.Delete(state.Key(row.Kind, row.ID))
	return &out
}

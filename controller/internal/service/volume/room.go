package volume

import (
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// TakeRoom refuses what would promise more of a pool than its overcommit allows, or puts something new into a pool that is cordoned. The commit is then conditional on the pool;
// where there is a limit it also writes the pool's record, so that of promises made at the same moment each counts those before it.
func TakeRoom(cache *state.Cache, w *state.Writer, pool *state.Row, more int64, isNew bool) error {
	rec := pool.Pool()
	p := rec.GetPool()
	if isNew && p.GetSpec().GetCordoned() {
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "storage pool %s is cordoned: it takes nothing new", pool.Name).
			WithRemedy("use another pool, or uncordon it: set spec.cordoned to false")
	}
	w.Same(pool)
	limit := p.GetSpec().GetOvercommit() * float64(p.GetStatus().GetCapacityBytes())
	if limit <= 0 {
		return nil
	}
	promised := more
	for _, r := range cache.Find(state.Query{Kind: state.KindVolume, Pool: pool.ID}).Rows {
		promised += r.Size
	}
	if float64(promised) > limit {
		return fault.New(metav1.Reason_REASON_NO_SPACE, "storage pool %s may promise %.0f bytes (%g times its %d) and would promise %d",
			pool.Name, limit, p.GetSpec().GetOvercommit(), p.GetStatus().GetCapacityBytes(), promised).
			WithRemedy("delete volumes, or raise spec.overcommit")
	}
	w.Put(state.Key(state.KindPool, pool.ID), rec)
	return nil
}

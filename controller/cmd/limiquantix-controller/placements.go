package main

import (
	"context"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/server"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// waits knows which VMs wait for a node, and since when, as this process saw it.
type waits map[string]time.Time

// note takes in one change of a VM; placed says that it got its node, after waited.
func (w waits) note(ch state.Change, now time.Time) (waited time.Duration, placed bool) {
	row := ch.Row()
	since, waiting := w[row.ID]
	switch {
	case ch.New == nil || row.Deleting:
		delete(w, row.ID)
	case len(row.Nodes) > 0:
		delete(w, row.ID)
		return now.Sub(since), waiting
	case !waiting && computev1.VMPhase(row.Phase) == computev1.VMPhase_VM_PHASE_PENDING:
		w[row.ID] = now
	}
	return 0, false
}

// observePlacements measures how long VMs wait for a node, until ctx ends. Where it falls behind, it begins anew and misses some.
func observePlacements(ctx context.Context, cache *state.Cache, m *server.Metrics) {
	for ctx.Err() == nil {
		sub, err := cache.Subscribe(cache.Revision())
		waiting := waits{}
		for err == nil {
			var changes []state.Change
			changes, _, err = sub.Next(ctx)
			now := time.Now()
			for _, ch := range changes {
				if ch.Row().Kind != state.KindVM {
					continue
				}
				if waited, placed := waiting.note(ch, now); placed {
					m.ObservePlacement(waited)
				}
			}
		}
		if !pause(ctx, time.Second) {
			return
		}
	}
}

// countPending is how many VMs wait for a node.
func countPending(cache *state.Cache) int {
	return cache.Count(state.Query{
		Kind: state.KindVM, Phases: []int32{int32(computev1.VMPhase_VM_PHASE_PENDING)},
		Keep: func(r *state.Row) bool { return len(r.Nodes) == 0 && !r.Deleting },
	})
}

package placement

import (
	"context"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// beatsToReturn is how many heartbeats a node that was silent must send before it counts again, so that a flapping one does not.
const beatsToReturn = 2

// monitor writes down which nodes fell silent and which came back. Heartbeats themselves are never written.
func (w *worker) monitor(ctx context.Context) error {
	tick := time.NewTicker(max(w.HeartbeatInterval/2, 10*time.Millisecond))
	defer tick.Stop()
	for {
		if err := w.look(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-w.Live.Wake():
		}
	}
}

func (w *worker) look(ctx context.Context) error {
	now := w.Now()
	var outs []*state.Writer
	for _, row := range w.Cache.Find(state.Query{Kind: state.KindNode}).Rows {
		was := computev1.NodePhase(row.Phase)
		if row.Deleting || was == computev1.NodePhase_NODE_PHASE_REGISTERED {
			continue
		}
		beat, alive := w.heard(row.ID, was, now)
		if alive == (was != computev1.NodePhase_NODE_PHASE_UNKNOWN) {
			continue
		}
		rec := row.Node()
		st := rec.GetNode().GetStatus()
		st.Phase, st.Reason, st.Message = domain.NodePhase(rec, alive)
		if !alive {
			w.Live.Restart(row.ID)
		}
		w.Log.Info("node phase", "node", row.ID, "name", row.Name, "phase", st.GetPhase().String(), "last_heartbeat", beat.Time)
		var out state.Writer
		out.Same(row)
		out.Put(state.Key(state.KindNode, row.ID), rec)
		outs = append(outs, &out)
	}
	if len(outs) == 0 {
		return nil
	}
	_, err := w.commit(ctx, outs) // what was overtaken is looked at again
	return err
}

// heard judges a node by its last heartbeat. One that is silent again begins anew to show that it is back: else every second beat of a node that is heard of
// less often than the timeout would make it count, until the timeout.
func (w *worker) heard(id string, was computev1.NodePhase, now time.Time) (state.Beat, bool) {
	beat := w.Live.Last(id)
	if was == computev1.NodePhase_NODE_PHASE_UNKNOWN && beat.Count > 0 && now.Sub(beat.Time) > w.HeartbeatTimeout {
		w.Live.Restart(id)
		beat.Count = 0
	}
	return beat, w.alive(was, beat, now)
}

// alive judges a node. One that was heard of before this term began has a full timeout from then on.
func (w *worker) alive(was computev1.NodePhase, beat state.Beat, now time.Time) bool {
	if was == computev1.NodePhase_NODE_PHASE_UNKNOWN {
		return beat.Count >= beatsToReturn && now.Sub(beat.Time) <= w.HeartbeatTimeout
	}
	last := w.since
	if beat.Time.After(last) {
		last = beat.Time
	}
	return now.Sub(last) <= w.HeartbeatTimeout
}

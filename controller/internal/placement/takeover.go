package placement

import (
	"context"
	"fmt"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// A node works on shared pools only while its lease lives: from its last heartbeat for as long as the answer granted. When that is over, and a margin for clocks and for what takes
// its time to stop, nothing of it is under way any more, and another node may go on.

// leaseMargin is what part of a lease is waited for beyond it.
const leaseMargin = 3

// takeOvers looks again and again for executors that are lost.
func (w *worker) takeOvers(ctx context.Context) error {
	tick := time.NewTicker(max(w.HeartbeatInterval/2, 10*time.Millisecond))
	defer tick.Stop()
	for {
		if err := w.takeOver(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// takeOver gives what silent nodes left undone in shared pools to others, and what rests on nodes that are cordoned, so that those can go.
func (w *worker) takeOver(ctx context.Context) error {
	var outs []*state.Writer
	for _, node := range w.Cache.Find(state.Query{Kind: state.KindNode}).Rows {
		silent := computev1.NodePhase(node.Phase) == computev1.NodePhase_NODE_PHASE_UNKNOWN
		if node.Deleting || !silent && !node.Node().GetNode().GetSpec().GetCordoned() {
			continue
		}
		over := silent && w.Now().After(w.leaseEnd(node.ID))
		for _, kind := range []state.Kind{state.KindVolume, state.KindSnapshot, state.KindImage} {
			for _, row := range w.Cache.Find(state.Query{Kind: kind, Node: node.ID}).Rows {
				if out := w.relieve(row, node, silent, over); out != nil && len(outs) < roundSize {
					outs = append(outs, out)
				}
			}
		}
	}
	if len(outs) == 0 {
		return nil
	}
	_, err := w.commit(ctx, outs) // what was overtaken is looked at again
	return err
}

// leaseEnd is when nothing of a node is under way on shared pools any more. What a former leader granted is not known: it granted no more than a full lease at its end.
func (w *worker) leaseEnd(nodeID string) time.Time {
	last := w.since
	if beat := w.Live.Last(nodeID); beat.Time.After(last) {
		last = beat.Time
	}
	return last.Add(w.Lease + w.Lease/leaseMargin)
}

// relieve gives an object of a node to another one, or notes whom it waits for; nil when there is nothing to write.
func (w *worker) relieve(row, node *state.Row, silent, over bool) *state.Writer {
	var out state.Writer
	out.Same(row)
	key := state.Key(row.Kind, row.ID)
	switch row.Kind {
	case state.KindVolume:
		rec := row.Volume()
		if rec.GetExecutorNodeId() != node.ID || row.Owner != "" && !w.doomed(row) || !w.shared(row.InPool) {
			return nil
		}
		if w.doomed(row) { // its VM has left every node
			rec.Volume.Status.Attachments = nil
		}
		if domain.Moving(rec) && !w.shared(rec.GetMove().GetFromPoolId()) { // only that node has what is to be moved
			return nil
		}
		if domain.UsedOn(rec.GetVolume()) != "" { // a hypervisor there may have it open: nobody else may touch it
			return nil
		}
		if rest := domain.VolumeAtRest(rec) && !w.doomed(row); rest == silent {
			return nil
		}
		to, why := "", "until its lease is over nobody else may go on"
		if over || !silent {
			to, why = w.nodeFor(rec, want{not: node.ID, open: !silent})
		}
		st := rec.GetVolume().GetStatus()
		if to != "" {
			w.give(rec, to)
		} else if !silent || !waits(&st.Reason, &st.Message, node.Name, why) {
			return nil
		}
		out.Put(key, rec)
	case state.KindSnapshot:
		rec := row.Snapshot()
		vol := w.Cache.Row(state.KindVolume, row.Owner).Volume().GetVolume()
		if rec.GetExecutorNodeId() != node.ID || !w.shared(row.InPool) || domain.UsedOn(vol) != "" || domain.SnapshotAtRest(rec) == silent {
			return nil
		}
		to, why := "", "until its lease is over nobody else may go on"
		if over || !silent {
			to, why = w.bestNode(row.InPool, want{not: node.ID, open: !silent})
		}
		st := rec.GetSnapshot().GetStatus()
		if to != "" {
			rec.ExecutorNodeId, rec.ExecutorEpoch = to, rec.GetExecutorEpoch()+1
			st.Reason, st.Message = "", ""
		} else if !silent || !waits(&st.Reason, &st.Message, node.Name, why) {
			return nil
		}
		out.Put(key, rec)
	case state.KindImage:
		rec := row.Image()
		if !over || !w.relieveCopies(rec, node.ID) {
			return nil
		}
		out.Put(key, rec)
	}
	return &out
}

// relieveCopies gives copies in shared pools that a node has yet to make or remove to others.
func (w *worker) relieveCopies(rec *statev1.ImageRecord, nodeID string) bool {
	did := false
	for _, c := range rec.GetImage().GetStatus().GetCopies() {
		ex := rec.GetExecutors()[c.GetPoolId()]
		if c.GetNodeId() != "" || ex.GetNodeId() != nodeID || domain.CopyAtRest(c) {
			continue
		}
		if to, _ := w.bestNode(c.GetPoolId(), want{not: nodeID}); to != "" {
			rec.Executors[c.GetPoolId()] = &statev1.Executor{NodeId: to, Epoch: ex.GetEpoch() + 1}
			did = true
		}
	}
	return did
}

// waits notes that an object waits for a node; false when it says so already.
func waits(reason, message *string, node, why string) bool {
	r, m := fault.ReasonName(metav1.Reason_REASON_NODE_UNREACHABLE), fmt.Sprintf("waits for node %s, which does not report: %s", node, why)
	if *reason == r && *message == m {
		return false
	}
	*reason, *message = r, m
	return true
}

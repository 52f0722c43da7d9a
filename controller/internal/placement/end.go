package placement

import (
	"context"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

const opRunning = int32(operationv1.OperationState_OPERATION_STATE_RUNNING)

// end ends operations as soon as their objects are as they asked, or never will be.
func (w *worker) end(ctx context.Context) error {
	w.groupWaits = map[string]string{}
	return w.follow(ctx, func() error {
		return w.settle(ctx, w.Cache.Find(state.Query{Kind: state.KindOperation, Phases: []int32{opRunning}}).Rows)
	}, func(changes []state.Change) error {
		seen := map[string]bool{}
		var rows []*state.Row
		for _, c := range changes {
			row := c.Row()
			object := row.ID
			switch row.Kind {
			case state.KindOperation:
				object = row.Owner
			case state.KindVM, state.KindImage, state.KindPool, state.KindVolume, state.KindSnapshot, state.KindSecurityGroup, state.KindNetwork:
			case state.KindPort:
				rows = append(rows, w.networkOperations(c)...)
				for _, id := range groupsOf(c) {
					if !seen[id] {
						seen[id] = true
						rows = append(rows, w.Cache.Find(state.Query{Kind: state.KindOperation, Owner: id, Phases: []int32{opRunning}}).Rows...)
					}
				}
			case state.KindNode: // changes of pools, groups and networks wait for nodes that report only
				if c.Old == nil || c.New == nil || c.Old.Phase != c.New.Phase {
					rows = append(rows, w.nodeOperations()...)
				}
				continue
			default:
				continue
			}
			if seen[object] {
				continue
			}
			seen[object] = true
			rows = append(rows, w.Cache.Find(state.Query{Kind: state.KindOperation, Owner: object, Phases: []int32{opRunning}}).Rows...)
		}
		return w.settle(ctx, rows)
	})
}

// settle ends those of the operations that have an outcome.
func (w *worker) settle(ctx context.Context, rows []*state.Row) error {
	for len(rows) > 0 {
		n := min(len(rows), roundSize)
		if err := w.settleSome(ctx, rows[:n]); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

func (w *worker) settleSome(ctx context.Context, rows []*state.Row) error {
	var outs []*state.Writer
	var ended []string
	for _, row := range rows {
		rec := row.Operation()
		o := w.outcome(rec)
		if !o.Ended() {
			continue
		}
		op := rec.GetOperation()
		now := w.Now()
		domain.EndOperation(op, o, now)
		if op.GetObjectKind() == domain.KindVM {
			op.Phases = w.History.Phases(op, Placed(op, w.Cache.Row(state.KindVM, op.GetObjectId()).VM()), now)
		}
		var out state.Writer
		out.Same(row)
		out.Put(state.Key(state.KindOperation, row.ID), rec)
		outs, ended = append(outs, &out), append(ended, op.GetObjectId())
	}
	if len(outs) == 0 {
		return nil
	}
	_, err := w.commit(ctx, outs) // one that was overtaken has changed, and comes again
	for _, id := range ended {
		if w.Cache.Row(state.KindVM, id) == nil {
			w.History.EndPhases(id)
		}
	}
	return err
}

// Placed is when a node was chosen for the object of an operation; zero = none is.
func Placed(op *operationv1.Operation, rec *statev1.VMRecord) time.Time {
	if p := rec.GetVm().GetStatus().GetVmPlacement(); p != nil {
		return p.GetPlaceTime().AsTime()
	}
	if rec != nil && op.GetVerb() != domain.VerbDeleteVM {
		return time.Time{}
	}
	return op.GetCreateTime().AsTime() // it has left its node
}

func (w *worker) outcome(rec *statev1.OperationRecord) domain.Outcome {
	op := rec.GetOperation()
	if op.GetObjectKind() == domain.KindVM {
		return domain.OperationOutcome(op, w.Cache.Row(state.KindVM, op.GetObjectId()).VM())
	}
	switch op.GetObjectKind() {
	case domain.KindVolume:
		return domain.VolumeOutcome(op, w.Cache.Row(state.KindVolume, op.GetObjectId()).Volume())
	case domain.KindSnapshot:
		return domain.SnapshotOutcome(op, w.Cache.Row(state.KindSnapshot, op.GetObjectId()).Snapshot())
	case domain.KindSecurityGroup:
		return w.groupOutcome(op)
	case domain.KindNetwork:
		return domain.NetworkOutcome(op, w.Cache.Row(state.KindNetwork, op.GetObjectId()).Network(), w.heardNeeds(op.GetObjectId()))
	case domain.KindPort:
		return domain.PortOutcome(op, w.Cache.Row(state.KindPort, op.GetObjectId()).Port())
	case domain.KindPool:
		return domain.PoolOutcome(op, w.Cache.Row(state.KindPool, op.GetObjectId()).Pool(), w.reporting())
	}
	img := w.Cache.Row(state.KindImage, op.GetObjectId())
	switch {
	case op.GetVerb() == domain.VerbDeleteImage && img == nil:
		return domain.Outcome{State: operationv1.OperationState_OPERATION_STATE_DONE}
	case op.GetVerb() == domain.VerbImportImage:
		return domain.ImportOutcome(img.Image().GetImage())
	case op.GetVerb() == domain.VerbUploadImage && (img == nil || img.Deleting):
		return domain.Outcome{
			State:  operationv1.OperationState_OPERATION_STATE_FAILED,
			Reason: fault.ReasonName(metav1.Reason_REASON_CANCELLED), Message: "the upload was broken off; nothing is kept of it",
		}
	}
	return domain.Outcome{State: operationv1.OperationState_OPERATION_STATE_RUNNING}
}

// reporting are the nodes that are heard of.
func (w *worker) reporting() map[string]*computev1.Node {
	out := map[string]*computev1.Node{}
	for _, row := range w.Cache.Find(state.Query{Kind: state.KindNode}).Rows {
		if !row.Deleting && computev1.NodePhase(row.Phase) != computev1.NodePhase_NODE_PHASE_UNKNOWN {
			out[row.ID] = row.Node().GetNode()
		}
	}
	return out
}

// nodeOperations are the operations that wait for the nodes that report.
func (w *worker) nodeOperations() []*state.Row {
	return w.Cache.Find(state.Query{Kind: state.KindOperation, Phases: []int32{opRunning}, Keep: func(r *state.Row) bool {
		kind := r.Operation().GetOperation().GetObjectKind()
		return kind == domain.KindPool || kind == domain.KindSecurityGroup || kind == domain.KindNetwork
	}}).Rows
}

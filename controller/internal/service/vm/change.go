package vm

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// effect is what a change did to a record.
type effect int

const (
	// nothing: it is as wanted already; an operation is begun none the less, so that the caller can wait for it.
	nothing effect = iota
	// notes: labels or annotations changed; nothing is to be realised.
	notes
	// wish: spec changed; there is a new generation.
	wish
)

// change describes a mutation of one VM.
type change struct {
	call    request.Call
	verb    string
	id      string
	project string
	etag    string
	// apply changes rec, which is its own copy, and bumps the generation where it changes spec. w takes writes that go along.
	apply func(rec *statev1.VMRecord, w *state.Writer) (effect, error)
}

// mutate runs a change on whatever the VM is when it is committed. answer makes the response.
func mutate[R proto.Message](ctx context.Context, s *Service, c change, answer func(*computev1.VM, *operationv1.Operation) R) (R, error) {
	return request.Do(ctx, s.cfg.Runner, c.call, func(context.Context) (*request.Plan[R], error) {
		row, err := s.find(c.id, c.project)
		if err != nil {
			return nil, err
		}
		if row.Deleting {
			return nil, beingDeleted(row)
		}
		if err := domain.CheckEtag(c.etag, row.Revision); err != nil {
			return nil, err
		}
		rec := row.VM()
		var w state.Writer
		did, err := c.apply(rec, &w)
		if err != nil {
			return nil, err
		}
		return planChange(s, c, row, rec, did, &w, answer)
	})
}

// planChange writes a changed record with its operation.
func planChange[R proto.Message](s *Service, c change, row *state.Row, rec *statev1.VMRecord, did effect, w *state.Writer,
	answer func(*computev1.VM, *operationv1.Operation) R,
) (*request.Plan[R], error) {
	now, key := s.cfg.Now(), state.Key(state.KindVM, row.ID)
	op := newOperation(c.verb, rec.GetVm(), now)
	revision := int64(0) // of the VM's record, when it does not change
	switch did {
	case nothing:
		revision = row.Revision
		if o := domain.OperationOutcome(op, rec); o.Ended() {
			domain.EndOperation(op, o, now)
		}
	case notes:
		domain.EndOperation(op, domain.Outcome{State: operationv1.OperationState_OPERATION_STATE_DONE}, now)
	case wish:
		rec.OperationId = op.GetId()
		s.supersede(w, c.verb, row.ID)
	}
	if did != nothing {
		w.Put(key, rec)
	}
	w.Put(state.Key(state.KindOperation, op.GetId()), &statev1.OperationRecord{SchemaVersion: 1, Operation: op})
	w.Same(row)
	txn, err := w.Txn()
	if err != nil {
		return nil, request.Fault(err)
	}
	return &request.Plan[R]{
		Txn:      txn,
		Response: answer(view(s.cfg.Cache, proto.CloneOf(rec), revision), op),
		ObjectID: row.ID, OperationID: op.GetId(),
		Refused: func(check store.Check) error {
			if check.Condition.Key != key || check.Current == nil {
				return nil
			}
			return domain.CheckEtag(c.etag, check.Current.ModRevision)
		},
	}, nil
}

// supersede ends the running operations of a VM that a new one replaces.
func (s *Service) supersede(w *state.Writer, verb, vmID string) {
	open := s.cfg.Cache.Find(state.Query{
		Kind: state.KindOperation, Owner: vmID, Phases: []int32{int32(operationv1.OperationState_OPERATION_STATE_RUNNING)}, Limit: 32,
	})
	for _, row := range open.Rows {
		rec := row.Operation()
		if !domain.Supersedes(verb, rec.GetOperation().GetVerb()) {
			continue
		}
		domain.EndOperation(rec.Operation, domain.SupersededBy(verb), s.cfg.Now())
		w.Same(row)
		w.Put(state.Key(state.KindOperation, row.ID), rec)
	}
}

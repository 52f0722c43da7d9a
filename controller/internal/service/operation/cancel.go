package operation

import (
	"context"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1/operationv1connect"
)

type cancelPlan = request.Plan[*operationv1.CancelOperationResponse]

// CancelOperation takes back the wish behind an operation and ends it, in one commit.
func (s *Service) CancelOperation(ctx context.Context, req *connect.Request[operationv1.CancelOperationRequest]) (*connect.Response[operationv1.CancelOperationResponse], error) {
	m := req.Msg
	call := request.Call{Method: operationv1connect.OperationServiceCancelOperationProcedure, Body: m, RequestID: m.GetRequestId()}
	resp, err := request.Do(ctx, s.cfg.Runner, call, func(context.Context) (*cancelPlan, error) { return s.planCancel(m.GetId()) })
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

func (s *Service) planCancel(id string) (*cancelPlan, error) {
	row, err := s.find(id)
	if err != nil {
		return nil, err
	}
	rec := row.Operation()
	op := rec.GetOperation()
	switch {
	case op.GetState() == operationv1.OperationState_OPERATION_STATE_CANCELLED:
		return &cancelPlan{Response: &operationv1.CancelOperationResponse{Operation: op}}, nil
	case op.GetState() != operationv1.OperationState_OPERATION_STATE_RUNNING:
		return nil, fault.New(metav1.Reason_REASON_OPERATION_ENDED, "operation %s has ended as %s", id, op.GetState().String()[len("OPERATION_STATE_"):]).
			WithRemedy("make the opposite change instead")
	case op.GetObjectKind() != domain.KindVM:
		return nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "%s cannot be cancelled", op.GetVerb()).WithRemedy("break off the upload, or delete the image")
	}
	var w state.Writer
	if err := s.takeBack(&w, op); err != nil {
		return nil, err
	}
	op.CancelRequested = true
	domain.EndOperation(op, domain.Cancelled(), s.cfg.Now())
	w.Same(row)
	w.Put(state.Key(state.KindOperation, id), rec)
	txn, err := w.Txn()
	return &cancelPlan{
		Txn: txn, ObjectID: op.GetObjectId(), OperationID: id, Response: &operationv1.CancelOperationResponse{Operation: op},
	}, request.Fault(err)
}

// takeBack changes desired state so that the operation's wish is undone.
func (s *Service) takeBack(w *state.Writer, op *operationv1.Operation) error {
	row := s.cfg.Cache.Row(state.KindVM, op.GetObjectId())
	if row == nil || row.Deleting && op.GetVerb() != domain.VerbDeleteVM {
		return nil // nothing left to undo
	}
	rec, now := row.VM(), s.cfg.Now()
	remove, err := domain.CancelOperation(op, rec, now)
	if err != nil {
		return err
	}
	if remove {
		if rec.GetVm().GetSpec().GetDeleteProtection() {
			return fault.New(metav1.Reason_REASON_WRONG_STATE, "VM %s is protected from deletion, so its creation cannot be cancelled", row.Name).
				WithRemedy("set spec.delete_protection to false first")
		}
		domain.MarkDeleted(rec, now)
		w.Delete(state.NameKey(row.Project, state.KindVM, row.Name))
	}
	w.Same(row)
	w.Put(state.Key(state.KindVM, row.ID), rec)
	return nil
}

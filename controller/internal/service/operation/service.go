// Package operation serves OperationService. Operations are stored at start and end; what lies between is read off their objects.
package operation

import (
	"context"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/placement"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/service/vm"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1/operationv1connect"
)

const (
	defaultWait = 30 * time.Second
	maxWait     = 60 * time.Second
)

// Config is what the service needs.
type Config struct {
	Cache   *state.Cache
	Runner  *request.Runner
	History *state.History
	Now     func() time.Time
}

// Service implements operationv1connect.OperationServiceHandler.
type Service struct{ cfg Config }

var _ operationv1connect.OperationServiceHandler = (*Service)(nil)

// New makes the service.
func New(cfg Config) *Service { return &Service{cfg: cfg} }

func (s *Service) find(id string) (*state.Row, error) {
	if row := s.cfg.Cache.Row(state.KindOperation, id); row != nil {
		return row, nil
	}
	return nil, fault.New(metav1.Reason_REASON_NOT_FOUND, "there is no operation %q", id).
		WithRemedy("operations are forgotten 24 hours after their end; list operations to see which there are")
}

// view is an operation with what it waits for while it runs.
func (s *Service) view(row *state.Row) *operationv1.Operation {
	op := row.Operation().GetOperation()
	if op.GetState() == operationv1.OperationState_OPERATION_STATE_RUNNING && op.GetVerb() == domain.VerbImportImage {
		o := domain.ImportOutcome(s.cfg.Cache.Row(state.KindImage, op.GetObjectId()).Image().GetImage())
		op.Reason, op.Message = o.Reason, o.Message
		return op
	}
	if op.GetState() != operationv1.OperationState_OPERATION_STATE_RUNNING || op.GetObjectKind() != domain.KindVM {
		return op
	}
	object := s.cfg.Cache.Row(state.KindVM, op.GetObjectId())
	if object == nil {
		return op
	}
	st := vm.View(s.cfg.Cache, object).GetStatus()
	op.Reason, op.Message = st.GetReason(), st.GetMessage()
	op.Phases = s.cfg.History.Phases(op, placement.Placed(op, object.VM()), time.Time{})
	return op
}

// GetOperation reads an operation.
func (s *Service) GetOperation(_ context.Context, req *connect.Request[operationv1.GetOperationRequest]) (*connect.Response[operationv1.GetOperationResponse], error) {
	row, err := s.find(req.Msg.GetId())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&operationv1.GetOperationResponse{Operation: s.view(row)}), nil
}

// ListOperations pages, newest first.
func (s *Service) ListOperations(_ context.Context, req *connect.Request[operationv1.ListOperationsRequest]) (*connect.Response[operationv1.ListOperationsResponse], error) {
	m := req.Msg
	var v domain.Violations
	q := state.Query{
		Kind: state.KindOperation, Project: m.GetProjectId(), Owner: m.GetObjectId(), Limit: domain.PageSize(&v, m.GetPageSize()), Newest: true,
	}
	for _, st := range m.GetStates() {
		if !slices.Contains(q.Phases, int32(st)) {
			q.Phases = append(q.Phases, int32(st))
		}
	}
	if err := v.Err(); err != nil {
		return nil, err
	}
	query := proto.CloneOf(m)
	query.PageSize, query.PageToken = 0, ""
	var err error
	if q.After, err = domain.ReadPageToken(query, m.GetPageToken()); err != nil {
		return nil, err
	}
	page := s.cfg.Cache.Find(q)
	resp := &operationv1.ListOperationsResponse{}
	for _, row := range page.Rows {
		resp.Operations = append(resp.Operations, s.view(row))
	}
	if page.More {
		resp.NextPageToken = domain.PageToken(query, page.Rows[len(page.Rows)-1].ID)
	}
	return connect.NewResponse(resp), nil
}

// WaitOperation returns at the operation's end, or when the wait is over.
func (s *Service) WaitOperation(ctx context.Context, req *connect.Request[operationv1.WaitOperationRequest]) (*connect.Response[operationv1.WaitOperationResponse], error) {
	limit := defaultWait
	if d := req.Msg.GetTimeout(); d != nil {
		limit = d.AsDuration()
		if d.CheckValid() != nil || limit < 0 || limit > maxWait {
			var v domain.Violations
			v.Add("timeout", "must be from 0s to 60s")
			return nil, v.Err()
		}
	}
	over := time.NewTimer(limit)
	defer over.Stop()
	for {
		changed, stop := s.cfg.Cache.Notify(state.KindOperation, req.Msg.GetId())
		row, err := s.find(req.Msg.GetId())
		if err != nil {
			stop()
			return nil, err
		}
		answer := connect.NewResponse(&operationv1.WaitOperationResponse{Operation: s.view(row)})
		if answer.Msg.GetOperation().GetState() != operationv1.OperationState_OPERATION_STATE_RUNNING {
			stop()
			return answer, nil
		}
		select {
		case <-ctx.Done():
			stop()
			return nil, request.Fault(ctx.Err())
		case <-over.C:
			stop()
			return connect.NewResponse(&operationv1.WaitOperationResponse{Operation: s.view(row)}), nil
		case <-changed:
			stop()
		}
	}
}

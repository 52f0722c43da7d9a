package vm

import (
	"context"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
)

// DeleteVM marks a VM; the mark always succeeds and the name is free at once. An id that is gone is OK; a name that nobody has is NOT_FOUND, since it
// is more likely a slip of the pen.
func (s *Service) DeleteVM(ctx context.Context, req *connect.Request[computev1.DeleteVMRequest]) (*connect.Response[computev1.DeleteVMResponse], error) {
	m := req.Msg
	c := change{verb: domain.VerbDeleteVM, id: m.GetId(), project: m.GetProjectId(), etag: m.GetEtag()}
	call := request.Call{Method: computev1connect.VMServiceDeleteVMProcedure, Body: m, RequestID: m.GetRequestId()}
	return respond(request.Do(ctx, s.cfg.Runner, call, func(context.Context) (*request.Plan[*computev1.DeleteVMResponse], error) {
		row, err := s.find(m.GetId(), m.GetProjectId())
		switch {
		case err != nil && domain.IsID(m.GetId()):
			return &request.Plan[*computev1.DeleteVMResponse]{Response: &computev1.DeleteVMResponse{}}, nil
		case err != nil:
			return nil, err
		case row.Deleting:
			return &request.Plan[*computev1.DeleteVMResponse]{Response: s.deletion(row)}, nil
		}
		if err := domain.CheckEtag(m.GetEtag(), row.Revision); err != nil {
			return nil, err
		}
		rec := row.VM()
		if rec.GetVm().GetSpec().GetDeleteProtection() {
			return nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "VM %s is protected from deletion", row.Name).
				WithRemedy("set spec.delete_protection to false first")
		}
		domain.MarkDeleted(rec, s.cfg.Now())
		var w state.Writer
		w.Delete(state.NameKey(row.Project, state.KindVM, row.Name))
		return planChange(s, c, row, rec, wish, &w, func(vm *computev1.VM, op *operationv1.Operation) *computev1.DeleteVMResponse {
			return &computev1.DeleteVMResponse{Vm: vm, Operation: op}
		})
	}))
}

// deletion answers for a VM that is being deleted already, with the operation that does so.
func (s *Service) deletion(row *state.Row) *computev1.DeleteVMResponse {
	resp := &computev1.DeleteVMResponse{Vm: View(s.cfg.Cache, row)}
	ops := s.cfg.Cache.Find(state.Query{Kind: state.KindOperation, Owner: row.ID, Newest: true})
	for _, o := range ops.Rows {
		if op := o.Operation().GetOperation(); op.GetVerb() == domain.VerbDeleteVM {
			resp.Operation = op
			break
		}
	}
	return resp
}

package vm

import (
	"context"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// UpdateVM changes exactly what the mask names.
func (s *Service) UpdateVM(ctx context.Context, req *connect.Request[computev1.UpdateVMRequest]) (*connect.Response[computev1.UpdateVMResponse], error) {
	meta := req.Msg.GetVm().GetMeta()
	name := meta.GetId()
	if name == "" {
		name = meta.GetName()
	}
	if name == "" {
		var v domain.Violations
		v.Add("vm.meta.id", "is required, or meta.name and meta.project_id")
		return nil, v.Err()
	}
	var written *statev1.VMRecord
	var ports map[string]*statev1.PortRecord
	resp, err := mutate(ctx, s, change{
		call: request.Call{Method: computev1connect.VMServiceUpdateVMProcedure, Body: req.Msg, RequestID: req.Msg.GetRequestId()},
		verb: domain.VerbUpdateVM, id: name, project: meta.GetProjectId(), etag: meta.GetEtag(),
		apply: func(rec *statev1.VMRecord, w *state.Writer) (did effect, err error) {
			written = rec
			did, ports, err = s.applyUpdate(rec, req.Msg, w)
			return did, err
		},
	}, func(vm *computev1.VM, op *operationv1.Operation) *computev1.UpdateVMResponse {
		showNICs(s.cfg.Cache, written, vm, ports)
		return &computev1.UpdateVMResponse{Vm: vm, Operation: op}
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

// applyUpdate changes a VM's record, and its ports, which it returns as they are written.
func (s *Service) applyUpdate(rec *statev1.VMRecord, msg *computev1.UpdateVMRequest, w *state.Writer) (effect, map[string]*statev1.PortRecord, error) {
	cur := rec.GetVm()
	next, specChanged, keep, err := domain.UpdateVM(cur, msg.GetVm(), msg.GetUpdateMask())
	if err != nil {
		return nothing, nil, err
	}
	if specChanged {
		var v domain.Violations
		found := s.resolve(&v, next)
		if err := v.Err(); err != nil {
			return nothing, nil, err
		}
		w.Require(found.guards...)
	}
	if !keep {
		if err := s.replaceUserData(cur, next, w); err != nil {
			return nothing, nil, err
		}
	}
	rec.Vm = next
	var ports map[string]*statev1.PortRecord
	if specChanged {
		if ports, err = s.plug(w, rec, cur.GetSpec().GetNics()); err != nil {
			return nothing, nil, err
		}
	}
	switch {
	case specChanged && !proto.Equal(cur.GetSpec(), next.GetSpec()):
		domain.NewGeneration(rec, s.cfg.Now())
		return wish, ports, nil
	case proto.Equal(cur, next):
		return nothing, nil, nil
	}
	next.Meta.UpdateTime = timestamppb.New(s.cfg.Now())
	return notes, ports, nil
}

// replaceUserData seals the new document, or removes the old one when there is none any more.
func (s *Service) replaceUserData(cur, next *computev1.VM, w *state.Writer) error {
	id := cur.GetMeta().GetId()
	key := state.SecretKey(id, UserDataField)
	sealed, err := s.seal(id, domain.TakeUserData(next.GetSpec()))
	if err != nil {
		return err
	}
	switch {
	case sealed != nil:
		w.Put(key, &statev1.SecretRecord{SchemaVersion: 1, Sealed: sealed})
	case cur.GetSpec().GetCloudInit().GetUserDataSha256() != "":
		w.Delete(key)
	}
	return nil
}

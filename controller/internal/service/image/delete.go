package image

import (
	"context"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/placement"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
)

// DeleteImage marks an image that no VM uses; its names are free at once. An id that is gone is OK.
func (s *Service) DeleteImage(ctx context.Context, req *connect.Request[storagev1.DeleteImageRequest]) (*connect.Response[storagev1.DeleteImageResponse], error) {
	m := req.Msg
	call := request.Call{Method: storagev1connect.ImageServiceDeleteImageProcedure, Body: m, RequestID: m.GetRequestId()}
	resp, err := request.Do(ctx, s.cfg.Runner, call, func(context.Context) (*request.Plan[*storagev1.DeleteImageResponse], error) {
		row, err := s.find(m.GetId(), m.GetProjectId())
		switch {
		case err != nil && domain.IsID(m.GetId()):
			return &request.Plan[*storagev1.DeleteImageResponse]{Response: &storagev1.DeleteImageResponse{}}, nil
		case err != nil:
			return nil, err
		case row.Deleting:
			return &request.Plan[*storagev1.DeleteImageResponse]{Response: &storagev1.DeleteImageResponse{Image: view(row)}}, nil
		}
		if err := domain.CheckEtag(m.GetEtag(), row.Revision); err != nil {
			return nil, err
		}
		if err := s.checkUnused(row); err != nil {
			return nil, err
		}
		return s.planDelete(row, m.GetEtag())
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

// checkUnused refuses while a VM refers to the image, by id, name or alias. A create that comes in between is conditional on the image's record.
func (s *Service) checkUnused(row *state.Row) error {
	if row.Image().GetImage().GetSpec().GetDeleteProtection() {
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "image %s is protected from deletion", row.Name).
			WithRemedy("set spec.delete_protection to false first")
	}
	vols := s.cfg.Cache.Find(state.Query{Kind: state.KindVolume, Ref: state.RefImage(row.ID), Limit: 1, Keep: func(r *state.Row) bool { return r.Owner == "" && !r.Deleting }}).Rows
	if len(vols) > 0 {
		return fault.New(metav1.Reason_REASON_IMAGE_IN_USE, "image %s is used by volume %s (%s)", row.Name, vols[0].Name, vols[0].ID).
			WithRemedy("delete that volume first").WithMetadata("volume", vols[0].ID)
	}
	for i, ref := range append([]string{row.ID, row.Name}, row.Refs...) {
		q := state.Query{Kind: state.KindVM, Ref: ref, Limit: 1, Keep: func(r *state.Row) bool { return !r.Deleting }}
		if i > 0 {
			q.Project = row.Project
		}
		if used := s.cfg.Cache.Find(q).Rows; len(used) > 0 {
			return fault.New(metav1.Reason_REASON_IMAGE_IN_USE, "image %s is used by VM %s (%s)", row.Name, used[0].Name, used[0].ID).
				WithRemedy("delete that VM first").WithMetadata("vm", used[0].ID)
		}
	}
	return nil
}

func (s *Service) planDelete(row *state.Row, etag string) (*request.Plan[*storagev1.DeleteImageResponse], error) {
	rec, now := row.Image(), s.cfg.Now()
	var w state.Writer
	w.Same(row)
	placement.MarkImage(&w, rec, now)
	op := s.newOperation(domain.VerbDeleteImage, rec.GetImage())
	w.Put(state.Key(state.KindOperation, op.GetId()), &statev1.OperationRecord{SchemaVersion: 1, Operation: op})
	txn, err := w.Txn()
	return &request.Plan[*storagev1.DeleteImageResponse]{
		Txn: txn, ObjectID: row.ID, OperationID: op.GetId(),
		Response: &storagev1.DeleteImageResponse{Image: proto.CloneOf(rec.GetImage()), Operation: op},
		Refused: func(c store.Check) error {
			if c.Current == nil {
				return nil
			}
			return domain.CheckEtag(etag, c.Current.ModRevision)
		},
	}, request.Fault(err)
}

func (s *Service) newOperation(verb string, img *storagev1.Image) *operationv1.Operation {
	now := s.cfg.Now()
	return &operationv1.Operation{
		Id: domain.NewID(now), ProjectId: img.GetMeta().GetProjectId(), Verb: verb, ObjectKind: domain.KindImage, ObjectId: img.GetMeta().GetId(),
		ObjectName: img.GetMeta().GetName(), Generation: img.GetMeta().GetGeneration(),
		State: operationv1.OperationState_OPERATION_STATE_RUNNING, CreateTime: timestamppb.New(now),
	}
}

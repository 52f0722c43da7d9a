package image

import (
	"context"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
)

// ImportImage lets the nodes that shall have a copy fetch it. The image is offered when the first copy is whole and checked.
func (s *Service) ImportImage(ctx context.Context, req *connect.Request[storagev1.ImportImageRequest]) (*connect.Response[storagev1.ImportImageResponse], error) {
	m := req.Msg
	call := request.Call{Method: storagev1connect.ImageServiceImportImageProcedure, Body: m, RequestID: m.GetRequestId()}
	resp, err := request.Do(ctx, s.cfg.Runner, call, func(context.Context) (*request.Plan[*storagev1.ImportImageResponse], error) {
		given := m.GetImage()
		img := &storagev1.Image{
			Meta: domain.NewMeta(domain.NewID(s.cfg.Now()), given.GetMeta().GetName(), domain.Project(given.GetMeta().GetProjectId()), given.GetMeta().GetLabels(), given.GetMeta().GetAnnotations()),
			Spec: proto.CloneOf(given.GetSpec()),
		}
		var v domain.Violations
		domain.ValidateImport(&v, img, m.GetRequestId())
		if err := v.Err(); err != nil {
			return nil, err
		}
		to, err := s.targets(img.GetMeta().GetProjectId(), img.GetSpec().GetPoolId(), img.GetSpec().GetNodeIds(), "image.spec.pool_id", "image.spec.node_ids")
		if err != nil {
			return nil, err
		}
		s.fill(img, to, storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_PENDING)
		op := s.newOperation(domain.VerbImportImage, img)
		txn, err := s.begin(img, op, nil)
		return &request.Plan[*storagev1.ImportImageResponse]{
			Txn: txn, Response: &storagev1.ImportImageResponse{Image: proto.CloneOf(img), Operation: op}, ObjectID: img.GetMeta().GetId(), OperationID: op.GetId(),
		}, err
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

// fill completes a new image: where its copies will be, and that they are not there yet.
func (s *Service) fill(img *storagev1.Image, to targets, phase storagev1.ImageCopyPhase) {
	now := timestamppb.New(s.cfg.Now())
	img.Meta.CreateTime, img.Meta.UpdateTime = now, now
	named := len(img.GetSpec().GetNodeIds()) > 0
	img.Spec.PoolId, img.Spec.NodeIds = to.pool, nil
	img.Status = &storagev1.ImageStatus{Phase: storagev1.ImagePhase_IMAGE_PHASE_IMPORTING}
	for _, n := range to.nodes {
		c := &storagev1.ImageCopy{PoolId: to.pool, NodeId: n.ID, Phase: phase, TransitionTime: now}
		if named {
			img.Spec.NodeIds = append(img.Spec.NodeIds, n.ID)
		}
		if to.shared {
			c.NodeId = ""
		}
		img.Status.Copies = append(img.Status.Copies, c)
	}
}

// UpdateImage changes exactly what the mask names.
func (s *Service) UpdateImage(ctx context.Context, req *connect.Request[storagev1.UpdateImageRequest]) (*connect.Response[storagev1.UpdateImageResponse], error) {
	m := req.Msg
	call := request.Call{Method: storagev1connect.ImageServiceUpdateImageProcedure, Body: m, RequestID: m.GetRequestId()}
	resp, err := request.Do(ctx, s.cfg.Runner, call, func(context.Context) (*request.Plan[*storagev1.UpdateImageResponse], error) { return s.planUpdate(m) })
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

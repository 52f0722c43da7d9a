package image

import (
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// planUpdate changes what is the controller's alone; so it is done when it is written.
func (s *Service) planUpdate(m *storagev1.UpdateImageRequest) (*request.Plan[*storagev1.UpdateImageResponse], error) {
	given := m.GetImage()
	name := given.GetMeta().GetId()
	if name == "" {
		name = given.GetMeta().GetName()
	}
	row, err := s.find(name, given.GetMeta().GetProjectId())
	if err != nil {
		return nil, err
	}
	if row.Deleting {
		return nil, fault.New(metav1.Reason_REASON_BEING_DELETED, "image %s is being deleted", row.Name)
	}
	if err := domain.CheckEtag(given.GetMeta().GetEtag(), row.Revision); err != nil {
		return nil, err
	}
	rec := row.Image()
	was, next := rec.GetImage(), proto.CloneOf(rec.GetImage())
	var v domain.Violations
	domain.ApplyMask(&v, next, given, m.GetUpdateMask(), domain.ImagePathAllowed)
	if err := v.Err(); err != nil {
		return nil, err
	}
	domain.CheckLabels(&v, "image.meta.labels", next.GetMeta().GetLabels())
	domain.CheckAnnotations(&v, "image.meta.annotations", next.GetMeta().GetAnnotations())
	domain.CheckAliases(&v, "image.spec.aliases", next.GetMeta().GetName(), next.GetSpec().GetAliases())
	domain.CheckRequestID(&v, m.GetRequestId())
	if err := v.Err(); err != nil {
		return nil, err
	}
	var w state.Writer
	w.Same(row)
	for _, a := range next.GetSpec().GetAliases() {
		if slices.Contains(was.GetSpec().GetAliases(), a) {
			continue
		}
		if err := s.takeName(&w, next, a); err != nil {
			return nil, err
		}
	}
	for _, a := range was.GetSpec().GetAliases() {
		if !slices.Contains(next.GetSpec().GetAliases(), a) {
			w.Delete(state.NameKey(row.Project, state.KindImage, a))
		}
	}
	now := s.cfg.Now()
	next.Meta.UpdateTime = timestamppb.New(now)
	if !proto.Equal(was.GetSpec(), next.GetSpec()) {
		next.Meta.Generation++
		next.Status.ObservedGeneration = next.GetMeta().GetGeneration()
	}
	op := s.newOperation(domain.VerbUpdateImage, next)
	domain.EndOperation(op, domain.Outcome{State: operationv1.OperationState_OPERATION_STATE_DONE}, now)
	rec.Image = next
	w.Put(state.Key(state.KindImage, row.ID), rec)
	w.Put(state.Key(state.KindOperation, op.GetId()), &statev1.OperationRecord{SchemaVersion: 1, Operation: op})
	txn, err := w.Txn()
	etag := given.GetMeta().GetEtag()
	return &request.Plan[*storagev1.UpdateImageResponse]{
		Txn: txn, Response: &storagev1.UpdateImageResponse{Image: proto.CloneOf(next), Operation: op}, ObjectID: row.ID, OperationID: op.GetId(),
		Refused: func(c store.Check) error {
			if c.Condition.Key != state.Key(state.KindImage, row.ID) || c.Current == nil {
				return nil
			}
			return domain.CheckEtag(etag, c.Current.ModRevision)
		},
	}, request.Fault(err)
}

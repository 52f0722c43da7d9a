package pool

import (
	"context"
	"maps"
	"slices"
	"time"

	"connectrpc.com/connect"
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
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
)

// CreateStoragePool accepts a pool in one commit: the pool, its secrets, its name and its operation.
func (s *Service) CreateStoragePool(ctx context.Context, req *connect.Request[storagev1.CreateStoragePoolRequest]) (*connect.Response[storagev1.CreateStoragePoolResponse], error) {
	now, given := s.cfg.Now(), req.Msg.GetStoragePool()
	p := &storagev1.StoragePool{
		Meta: domain.NewMeta(domain.NewID(now), given.GetMeta().GetName(), domain.Project(given.GetMeta().GetProjectId()), given.GetMeta().GetLabels(), given.GetMeta().GetAnnotations()),
		Spec: proto.CloneOf(given.GetSpec()), Status: &storagev1.StoragePoolStatus{},
	}
	if p.Spec == nil {
		p.Spec = &storagev1.StoragePoolSpec{}
	}
	p.Meta.CreateTime, p.Meta.UpdateTime = timestamppb.New(now), timestamppb.New(now)
	var v domain.Violations
	domain.ValidatePool(&v, p)
	if err := v.Err(); err != nil {
		return nil, err
	}
	var w state.Writer
	if err := s.keepSecrets(&w, p); err != nil {
		return nil, err
	}
	domain.SettlePool(p)
	resp, err := request.Do(ctx, s.cfg.Runner, request.Call{
		Method: storagev1connect.StoragePoolServiceCreateStoragePoolProcedure, Body: req.Msg, RequestID: req.Msg.GetRequestId(),
	}, func(context.Context) (*request.Plan[*storagev1.CreateStoragePoolResponse], error) {
		meta := p.GetMeta()
		nameKey := state.NameKey(meta.GetProjectId(), state.KindPool, meta.GetName())
		if other := s.cfg.Cache.ByName(meta.GetProjectId(), state.KindPool, meta.GetName()); other != "" {
			return nil, nameTaken(meta, other)
		}
		op := newOperation(domain.VerbCreatePool, p, now)
		w := w // every try writes its own
		w.Put(state.Key(state.KindPool, meta.GetId()), &statev1.StoragePoolRecord{SchemaVersion: 1, Pool: p, OperationId: op.GetId()})
		w.Put(state.Key(state.KindOperation, op.GetId()), &statev1.OperationRecord{SchemaVersion: 1, Operation: op})
		w.PutText(nameKey, meta.GetId())
		w.Require(store.KeyAbsent(nameKey))
		txn, err := w.Txn()
		return &request.Plan[*storagev1.CreateStoragePoolResponse]{
			Txn: txn, Response: &storagev1.CreateStoragePoolResponse{StoragePool: proto.CloneOf(p), Operation: op}, ObjectID: meta.GetId(), OperationID: op.GetId(),
			Refused: func(c store.Check) error {
				if c.Condition.Key == nameKey && c.Current != nil {
					return nameTaken(meta, string(c.Current.Value))
				}
				return nil
			},
		}, request.Fault(err)
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

// keepSecrets seals what the spec holds of secrets, and takes it out of there: an empty value removes, what is not named stays.
func (s *Service) keepSecrets(w *state.Writer, p *storagev1.StoragePool) error {
	names := map[string]bool{}
	for _, n := range p.GetStatus().GetSecretNames() {
		names[n] = true
	}
	for name, plain := range p.GetSpec().GetSecrets() {
		key := state.SecretKey(p.GetMeta().GetId(), domain.PoolSecretField(name))
		if len(plain) == 0 {
			if names[name] {
				w.Delete(key)
			}
			delete(names, name)
			continue
		}
		if s.cfg.Sealer == nil {
			return fault.New(metav1.Reason_REASON_INTERNAL, "this controller has no key to seal secrets with")
		}
		sealed, err := s.cfg.Sealer.Seal(plain, []byte(key))
		if err != nil {
			return fault.New(metav1.Reason_REASON_INTERNAL, "seal secret %s of pool %s: %w", name, p.GetMeta().GetName(), err)
		}
		w.Put(key, &statev1.SecretRecord{SchemaVersion: 1, Sealed: sealed})
		names[name] = true
	}
	p.Spec.Secrets = nil
	p.Status.SecretNames = slices.Sorted(maps.Keys(names))
	return nil
}

// UpdateStoragePool changes exactly what the mask names.
func (s *Service) UpdateStoragePool(ctx context.Context, req *connect.Request[storagev1.UpdateStoragePoolRequest]) (*connect.Response[storagev1.UpdateStoragePoolResponse], error) {
	m, now := req.Msg, s.cfg.Now()
	given := m.GetStoragePool()
	resp, err := request.Do(ctx, s.cfg.Runner, request.Call{
		Method: storagev1connect.StoragePoolServiceUpdateStoragePoolProcedure, Body: m, RequestID: m.GetRequestId(),
	}, func(context.Context) (*request.Plan[*storagev1.UpdateStoragePoolResponse], error) {
		name := given.GetMeta().GetId()
		if name == "" {
			name = given.GetMeta().GetName()
		}
		row, err := s.find(name, given.GetMeta().GetProjectId())
		if err != nil {
			return nil, err
		}
		if row.Deleting {
			return nil, fault.New(metav1.Reason_REASON_BEING_DELETED, "storage pool %s is being deleted", row.Name)
		}
		if err := domain.CheckEtag(given.GetMeta().GetEtag(), row.Revision); err != nil {
			return nil, err
		}
		rec := row.Pool()
		cur := rec.GetPool()
		next := proto.CloneOf(cur)
		var v domain.Violations
		domain.ApplyMask(&v, next, given, m.GetUpdateMask(), domain.PoolPathAllowed)
		if err := v.Err(); err != nil {
			return nil, err
		}
		domain.ValidatePool(&v, next)
		if err := v.Err(); err != nil {
			return nil, err
		}
		specChanged := !proto.Equal(cur.GetSpec(), next.GetSpec()) // given secrets included
		var w state.Writer
		if err := s.keepSecrets(&w, next); err != nil {
			return nil, err
		}
		next.Meta.UpdateTime = timestamppb.New(now)
		if specChanged {
			next.Meta.Generation++
		}
		op := newOperation(domain.VerbUpdatePool, next, now)
		if !specChanged {
			domain.EndOperation(op, domain.Outcome{State: operationv1.OperationState_OPERATION_STATE_DONE}, now)
		}
		rec.Pool, rec.OperationId = next, op.GetId()
		w.Same(row)
		w.Put(state.Key(state.KindPool, row.ID), rec)
		w.Put(state.Key(state.KindOperation, op.GetId()), &statev1.OperationRecord{SchemaVersion: 1, Operation: op})
		txn, err := w.Txn()
		return &request.Plan[*storagev1.UpdateStoragePoolResponse]{
			Txn: txn, Response: &storagev1.UpdateStoragePoolResponse{StoragePool: proto.CloneOf(next), Operation: op}, ObjectID: row.ID, OperationID: op.GetId(),
			Refused: staleEtag(row, given.GetMeta().GetEtag()),
		}, request.Fault(err)
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

// DeleteStoragePool marks a pool in which nothing is kept; it is gone when every node has let go of it.
func (s *Service) DeleteStoragePool(ctx context.Context, req *connect.Request[storagev1.DeleteStoragePoolRequest]) (*connect.Response[storagev1.DeleteStoragePoolResponse], error) {
	m, now := req.Msg, s.cfg.Now()
	resp, err := request.Do(ctx, s.cfg.Runner, request.Call{
		Method: storagev1connect.StoragePoolServiceDeleteStoragePoolProcedure, Body: m, RequestID: m.GetRequestId(),
	}, func(context.Context) (*request.Plan[*storagev1.DeleteStoragePoolResponse], error) {
		row, err := s.find(m.GetId(), m.GetProjectId())
		switch {
		case err != nil && domain.IsID(m.GetId()):
			return &request.Plan[*storagev1.DeleteStoragePoolResponse]{Response: &storagev1.DeleteStoragePoolResponse{}}, nil
		case err != nil:
			return nil, err
		case row.Deleting:
			resp := &storagev1.DeleteStoragePoolResponse{StoragePool: s.view(row, s.around()), Operation: s.cfg.Cache.Row(state.KindOperation, row.Pool().GetOperationId()).Operation().GetOperation()}
			return &request.Plan[*storagev1.DeleteStoragePoolResponse]{Response: resp}, nil
		}
		if err := domain.CheckEtag(m.GetEtag(), row.Revision); err != nil {
			return nil, err
		}
		if err := s.checkUnused(row); err != nil {
			return nil, err
		}
		rec := row.Pool()
		p := rec.GetPool()
		p.Meta.DeleteTime = timestamppb.New(now)
		p.Meta.Generation++
		domain.SettlePool(p)
		op := newOperation(domain.VerbDeletePool, p, now)
		rec.OperationId = op.GetId()
		var w state.Writer
		w.Same(row)
		w.Put(state.Key(state.KindPool, row.ID), rec)
		w.Delete(state.NameKey(row.Project, state.KindPool, row.Name))
		w.Put(state.Key(state.KindOperation, op.GetId()), &statev1.OperationRecord{SchemaVersion: 1, Operation: op})
		txn, err := w.Txn()
		return &request.Plan[*storagev1.DeleteStoragePoolResponse]{
			Txn: txn, Response: &storagev1.DeleteStoragePoolResponse{StoragePool: proto.CloneOf(p), Operation: op}, ObjectID: row.ID, OperationID: op.GetId(),
			Refused: staleEtag(row, m.GetEtag()),
		}, request.Fault(err)
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

// checkUnused refuses while something is kept in the pool.
func (s *Service) checkUnused(row *state.Row) error {
	inUse := func(what, name, id string) error {
		return fault.New(metav1.Reason_REASON_POOL_IN_USE, "storage pool %s holds %s %s (%s)", row.Name, what, name, id).
			WithRemedy("delete what lies in it first; list volumes and images by pool to see it")
	}
	if v := s.cfg.Cache.Find(state.Query{Kind: state.KindVolume, Pool: row.ID, Limit: 1}).Rows; len(v) > 0 {
		return inUse("volume", v[0].Name, v[0].ID)
	}
	leaving := func(r *state.Row) bool {
		rec := r.Volume()
		return domain.Moving(rec) && rec.GetMove().GetFromPoolId() == row.ID
	}
	if v := s.cfg.Cache.Find(state.Query{Kind: state.KindVolume, Phases: []int32{int32(storagev1.VolumePhase_VOLUME_PHASE_MOVING), int32(storagev1.VolumePhase_VOLUME_PHASE_DELETING), int32(storagev1.VolumePhase_VOLUME_PHASE_FAILED)}, Limit: 1, Keep: leaving}).Rows; len(v) > 0 {
		return inUse("what is left of volume", v[0].Name, v[0].ID)
	}
	if v := s.cfg.Cache.Find(state.Query{Kind: state.KindSnapshot, Pool: row.ID, Limit: 1}).Rows; len(v) > 0 {
		return inUse("snapshot", v[0].Name, v[0].ID)
	}
	for _, i := range s.cfg.Cache.Find(state.Query{Kind: state.KindImage}).Rows {
		for _, c := range i.Image().GetImage().GetStatus().GetCopies() {
			if c.GetPoolId() == row.ID {
				return inUse("a copy of image", i.Name, i.ID)
			}
		}
	}
	return nil
}

func staleEtag(row *state.Row, etag string) func(store.Check) error {
	key := state.Key(row.Kind, row.ID)
	return func(c store.Check) error {
		if c.Condition.Key != key || c.Current == nil {
			return nil
		}
		return domain.CheckEtag(etag, c.Current.ModRevision)
	}
}

func nameTaken(meta *metav1.ObjectMeta, other string) error {
	return fault.New(metav1.Reason_REASON_NAME_TAKEN, "a storage pool named %q exists in project %q (%s)", meta.GetName(), meta.GetProjectId(), other).
		WithRemedy("choose another name, or delete that pool").WithMetadata("id", other)
}

// newOperation begins an operation that follows the pool's present generation.
func newOperation(verb string, p *storagev1.StoragePool, now time.Time) *operationv1.Operation {
	return &operationv1.Operation{
		Id: domain.NewID(now), ProjectId: p.GetMeta().GetProjectId(), Verb: verb, ObjectKind: domain.KindPool, ObjectId: p.GetMeta().GetId(),
		ObjectName: p.GetMeta().GetName(), Generation: p.GetMeta().GetGeneration(),
		State: operationv1.OperationState_OPERATION_STATE_RUNNING, CreateTime: timestamppb.New(now),
	}
}

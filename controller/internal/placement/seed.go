package placement

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// seed makes the pool that volumes lie in when nobody says otherwise: a directory of each node.
func (w *worker) seed(ctx context.Context) error {
	if w.Cache.ByName(domain.DefaultProject, state.KindPool, domain.DefaultPool) != "" {
		return nil
	}
	now := w.Now()
	id := domain.NewID(now)
	meta := domain.NewMeta(id, domain.DefaultPool, domain.DefaultProject, nil, nil)
	meta.CreateTime = timestamppb.New(now)
	meta.UpdateTime = meta.CreateTime
	nameKey := state.NameKey(domain.DefaultProject, state.KindPool, domain.DefaultPool)
	var out state.Writer
	out.Require(store.KeyAbsent(nameKey))
	out.PutText(nameKey, id)
	out.Put(state.Key(state.KindPool, id), &statev1.StoragePoolRecord{SchemaVersion: 1, Pool: &storagev1.StoragePool{
		Meta: meta, Spec: &storagev1.StoragePoolSpec{Driver: "local"},
		Status: &storagev1.StoragePoolStatus{Phase: storagev1.StoragePoolPhase_STORAGE_POOL_PHASE_PENDING, Message: "no node has reported it usable yet"},
	}})
	_, err := w.commit(ctx, []*state.Writer{&out})
	return err
}

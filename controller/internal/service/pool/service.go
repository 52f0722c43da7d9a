// Package pool serves StoragePoolService: reading. Pools are made by later releases; each cluster begins with the pool "local".
package pool

import (
	"context"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/unimplemented"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
)

// Service implements storagev1connect.StoragePoolServiceHandler.
type Service struct{ cache *state.Cache }

var _ storagev1connect.StoragePoolServiceHandler = (*Service)(nil)

// New makes the service.
func New(cache *state.Cache) *Service { return &Service{cache: cache} }

func (s *Service) view(row *state.Row) *storagev1.StoragePool {
	p := row.Pool().GetPool()
	p.Meta.Etag = domain.Etag(row.Revision)
	if p.Status == nil {
		p.Status = &storagev1.StoragePoolStatus{}
	}
	for _, v := range s.cache.Find(state.Query{Kind: state.KindVolume, Pool: row.ID}).Rows {
		p.Status.VolumeCount++
		p.Status.ProvisionedBytes += v.Size
	}
	for _, i := range s.cache.Find(state.Query{Kind: state.KindImage, Pool: row.ID}).Rows {
		for _, c := range i.Image().GetImage().GetStatus().GetCopies() {
			if c.GetPoolId() == row.ID {
				p.Status.ImageCopyCount++
			}
		}
	}
	return p
}

// GetStoragePool reads a pool.
func (s *Service) GetStoragePool(_ context.Context, req *connect.Request[storagev1.GetStoragePoolRequest]) (*connect.Response[storagev1.GetStoragePoolResponse], error) {
	row := s.cache.Resolve(state.KindPool, domain.Project(req.Msg.GetProjectId()), req.Msg.GetId())
	if row == nil {
		return nil, fault.New(metav1.Reason_REASON_POOL_NOT_FOUND, "there is no storage pool %q", req.Msg.GetId()).
			WithRemedy("list storage pools to see which there are")
	}
	return connect.NewResponse(&storagev1.GetStoragePoolResponse{StoragePool: s.view(row)}), nil
}

// ListStoragePools answers a page.
func (s *Service) ListStoragePools(_ context.Context, req *connect.Request[storagev1.ListStoragePoolsRequest]) (*connect.Response[storagev1.ListStoragePoolsResponse], error) {
	m := req.Msg
	var v domain.Violations
	q := state.Query{Kind: state.KindPool, Project: m.GetProjectId(), Name: m.GetName(), Limit: domain.PageSize(&v, m.GetPageSize())}
	var err error
	if q.Selector, err = domain.ParseSelector(m.GetLabelSelector()); err != nil {
		v.Add("label_selector", "%v", err)
	}
	node := s.cache.Resolve(state.KindNode, "", m.GetNode())
	if m.GetNode() != "" && node == nil {
		v.Add("node", "there is no node %q", m.GetNode())
	}
	if err := v.Err(); err != nil {
		return nil, err
	}
	host := node.Node().GetNode()
	q.Keep = func(r *state.Row) bool {
		p := r.Pool().GetPool()
		return (m.GetDriver() == "" || p.GetSpec().GetDriver() == m.GetDriver()) && (host == nil || domain.PoolWanted(p, host))
	}
	query := proto.CloneOf(m)
	query.PageSize, query.PageToken = 0, ""
	if q.After, err = domain.ReadPageToken(query, m.GetPageToken()); err != nil {
		return nil, err
	}
	page := s.cache.Find(q)
	resp := &storagev1.ListStoragePoolsResponse{Revision: page.Revision}
	for _, row := range page.Rows {
		resp.StoragePools = append(resp.StoragePools, s.view(row))
	}
	if page.More {
		resp.NextPageToken = domain.PageToken(query, page.Rows[len(page.Rows)-1].ID)
	}
	return connect.NewResponse(resp), nil
}

// CreateStoragePool comes later.
func (s *Service) CreateStoragePool(context.Context, *connect.Request[storagev1.CreateStoragePoolRequest]) (*connect.Response[storagev1.CreateStoragePoolResponse], error) {
	return nil, unimplemented.StorageMethod("CreateStoragePool")
}

// UpdateStoragePool comes later.
func (s *Service) UpdateStoragePool(context.Context, *connect.Request[storagev1.UpdateStoragePoolRequest]) (*connect.Response[storagev1.UpdateStoragePoolResponse], error) {
	return nil, unimplemented.StorageMethod("UpdateStoragePool")
}

// DeleteStoragePool comes later.
func (s *Service) DeleteStoragePool(context.Context, *connect.Request[storagev1.DeleteStoragePoolRequest]) (*connect.Response[storagev1.DeleteStoragePoolResponse], error) {
	return nil, unimplemented.StorageMethod("DeleteStoragePool")
}

// Package pool serves StoragePoolService. Each cluster begins with the pool "local".
package pool

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/service/seam"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
)

// Service implements storagev1connect.StoragePoolServiceHandler.
type Service struct{ cfg Config }

// Config is what the service needs.
type Config struct {
	Cache  *state.Cache
	Runner *request.Runner
	Sealer seam.Sealer
	Now    func() time.Time
}

var _ storagev1connect.StoragePoolServiceHandler = (*Service)(nil)

// New makes the service.
func New(cfg Config) *Service { return &Service{cfg: cfg} }

// around is what a view of a pool needs besides its record.
type around struct {
	nodes  []*computev1.Node
	copies map[string]int64 // of images, by pool
}

func (s *Service) around() around {
	a := around{copies: map[string]int64{}}
	for _, row := range s.cfg.Cache.Find(state.Query{Kind: state.KindNode}).Rows {
		a.nodes = append(a.nodes, row.Node().GetNode())
	}
	for _, row := range s.cfg.Cache.Find(state.Query{Kind: state.KindImage}).Rows {
		for _, c := range row.Image().GetImage().GetStatus().GetCopies() {
			a.copies[c.GetPoolId()]++
		}
	}
	return a
}

// view is a pool as clients see it: with what lies in it, and with what is known of its nodes beside their own words.
func (s *Service) view(row *state.Row, a around) *storagev1.StoragePool {
	p := row.Pool().GetPool()
	p.Meta.Etag = domain.Etag(row.Revision)
	if p.Status == nil {
		p.Status = &storagev1.StoragePoolStatus{}
	}
	kept := ""
	for _, v := range s.cfg.Cache.Find(state.Query{Kind: state.KindVolume, Pool: row.ID}).Rows {
		p.Status.VolumeCount++
		p.Status.ProvisionedBytes += v.Size
		kept = fmt.Sprintf("volume %s (%s)", v.Name, v.ID)
	}
	p.Status.ImageCopyCount = a.copies[row.ID]
	if snaps := s.cfg.Cache.Find(state.Query{Kind: state.KindSnapshot, Pool: row.ID, Limit: 1}).Rows; kept == "" && len(snaps) > 0 {
		kept = fmt.Sprintf("snapshot %s (%s)", snaps[0].Name, snaps[0].ID)
	}
	domain.ShowPool(p, a.nodes, kept)
	return p
}

// find is the row of the pool that a request names. None: NOT_FOUND.
func (s *Service) find(id, project string) (*state.Row, error) {
	row := s.cfg.Cache.Resolve(state.KindPool, domain.Project(project), id)
	if row == nil {
		return nil, fault.New(metav1.Reason_REASON_POOL_NOT_FOUND, "there is no storage pool %q in project %q", id, domain.Project(project)).
			WithRemedy("list storage pools to see which there are")
	}
	return row, nil
}

// GetStoragePool reads a pool.
func (s *Service) GetStoragePool(_ context.Context, req *connect.Request[storagev1.GetStoragePoolRequest]) (*connect.Response[storagev1.GetStoragePoolResponse], error) {
	row, err := s.find(req.Msg.GetId(), req.Msg.GetProjectId())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&storagev1.GetStoragePoolResponse{StoragePool: s.view(row, s.around())}), nil
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
	node := s.cfg.Cache.Resolve(state.KindNode, "", m.GetNode())
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
	page, a := s.cfg.Cache.Find(q), s.around()
	resp := &storagev1.ListStoragePoolsResponse{Revision: page.Revision}
	for _, row := range page.Rows {
		resp.StoragePools = append(resp.StoragePools, s.view(row, a))
	}
	if page.More {
		resp.NextPageToken = domain.PageToken(query, page.Rows[len(page.Rows)-1].ID)
	}
	return connect.NewResponse(resp), nil
}

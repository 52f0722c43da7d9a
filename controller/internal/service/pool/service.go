// Package pool serves StoragePoolService. Each cluster begins with the pool "local".
package pool

import (
	"context"
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

func (s *Service) view(row *state.Row) *storagev1.StoragePool {
	p := row.Pool().GetPool()
	p.Meta.Etag = domain.Etag(row.Revision)
	if p.Status == nil {
		p.Status = &storagev1.StoragePoolStatus{}
	}
	for _, n := range p.GetStatus().GetNodes() {
		if on := s.cfg.Cache.Row(state.KindNode, n.GetNodeId()); on == nil || computev1.NodePhase(on.Phase) == computev1.NodePhase_NODE_PHASE_UNKNOWN {
			n.Health, n.Reason = storagev1.PoolHealth_POOL_HEALTH_UNKNOWN, fault.ReasonName(metav1.Reason_REASON_NODE_UNREACHABLE)
			n.Message = "node " + n.GetNodeName() + " does not report"
		}
	}
	for _, v := range s.cfg.Cache.Find(state.Query{Kind: state.KindVolume, Pool: row.ID}).Rows {
		p.Status.VolumeCount++
		p.Status.ProvisionedBytes += v.Size
	}
	for _, i := range s.cfg.Cache.Find(state.Query{Kind: state.KindImage, Pool: row.ID}).Rows {
		for _, c := range i.Image().GetImage().GetStatus().GetCopies() {
			if c.GetPoolId() == row.ID {
				p.Status.ImageCopyCount++
			}
		}
	}
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
	page := s.cfg.Cache.Find(q)
	resp := &storagev1.ListStoragePoolsResponse{Revision: page.Revision}
	for _, row := range page.Rows {
		resp.StoragePools = append(resp.StoragePools, s.view(row))
	}
	if page.More {
		resp.NextPageToken = domain.PageToken(query, page.Rows[len(page.Rows)-1].ID)
	}
	return connect.NewResponse(resp), nil
}

// Package snapshot serves SnapshotService.
package snapshot

import (
	"context"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/service/volume"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
)

// Config is what the service needs.
type Config struct {
	Cache  *state.Cache
	Runner *request.Runner
	Now    func() time.Time
}

// Service implements storagev1connect.SnapshotServiceHandler.
type Service struct{ cfg Config }

var _ storagev1connect.SnapshotServiceHandler = (*Service)(nil)

// New makes the service.
func New(cfg Config) *Service { return &Service{cfg: cfg} }

// find is the row of the snapshot that a request names. None: NOT_FOUND.
func (s *Service) find(id, project string) (*state.Row, error) {
	if id == "" {
		return nil, fault.Invalid(fault.Violation{Field: "id", Description: "is required: a snapshot's id or name"})
	}
	row := s.cfg.Cache.Resolve(state.KindSnapshot, domain.Project(project), id)
	if row == nil {
		return nil, fault.New(metav1.Reason_REASON_SNAPSHOT_NOT_FOUND, "there is no snapshot %q in project %q", id, domain.Project(project)).
			WithRemedy("list snapshots to see which there are")
	}
	return row, nil
}

// view is a snapshot as clients see it: with its etag, and with whom it waits for.
func (s *Service) view(row *state.Row) *storagev1.Snapshot {
	rec := row.Snapshot()
	snap := rec.GetSnapshot()
	snap.Meta.Etag = domain.Etag(row.Revision)
	on := s.cfg.Cache.Row(state.KindNode, rec.GetExecutorNodeId())
	if snap.GetStatus().GetPhase() != storagev1.SnapshotPhase_SNAPSHOT_PHASE_READY && on != nil && computev1.NodePhase(on.Phase) == computev1.NodePhase_NODE_PHASE_UNKNOWN {
		snap.Status.Reason, snap.Status.Message = fault.ReasonName(metav1.Reason_REASON_NODE_UNREACHABLE), "waits: node "+on.Name+" does not report"
	}
	return snap
}

// shared reports whether a snapshot lies in a pool that is one place for several nodes.
func (s *Service) shared(row *state.Row) bool {
	return s.cfg.Cache.Row(state.KindPool, row.InPool).Pool().GetPool().GetStatus().GetShared()
}

// reports reports whether a node is there and is heard of.
func (s *Service) reports(nodeID string) bool {
	row := s.cfg.Cache.Row(state.KindNode, nodeID)
	return row != nil && !row.Deleting && computev1.NodePhase(row.Phase) != computev1.NodePhase_NODE_PHASE_UNKNOWN
}

// GetSnapshot reads a snapshot.
func (s *Service) GetSnapshot(_ context.Context, req *connect.Request[storagev1.GetSnapshotRequest]) (*connect.Response[storagev1.GetSnapshotResponse], error) {
	row, err := s.find(req.Msg.GetId(), req.Msg.GetProjectId())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&storagev1.GetSnapshotResponse{Snapshot: s.view(row)}), nil
}

// ListSnapshots answers a page.
func (s *Service) ListSnapshots(_ context.Context, req *connect.Request[storagev1.ListSnapshotsRequest]) (*connect.Response[storagev1.ListSnapshotsResponse], error) {
	m := req.Msg
	var v domain.Violations
	q := state.Query{Kind: state.KindSnapshot, Project: m.GetProjectId(), Name: m.GetName(), Limit: domain.PageSize(&v, m.GetPageSize())}
	var err error
	if q.Selector, err = domain.ParseSelector(m.GetLabelSelector()); err != nil {
		v.Add("label_selector", "%v", err)
	}
	if of := m.GetVolume(); of != "" {
		if row := s.cfg.Cache.Resolve(state.KindVolume, domain.Project(m.GetProjectId()), of); row != nil {
			q.Owner = row.ID
		} else {
			v.Add("volume", "there is no volume %q", of)
		}
	}
	if p := m.GetPool(); p != "" {
		if row := volume.PoolRow(s.cfg.Cache, domain.Project(m.GetProjectId()), p); row != nil {
			q.Pool = row.ID
		} else {
			v.Add("pool", "there is no pool %q", p)
		}
	}
	if err := v.Err(); err != nil {
		return nil, err
	}
	query := proto.CloneOf(m)
	query.PageSize, query.PageToken = 0, ""
	if q.After, err = domain.ReadPageToken(query, m.GetPageToken()); err != nil {
		return nil, err
	}
	page := s.cfg.Cache.Find(q)
	resp := &storagev1.ListSnapshotsResponse{Revision: page.Revision}
	for _, row := range page.Rows {
		resp.Snapshots = append(resp.Snapshots, s.view(row))
	}
	if page.More {
		resp.NextPageToken = domain.PageToken(query, page.Rows[len(page.Rows)-1].ID)
	}
	return connect.NewResponse(resp), nil
}

func newOperation(verb string, snap *storagev1.Snapshot, now time.Time) *operationv1.Operation {
	return &operationv1.Operation{
		Id: domain.NewID(now), ProjectId: snap.GetMeta().GetProjectId(), Verb: verb, ObjectKind: domain.KindSnapshot, ObjectId: snap.GetMeta().GetId(),
		ObjectName: snap.GetMeta().GetName(), Generation: snap.GetMeta().GetGeneration(),
		State: operationv1.OperationState_OPERATION_STATE_RUNNING, CreateTime: timestamppb.New(now),
	}
}

// staleEtag refuses for good when a record changed that the caller wanted unchanged.
func staleEtag(row *state.Row, etag string) func(store.Check) error {
	key := state.Key(row.Kind, row.ID)
	return func(c store.Check) error {
		if c.Condition.Key != key || c.Current == nil {
			return nil
		}
		return domain.CheckEtag(etag, c.Current.ModRevision)
	}
}

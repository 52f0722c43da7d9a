// Package volume serves VolumeService: volumes that stand by themselves, and what can be done with those of VMs.
package volume

import (
	"context"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/service/seam"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
)

// Config is what the service needs.
type Config struct {
	Cache  *state.Cache
	Runner *request.Runner
	// Tunnels carry exports; nil until the process has them.
	Tunnels func() seam.Tunnels
	Now     func() time.Time
}

// Service implements storagev1connect.VolumeServiceHandler.
type Service struct{ cfg Config }

var _ storagev1connect.VolumeServiceHandler = (*Service)(nil)

// New makes the service.
func New(cfg Config) *Service { return &Service{cfg: cfg} }

// find is the row of the volume that a request names. None: NOT_FOUND.
func (s *Service) find(id, project string) (*state.Row, error) {
	if id == "" {
		return nil, fault.Invalid(fault.Violation{Field: "id", Description: "is required: a volume's id or name"})
	}
	row := s.cfg.Cache.Resolve(state.KindVolume, domain.Project(project), id)
	if row == nil {
		return nil, fault.New(metav1.Reason_REASON_VOLUME_NOT_FOUND, "there is no volume %q in project %q", id, domain.Project(project)).
			WithRemedy("list volumes to see which there are; one that lives with a VM is named by its id")
	}
	return row, nil
}

// view is a volume as clients see it: with its etag, and as unknown while its node does not report.
func (s *Service) view(rec *statev1.VolumeRecord, revision int64) *storagev1.Volume {
	v := proto.CloneOf(rec.GetVolume())
	if revision > 0 {
		v.Meta.Etag = domain.Etag(revision)
	}
	if v.Status == nil {
		v.Status = &storagev1.VolumeStatus{}
	}
	v.Status.SnapshotCount = int64(s.cfg.Cache.Count(state.Query{Kind: state.KindSnapshot, Owner: v.GetMeta().GetId(), Keep: func(r *state.Row) bool { return !r.Deleting }}))
	if on := s.cfg.Cache.Row(state.KindNode, rec.GetExecutorNodeId()); on != nil && computev1.NodePhase(on.Phase) == computev1.NodePhase_NODE_PHASE_UNKNOWN {
		s.silent(v, rec, on.Name)
	}
	return v
}

// silent says what it means for a volume that its node does not report. What rests in a shared pool needs nobody.
func (s *Service) silent(v *storagev1.Volume, rec *statev1.VolumeRecord, node string) {
	st := v.GetStatus()
	switch {
	case st.GetNodeId() != "" && v.GetMeta().GetDeleteTime() == nil:
		st.Phase, st.Message = storagev1.VolumePhase_VOLUME_PHASE_UNKNOWN, "node "+node+" does not report; the data may well be whole"
	case st.GetNodeId() == "" && domain.VolumeAtRest(rec), st.GetReason() == fault.ReasonName(metav1.Reason_REASON_NODE_UNREACHABLE):
		return // the leader said whom it waits for
	default:
		st.Message = "waits: node " + node + " does not report"
	}
	st.Reason = fault.ReasonName(metav1.Reason_REASON_NODE_UNREACHABLE)
}

// shared reports whether a volume lies in a pool that is one place for several nodes.
func (s *Service) shared(row *state.Row) bool {
	return s.cfg.Cache.Row(state.KindPool, row.InPool).Pool().GetPool().GetStatus().GetShared()
}

// reports reports whether a node is there and is heard of.
func (s *Service) reports(nodeID string) bool {
	row := s.cfg.Cache.Row(state.KindNode, nodeID)
	return row != nil && !row.Deleting && computev1.NodePhase(row.Phase) != computev1.NodePhase_NODE_PHASE_UNKNOWN
}

// GetVolume reads a volume.
func (s *Service) GetVolume(_ context.Context, req *connect.Request[storagev1.GetVolumeRequest]) (*connect.Response[storagev1.GetVolumeResponse], error) {
	row, err := s.find(req.Msg.GetId(), req.Msg.GetProjectId())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&storagev1.GetVolumeResponse{Volume: s.view(row.Volume(), row.Revision)}), nil
}

// ListVolumes answers a page.
func (s *Service) ListVolumes(_ context.Context, req *connect.Request[storagev1.ListVolumesRequest]) (*connect.Response[storagev1.ListVolumesResponse], error) {
	m := req.Msg
	var v domain.Violations
	q := state.Query{Kind: state.KindVolume, Project: m.GetProjectId(), Name: m.GetName(), Limit: domain.PageSize(&v, m.GetPageSize())}
	var err error
	if q.Selector, err = domain.ParseSelector(m.GetLabelSelector()); err != nil {
		v.Add("label_selector", "%v", err)
	}
	if p := m.GetPool(); p != "" {
		if row := PoolRow(s.cfg.Cache, domain.Project(m.GetProjectId()), p); row != nil {
			q.Pool = row.ID
		} else {
			v.Add("pool", "there is no pool %q", p)
		}
	}
	if n := m.GetNode(); n != "" {
		if row := s.cfg.Cache.Resolve(state.KindNode, "", n); row != nil {
			q.Node = row.ID
		} else {
			v.Add("node", "there is no node %q", n)
		}
	}
	for _, p := range m.GetPhases() {
		q.Phases = append(q.Phases, int32(p))
	}
	if vm := m.GetVm(); vm != "" {
		if !domain.IsID(vm) {
			v.Add("vm", "must be the VM's id")
		}
		q.Keep = func(r *state.Row) bool { return r.Owner == vm || hasRef(r, state.RefVM(vm)) }
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
	resp := &storagev1.ListVolumesResponse{Revision: page.Revision}
	for _, row := range page.Rows {
		resp.Volumes = append(resp.Volumes, s.view(row.Volume(), row.Revision))
	}
	if page.More {
		resp.NextPageToken = domain.PageToken(query, page.Rows[len(page.Rows)-1].ID)
	}
	return connect.NewResponse(resp), nil
}

func hasRef(r *state.Row, ref string) bool {
	for _, have := range r.Refs {
		if have == ref {
			return true
		}
	}
	return false
}

// PoolRow is the row of a pool, by id, or by name in a project or in the default one; nil when there is none that can be used.
func PoolRow(cache *state.Cache, project, ref string) *state.Row {
	for _, p := range []string{project, domain.DefaultProject} {
		if row := cache.Resolve(state.KindPool, p, ref); row != nil && !row.Deleting {
			return row
		}
	}
	return nil
}

// NewOperation begins an operation on a volume.
func NewOperation(verb string, v *storagev1.Volume, generation int64, now time.Time) *operationv1.Operation {
	return &operationv1.Operation{
		Id: domain.NewID(now), ProjectId: v.GetMeta().GetProjectId(), Verb: verb, ObjectKind: domain.KindVolume, ObjectId: v.GetMeta().GetId(),
		ObjectName: v.GetMeta().GetName(), Generation: generation,
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

// PhaseName is a volume's phase for people.
func PhaseName(v *storagev1.Volume) string {
	return v.GetStatus().GetPhase().String()[len("VOLUME_PHASE_"):]
}

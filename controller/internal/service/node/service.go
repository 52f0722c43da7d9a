package node

import (
	"context"
	"log/slog"
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
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// Config is what the service needs.
type Config struct {
	Cache  *state.Cache
	Runner *request.Runner
	Leader *state.Leader
	Live   *state.Liveness
	CA     seam.CA // nil: join tokens are refused
	Timing seam.Timing
	Nodes  seam.Nodes // nil: what nodes are at is not known
	// Allocatable is what VMs may claim of a node.
	Allocatable func(*computev1.Node) *computev1.ResourceAmount
	Now         func() time.Time
	Log         *slog.Logger
}

// Service implements computev1connect.NodeServiceHandler.
type Service struct{ cfg Config }

var _ computev1connect.NodeServiceHandler = (*Service)(nil)

// New makes the service.
func New(cfg Config) *Service {
	cfg.Timing = cfg.Timing.WithDefaults()
	if cfg.Nodes == nil {
		cfg.Nodes = seam.NoNodes{}
	}
	return &Service{cfg: cfg}
}

func (s *Service) find(id string) (*state.Row, error) {
	if id == "" {
		var v domain.Violations
		v.Add("id", "is required: a node's id or name")
		return nil, v.Err()
	}
	if row := s.cfg.Cache.Resolve(state.KindNode, "", id); row != nil {
		return row, nil
	}
	return nil, fault.New(metav1.Reason_REASON_NOT_FOUND, "there is no node %q", id).WithRemedy("list nodes to see which there are")
}

// view is a node as clients see it.
func (s *Service) view(row *state.Row) *computev1.Node {
	return s.render(row.Node(), row.Revision)
}

func (s *Service) render(rec *statev1.NodeRecord, revision int64) *computev1.Node {
	n := rec.GetNode()
	if n.Status == nil {
		n.Status = &computev1.NodeStatus{}
	}
	if revision > 0 {
		n.Meta.Etag = domain.Etag(revision)
	}
	st := n.GetStatus()
	st.Allocatable = s.cfg.Allocatable(n)
	st.Claimed = &computev1.ResourceAmount{Cpus: float64(rec.GetClaimedVcpus()), MemoryBytes: rec.GetClaimedMemoryBytes()}
	st.VmCount = int32(s.cfg.Cache.CountOn(state.KindVM, n.GetMeta().GetId()))
	if beat := s.cfg.Live.Last(n.GetMeta().GetId()); !beat.Time.IsZero() {
		st.HeartbeatTime = timestamppb.New(beat.Time)
	}
	st.Conditions = append(st.Conditions, facts(n)...)
	return n
}

// facts are the conditions that follow from the rest of a node.
func facts(n *computev1.Node) []*metav1.Condition {
	st := n.GetStatus()
	truth := func(b bool) metav1.ConditionStatus {
		if b {
			return metav1.ConditionStatus_CONDITION_STATUS_TRUE
		}
		return metav1.ConditionStatus_CONDITION_STATUS_FALSE
	}
	out := []*metav1.Condition{{
		Type: "Ready", Status: truth(st.GetPhase() == computev1.NodePhase_NODE_PHASE_READY), Reason: st.GetReason(), Message: st.GetMessage(),
	}}
	if r := st.GetResources(); r != nil {
		out = append(out, &metav1.Condition{
			Type: "AcceleratorUsable", Status: truth(r.GetAccelerator() == "kvm"), Message: r.GetAcceleratorReason(),
		})
		over := st.GetClaimed().GetCpus() > st.GetAllocatable().GetCpus() || st.GetClaimed().GetMemoryBytes() > st.GetAllocatable().GetMemoryBytes()
		c := &metav1.Condition{Type: "Overcommitted", Status: truth(over)}
		if over {
			c.Message = "more is claimed than may be: stop or delete VMs here, or raise its overcommit; nothing more is placed here"
		}
		out = append(out, c)
	}
	return out
}

// RegisterNode pre-registers a node.
func (s *Service) RegisterNode(ctx context.Context, req *connect.Request[computev1.RegisterNodeRequest]) (*connect.Response[computev1.RegisterNodeResponse], error) {
	given, now := req.Msg.GetNode(), s.cfg.Now()
	id := domain.NewID(now)
	n := &computev1.Node{
		Meta:   domain.NewMeta(id, given.GetMeta().GetName(), given.GetMeta().GetProjectId(), given.GetMeta().GetLabels(), given.GetMeta().GetAnnotations()),
		Spec:   proto.CloneOf(given.GetSpec()),
		Status: &computev1.NodeStatus{},
	}
	if n.Spec == nil {
		n.Spec = &computev1.NodeSpec{}
	}
	n.Meta.CreateTime = timestamppb.New(now)
	n.Meta.UpdateTime = n.Meta.CreateTime
	var v domain.Violations
	domain.ValidateNode(&v, n)
	if err := v.Err(); err != nil {
		return nil, err
	}
	rec := &statev1.NodeRecord{SchemaVersion: 1, Node: n}
	settle(rec, false)
	call := request.Call{Method: computev1connect.NodeServiceRegisterNodeProcedure, Body: req.Msg, RequestID: req.Msg.GetRequestId()}
	return respond(request.Do(ctx, s.cfg.Runner, call, func(context.Context) (*request.Plan[*computev1.RegisterNodeResponse], error) {
		if s.cfg.Cache.ByName("", state.KindNode, n.GetMeta().GetName()) != "" {
			return nil, fault.New(metav1.Reason_REASON_NAME_TAKEN, "a node named %q exists", n.GetMeta().GetName()).
				WithRemedy("update that one, or choose another name")
		}
		var w state.Writer
		s.create(&w, rec)
		txn, err := w.Txn()
		return &request.Plan[*computev1.RegisterNodeResponse]{
			Txn: txn, ObjectID: id, Response: &computev1.RegisterNodeResponse{Node: s.render(proto.CloneOf(rec), 0)},
		}, request.Fault(err)
	}))
}

// create writes a new node and takes its name.
func (s *Service) create(w *state.Writer, rec *statev1.NodeRecord) {
	meta := rec.GetNode().GetMeta()
	nameKey := state.NameKey("", state.KindNode, meta.GetName())
	w.Require(store.KeyAbsent(nameKey))
	w.Put(state.Key(state.KindNode, meta.GetId()), rec)
	w.PutText(nameKey, meta.GetId())
}

// settle writes down where a node stands.
func settle(rec *statev1.NodeRecord, alive bool) {
	st := rec.GetNode().GetStatus()
	st.Phase, st.Reason, st.Message = domain.NodePhase(rec, alive)
}

// GetNode reads a node.
func (s *Service) GetNode(_ context.Context, req *connect.Request[computev1.GetNodeRequest]) (*connect.Response[computev1.GetNodeResponse], error) {
	row, err := s.find(req.Msg.GetId())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&computev1.GetNodeResponse{Node: s.view(row)}), nil
}

// ListNodes answers a page.
func (s *Service) ListNodes(_ context.Context, req *connect.Request[computev1.ListNodesRequest]) (*connect.Response[computev1.ListNodesResponse], error) {
	m := req.Msg
	var v domain.Violations
	q := state.Query{Kind: state.KindNode, Selector: selector(&v, m.GetLabelSelector()), Limit: domain.PageSize(&v, m.GetPageSize())}
	if err := v.Err(); err != nil {
		return nil, err
	}
	query := proto.CloneOf(m)
	query.PageSize, query.PageToken = 0, ""
	var err error
	if q.After, err = domain.ReadPageToken(query, m.GetPageToken()); err != nil {
		return nil, err
	}
	page := s.cfg.Cache.Find(q)
	resp := &computev1.ListNodesResponse{Revision: page.Revision}
	for _, row := range page.Rows {
		resp.Nodes = append(resp.Nodes, s.view(row))
	}
	if page.More {
		resp.NextPageToken = domain.PageToken(query, page.Rows[len(page.Rows)-1].ID)
	}
	return connect.NewResponse(resp), nil
}

func selector(v *domain.Violations, text string) domain.Selector {
	sel, err := domain.ParseSelector(text)
	if err != nil {
		v.Add("label_selector", "%v", err)
	}
	return sel
}

// Heartbeat belongs to the agent port: whoever speaks here is no node.
func (s *Service) Heartbeat(_ context.Context, req *connect.Request[computev1.HeartbeatRequest]) (*connect.Response[computev1.HeartbeatResponse], error) {
	row, err := s.find(req.Msg.GetNodeId())
	if err != nil {
		return nil, err
	}
	return nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "node %s sends its own heartbeats, on the agent port", row.Name).
		WithRemedy("leave it to the agent")
}

// respond wraps a mutation's answer for connect.
func respond[T any](m *T, err error) (*connect.Response[T], error) {
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(m), nil
}

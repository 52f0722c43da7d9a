package node

import (
	"context"
	"net/netip"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/caller"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Agent implements computev1.NodeServiceServer for nodes: RegisterNode, Heartbeat and GetNode, each for the caller's own node only. The rest is the
// public port's.
type Agent struct {
	computev1.UnimplementedNodeServiceServer
	s *Service
}

// NewAgent makes the agent port's side of a service.
func NewAgent(s *Service) *Agent { return &Agent{s: s} }

// own is the record of the calling node.
func (a *Agent) own(ctx context.Context) (*state.Row, error) {
	id := caller.Node(ctx)
	row := a.s.cfg.Cache.Row(state.KindNode, id)
	if row == nil || row.Deleting {
		return nil, fault.New(metav1.Reason_REASON_UNAUTHENTICATED, "node %s is not enrolled, or was deleted", id).
			WithRemedy("enrol it again with a new join token")
	}
	return row, nil
}

// RegisterNode takes in what the node says it is.
func (a *Agent) RegisterNode(ctx context.Context, req *computev1.RegisterNodeRequest) (*computev1.RegisterNodeResponse, error) {
	given := req.GetNode().GetStatus()
	if r := given.GetResources(); r.GetCpus() < 1 || r.GetMemoryBytes() < 1 {
		var v domain.Violations
		v.Add("node.status.resources", "must tell cpus and memory_bytes")
		return nil, v.Err()
	}
	if t := given.GetTunnelAddress(); t != "" {
		if _, err := netip.ParseAddr(t); err != nil {
			var v domain.Violations
			v.Add("node.status.tunnel_address", "must be an IP address")
			return nil, v.Err()
		}
	}
	for range 16 {
		row, err := a.own(ctx)
		if err != nil {
			return nil, err
		}
		a.s.cfg.Live.Note(row.ID, state.Beat{Time: a.s.cfg.Now(), BootID: given.GetBootId()})
		was, rec := row.Node(), row.Node()
		if rec.Node.Status == nil {
			rec.Node.Status = &computev1.NodeStatus{}
		}
		st := rec.GetNode().GetStatus()
		st.Resources, st.Drivers = given.GetResources(), given.GetDrivers()
		st.AgentVersion, st.BootId, st.System = given.GetAgentVersion(), given.GetBootId(), given.GetSystem()
		st.TunnelAddress = given.GetTunnelAddress()
		settle(rec, true)
		if !proto.Equal(was, rec) {
			var w state.Writer
			w.Same(row)
			w.Put(state.Key(state.KindNode, row.ID), rec)
			ok, err := a.s.commit(ctx, &w)
			if err != nil {
				return nil, err
			}
			if !ok {
				continue
			}
			a.s.cfg.Log.Info("node registered", "node", row.ID, "name", row.Name, "phase", st.GetPhase().String())
		}
		return &computev1.RegisterNodeResponse{
			Node: a.s.view(a.s.cfg.Cache.Row(state.KindNode, row.ID)), HeartbeatInterval: durationpb.New(a.s.cfg.Timing.HeartbeatInterval),
		}, nil
	}
	return nil, fault.New(metav1.Reason_REASON_BUSY, "registration was overtaken again and again").WithRemedy("try again")
}

// Heartbeat notes that the node lives. It is never a write.
func (a *Agent) Heartbeat(ctx context.Context, req *computev1.HeartbeatRequest) (*computev1.HeartbeatResponse, error) {
	row, err := a.own(ctx)
	if err != nil {
		return nil, err
	}
	if req.GetNodeId() != caller.Node(ctx) {
		return nil, fault.New(metav1.Reason_REASON_FORBIDDEN, "a node speaks for itself only").WithRemedy("send the id that the certificate holds")
	}
	a.s.cfg.Live.Note(req.GetNodeId(), state.Beat{
		Time: a.s.cfg.Now(), BootID: req.GetBootId(), Session: req.GetSessionId(), Sequence: req.GetSequence(),
	})
	st := row.Node().GetNode().GetStatus()
	return &computev1.HeartbeatResponse{
		Interval: durationpb.New(a.s.cfg.Timing.HeartbeatInterval), Lease: durationpb.New(a.s.cfg.Timing.Lease),
		RegisterAgain: st.GetResources() == nil || req.GetBootId() != "" && st.GetBootId() != req.GetBootId(),
	}, nil
}

// GetNode reads the calling node.
func (a *Agent) GetNode(ctx context.Context, req *computev1.GetNodeRequest) (*computev1.GetNodeResponse, error) {
	row, err := a.own(ctx)
	if err != nil {
		return nil, err
	}
	if req.GetId() != "" && req.GetId() != row.ID && req.GetId() != row.Name {
		return nil, fault.New(metav1.Reason_REASON_FORBIDDEN, "a node reads itself only")
	}
	return &computev1.GetNodeResponse{Node: a.s.view(row)}, nil
}

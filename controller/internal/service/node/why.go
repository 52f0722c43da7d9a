package node

import (
	"context"
	"fmt"
	"slices"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/service/seam"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// ExplainNode says why a node is as it is.
func (s *Service) ExplainNode(_ context.Context, req *connect.Request[computev1.ExplainNodeRequest]) (*connect.Response[computev1.ExplainNodeResponse], error) {
	row, err := s.find(req.Msg.GetId())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&computev1.ExplainNodeResponse{Explanation: s.why(row)}), nil
}

func (s *Service) why(row *state.Row) *computev1.Explanation {
	st := s.view(row).GetStatus()
	x := &computev1.Explanation{
		ObjectKind: "Node", ObjectId: row.ID, ObjectName: row.Name, State: st.GetPhase().String()[len("NODE_PHASE_"):], Wanted: "READY",
		Progress: s.cfg.Nodes.Progress(row.ID, agentv1.DesiredKind_DESIRED_KIND_UNSPECIFIED, row.ID),
		Parts:    append(driversNotWell(st.GetDrivers()), s.poolsNotWell(row)...),
	}
	connected, since := s.cfg.Nodes.Stream(row.ID)
	switch {
	case row.Deleting:
		x.Wanted, x.Summary, x.WaitsFor = "gone", st.GetMessage(), "scheduler"
	case st.GetPhase() == computev1.NodePhase_NODE_PHASE_REGISTERED:
		x.Summary, x.WaitsFor = st.GetMessage(), "an agent to enrol"
	case st.GetPhase() == computev1.NodePhase_NODE_PHASE_UNKNOWN:
		x.Summary, x.WaitsFor, x.Since = st.GetMessage(), "its agent", st.GetHeartbeatTime()
	case s.cfg.Nodes.Leading() && !connected:
		x.Summary, x.WaitsFor = "its agent sends heartbeats and does not follow what is wanted: nothing new is begun there until it connects", "its agent"
		if !since.IsZero() {
			x.Since = timestamppb.New(since)
		}
	case st.GetPhase() != computev1.NodePhase_NODE_PHASE_READY:
		x.Summary, x.WaitsFor = st.GetMessage(), "its drivers"
	case x.GetProgress() != nil:
		x.Summary, x.WaitsFor = seam.InWords(x.GetProgress(), s.cfg.Now()), "its drivers"
	case len(x.GetParts()) > 0:
		x.Summary, x.WaitsFor = "is ready, but not all of it is well", x.GetParts()[0].GetWaitsFor()
	default:
		x.AsWanted, x.Summary = true, "is ready"
		if s.view(row).GetSpec().GetCordoned() {
			x.Summary += ", and cordoned: no new VMs come"
		}
	}
	if n := len(st.GetOrphans()); n > 0 {
		x.Summary += fmt.Sprintf("; %d objects with our mark lie on it that nobody wants: list its orphans", n)
	}
	return x
}

func driversNotWell(drivers []*computev1.DriverStatus) []*computev1.Explanation {
	var out []*computev1.Explanation
	for _, d := range drivers {
		if d.GetState() == "healthy" {
			continue
		}
		out = append(out, &computev1.Explanation{
			ObjectKind: "Driver", ObjectId: d.GetName(), ObjectName: d.GetName(), State: d.GetState(), Wanted: "healthy", Summary: d.GetMessage(),
			WaitsFor: "driver " + d.GetName(),
			Progress: &computev1.Progress{LastError: &computev1.Failure{Reason: d.GetReason(), Message: d.GetMessage()}},
		})
	}
	return out
}

// poolsNotWell explains the pools that the node cannot use, or is at.
func (s *Service) poolsNotWell(row *state.Row) []*computev1.Explanation {
	var out []*computev1.Explanation
	for _, p := range s.cfg.Cache.Find(state.Query{Kind: state.KindPool}).Rows {
		on := p.Pool().GetPool().GetStatus().GetNodes()
		i := slices.IndexFunc(on, func(n *storagev1.PoolNodeStatus) bool { return n.GetNodeId() == row.ID })
		progress := s.cfg.Nodes.Progress(row.ID, agentv1.DesiredKind_DESIRED_KIND_POOL, p.ID)
		if progress == nil && (i < 0 || on[i].GetHealth() == storagev1.PoolHealth_POOL_HEALTH_HEALTHY) {
			continue
		}
		x := &computev1.Explanation{ObjectKind: "Pool", ObjectId: p.ID, ObjectName: p.Name, Wanted: "HEALTHY", Progress: progress, WaitsFor: "pool " + p.Name}
		if i >= 0 {
			x.State, x.Summary = on[i].GetHealth().String()[len("POOL_HEALTH_"):], on[i].GetMessage()
		}
		if progress != nil {
			x.Summary = seam.InWords(progress, s.cfg.Now())
		}
		out = append(out, x)
	}
	return out
}

package volume

import (
	"context"
	"slices"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
)

// MoveVolume moves a volume to another pool: one node that reaches both copies it, and deletes it where it was once it is whole where it shall be.
func (s *Service) MoveVolume(ctx context.Context, req *connect.Request[storagev1.MoveVolumeRequest]) (*connect.Response[storagev1.MoveVolumeResponse], error) {
	m := req.Msg
	call := request.Call{Method: storagev1connect.VolumeServiceMoveVolumeProcedure, Body: m, RequestID: m.GetRequestId()}
	resp, err := request.Do(ctx, s.cfg.Runner, call, func(context.Context) (*request.Plan[*storagev1.MoveVolumeResponse], error) { return s.planMove(m) })
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

func (s *Service) planMove(m *storagev1.MoveVolumeRequest) (*request.Plan[*storagev1.MoveVolumeResponse], error) {
	row, err := s.find(m.GetId(), m.GetProjectId())
	if err != nil {
		return nil, err
	}
	if row.Deleting {
		return nil, fault.New(metav1.Reason_REASON_BEING_DELETED, "volume %s (%s) is being deleted", row.Name, row.ID)
	}
	if err := domain.CheckEtag(m.GetEtag(), row.Revision); err != nil {
		return nil, err
	}
	var v domain.Violations
	domain.CheckRequestID(&v, m.GetRequestId())
	to := PoolRow(s.cfg.Cache, row.Project, m.GetPool())
	if m.GetPool() == "" || to == nil {
		v.Add("pool", "there is no pool %q: list storage pools to see which there are", m.GetPool())
	}
	node := ""
	if ref := m.GetNode(); ref != "" {
		if n := s.cfg.Cache.Resolve(state.KindNode, "", ref); n != nil {
			node = n.ID
		} else {
			v.Add("node", "there is no node %q", ref)
		}
	}
	if err := v.Err(); err != nil {
		return nil, err
	}
	rec, now := row.Volume(), s.cfg.Now()
	vol := rec.GetVolume()
	if to.ID == vol.GetSpec().GetPoolId() && (node == "" || node == vol.GetStatus().GetNodeId() || vol.GetStatus().GetNodeId() == "") {
		op := s.cfg.Cache.Row(state.KindOperation, rec.GetOperationId()).Operation().GetOperation() // of the move, if it is under way
		return &request.Plan[*storagev1.MoveVolumeResponse]{Response: &storagev1.MoveVolumeResponse{Volume: s.view(rec, row.Revision), Operation: op}}, nil
	}
	if err := s.canMove(row, rec); err != nil {
		return nil, err
	}
	executor, err := s.mover(rec, row, to, node)
	if err != nil {
		return nil, err
	}
	var w state.Writer
	if err := TakeRoom(s.cfg.Cache, &w, to, vol.GetSpec().GetSizeBytes(), true); err != nil {
		return nil, err
	}
	from := s.cfg.Cache.Row(state.KindPool, vol.GetSpec().GetPoolId())
	rec.Move = &statev1.VolumeMove{FromPoolId: from.ID, MoveGeneration: rec.GetMove().GetMoveGeneration() + 1}
	if executor != rec.GetExecutorNodeId() {
		rec.ExecutorNodeId, rec.ExecutorEpoch = executor, rec.GetExecutorEpoch()+1
	}
	if to.Pool().GetPool().GetSpec().GetDriver() != from.Pool().GetPool().GetSpec().GetDriver() {
		vol.Spec.Format = storagev1.VolumeFormat_VOLUME_FORMAT_UNSPECIFIED // as the new pool has it
	}
	vol.Spec.PoolId, vol.Spec.Source = to.ID, nil // what it was made from is nothing to the copy
	vol.Meta.Generation++
	vol.Meta.UpdateTime = timestamppb.New(now)
	vol.Status.Phase, vol.Status.NodeId = storagev1.VolumePhase_VOLUME_PHASE_MOVING, ""
	if !to.Pool().GetPool().GetStatus().GetShared() {
		vol.Status.NodeId = executor
	}
	domain.DropCondition(&vol.Status.Conditions, domain.CondRealisable)
	op := NewOperation(domain.VerbMoveVolume, vol, vol.GetMeta().GetGeneration(), now)
	rec.OperationId = op.GetId()
	w.Same(row)
	w.Same(from)
	w.Put(state.Key(state.KindVolume, row.ID), rec)
	w.Put(state.Key(state.KindOperation, op.GetId()), &statev1.OperationRecord{SchemaVersion: 1, Operation: op})
	txn, err := w.Txn()
	return &request.Plan[*storagev1.MoveVolumeResponse]{
		Txn: txn, Response: &storagev1.MoveVolumeResponse{Volume: s.view(rec, 0), Operation: proto.CloneOf(op)}, ObjectID: row.ID, OperationID: op.GetId(),
		Refused: staleEtag(row, m.GetEtag()),
	}, request.Fault(err)
}

// canMove refuses what is in use, or not at rest.
func (s *Service) canMove(row *state.Row, rec *statev1.VolumeRecord) error {
	vol := proto.CloneOf(rec)
	vol.Volume.Spec.DeleteProtection = false // its data stays
	if err := s.checkUnused(row, vol); err != nil {
		return err
	}
	if err := settled(row); err != nil {
		return err
	}
	if !domain.VolumeAtRest(rec) {
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "volume %s is %s", row.Name, PhaseName(rec.GetVolume())).WithRemedy("wait until it is ready")
	}
	return nil
}

// mover is the node that moves a volume: the one that has it, if only one has, else one that reaches both pools.
func (s *Service) mover(rec *statev1.VolumeRecord, row, to *state.Row, asked string) (string, error) {
	target, from := to.Pool().GetPool(), s.cfg.Cache.Row(state.KindPool, row.InPool).Pool().GetPool()
	able := func(id string) bool {
		return domain.PoolUsable(target, id) && domain.PoolUsable(from, id) && s.reports(id)
	}
	refuse := func(format string, args ...any) error {
		return fault.New(metav1.Reason_REASON_UNSCHEDULABLE, format, args...).WithRemedy("let a node reach both pools, or copy what you need inside a VM that has both volumes")
	}
	if !from.GetStatus().GetShared() {
		has := rec.GetExecutorNodeId()
		name := s.cfg.Cache.Row(state.KindNode, has).Node().GetNode().GetMeta().GetName()
		switch {
		case asked != "" && asked != has && !target.GetStatus().GetShared():
			return "", refuse("volume %s lies on node %s and cannot be moved to another node at once", row.Name, name)
		case !able(has):
			return "", refuse("node %s, on which volume %s lies, does not reach both pool %s and pool %s now", name, row.Name, from.GetMeta().GetName(), to.Name)
		}
		return has, nil
	}
	var nodes []string
	for _, n := range target.GetStatus().GetNodes() {
		if able(n.GetNodeId()) && (asked == "" || asked == n.GetNodeId()) {
			nodes = append(nodes, n.GetNodeId())
		}
	}
	switch {
	case len(nodes) == 0:
		return "", refuse("no node that may take it reaches both pool %s and pool %s now", from.GetMeta().GetName(), to.Name)
	case slices.Contains(nodes, rec.GetExecutorNodeId()):
		return rec.GetExecutorNodeId(), nil
	}
	return nodes[0], nil
}

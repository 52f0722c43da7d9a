package volume

import (
	"context"
	"errors"
	"io"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// ExportVolume streams content from the node that acts for it. The driver refuses what is, or becomes, attached.
func (s *Service) ExportVolume(ctx context.Context, req *connect.Request[storagev1.ExportVolumeRequest], stream *connect.ServerStream[storagev1.ExportVolumeResponse]) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	node, size, what, err := s.exported(req.Msg)
	if err != nil {
		return err
	}
	tunnels := s.cfg.Tunnels()
	if tunnels == nil {
		return fault.New(metav1.Reason_REASON_NODE_UNREACHABLE, "this controller has no tunnels to nodes")
	}
	t, err := tunnels.Open(ctx, node, &agentv1.OpenTunnel{Purpose: &agentv1.OpenTunnel_Export{Export: what}})
	if err != nil {
		return err
	}
	defer t.Close()
	for {
		part, err := t.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return request.Fault(err)
		}
		if err := stream.Send(&storagev1.ExportVolumeResponse{Offset: part.Offset, Data: part.Data, HoleBytes: part.Hole, SizeBytes: size}); err != nil {
			return err
		}
	}
}

// exported is what is to be read, where, and how large it is.
func (s *Service) exported(m *storagev1.ExportVolumeRequest) (node string, size int64, what *agentv1.ExportTunnel, err error) {
	var v domain.Violations
	if m.GetOffset() < 0 {
		v.Add("offset", "must not be negative")
	}
	if m.GetVolume() == "" && m.GetSnapshot() == "" {
		v.Add("volume", "is required, or snapshot")
	}
	if err := v.Err(); err != nil {
		return "", 0, nil, err
	}
	what = &agentv1.ExportTunnel{Offset: m.GetOffset()}
	name := m.GetSnapshot()
	if name != "" {
		row := s.cfg.Cache.Resolve(state.KindSnapshot, domain.Project(m.GetProjectId()), name)
		if row == nil || row.Deleting {
			return "", 0, nil, fault.New(metav1.Reason_REASON_SNAPSHOT_NOT_FOUND, "there is no snapshot %q in project %q", name, domain.Project(m.GetProjectId()))
		}
		rec := row.Snapshot()
		if ph := rec.GetSnapshot().GetStatus().GetPhase(); ph != storagev1.SnapshotPhase_SNAPSHOT_PHASE_READY {
			return "", 0, nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "snapshot %s is %s", row.Name, ph.String()[len("SNAPSHOT_PHASE_"):]).WithRemedy("wait until it is ready")
		}
		what.PoolId, what.Subject = rec.GetSnapshot().GetStatus().GetPoolId(), &agentv1.ExportTunnel_SnapshotId{SnapshotId: row.ID}
		node, size = rec.GetExecutorNodeId(), rec.GetSnapshot().GetStatus().GetSizeBytes()
	} else {
		name = m.GetVolume()
		row, err := s.find(name, m.GetProjectId())
		if err != nil {
			return "", 0, nil, err
		}
		rec := row.Volume()
		vol := rec.GetVolume()
		switch {
		case len(vol.GetStatus().GetAttachments()) > 0 || rec.GetOwnerVmId() != "":
			return "", 0, nil, fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is a disk of a VM", row.Name).WithRemedy("take a snapshot and export that, or detach it first")
		case !domain.VolumeAtRest(rec):
			return "", 0, nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "volume %s is %s", row.Name, PhaseName(vol)).WithRemedy("wait until it is ready")
		}
		what.PoolId, what.Subject = vol.GetSpec().GetPoolId(), &agentv1.ExportTunnel_VolumeId{VolumeId: row.ID}
		node, size = rec.GetExecutorNodeId(), vol.GetStatus().GetSizeBytes()
	}
	if m.GetOffset() > size {
		v.Add("offset", "is beyond the %d bytes that there are", size)
		return "", 0, nil, v.Err()
	}
	if !s.reports(node) { // in a shared pool any node that reaches it will do
		pool := s.cfg.Cache.Row(state.KindPool, what.GetPoolId()).Pool().GetPool()
		for _, n := range pool.GetStatus().GetNodes() {
			if pool.GetStatus().GetShared() && domain.PoolUsable(pool, n.GetNodeId()) && s.reports(n.GetNodeId()) {
				return n.GetNodeId(), size, what, nil
			}
		}
		return "", 0, nil, fault.New(metav1.Reason_REASON_NODE_UNREACHABLE, "no node that reports reaches %s", name)
	}
	return node, size, what, nil
}

package node

import (
	"context"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// mutate changes one node's record; apply says whether anything changed, and whether spec did.
func mutate[R proto.Message](ctx context.Context, s *Service, call request.Call, id, etag string,
	apply func(rec *statev1.NodeRecord) (changed, spec bool, err error), answer func(*computev1.Node) R,
) (R, error) {
	return request.Do(ctx, s.cfg.Runner, call, func(context.Context) (*request.Plan[R], error) {
		row, err := s.find(id)
		if err != nil {
			return nil, err
		}
		if row.Deleting {
			return nil, fault.New(metav1.Reason_REASON_BEING_DELETED, "node %s is being deleted", row.Name)
		}
		if err := domain.CheckEtag(etag, row.Revision); err != nil {
			return nil, err
		}
		rec := row.Node()
		changed, spec, err := apply(rec)
		if err != nil {
			return nil, err
		}
		plan := &request.Plan[R]{ObjectID: row.ID}
		if !changed {
			plan.Response = answer(s.render(rec, row.Revision))
			return plan, nil
		}
		if spec {
			rec.Node.Meta.Generation++
		}
		rec.Node.Meta.UpdateTime = timestamppb.New(s.cfg.Now())
		var w state.Writer
		w.Same(row)
		w.Put(state.Key(state.KindNode, row.ID), rec)
		plan.Txn, err = w.Txn()
		plan.Response = answer(s.render(proto.CloneOf(rec), 0))
		plan.Refused = func(c store.Check) error {
			if c.Current == nil {
				return nil
			}
			return domain.CheckEtag(etag, c.Current.ModRevision)
		}
		return plan, request.Fault(err)
	})
}

// UpdateNode changes exactly what the mask names.
func (s *Service) UpdateNode(ctx context.Context, req *connect.Request[computev1.UpdateNodeRequest]) (*connect.Response[computev1.UpdateNodeResponse], error) {
	m := req.Msg
	id := m.GetNode().GetMeta().GetId()
	if id == "" {
		id = m.GetNode().GetMeta().GetName()
	}
	call := request.Call{Method: computev1connect.NodeServiceUpdateNodeProcedure, Body: m, RequestID: m.GetRequestId()}
	return respond(mutate(ctx, s, call, id, m.GetNode().GetMeta().GetEtag(), func(rec *statev1.NodeRecord) (bool, bool, error) {
		cur := rec.GetNode()
		next, spec, err := domain.UpdateNode(cur, m.GetNode(), m.GetUpdateMask())
		if err != nil {
			return false, false, err
		}
		rec.Node = next
		return !proto.Equal(cur, next), spec, nil
	}, func(n *computev1.Node) *computev1.UpdateNodeResponse { return &computev1.UpdateNodeResponse{Node: n} }))
}

// CordonNode keeps new VMs away.
func (s *Service) CordonNode(ctx context.Context, req *connect.Request[computev1.CordonNodeRequest]) (*connect.Response[computev1.CordonNodeResponse], error) {
	call := request.Call{Method: computev1connect.NodeServiceCordonNodeProcedure, Body: req.Msg, RequestID: req.Msg.GetRequestId()}
	return respond(mutate(ctx, s, call, req.Msg.GetId(), "", cordon(true),
		func(n *computev1.Node) *computev1.CordonNodeResponse { return &computev1.CordonNodeResponse{Node: n} }))
}

// UncordonNode lets new VMs come.
func (s *Service) UncordonNode(ctx context.Context, req *connect.Request[computev1.UncordonNodeRequest]) (*connect.Response[computev1.UncordonNodeResponse], error) {
	call := request.Call{Method: computev1connect.NodeServiceUncordonNodeProcedure, Body: req.Msg, RequestID: req.Msg.GetRequestId()}
	return respond(mutate(ctx, s, call, req.Msg.GetId(), "", cordon(false),
		func(n *computev1.Node) *computev1.UncordonNodeResponse {
			return &computev1.UncordonNodeResponse{Node: n}
		}))
}

func cordon(on bool) func(*statev1.NodeRecord) (bool, bool, error) {
	return func(rec *statev1.NodeRecord) (bool, bool, error) {
		if rec.GetNode().GetSpec().GetCordoned() == on {
			return false, false, nil
		}
		if rec.Node.Spec == nil {
			rec.Node.Spec = &computev1.NodeSpec{}
		}
		rec.Node.Spec.Cordoned = on
		return true, true, nil
	}
}

// DeleteNode removes a node that holds nothing. With force the operator vouches that its host is off: the node is revoked at once, and the leader
// places its VMs anew before the record goes.
func (s *Service) DeleteNode(ctx context.Context, req *connect.Request[computev1.DeleteNodeRequest]) (*connect.Response[computev1.DeleteNodeResponse], error) {
	m := req.Msg
	call := request.Call{Method: computev1connect.NodeServiceDeleteNodeProcedure, Body: m, RequestID: m.GetRequestId()}
	return respond(request.Do(ctx, s.cfg.Runner, call, func(context.Context) (*request.Plan[*computev1.DeleteNodeResponse], error) {
		plan := &request.Plan[*computev1.DeleteNodeResponse]{Response: &computev1.DeleteNodeResponse{}}
		row, err := s.find(m.GetId())
		if row == nil && domain.IsID(m.GetId()) || row != nil && row.Deleting {
			return plan, nil
		}
		if err != nil {
			return nil, err
		}
		plan.ObjectID = row.ID
		rec := row.Node()
		vms, volumes, ports := s.cfg.Cache.CountOn(state.KindVM, row.ID), s.cfg.Cache.CountOn(state.KindVolume, row.ID), s.cfg.Cache.CountOn(state.KindPort, row.ID)
		var w state.Writer
		w.Same(row) // every placement writes the node, so none can have come in between
		w.Delete(state.NameKey("", state.KindNode, row.Name))
		switch {
		case m.GetForce():
			rec.Node.Meta.DeleteTime = timestamppb.New(s.cfg.Now())
			rec.Enrolled, rec.CertificateSerial, rec.PublicKeySha256 = false, "", ""
			settle(rec, false)
			w.Put(state.Key(state.KindNode, row.ID), rec)
		case vms+volumes+ports > 0:
			return nil, fault.New(metav1.Reason_REASON_NODE_IN_USE, "node %s still has %d VMs, %d volumes and %d ports", row.Name, vms, volumes, ports).
				WithRemedy("delete them first; or, if the host is off and stays off, delete the node with force: its VMs are then placed anew")
		default:
			w.Delete(state.Key(state.KindNode, row.ID))
		}
		plan.Txn, err = w.Txn()
		return plan, request.Fault(err)
	}))
}

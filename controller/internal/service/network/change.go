package network

import (
	"context"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1/networkv1connect"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// UpdateNetwork changes exactly what the mask names. Ports keep the addresses that they hold.
func (s *Service) UpdateNetwork(ctx context.Context, req *connect.Request[networkv1.UpdateNetworkRequest]) (*connect.Response[networkv1.UpdateNetworkResponse], error) {
	m, now := req.Msg, s.cfg.Now()
	given := m.GetNetwork()
	resp, err := request.Do(ctx, s.cfg.Runner, request.Call{
		Method: networkv1connect.VirtualNetworkServiceUpdateNetworkProcedure, Body: m, RequestID: m.GetRequestId(),
	}, func(context.Context) (*request.Plan[*networkv1.UpdateNetworkResponse], error) {
		name := given.GetMeta().GetId()
		if name == "" {
			name = given.GetMeta().GetName()
		}
		row, err := s.find(name, given.GetMeta().GetProjectId())
		if err != nil {
			return nil, err
		}
		if row.Deleting {
			return nil, fault.New(metav1.Reason_REASON_BEING_DELETED, "network %s is being deleted", row.Name)
		}
		if err := domain.CheckEtag(given.GetMeta().GetEtag(), row.Revision); err != nil {
			return nil, err
		}
		var w state.Writer
		rec := row.Network()
		next, specChanged, err := s.update(&w, rec.GetNetwork(), m)
		if err != nil {
			return nil, err
		}
		next.Meta.UpdateTime = timestamppb.New(now)
		if specChanged {
			next.Meta.Generation++
			domain.SettleNetwork(next)
		}
		op := newOperation(domain.VerbUpdateNetwork, next, now)
		rec.Network, rec.OperationId = next, op.GetId()
		if o := domain.NetworkOutcome(op, rec, s.heard(row.ID)); !specChanged {
			domain.EndOperation(op, domain.Outcome{State: operationv1.OperationState_OPERATION_STATE_DONE}, now)
		} else if o.Ended() {
			domain.EndOperation(op, o, now)
		}
		w.Same(row)
		w.Put(state.Key(state.KindNetwork, row.ID), rec)
		w.Put(state.Key(state.KindOperation, op.GetId()), &statev1.OperationRecord{SchemaVersion: 1, Operation: op})
		txn, err := w.Txn()
		return &request.Plan[*networkv1.UpdateNetworkResponse]{
			Txn: txn, Response: &networkv1.UpdateNetworkResponse{Network: s.view(rec, 0), Operation: op}, ObjectID: row.ID, OperationID: op.GetId(),
			Refused: staleEtag(row, given.GetMeta().GetEtag()),
		}, request.Fault(err)
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

// heard are the nodes with ports of a network that are heard of.
func (s *Service) heard(id string) []string {
	var out []string
	for node := range s.needs(id) {
		if s.reports(node) {
			out = append(out, node)
		}
	}
	return out
}

// update is a network with what the mask names changed, and whether nodes have anything to do about it. w requires that nobody takes an address that becomes the gateway's.
func (s *Service) update(w *state.Writer, cur *networkv1.Network, m *networkv1.UpdateNetworkRequest) (next *networkv1.Network, specChanged bool, err error) {
	next = proto.CloneOf(cur)
	var v domain.Violations
	domain.ApplyMask(&v, next, m.GetNetwork(), m.GetUpdateMask(), domain.NetworkPathAllowed)
	if err := v.Err(); err != nil {
		return nil, false, err
	}
	domain.DefaultNetwork(next)
	domain.ValidateNetwork(&v, next)
	domain.CheckSubnetsKept(&v, cur.GetSpec(), next.GetSpec())
	if err := v.Err(); err != nil {
		return nil, false, err
	}
	s.resolveForwards(&v, next, cur.GetSpec().GetForwards())
	s.checkHostPorts(&v, cur, next)
	for i, sub := range next.GetSpec().GetSubnets() {
		gateway := domain.Gateway(next.GetSpec(), sub)
		if gateway == "" || gateway == domain.Gateway(cur.GetSpec(), cur.GetSpec().GetSubnets()[i]) {
			continue
		}
		key := state.AddressKey(cur.GetMeta().GetId(), gateway)
		if port := s.cfg.Cache.Holder(key); port != "" {
			v.Add(fmt.Sprintf("network.spec.subnets[%d].gateway", i), "%s is held by port %s", gateway, port)
		}
		w.Require(store.KeyAbsent(key))
	}
	was, is := proto.CloneOf(cur.GetSpec()), proto.CloneOf(next.GetSpec())
	was.DeleteProtection, is.DeleteProtection = false, false // nobody's business but ours
	return next, !proto.Equal(was, is), v.Err()
}

// DeleteNetwork marks a network in which there is no port; it is gone when every node has let go of it.
func (s *Service) DeleteNetwork(ctx context.Context, req *connect.Request[networkv1.DeleteNetworkRequest]) (*connect.Response[networkv1.DeleteNetworkResponse], error) {
	m, now := req.Msg, s.cfg.Now()
	resp, err := request.Do(ctx, s.cfg.Runner, request.Call{
		Method: networkv1connect.VirtualNetworkServiceDeleteNetworkProcedure, Body: m, RequestID: m.GetRequestId(),
	}, func(context.Context) (*request.Plan[*networkv1.DeleteNetworkResponse], error) {
		row, err := s.find(m.GetId(), m.GetProjectId())
		switch {
		case err != nil && domain.IsID(m.GetId()):
			return &request.Plan[*networkv1.DeleteNetworkResponse]{Response: &networkv1.DeleteNetworkResponse{}}, nil
		case err != nil:
			return nil, err
		case row.Deleting:
			rec := row.Network()
			resp := &networkv1.DeleteNetworkResponse{Network: s.view(rec, row.Revision), Operation: s.cfg.Cache.Row(state.KindOperation, rec.GetOperationId()).Operation().GetOperation()}
			return &request.Plan[*networkv1.DeleteNetworkResponse]{Response: resp}, nil
		}
		if err := domain.CheckEtag(m.GetEtag(), row.Revision); err != nil {
			return nil, err
		}
		rec := row.Network()
		if err := s.mayDelete(row, rec); err != nil {
			return nil, err
		}
		n := rec.GetNetwork()
		n.Meta.DeleteTime = timestamppb.New(now)
		n.Meta.Generation++
		domain.SettleNetwork(n)
		op := newOperation(domain.VerbDeleteNetwork, n, now)
		rec.OperationId = op.GetId()
		var w state.Writer
		w.Same(row) // a port that comes meanwhile requires the same: it keeps the network until it is gone itself
		w.Put(state.Key(state.KindNetwork, row.ID), rec)
		w.Delete(state.NameKey(row.Project, state.KindNetwork, row.Name))
		w.Put(state.Key(state.KindOperation, op.GetId()), &statev1.OperationRecord{SchemaVersion: 1, Operation: op})
		txn, err := w.Txn()
		return &request.Plan[*networkv1.DeleteNetworkResponse]{
			Txn: txn, Response: &networkv1.DeleteNetworkResponse{Network: s.view(rec, 0), Operation: op}, ObjectID: row.ID, OperationID: op.GetId(),
			Refused: staleEtag(row, m.GetEtag()),
		}, request.Fault(err)
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

func (s *Service) mayDelete(row *state.Row, rec *statev1.NetworkRecord) error {
	if rec.GetNetwork().GetSpec().GetDeleteProtection() {
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "network %s is protected from deletion", row.Name).WithRemedy("set spec.delete_protection to false first")
	}
	if ports := s.cfg.Cache.Find(state.Query{Kind: state.KindPort, Ref: state.RefNetwork(row.ID)}).Rows; len(ports) > 0 {
		what := ""
		if p := ports[0]; p.Owner != "" {
			what = " of VM " + p.Owner
		}
		return fault.New(metav1.Reason_REASON_WRONG_STATE, "network %s has %d ports, for example %s (%s)%s", row.Name, len(ports), ports[0].Name, ports[0].ID, what).
			WithRemedy("delete the VMs and ports in it first; list ports by network to see them")
	}
	return nil
}

func staleEtag(row *state.Row, etag string) func(store.Check) error {
	key := state.Key(row.Kind, row.ID)
	return func(c store.Check) error {
		if c.Condition.Key != key || c.Current == nil {
			return nil
		}
		return domain.CheckEtag(etag, c.Current.ModRevision)
	}
}

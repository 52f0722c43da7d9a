package network

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

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

// CreateNetwork accepts a network in one commit: the network, its name, its VXLAN network identifier, and that its ranges overlap no others of the project.
func (s *Service) CreateNetwork(ctx context.Context, req *connect.Request[networkv1.CreateNetworkRequest]) (*connect.Response[networkv1.CreateNetworkResponse], error) {
	now, given := s.cfg.Now(), req.Msg.GetNetwork()
	n := newNetwork(domain.NewMeta(domain.NewID(now), given.GetMeta().GetName(), domain.Project(given.GetMeta().GetProjectId()), given.GetMeta().GetLabels(), given.GetMeta().GetAnnotations()), given.GetSpec(), now)
	var v domain.Violations
	domain.ValidateNetwork(&v, n)
	if err := v.Err(); err != nil {
		return nil, err
	}
	resp, err := request.Do(ctx, s.cfg.Runner, request.Call{
		Method: networkv1connect.VirtualNetworkServiceCreateNetworkProcedure, Body: req.Msg, RequestID: req.Msg.GetRequestId(),
	}, func(context.Context) (*request.Plan[*networkv1.CreateNetworkResponse], error) {
		n := proto.CloneOf(n) // every try writes its own
		meta := n.GetMeta()
		if other := s.cfg.Cache.ByName(meta.GetProjectId(), state.KindNetwork, meta.GetName()); other != "" {
			return nil, nameTaken(meta, other)
		}
		var v domain.Violations
		s.resolveForwards(&v, n, nil)
		s.checkOverlap(&v, n)
		if err := v.Err(); err != nil {
			return nil, err
		}
		op := newOperation(domain.VerbCreateNetwork, n, now)
		rec := &statev1.NetworkRecord{SchemaVersion: 1, Network: n, OperationId: op.GetId()}
		if o := domain.NetworkOutcome(op, rec, nil); o.Ended() { // no port can be in it yet
			domain.EndOperation(op, o, now)
		}
		var w state.Writer
		if err := add(s.cfg.Cache, &w, rec); err != nil {
			return nil, err
		}
		w.Put(state.Key(state.KindOperation, op.GetId()), &statev1.OperationRecord{SchemaVersion: 1, Operation: op})
		txn, err := w.Txn()
		return &request.Plan[*networkv1.CreateNetworkResponse]{
			Txn: txn, Response: &networkv1.CreateNetworkResponse{Network: s.view(rec, 0), Operation: op}, ObjectID: meta.GetId(), OperationID: op.GetId(),
			Refused: func(c store.Check) error {
				if c.Condition.Key == state.NameKey(meta.GetProjectId(), state.KindNetwork, meta.GetName()) && c.Current != nil {
					return nameTaken(meta, string(c.Current.Value))
				}
				return nil
			},
		}, request.Fault(err)
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(resp), nil
}

func newNetwork(meta *metav1.ObjectMeta, spec *networkv1.NetworkSpec, now time.Time) *networkv1.Network {
	n := &networkv1.Network{Meta: meta, Spec: proto.CloneOf(spec), Status: &networkv1.NetworkStatus{}}
	if n.Spec == nil {
		n.Spec = &networkv1.NetworkSpec{}
	}
	n.Meta.CreateTime, n.Meta.UpdateTime = timestamppb.New(now), timestamppb.New(now)
	domain.DefaultNetwork(n)
	domain.SettleNetwork(n)
	return n
}

// add writes a new network, and takes its name and its VXLAN network identifier. Nobody else may have changed the project's ranges since they were looked at.
func add(cache *state.Cache, w *state.Writer, rec *statev1.NetworkRecord) error {
	n := rec.GetNetwork()
	meta, spec := n.GetMeta(), n.GetSpec()
	n.Status.Vni = spec.GetVni()
	if spec.GetType() == networkv1.NetworkType_NETWORK_TYPE_VXLAN && spec.GetVni() == 0 {
		n.Status.Vni = freeVNI(cache)
	}
	if id := n.GetStatus().GetVni(); id != 0 {
		key := state.VNIKey(id)
		if other := cache.Holder(key); other != "" {
			return taken("network.spec.vni", fmt.Sprintf("VXLAN network identifier %d is that of network %s", id, other), other)
		}
		w.PutText(key, meta.GetId())
		w.Require(store.KeyAbsent(key))
	}
	if len(spec.GetSubnets()) > 0 {
		holdRanges(cache, w, meta.GetProjectId(), meta.GetId())
	}
	nameKey := state.NameKey(meta.GetProjectId(), state.KindNetwork, meta.GetName())
	w.Put(state.Key(state.KindNetwork, meta.GetId()), rec)
	w.PutText(nameKey, meta.GetId())
	w.Require(store.KeyAbsent(nameKey))
	return nil
}

// holdRanges makes a commit fail when a network came to a project, or with no project a default network to the cluster, that was not looked at.
func holdRanges(cache *state.Cache, w *state.Writer, project, networkID string) {
	key := state.RangesKey(project)
	w.Require(store.ModRevisionEquals(key, cache.RangesRevision(project)))
	w.PutText(key, networkID)
}

// freeVNI is a VXLAN network identifier that no network has, at random, so that those who ask at the same time seldom get the same.
func freeVNI(cache *state.Cache) uint32 {
	const all = 1<<24 - 1
	for id := 1 + rand.Uint32N(all); ; id = id%all + 1 {
		if cache.Holder(state.VNIKey(id)) == "" {
			return id
		}
	}
}

// checkOverlap notes subnets that overlap those of another network of the project, one that is going away included while a node has it.
func (s *Service) checkOverlap(v *domain.Violations, n *networkv1.Network) {
	if len(n.GetSpec().GetSubnets()) == 0 {
		return
	}
	for _, row := range s.cfg.Cache.Find(state.Query{Kind: state.KindNetwork, Project: n.GetMeta().GetProjectId()}).Rows {
		if row.Deleting && len(row.Nodes) == 0 {
			continue
		}
		mine, theirs, overlaps := domain.Overlap(n.GetSpec(), row.Network().GetNetwork().GetSpec())
		if !overlaps {
			continue
		}
		for i, sub := range n.GetSpec().GetSubnets() {
			if sub.GetCidr() == mine {
				v.Add(fmt.Sprintf("network.spec.subnets[%d].cidr", i), "%s overlaps %s of network %q (%s) of the project", mine, theirs, row.Name, row.ID)
			}
		}
	}
}

// resolveForwards puts ids in place of names of ports, and notes targets that are not there. One that was there before may lead to a port that has gone since: it
// leads nowhere, and keeps nobody from changing the rest.
func (s *Service) resolveForwards(v *domain.Violations, n *networkv1.Network, before []*networkv1.NetworkForward) {
	for i, f := range n.GetSpec().GetForwards() {
		if f.GetPortId() == "" || slices.ContainsFunc(before, func(b *networkv1.NetworkForward) bool { return proto.Equal(b, f) }) {
			continue
		}
		row := s.cfg.Cache.Resolve(state.KindPort, n.GetMeta().GetProjectId(), f.GetPortId())
		if row == nil || row.Port().GetPort().GetSpec().GetNetworkId() != n.GetMeta().GetId() {
			v.Add(fmt.Sprintf("network.spec.forwards[%d].port_id", i), "there is no port %q in the network", f.GetPortId())
			continue
		}
		f.Target = &networkv1.NetworkForward_PortId{PortId: row.ID}
	}
}

// Default is a project's default network, as it is or as w makes it. w requires that it stays as it is.
func Default(cache *state.Cache, w *state.Writer, project string, now time.Time) (*statev1.NetworkRecord, error) {
	if row := cache.Resolve(state.KindNetwork, project, domain.DefaultNetworkName); row != nil {
		w.Same(row)
		return row.Network(), nil
	}
	var taken []string
	for _, row := range cache.Find(state.Query{Kind: state.KindNetwork}).Rows {
		for _, sub := range row.Network().GetNetwork().GetSpec().GetSubnets() {
			taken = append(taken, sub.GetCidr())
		}
	}
	cidr, ok := domain.FreeDefaultRange(taken)
	if !ok {
		return nil, fault.New(metav1.Reason_REASON_LIMIT_EXCEEDED, "no range is left for the default network of project %q", project).
			WithRemedy("create a network named %q with a range of its own", domain.DefaultNetworkName)
	}
	holdRanges(cache, w, "", "")
	n := newNetwork(domain.NewMeta(domain.NewID(now), domain.DefaultNetworkName, project, nil, nil), domain.DefaultNetworkSpec(cidr), now)
	rec := &statev1.NetworkRecord{SchemaVersion: 1, Network: n}
	return rec, add(cache, w, rec)
}

func nameTaken(meta *metav1.ObjectMeta, other string) error {
	return fault.New(metav1.Reason_REASON_NAME_TAKEN, "a network named %q exists in project %q (%s)", meta.GetName(), meta.GetProjectId(), other).
		WithRemedy("choose another name, or delete that network").WithMetadata("id", other)
}

// taken refuses something unique that another object has.
func taken(field, what, other string) error {
	e := fault.New(metav1.Reason_REASON_NAME_TAKEN, "%s: %s", field, what).WithRemedy("choose another one, or leave it out").WithMetadata("id", other)
	e.Violations = []fault.Violation{{Field: field, Description: what}}
	return e
}

// newOperation begins an operation that follows the network's present generation.
func newOperation(verb string, n *networkv1.Network, now time.Time) *operationv1.Operation {
	return &operationv1.Operation{
		Id: domain.NewID(now), ProjectId: n.GetMeta().GetProjectId(), Verb: verb, ObjectKind: domain.KindNetwork, ObjectId: n.GetMeta().GetId(),
		ObjectName: n.GetMeta().GetName(), Generation: n.GetMeta().GetGeneration(),
		State: operationv1.OperationState_OPERATION_STATE_RUNNING, CreateTime: timestamppb.New(now),
	}
}

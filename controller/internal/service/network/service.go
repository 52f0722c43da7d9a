// Package network serves VirtualNetworkService: networks, and the default one that each project has.
package network

import (
	"context"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1/networkv1connect"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// Config is what the service needs.
type Config struct {
	Cache  *state.Cache
	Runner *request.Runner
	Now    func() time.Time
}

// Service implements networkv1connect.VirtualNetworkServiceHandler.
type Service struct{ cfg Config }

var _ networkv1connect.VirtualNetworkServiceHandler = (*Service)(nil)

// New makes the service.
func New(cfg Config) *Service { return &Service{cfg: cfg} }

// find is the row of the network that a request names. None: NOT_FOUND.
func (s *Service) find(id, project string) (*state.Row, error) {
	if id == "" {
		return nil, fault.Invalid(fault.Violation{Field: "id", Description: "is required: a network's id or name"})
	}
	row := s.cfg.Cache.Resolve(state.KindNetwork, domain.Project(project), id)
	if row == nil {
		return nil, fault.New(metav1.Reason_REASON_NETWORK_NOT_FOUND, "there is no network %q in project %q", id, domain.Project(project)).
			WithRemedy("list networks to see which there are; a project's network \"default\" is made with the first port in it")
	}
	return row, nil
}

// needs are the nodes that have ports of a network, by id with their names.
func (s *Service) needs(id string) map[string]string {
	out := map[string]string{}
	for _, p := range s.cfg.Cache.Find(state.Query{Kind: state.KindPort, Ref: state.RefNetwork(id)}).Rows {
		for _, n := range p.Nodes {
			if _, known := out[n]; known {
				continue
			}
			out[n] = n
			if row := s.cfg.Cache.Row(state.KindNode, n); row != nil {
				out[n] = row.Name
			}
		}
	}
	return out
}

// reports reports whether a node is there and is heard of.
func (s *Service) reports(nodeID string) bool {
	row := s.cfg.Cache.Row(state.KindNode, nodeID)
	return row != nil && !row.Deleting && computev1.NodePhase(row.Phase) != computev1.NodePhase_NODE_PHASE_UNKNOWN
}

// view is a network as clients see it: with its etag, the use of its addresses, and what is known of its nodes beside their own words.
func (s *Service) view(rec *statev1.NetworkRecord, revision int64) *networkv1.Network {
	n := proto.CloneOf(rec.GetNetwork())
	if revision > 0 {
		n.Meta.Etag = domain.Etag(revision)
	}
	if n.Status == nil {
		n.Status = &networkv1.NetworkStatus{}
	}
	id := n.GetMeta().GetId()
	ports := s.cfg.Cache.Find(state.Query{Kind: state.KindPort, Ref: state.RefNetwork(id)}).Rows
	n.Status.PortCount = int64(len(ports))
	var held []string
	for _, p := range ports {
		held = append(held, p.Addresses...)
	}
	n.Status.Subnets = nil
	for i, a := range domain.AddressesOf(n.GetSpec()) {
		used, free := a.Use(held)
		n.Status.Subnets = append(n.Status.Subnets, &networkv1.SubnetStatus{
			Cidr: a.Prefix().String(), Gateway: domain.Gateway(n.GetSpec(), n.GetSpec().GetSubnets()[i]), UsedAddresses: used, FreeAddresses: free,
		})
	}
	needs := map[string]string{}
	if n.GetMeta().GetDeleteTime() == nil {
		needs = s.needs(id)
	}
	domain.ShowNetwork(n, needs, s.reports)
	if n.GetMeta().GetDeleteTime() != nil && len(ports) > 0 {
		n.Status.Message = "waits until port " + ports[0].Name + " (" + ports[0].ID + ") is gone"
	}
	return n
}

// GetNetwork reads a network.
func (s *Service) GetNetwork(_ context.Context, req *connect.Request[networkv1.GetNetworkRequest]) (*connect.Response[networkv1.GetNetworkResponse], error) {
	row, err := s.find(req.Msg.GetId(), req.Msg.GetProjectId())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&networkv1.GetNetworkResponse{Network: s.view(row.Network(), row.Revision)}), nil
}

// ListNetworks answers a page.
func (s *Service) ListNetworks(_ context.Context, req *connect.Request[networkv1.ListNetworksRequest]) (*connect.Response[networkv1.ListNetworksResponse], error) {
	m := req.Msg
	var v domain.Violations
	q := state.Query{Kind: state.KindNetwork, Project: m.GetProjectId(), Name: m.GetName(), Limit: domain.PageSize(&v, m.GetPageSize())}
	var err error
	if q.Selector, err = domain.ParseSelector(m.GetLabelSelector()); err != nil {
		v.Add("label_selector", "%v", err)
	}
	if n := m.GetNode(); n != "" {
		if row := s.cfg.Cache.Resolve(state.KindNode, "", n); row != nil {
			q.Node = row.ID
		} else {
			v.Add("node", "there is no node %q", n)
		}
	}
	var types []string
	for _, t := range m.GetTypes() {
		types = append(types, state.RefNetworkType(t))
	}
	if len(types) > 0 {
		q.Keep = func(r *state.Row) bool {
			return slices.ContainsFunc(r.Refs, func(have string) bool { return slices.Contains(types, have) })
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
	resp := &networkv1.ListNetworksResponse{Revision: page.Revision}
	for _, row := range page.Rows {
		resp.Networks = append(resp.Networks, s.view(row.Network(), row.Revision))
	}
	if page.More {
		resp.NextPageToken = domain.PageToken(query, page.Rows[len(page.Rows)-1].ID)
	}
	return connect.NewResponse(resp), nil
}

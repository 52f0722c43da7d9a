package fakeapi

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1/networkv1connect"
)

type networks struct {
	networkv1connect.UnimplementedVirtualNetworkServiceHandler
	*Server
}

// named is an object by id, or name within a project. Called under Lock.
func named[T withMeta](list []T, id, project string, reason metav1.Reason, kind string) (T, error) {
	if project == "" {
		project = "default"
	}
	for _, o := range list {
		if m := o.GetMeta(); m.GetId() == id || m.GetName() == id && m.GetProjectId() == project {
			return o, nil
		}
	}
	var none T
	return none, fault.New(reason, "there is no %s %q in project %q", kind, id, project).WithRemedy("list them to see which there are")
}

// admitNew gives a new object its meta, if its name is free. Called under Lock.
func admitNew[T withMeta](s *Server, list []T, m *metav1.ObjectMeta, kind string) (*metav1.ObjectMeta, error) {
	if _, err := named(list, m.GetName(), m.GetProjectId(), metav1.Reason_REASON_NOT_FOUND, kind); err == nil {
		return nil, fault.New(metav1.Reason_REASON_NAME_TAKEN, "a %s named %q exists", kind, m.GetName())
	}
	s.made++
	return newMeta(m, fmt.Sprintf("%s-%d", strings.ReplaceAll(kind, " ", "-"), s.made)), nil
}

// matches applies the filters that all lists have.
func matches(m *metav1.ObjectMeta, project, selector, name string) bool {
	for _, part := range strings.Split(selector, ",") {
		if k, value, ok := strings.Cut(part, "="); ok && m.GetLabels()[k] != value {
			return false
		}
	}
	return (project == "" || m.GetProjectId() == project) && (name == "" || m.GetName() == name)
}

// page gives two objects a page, so that every walk is walked.
func page[T any](all []T, token string) (items []T, next string) {
	const size = 2
	at := min(len(token), len(all))
	end := min(at+size, len(all))
	if end < len(all) {
		next = strings.Repeat("x", end)
	}
	return all[at:end], next
}

// changed counts an update of an object. Called under Lock.
func changed(m *metav1.ObjectMeta, etag string, specChanged bool) error {
	if etag != "" && etag != m.GetEtag() {
		return fault.New(metav1.Reason_REASON_STALE_ETAG, "etag %q is stale", etag)
	}
	m.Etag += "+"
	if specChanged {
		m.Generation++
	}
	return nil
}

func (s *Server) network(id, project string) (*networkv1.Network, error) {
	if id == "" {
		id = "default"
	}
	n, err := named(s.Networks, id, project, metav1.Reason_REASON_NETWORK_NOT_FOUND, "network")
	if err != nil && id == "default" {
		return s.addNetwork(&networkv1.Network{
			Meta: &metav1.ObjectMeta{Name: "default", ProjectId: project}, Spec: &networkv1.NetworkSpec{Subnets: []*networkv1.Subnet{{Cidr: "10.64.0.0/22"}}},
		})
	}
	return n, err
}

func (s *Server) addNetwork(in *networkv1.Network) (*networkv1.Network, error) {
	meta, err := admitNew(s, s.Networks, in.GetMeta(), "network")
	if err != nil {
		return nil, err
	}
	spec := &networkv1.NetworkSpec{}
	proto.Merge(spec, in.GetSpec())
	if spec.GetType() == 0 {
		spec.Type = networkv1.NetworkType_NETWORK_TYPE_BRIDGE
	}
	if spec.GetEgress() == 0 {
		spec.Egress = networkv1.EgressMode_EGRESS_MODE_NONE
		if spec.GetType() == networkv1.NetworkType_NETWORK_TYPE_BRIDGE && spec.GetUplink() == "" && len(spec.GetSubnets()) > 0 {
			spec.Egress = networkv1.EgressMode_EGRESS_MODE_NAT
		}
	}
	for _, sub := range spec.GetSubnets() {
		p := netip.MustParsePrefix(sub.GetCidr())
		for _, other := range s.Networks {
			for _, o := range other.GetSpec().GetSubnets() {
				if other.GetMeta().GetProjectId() == meta.GetProjectId() && netip.MustParsePrefix(o.GetCidr()).Overlaps(p) {
					return nil, fault.Invalid(fault.Violation{Field: "network.spec.subnets[0].cidr", Description: "overlaps " + o.GetCidr() + " of network " + other.GetMeta().GetName()})
				}
			}
		}
	}
	if err := s.resolve(spec.GetForwards(), &networkv1.Network{Meta: meta}); err != nil {
		return nil, err
	}
	n := &networkv1.Network{Meta: meta, Spec: spec, Status: &networkv1.NetworkStatus{Phase: networkv1.NetworkPhase_NETWORK_PHASE_PENDING}}
	if spec.GetType() == networkv1.NetworkType_NETWORK_TYPE_VXLAN {
		n.Status.Vni = max(spec.GetVni(), 4097)
	}
	s.Networks = append(s.Networks, n)
	return n, nil
}

// resolve puts ids in place of names of ports, which must be in the network. Called under Lock.
func (s *Server) resolve(forwards []*networkv1.NetworkForward, n *networkv1.Network) error {
	for i, f := range forwards {
		if f.GetPortId() == "" {
			continue
		}
		p, err := s.port(f.GetPortId(), n.GetMeta().GetProjectId())
		if err != nil || p.GetSpec().GetNetworkId() != n.GetMeta().GetId() {
			return fault.Invalid(fault.Violation{Field: fmt.Sprintf("network.spec.forwards[%d].port_id", i), Description: fmt.Sprintf("there is no port %q in the network", f.GetPortId())})
		}
		f.Target = &networkv1.NetworkForward_PortId{PortId: p.GetMeta().GetId()}
	}
	return nil
}

// view is a network with what is counted of it. Called under Lock.
func (s *Server) view(n *networkv1.Network) *networkv1.Network {
	n = proto.CloneOf(n)
	st := n.Status
	for _, p := range s.Ports {
		if p.GetSpec().GetNetworkId() != n.GetMeta().GetId() {
			continue
		}
		st.PortCount++
		if node := p.GetStatus().GetBinding().GetNodeId(); node != "" && len(st.Nodes) == 0 {
			st.Phase, st.Mtu = networkv1.NetworkPhase_NETWORK_PHASE_READY, 1500
			st.Nodes = []*networkv1.NetworkNodeStatus{{NodeId: node, NodeName: "host1", Health: networkv1.NetworkHealth_NETWORK_HEALTH_HEALTHY, Device: "lqb-" + n.GetMeta().GetName(), Mtu: 1500}}
		}
	}
	for _, sub := range n.GetSpec().GetSubnets() {
		p := netip.MustParsePrefix(sub.GetCidr())
		use := &networkv1.SubnetStatus{Cidr: sub.GetCidr(), Gateway: gateway(sub), UsedAddresses: st.GetPortCount(), FreeAddresses: 1<<63 - 1}
		if p.Addr().Is4() {
			use.FreeAddresses = 1<<(32-p.Bits()) - 3 - st.GetPortCount()
		}
		st.Subnets = append(st.Subnets, use)
	}
	return n
}

func gateway(sub *networkv1.Subnet) string {
	if sub.GetGateway() != "" {
		return sub.GetGateway()
	}
	return netip.MustParsePrefix(sub.GetCidr()).Addr().Next().String()
}

func (n networks) CreateNetwork(_ context.Context, req *connect.Request[networkv1.CreateNetworkRequest]) (*connect.Response[networkv1.CreateNetworkResponse], error) {
	n.Lock()
	defer n.Unlock()
	made, err := n.addNetwork(req.Msg.GetNetwork())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&networkv1.CreateNetworkResponse{Network: n.view(made), Operation: n.operate("CreateNetwork", "Network", made.GetMeta())}), nil
}

func (n networks) GetNetwork(_ context.Context, req *connect.Request[networkv1.GetNetworkRequest]) (*connect.Response[networkv1.GetNetworkResponse], error) {
	n.Lock()
	defer n.Unlock()
	found, err := named(n.Networks, req.Msg.GetId(), req.Msg.GetProjectId(), metav1.Reason_REASON_NETWORK_NOT_FOUND, "network")
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&networkv1.GetNetworkResponse{Network: n.view(found)}), nil
}

func (n networks) ListNetworks(_ context.Context, req *connect.Request[networkv1.ListNetworksRequest]) (*connect.Response[networkv1.ListNetworksResponse], error) {
	n.Lock()
	defer n.Unlock()
	var all []*networkv1.Network
	for _, o := range n.Networks {
		if v := n.view(o); matches(v.GetMeta(), req.Msg.GetProjectId(), req.Msg.GetLabelSelector(), req.Msg.GetName()) &&
			(len(req.Msg.GetTypes()) == 0 || slices.Contains(req.Msg.GetTypes(), v.GetSpec().GetType())) &&
			(req.Msg.GetNode() == "" || slices.ContainsFunc(v.GetStatus().GetNodes(), func(s *networkv1.NetworkNodeStatus) bool { return s.GetNodeName() == req.Msg.GetNode() })) {
			all = append(all, v)
		}
	}
	items, next := page(all, req.Msg.GetPageToken())
	return connect.NewResponse(&networkv1.ListNetworksResponse{Networks: items, NextPageToken: next}), nil
}

func (n networks) UpdateNetwork(_ context.Context, req *connect.Request[networkv1.UpdateNetworkRequest]) (*connect.Response[networkv1.UpdateNetworkResponse], error) {
	n.Lock()
	defer n.Unlock()
	in := req.Msg.GetNetwork()
	have, err := named(n.Networks, either(in.GetMeta()), in.GetMeta().GetProjectId(), metav1.Reason_REASON_NETWORK_NOT_FOUND, "network")
	if err != nil {
		return nil, err
	}
	spec, labels := proto.CloneOf(have.GetSpec()), have.GetMeta().GetLabels()
	for _, p := range req.Msg.GetUpdateMask().GetPaths() {
		switch p {
		case "spec.mtu":
			spec.Mtu = in.GetSpec().GetMtu()
		case "spec.egress":
			spec.Egress = in.GetSpec().GetEgress()
		case "spec.domain_name":
			spec.DomainName = in.GetSpec().GetDomainName()
		case "spec.node_selector":
			spec.NodeSelector = in.GetSpec().GetNodeSelector()
		case "spec.delete_protection":
			spec.DeleteProtection = in.GetSpec().GetDeleteProtection()
		case "spec.forwards":
			spec.Forwards = in.GetSpec().GetForwards()
		case "spec.subnets":
			spec.Subnets = in.GetSpec().GetSubnets()
		case "meta.labels":
			labels = in.GetMeta().GetLabels()
		default:
			return nil, fault.Invalid(fault.Violation{Field: "update_mask", Description: p + " cannot change"})
		}
	}
	if err := n.resolve(spec.GetForwards(), have); err != nil {
		return nil, err
	}
	if err := changed(have.GetMeta(), in.GetMeta().GetEtag(), !proto.Equal(spec, have.GetSpec())); err != nil {
		return nil, err
	}
	have.Spec, have.Meta.Labels = spec, labels
	return connect.NewResponse(&networkv1.UpdateNetworkResponse{Network: n.view(have), Operation: n.operate("UpdateNetwork", "Network", have.GetMeta())}), nil
}

// either is an object's id, or else its name.
func either(m *metav1.ObjectMeta) string {
	if m.GetId() != "" {
		return m.GetId()
	}
	return m.GetName()
}

func (n networks) DeleteNetwork(_ context.Context, req *connect.Request[networkv1.DeleteNetworkRequest]) (*connect.Response[networkv1.DeleteNetworkResponse], error) {
	n.Lock()
	defer n.Unlock()
	have, err := named(n.Networks, req.Msg.GetId(), req.Msg.GetProjectId(), metav1.Reason_REASON_NETWORK_NOT_FOUND, "network")
	if err != nil {
		return nil, err
	}
	v := n.view(have)
	switch {
	case v.GetSpec().GetDeleteProtection():
		return nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "network %s is protected from deletion", v.GetMeta().GetName()).WithRemedy("set spec.delete_protection to false first")
	case v.GetStatus().GetPortCount() > 0:
		return nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "network %s has %d ports", v.GetMeta().GetName(), v.GetStatus().GetPortCount()).WithRemedy("delete them first")
	}
	n.Networks = without(n.Networks, v.GetMeta().GetId())
	return connect.NewResponse(&networkv1.DeleteNetworkResponse{Network: v, Operation: n.operate("DeleteNetwork", "Network", v.GetMeta())}), nil
}

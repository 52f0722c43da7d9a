package fakeapi

import (
	"context"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// GetNetworkTopology shows what there is.
func (n networks) GetNetworkTopology(_ context.Context, req *connect.Request[networkv1.GetNetworkTopologyRequest]) (*connect.Response[networkv1.GetNetworkTopologyResponse], error) {
	n.Lock()
	defer n.Unlock()
	const node, network, port, vm, group = networkv1.TopologyKind_TOPOLOGY_KIND_NODE, networkv1.TopologyKind_TOPOLOGY_KIND_NETWORK,
		networkv1.TopologyKind_TOPOLOGY_KIND_PORT, networkv1.TopologyKind_TOPOLOGY_KIND_VM, networkv1.TopologyKind_TOPOLOGY_KIND_SECURITY_GROUP
	only := ""
	if id := req.Msg.GetNetwork(); id != "" {
		found, err := named(n.Networks, id, req.Msg.GetProjectId(), metav1.Reason_REASON_NETWORK_NOT_FOUND, "network")
		if err != nil {
			return nil, err
		}
		only = found.GetMeta().GetId()
	}
	resp := &networkv1.GetNetworkTopologyResponse{Revision: n.revision, ObserveTime: timestamppb.New(Epoch)}
	add := func(m *metav1.ObjectMeta, kind networkv1.TopologyKind, state string, attributes map[string]string) {
		resp.Vertices = append(resp.Vertices, &networkv1.TopologyVertex{Id: m.GetId(), Kind: kind, Name: m.GetName(), ProjectId: m.GetProjectId(), State: state, Live: true, Attributes: attributes})
	}
	link := func(from string, fromKind networkv1.TopologyKind, to string, toKind networkv1.TopologyKind, state string) {
		resp.Edges = append(resp.Edges, &networkv1.TopologyEdge{FromId: from, ToId: to, FromKind: fromKind, ToKind: toKind, State: state})
	}
	for _, o := range n.Nodes {
		add(o.GetMeta(), node, o.GetStatus().GetPhase().String()[len("NODE_PHASE_"):], nil)
	}
	for _, o := range n.Networks {
		v := n.view(o)
		if only != "" && v.GetMeta().GetId() != only {
			continue
		}
		add(v.GetMeta(), network, v.GetStatus().GetPhase().String()[len("NETWORK_PHASE_"):], map[string]string{"cidr": v.GetSpec().GetSubnets()[0].GetCidr()})
		for _, on := range v.GetStatus().GetNodes() {
			link(v.GetMeta().GetId(), network, on.GetNodeId(), node, "HEALTHY")
		}
	}
	used := map[string]bool{}
	for _, p := range n.Ports {
		if only != "" && p.GetSpec().GetNetworkId() != only {
			continue
		}
		id := p.GetMeta().GetId()
		facts := map[string]string{"ip": p.GetStatus().GetIpAddresses()[0], "mac": p.GetStatus().GetMac()}
		if nic := p.GetStatus().GetBinding().GetNicName(); nic != "" {
			facts["nic"] = nic
		}
		add(p.GetMeta(), port, p.GetStatus().GetPhase().String()[len("PORT_PHASE_"):], facts)
		link(id, port, p.GetSpec().GetNetworkId(), network, "")
		for _, g := range p.GetSpec().GetSecurityGroupIds() {
			link(id, port, g, group, "")
		}
		if b := p.GetStatus().GetBinding(); b.GetVmId() != "" {
			used[b.GetVmId()] = true
			link(b.GetVmId(), vm, id, port, "")
		}
	}
	for _, o := range n.VMs {
		if used[o.GetMeta().GetId()] {
			add(o.GetMeta(), vm, o.GetStatus().GetPhase().String()[len("VM_PHASE_"):], nil)
			link(o.GetMeta().GetId(), vm, o.GetStatus().GetVmPlacement().GetNodeId(), node, "")
		}
	}
	for _, g := range n.Groups {
		add(g.GetMeta(), group, "READY", nil)
		for _, r := range g.GetSpec().GetRules() {
			if other := r.GetSecurityGroupId(); other != "" {
				link(g.GetMeta().GetId(), group, other, group, "")
			}
		}
	}
	return connect.NewResponse(resp), nil
}

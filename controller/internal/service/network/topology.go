package network

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// topologyTries is how often a graph is begun anew because something was written meanwhile; after that it shows several moments.
const topologyTries = 5

// GetNetworkTopology shows nodes, networks, ports, VMs and security groups as a graph, all of one revision unless too much is written for that.
func (s *Service) GetNetworkTopology(_ context.Context, req *connect.Request[networkv1.GetNetworkTopologyRequest]) (*connect.Response[networkv1.GetNetworkTopologyResponse], error) {
	m := req.Msg
	var network, node *state.Row
	var v domain.Violations
	if m.GetNetwork() != "" {
		var err error
		if network, err = s.find(m.GetNetwork(), m.GetProjectId()); err != nil {
			return nil, err
		}
		if m.GetProjectId() != "" && network.Project != m.GetProjectId() {
			v.Add("network", "is of project %q", network.Project)
		}
	}
	if m.GetNode() != "" {
		if node = s.cfg.Cache.Resolve(state.KindNode, "", m.GetNode()); node == nil {
			v.Add("node", "there is no node %q", m.GetNode())
		}
	}
	if err := v.Err(); err != nil {
		return nil, err
	}
	var g *graph
	for range topologyTries {
		before := s.cfg.Cache.Revision()
		g = s.drawTopology(m.GetProjectId(), network, node)
		g.out.Revision = before
		if s.cfg.Cache.Revision() == before {
			break
		}
	}
	g.out.ObserveTime = timestamppb.New(s.cfg.Now())
	g.sort()
	return connect.NewResponse(g.out), nil
}

// graph is a topology being put together.
type graph struct {
	s      *Service
	out    *networkv1.GetNetworkTopologyResponse
	has    map[string]bool  // ids of vertices
	newest map[string]int64 // generation of each group
}

// drawTopology takes up ports, which tie everything together, and then what they touch. Without network and node it is everything of a project.
func (s *Service) drawTopology(project string, network, node *state.Row) *graph {
	g := &graph{s: s, out: &networkv1.GetNetworkTopologyResponse{}, has: map[string]bool{}, newest: map[string]int64{}}
	q := state.Query{Kind: state.KindPort, Project: project}
	if network != nil {
		q.Ref = state.RefNetwork(network.ID)
	}
	if node != nil {
		q.Node = node.ID
		g.node(node.ID)
	}
	ports := s.cfg.Cache.Find(q).Rows
	networks := map[string]bool{}
	for _, p := range ports {
		networks[g.port(p)] = true
	}
	switch {
	case network != nil:
		networks[network.ID] = true
	default:
		of := state.Query{Kind: state.KindNetwork, Project: project}
		if node != nil {
			of.Node = node.ID
		}
		for _, r := range s.cfg.Cache.Find(of).Rows {
			networks[r.ID] = true
		}
	}
	for id := range networks {
		g.network(id, node)
	}
	if network == nil && node == nil {
		for _, r := range s.cfg.Cache.Find(state.Query{Kind: state.KindSecurityGroup, Project: project}).Rows {
			g.group(r.ID)
		}
	}
	if network == nil && node == nil && project == "" {
		for _, r := range s.cfg.Cache.Find(state.Query{Kind: state.KindNode}).Rows {
			g.node(r.ID)
		}
	}
	return g
}

func (g *graph) vertex(row *state.Row, kind networkv1.TopologyKind) *networkv1.TopologyVertex {
	v := &networkv1.TopologyVertex{Id: row.ID, Kind: kind, Name: row.Name, ProjectId: row.Project, Live: true, Attributes: map[string]string{}}
	g.has[row.ID] = true
	g.out.Vertices = append(g.out.Vertices, v)
	return v
}

func (g *graph) edge(from string, fromKind networkv1.TopologyKind, to string, toKind networkv1.TopologyKind, is string) *networkv1.TopologyEdge {
	e := &networkv1.TopologyEdge{FromId: from, FromKind: fromKind, ToId: to, ToKind: toKind, State: is}
	g.out.Edges = append(g.out.Edges, e)
	return e
}

func (g *graph) node(id string) {
	row := g.s.cfg.Cache.Row(state.KindNode, id)
	if g.has[id] || row == nil {
		return
	}
	v := g.vertex(row, networkv1.TopologyKind_TOPOLOGY_KIND_NODE)
	st := row.Node().GetNode().GetStatus()
	v.State, v.Message, v.Live = strings.TrimPrefix(st.GetPhase().String(), "NODE_PHASE_"), st.GetMessage(), g.s.reports(id)
	if t := st.GetTunnelAddress(); t != "" {
		v.Attributes["tunnel_address"] = t
	}
}

// port adds a port with its VM and its groups, and returns the network that it is in.
func (g *graph) port(row *state.Row) (network string) {
	rec := row.Port()
	p := rec.GetPort()
	st := p.GetStatus()
	b := st.GetBinding()
	v := g.vertex(row, networkv1.TopologyKind_TOPOLOGY_KIND_PORT)
	v.State, v.Message = strings.TrimPrefix(st.GetPhase().String(), "PORT_PHASE_"), st.GetMessage()
	v.Live = b.GetNodeId() == "" || g.s.reports(b.GetNodeId())
	attribute(v, "mac", st.GetMac())
	attribute(v, "ip", strings.Join(st.GetIpAddresses(), ","))
	attribute(v, "device", b.GetDevice())
	attribute(v, "nic", b.GetNicName())
	id := p.GetSpec().GetNetworkId()
	g.edge(row.ID, v.GetKind(), id, networkv1.TopologyKind_TOPOLOGY_KIND_NETWORK, v.GetState())
	if vm := g.s.cfg.Cache.Row(state.KindVM, b.GetVmId()); vm != nil {
		g.vm(vm)
		g.edge(vm.ID, networkv1.TopologyKind_TOPOLOGY_KIND_VM, row.ID, v.GetKind(), v.GetState())
	}
	for _, n := range row.Nodes {
		g.node(n)
	}
	for _, sg := range p.GetSpec().GetSecurityGroupIds() {
		is := "PENDING"
		if m := domain.MemberOf(p, sg); m.Applied > 0 && m.Applied >= g.generation(sg) {
			is = "IN_FORCE"
		}
		g.group(sg)
		g.edge(row.ID, v.GetKind(), sg, networkv1.TopologyKind_TOPOLOGY_KIND_SECURITY_GROUP, is)
	}
	return id
}

func attribute(v *networkv1.TopologyVertex, name, value string) {
	if value != "" {
		v.Attributes[name] = value
	}
}

func (g *graph) vm(row *state.Row) {
	if g.has[row.ID] {
		return
	}
	st := row.VM().GetVm().GetStatus()
	v := g.vertex(row, networkv1.TopologyKind_TOPOLOGY_KIND_VM)
	v.State, v.Message = strings.TrimPrefix(st.GetPhase().String(), "VM_PHASE_"), st.GetMessage()
	if on := st.GetVmPlacement().GetNodeId(); on != "" {
		v.Live = g.s.reports(on)
		g.node(on)
		g.edge(row.ID, v.GetKind(), on, networkv1.TopologyKind_TOPOLOGY_KIND_NODE, v.GetState())
	}
}

// generation is that of a group; 0 = there is none.
func (g *graph) generation(id string) int64 {
	n, known := g.newest[id]
	if !known {
		n = g.s.cfg.Cache.Row(state.KindSecurityGroup, id).SecurityGroup().GetSecurityGroup().GetMeta().GetGeneration()
		g.newest[id] = n
	}
	return n
}

// group adds a group and those that its rules refer to.
func (g *graph) group(id string) {
	row := g.s.cfg.Cache.Row(state.KindSecurityGroup, id)
	if g.has[id] || row == nil {
		return
	}
	v := g.vertex(row, networkv1.TopologyKind_TOPOLOGY_KIND_SECURITY_GROUP)
	rec := row.SecurityGroup()
	members := slices.Collect(g.s.cfg.Cache.GroupMembers(id))
	domain.SettleSecurityGroup(rec, members, nil)
	st := rec.GetSecurityGroup().GetStatus()
	v.State, v.Message = strings.TrimPrefix(st.GetPhase().String(), "SECURITY_GROUP_PHASE_"), st.GetMessage()
	v.Live = !slices.ContainsFunc(members, func(m domain.GroupMember) bool { return m.NodeID != "" && !m.Reports })
	for _, ref := range row.Refs {
		other, is := strings.CutPrefix(ref, state.RefSecurityGroup(""))
		if !is || g.s.cfg.Cache.Row(state.KindSecurityGroup, other) == nil {
			continue
		}
		g.group(other)
		g.edge(id, v.GetKind(), other, v.GetKind(), "")
	}
}

// network adds a network, where it is and its tunnels; with node, only what of that touches the node.
func (g *graph) network(id string, node *state.Row) {
	row := g.s.cfg.Cache.Row(state.KindNetwork, id)
	if row == nil {
		return
	}
	n := g.s.view(row.Network(), row.Revision)
	spec, st := n.GetSpec(), n.GetStatus()
	v := g.vertex(row, networkv1.TopologyKind_TOPOLOGY_KIND_NETWORK)
	v.State, v.Message = strings.TrimPrefix(st.GetPhase().String(), "NETWORK_PHASE_"), st.GetMessage()
	attribute(v, "type", domain.TypeName(spec.GetType()))
	var cidrs []string
	for _, sub := range spec.GetSubnets() {
		cidrs = append(cidrs, sub.GetCidr())
	}
	attribute(v, "cidr", strings.Join(cidrs, ","))
	works := map[string]string{}
	for _, on := range st.GetNodes() {
		is := strings.TrimPrefix(on.GetHealth().String(), "NETWORK_HEALTH_")
		if on.GetHealth() == networkv1.NetworkHealth_NETWORK_HEALTH_UNSPECIFIED {
			is = "PENDING"
		}
		works[on.GetNodeId()] = is
		v.Live = v.Live && g.s.reports(on.GetNodeId())
		if node == nil || on.GetNodeId() == node.ID {
			g.node(on.GetNodeId())
			g.edge(id, v.GetKind(), on.GetNodeId(), networkv1.TopologyKind_TOPOLOGY_KIND_NODE, is).Device = on.GetDevice()
		}
	}
	if domain.Tunnelled(spec) {
		g.tunnels(id, node, works)
	}
}

// tunnels adds an edge between each two nodes that have ports of a network and an end for its tunnel.
func (g *graph) tunnels(id string, node *state.Row, works map[string]string) {
	var ends []string
	for n := range g.s.needs(id) {
		if g.s.cfg.Cache.Row(state.KindNode, n).Node().GetNode().GetStatus().GetTunnelAddress() != "" {
			ends = append(ends, n)
		}
	}
	slices.Sort(ends)
	for i, a := range ends {
		for _, b := range ends[i+1:] {
			if node != nil && a != node.ID && b != node.ID {
				continue
			}
			is := "UP"
			for _, end := range []string{works[a], works[b]} {
				if end != "HEALTHY" && is == "UP" {
					is = end
				}
			}
			g.node(a)
			g.node(b)
			g.edge(a, networkv1.TopologyKind_TOPOLOGY_KIND_NODE, b, networkv1.TopologyKind_TOPOLOGY_KIND_NODE, is).NetworkId = id
		}
	}
}

func (g *graph) sort() {
	slices.SortFunc(g.out.Vertices, func(a, b *networkv1.TopologyVertex) int {
		return cmp.Or(cmp.Compare(a.GetKind(), b.GetKind()), cmp.Compare(a.GetId(), b.GetId()))
	})
	slices.SortFunc(g.out.Edges, func(a, b *networkv1.TopologyEdge) int {
		return cmp.Or(cmp.Compare(a.GetFromId(), b.GetFromId()), cmp.Compare(a.GetToId(), b.GetToId()), cmp.Compare(a.GetNetworkId(), b.GetNetworkId()))
	})
}

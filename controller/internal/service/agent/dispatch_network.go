package agent

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/state"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// What a change of a port, a group, a network or a VM means for the networks, rule sets and address sets of nodes is found through the cache's indexes: by the network and the
// groups that ports refer to, and by the groups that rules refer to.

// dispatchPort marks a port, and what others see of it: names and tunnels of its network, members of its groups, rule sets that its node needs now or no longer.
func (s *Service) dispatchPort(c state.Change, revision int64) {
	row := c.Row()
	if c.New == nil {
		s.facts.forget(row.ID)
	}
	s.markNodes(c, key{kindPort, row.ID}, revision)
	was, is := c.Old.Port().GetPort(), c.New.Port().GetPort()
	moved := c.Old == nil || c.New == nil || !slices.Equal(c.Old.Nodes, c.New.Nodes)
	if moved || !sameSeen(was, is) || c.Old.Owner != c.New.Owner || c.Old.Deleting != c.New.Deleting {
		s.outdateNetwork(is.GetSpec().GetNetworkId(), revision)
		s.outdateNetwork(was.GetSpec().GetNetworkId(), revision)
		for _, r := range []*state.Row{c.Old, c.New} {
			for _, id := range networkRefs(r) {
				s.markNodes(c, key{kindNetwork, id}, revision)
				s.markNetwork(id, revision)
			}
		}
	}
	had, has := groupRefs(c.Old), groupRefs(c.New)
	same := c.Old != nil && c.New != nil && slices.Equal(memberAddresses(was), memberAddresses(is))
	for _, g := range union(had, has) {
		if !same || slices.Contains(had, g) != slices.Contains(has, g) {
			s.memo.outdate(key{kindMembers, g}, revision)
			s.markReferring(g, revision)
		}
		if moved || slices.Contains(had, g) != slices.Contains(has, g) {
			s.markNodes(c, key{kindRules, g}, revision)
			for _, other := range groupRefs(s.cfg.Cache.Row(state.KindSecurityGroup, g)) {
				s.markNodes(c, key{kindMembers, other}, revision)
			}
		}
	}
}

// sameSeen reports whether two versions of a port are the same to others in its network.
func sameSeen(a, b *networkv1.Port) bool {
	return a.GetStatus().GetMac() == b.GetStatus().GetMac() && slices.Equal(a.GetStatus().GetIpAddresses(), b.GetStatus().GetIpAddresses()) &&
		a.GetSpec().GetHostname() == b.GetSpec().GetHostname()
}

// markNetwork marks a network on all nodes with ports of it.
func (s *Service) markNetwork(id string, revision int64) {
	k := key{kindNetwork, id}
	for n := range nodesOf(s.cfg.Cache.Find(state.Query{Kind: state.KindPort, Ref: state.RefNetwork(id)}).Rows) {
		s.mark(n, k, revision)
	}
}

func (s *Service) outdateNetwork(id string, revision int64) {
	s.memo.outdate(key{kindNetwork, id}, revision)
}

// markReferring marks the members of a group on all nodes where rules refer to it.
func (s *Service) markReferring(group string, revision int64) {
	nodes := map[string]bool{}
	for _, r := range s.cfg.Cache.Find(state.Query{Kind: state.KindSecurityGroup, Ref: state.RefSecurityGroup(group)}).Rows {
		for n := range nodesOf(s.cfg.Cache.GroupPorts(r.ID)) {
			nodes[n] = true
		}
	}
	for n := range nodes {
		s.mark(n, key{kindMembers, group}, revision)
	}
}

// dispatchGroup marks a group's rules on the nodes of its ports, and the members of what these refer to now or no longer.
func (s *Service) dispatchGroup(c state.Change, revision int64) {
	id := c.Row().ID
	if c.New == nil {
		s.memo.forget(key{kindRules, id})
		s.memo.forget(key{kindMembers, id})
	}
	if c.Old != nil && c.New != nil {
		was, is := c.Old.SecurityGroup().GetSecurityGroup(), c.New.SecurityGroup().GetSecurityGroup()
		if was.GetMeta().GetGeneration() == is.GetMeta().GetGeneration() && was.GetMeta().GetName() == is.GetMeta().GetName() {
			return // what nodes refuse, or labels
		}
	}
	s.memo.outdate(key{kindRules, id}, revision)
	refs := union(groupRefs(c.Old), groupRefs(c.New))
	for n := range nodesOf(s.cfg.Cache.GroupPorts(id)) {
		s.mark(n, key{kindRules, id}, revision)
		for _, g := range refs {
			s.mark(n, key{kindMembers, g}, revision)
		}
	}
}

// dispatchNetwork marks a network where it is needed when what is wanted of it changed, and where a node began or ceased to say that it has it.
func (s *Service) dispatchNetwork(c state.Change, revision int64) {
	k := key{kindNetwork, c.Row().ID}
	for _, pair := range [][2]*state.Row{{c.Old, c.New}, {c.New, c.Old}} {
		if pair[0] == nil {
			continue
		}
		for _, n := range pair[0].Nodes {
			if pair[1] == nil || !slices.Contains(pair[1].Nodes, n) {
				s.mark(n, k, revision)
			}
		}
	}
	if c.New == nil {
		s.memo.forget(k)
		return
	}
	if c.Old != nil {
		was, is := c.Old.Network().GetNetwork(), c.New.Network().GetNetwork()
		if was.GetMeta().GetGeneration() == is.GetMeta().GetGeneration() && was.GetStatus().GetVni() == is.GetStatus().GetVni() && proto.Equal(was.GetSpec(), is.GetSpec()) {
			return
		}
	}
	s.outdateNetwork(k.id, revision)
	s.markNodes(c, k, revision)
	s.markNetwork(k.id, revision)
}

// dispatchTunnels marks the networks of a node's ports everywhere when the node's tunnel end has another address.
func (s *Service) dispatchTunnels(c state.Change, revision int64) {
	if c.Old.Node().GetNode().GetStatus().GetTunnelAddress() == c.New.Node().GetNode().GetStatus().GetTunnelAddress() {
		return
	}
	seen := map[string]bool{}
	for _, p := range s.cfg.Cache.Find(state.Query{Kind: state.KindPort, Node: c.Row().ID}).Rows {
		for _, id := range networkRefs(p) {
			if !seen[id] {
				seen[id] = true
				s.outdateNetwork(id, revision)
				s.markNetwork(id, revision)
			}
		}
	}
}

// dispatchPortsOf marks the ports of a VM whose place, NICs or end changed.
func (s *Service) dispatchPortsOf(c state.Change, revision int64) {
	if c.Old != nil && c.New != nil && slices.Equal(c.Old.Nodes, c.New.Nodes) && c.Old.Deleting == c.New.Deleting &&
		c.Old.VM().GetVm().GetMeta().GetGeneration() == c.New.VM().GetVm().GetMeta().GetGeneration() &&
		c.Old.VM().GetVm().GetStatus().GetVmPlacement().GetEpoch() == c.New.VM().GetVm().GetStatus().GetVmPlacement().GetEpoch() {
		return
	}
	for _, p := range s.cfg.Cache.Find(state.Query{Kind: state.KindPort, Owner: c.Row().ID}).Rows {
		for _, n := range p.Nodes {
			s.mark(n, key{kindPort, p.ID}, revision)
		}
	}
}

// networkKeys are the networks, ports, rule sets and address sets that a node may have to have.
func (s *Service) networkKeys(nodeID string) []key {
	var out []key
	seen := map[key]bool{}
	add := func(k key) {
		if !seen[k] {
			seen[k] = true
			out = append(out, k)
		}
	}
	for _, r := range s.cfg.Cache.Find(state.Query{Kind: state.KindNetwork, Node: nodeID}).Rows {
		add(key{kindNetwork, r.ID}) // it says that it has it
	}
	for _, p := range s.cfg.Cache.Find(state.Query{Kind: state.KindPort, Node: nodeID}).Rows {
		for _, id := range networkRefs(p) {
			add(key{kindNetwork, id})
		}
		for _, g := range groupRefs(p) {
			if k := (key{kindRules, g}); !seen[k] {
				add(k)
				for _, other := range groupRefs(s.cfg.Cache.Row(state.KindSecurityGroup, g)) {
					add(key{kindMembers, other})
				}
			}
		}
		add(key{kindPort, p.ID})
	}
	return out
}

func networkRefs(row *state.Row) []string {
	var out []string
	if row == nil {
		return nil
	}
	for _, ref := range row.Refs {
		if id, is := strings.CutPrefix(ref, state.RefNetwork("")); is {
			out = append(out, id)
		}
	}
	return out
}

func nodesOf(rows []*state.Row) map[string]bool {
	out := map[string]bool{}
	for _, r := range rows {
		for _, n := range r.Nodes {
			out[n] = true
		}
	}
	return out
}

func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

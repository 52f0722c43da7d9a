package scheduler

import (
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// compiled is a request's affinity rules with the places that they speak of, found once per request.
type compiled struct {
	rules []compiledRule
	// repelled are places that a hard anti-affinity rule of another VM keeps the request from.
	repelled []place
}

type compiledRule struct {
	*computev1.AffinityRule
	places map[string]int // value of the topology key (or node id) -> matching VMs there
}

// place is a value of a topology key; key "" is the node itself.
type place struct{ key, value string }

func (s *Scheduler) compile(req Request) compiled {
	var c compiled
	for _, r := range req.Placement.GetAffinity() {
		cr := compiledRule{AffinityRule: r, places: map[string]int{}}
		for id := range s.matching(req.Project, r.GetVmLabels()) {
			if id == req.VMID {
				continue
			}
			if v, ok := s.placeOf(s.vms[id].NodeID, r.GetTopologyKey()); ok {
				cr.places[v]++
			}
		}
		c.rules = append(c.rules, cr)
	}
	for id := range s.guarded {
		vm := s.vms[id]
		if vm.Project != req.Project || id == req.VMID {
			continue
		}
		for _, r := range vm.Rules {
			if hardAnti(r) && subset(r.GetVmLabels(), req.Labels) {
				if v, ok := s.placeOf(vm.NodeID, r.GetTopologyKey()); ok {
					c.repelled = append(c.repelled, place{r.GetTopologyKey(), v})
				}
			}
		}
	}
	return c
}

// matching finds the VMs of a project with all the labels, by way of the rarest one.
func (s *Scheduler) matching(project string, labels map[string]string) map[string]struct{} {
	var rarest map[string]struct{}
	first := true
	for k, v := range labels {
		set := s.byLabel[labelKey{project, k, v}]
		if first || len(set) < len(rarest) {
			rarest, first = set, false
		}
	}
	if len(labels) < 2 {
		return rarest
	}
	out := map[string]struct{}{}
	for id := range rarest {
		if subset(labels, s.vms[id].Labels) {
			out[id] = struct{}{}
		}
	}
	return out
}

// placeOf is the value of a topology key on a node; a node without the label is no place.
func (s *Scheduler) placeOf(nodeID, key string) (string, bool) {
	if key == "" {
		return nodeID, nodeID != ""
	}
	n := s.nodes[nodeID]
	if n == nil {
		return "", false
	}
	v, ok := n.Labels[key]
	return v, ok
}

// count is how many VMs that a rule speaks of are at the node's place.
func (r compiledRule) count(s *Scheduler, n *node) int {
	v, ok := s.placeOf(n.ID, r.GetTopologyKey())
	if !ok {
		return 0
	}
	return r.places[v]
}

// alone reports whether nothing matches the rule anywhere and the request matches it itself: the first of a group may go anywhere.
func (r compiledRule) alone(req Request) bool {
	return len(r.places) == 0 && subset(r.GetVmLabels(), req.Labels)
}

func subset(want, have map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

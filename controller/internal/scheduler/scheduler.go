// Package scheduler chooses a node for a VM. It is a pure index over what it was told: no clock, no randomness, no I/O; the same calls give the
// same answers, and Place answers exactly what trying every node would. It never looks at all VMs: affinity rules read an index by label.
//
// A node fits when every predicate holds (see predicates.go); among those that fit the best score wins (see score.go), the lower id on a tie.
// Not safe for concurrent use: its owner, the placement loop, serialises.
package scheduler

import (
	"maps"
	"slices"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// Config is what the controller's configuration says about placement.
type Config struct {
	Strategy         computev1.PlacementStrategy // unspecified = spread
	OvercommitCPU    float64                     // virtual CPUs per logical CPU; 0 = 1
	OvercommitMemory float64                     // bytes claimed per byte of memory; 0 = 1
	ReservedCPUs     float64                     // logical CPUs kept for each host
	ReservedMemory   int64                       // bytes kept for each host
}

// NodeInfo is what the scheduler knows of a node. Zero ratios and nil reserves mean Config's.
type NodeInfo struct {
	ID, Name         string
	Labels           map[string]string
	Taints           []*computev1.Taint
	Ready, Cordoned  bool
	NotReadyReason   string // for people, when not Ready
	CPUs             int32
	MemoryBytes      int64
	OvercommitCPU    float64
	OvercommitMemory float64
	ReservedCPUs     *float64
	ReservedMemory   *int64
	Drivers          []string                       // healthy compute drivers
	Pools            []string                       // ids of pools that it reaches
	AllDrivers       []*computev1.DriverStatus      // of every kind and health: which networks it can have
	TunnelAddress    string                         // "" = it takes part in no tunnel
	Images           map[string]map[string]struct{} // pool id -> ids of images with a finished copy there
}

// VMInfo is a VM that holds a claim on a node.
type VMInfo struct {
	ID, Project string
	Labels      map[string]string
	NodeID      string
	VCPUs       int32
	MemoryBytes int64
	Rules       []*computev1.AffinityRule // its own; hard anti-affinity holds in both directions
	Ports       []HostPort
}

// ImageNeed is an image that must lie in a pool before the VM's volume can be made.
type ImageNeed struct{ ImageID, PoolID string }

// NetworkNeed is a network that a node must be able to have; without spec none is.
type NetworkNeed struct {
	ID, Name string
	Spec     *networkv1.NetworkSpec
}

// Request is a VM that wants a place.
type Request struct {
	VMID, Project string
	Labels        map[string]string
	VCPUs         int32
	MemoryBytes   int64
	Placement     *computev1.Placement
	Pools         []string    // ids of pools that its volumes lie in
	Images        []ImageNeed // images that it starts from
	Ports         []HostPort  // of its node
	Networks      []NetworkNeed
	OnNodes       []string // ids of the nodes that hold volumes of it, which lie nowhere else; it can be on none but these
}

// Decision is a place.
type Decision struct {
	NodeID string
	Score  float64
}

// Scheduler is the index. Make one with New.
type Scheduler struct {
	cfg   Config
	nodes map[string]*node
	order []string // node ids, sorted
	vms   map[string]VMInfo
	// byLabel finds VMs by project and one label.
	byLabel map[labelKey]map[string]struct{}
	// guarded holds the VMs with hard anti-affinity rules of their own.
	guarded map[string]struct{}
	// ports finds the VMs that have a port of a node, and on which addresses.
	ports map[portKey]map[string][]string
}

type labelKey struct{ project, key, value string }

type node struct {
	NodeInfo
	cpus   float64 // that may be claimed
	memory int64   // that may be claimed
	usedC  int64
	usedM  int64
}

// New makes an empty index.
func New(cfg Config) *Scheduler {
	if cfg.Strategy == computev1.PlacementStrategy_PLACEMENT_STRATEGY_UNSPECIFIED {
		cfg.Strategy = computev1.PlacementStrategy_PLACEMENT_STRATEGY_SPREAD
	}
	if cfg.OvercommitCPU == 0 {
		cfg.OvercommitCPU = 1
	}
	if cfg.OvercommitMemory == 0 {
		cfg.OvercommitMemory = 1
	}
	return &Scheduler{
		cfg: cfg, nodes: map[string]*node{}, vms: map[string]VMInfo{},
		byLabel: map[labelKey]map[string]struct{}{}, guarded: map[string]struct{}{}, ports: map[portKey]map[string][]string{},
	}
}

// UpsertNode adds a node or replaces what is known of it; claims of its VMs stay counted.
func (s *Scheduler) UpsertNode(info NodeInfo) {
	n := &node{NodeInfo: info}
	n.cpus, n.memory = s.Allocatable(info)
	if old, ok := s.nodes[info.ID]; ok {
		n.usedC, n.usedM = old.usedC, old.usedM
	} else {
		i, _ := slices.BinarySearch(s.order, info.ID)
		s.order = slices.Insert(s.order, i, info.ID)
		for _, vm := range s.vms { // once per node's life: VMs may have come before their node
			if vm.NodeID == info.ID {
				n.usedC += int64(vm.VCPUs)
				n.usedM += vm.MemoryBytes
			}
		}
	}
	s.nodes[info.ID] = n
}

// RemoveNode forgets a node; its VMs stay known.
func (s *Scheduler) RemoveNode(id string) {
	if _, ok := s.nodes[id]; !ok {
		return
	}
	delete(s.nodes, id)
	if i, ok := slices.BinarySearch(s.order, id); ok {
		s.order = slices.Delete(s.order, i, i+1)
	}
}

// Allocatable is what may be claimed of a node: (what it has - reserve) x ratio, never below 0.
func (s *Scheduler) Allocatable(info NodeInfo) (cpus float64, memoryBytes int64) {
	rc, rm := s.cfg.ReservedCPUs, s.cfg.ReservedMemory
	if info.ReservedCPUs != nil {
		rc = *info.ReservedCPUs
	}
	if info.ReservedMemory != nil {
		rm = *info.ReservedMemory
	}
	oc, om := s.cfg.OvercommitCPU, s.cfg.OvercommitMemory
	if info.OvercommitCPU > 0 {
		oc = info.OvercommitCPU
	}
	if info.OvercommitMemory > 0 {
		om = info.OvercommitMemory
	}
	return max(0, (float64(info.CPUs)-rc)*oc), int64(max(0, float64(info.MemoryBytes-rm)*om))
}

// UpsertVM counts a VM's claim on its node, in place of what was known of it.
func (s *Scheduler) UpsertVM(vm VMInfo) {
	s.RemoveVM(vm.ID)
	vm.Labels = maps.Clone(vm.Labels)
	s.vms[vm.ID] = vm
	s.addPorts(vm)
	if n := s.nodes[vm.NodeID]; n != nil {
		n.usedC += int64(vm.VCPUs)
		n.usedM += vm.MemoryBytes
	}
	for k, v := range vm.Labels {
		key := labelKey{vm.Project, k, v}
		if s.byLabel[key] == nil {
			s.byLabel[key] = map[string]struct{}{}
		}
		s.byLabel[key][vm.ID] = struct{}{}
	}
	if slices.ContainsFunc(vm.Rules, hardAnti) {
		s.guarded[vm.ID] = struct{}{}
	}
}

// RemoveVM forgets a VM and its claim.
func (s *Scheduler) RemoveVM(id string) {
	vm, ok := s.vms[id]
	if !ok {
		return
	}
	delete(s.vms, id)
	delete(s.guarded, id)
	s.dropPorts(vm)
	if n := s.nodes[vm.NodeID]; n != nil {
		n.usedC -= int64(vm.VCPUs)
		n.usedM -= vm.MemoryBytes
	}
	for k, v := range vm.Labels {
		key := labelKey{vm.Project, k, v}
		delete(s.byLabel[key], id)
		if len(s.byLabel[key]) == 0 {
			delete(s.byLabel, key)
		}
	}
}

// Claimed is what the index counts on a node.
func (s *Scheduler) Claimed(nodeID string) (vcpus, memoryBytes int64) {
	if n := s.nodes[nodeID]; n != nil {
		return n.usedC, n.usedM
	}
	return 0, 0
}

// Place chooses a node. When nothing fits, ok is false and the explanation says why.
func (s *Scheduler) Place(req Request) (d Decision, why *Explanation, ok bool) {
	rules := s.compile(req)
	for _, id := range s.order {
		n := s.nodes[id]
		if s.firstFailure(n, req, rules) != "" {
			continue
		}
		if score := s.score(n, req, rules); !ok || score > d.Score {
			d, ok = Decision{NodeID: id, Score: score}, true
		}
	}
	if !ok {
		why = s.Explain(req)
	}
	return d, why, ok
}

func hardAnti(r *computev1.AffinityRule) bool {
	return !r.GetPreferred() && r.GetType() == computev1.AffinityType_AFFINITY_TYPE_ANTI_AFFINITY
}

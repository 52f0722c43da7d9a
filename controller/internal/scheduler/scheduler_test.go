package scheduler

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

const gib = int64(1) << 30

func testNode(id string, mod ...func(*NodeInfo)) NodeInfo {
	n := NodeInfo{
		ID: id, Name: "name-" + id, Ready: true, CPUs: 4, MemoryBytes: 8 * gib, Drivers: []string{"kvm"}, Pools: []string{"local"},
		Images: map[string]map[string]struct{}{"local": {"img": {}}}, Labels: map[string]string{"rack": "r-" + id},
	}
	for _, m := range mod {
		m(&n)
	}
	return n
}

func small(mod ...func(*Request)) Request {
	r := Request{VMID: "new", Project: "p", VCPUs: 1, MemoryBytes: gib, Placement: &computev1.Placement{}}
	for _, m := range mod {
		m(&r)
	}
	return r
}

// Each predicate alone keeps a VM from the only node, is named, and comes with a remedy.
func TestPredicates(t *testing.T) {
	rule := func(typ computev1.AffinityType) []*computev1.AffinityRule {
		return []*computev1.AffinityRule{{Type: typ, VmLabels: map[string]string{"app": "db"}}}
	}
	for _, tc := range []struct {
		name string
		node func(*NodeInfo)
		req  func(*Request)
		vm   *VMInfo
	}{
		{name: "ready", node: func(n *NodeInfo) { n.Ready = false }},
		{name: "cordoned", node: func(n *NodeInfo) { n.Cordoned = true }},
		{name: "node", req: func(r *Request) { r.Placement.Node = "other" }},
		{name: "selector", req: func(r *Request) { r.Placement.NodeSelector = map[string]string{"rack": "x"} }},
		{name: "taints", node: func(n *NodeInfo) {
			n.Taints = []*computev1.Taint{{Key: "gpu", Value: "1", Effect: computev1.TaintEffect_TAINT_EFFECT_NO_SCHEDULE}}
		}},
		{name: "driver", node: func(n *NodeInfo) { n.Drivers = nil }},
		{name: "driver", req: func(r *Request) { r.Placement.ComputeDriver = "xen" }},
		{name: "storage", req: func(r *Request) { r.Pools = []string{"ceph"} }},
		{name: "image", req: func(r *Request) { r.Images = []ImageNeed{{"other", "local"}} }},
		{
			name: "host-port", req: func(r *Request) { r.Ports = []HostPort{{"tcp", "127.0.0.1", 80}} },
			vm: &VMInfo{ID: "web", Project: "p", NodeID: "a", Ports: []HostPort{{"udp", "127.0.0.1", 80}, {"tcp", "0.0.0.0", 80}}},
		},
		{name: "cpu", req: func(r *Request) { r.VCPUs = 5 }},
		{name: "memory", req: func(r *Request) { r.MemoryBytes = 9 * gib }},
		{name: "affinity", req: func(r *Request) { r.Placement.Affinity = rule(computev1.AffinityType_AFFINITY_TYPE_AFFINITY) }},
		{
			name: "anti-affinity", req: func(r *Request) { r.Placement.Affinity = rule(computev1.AffinityType_AFFINITY_TYPE_ANTI_AFFINITY) },
			vm: &VMInfo{ID: "db", Project: "p", NodeID: "a", Labels: map[string]string{"app": "db"}},
		},
		{
			name: "anti-affinity", req: func(r *Request) { r.Labels = map[string]string{"app": "db"} },
			vm: &VMInfo{ID: "shy", Project: "p", NodeID: "a", Rules: rule(computev1.AffinityType_AFFINITY_TYPE_ANTI_AFFINITY)},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := New(Config{})
			s.UpsertNode(testNode("a"))
			if _, _, ok := s.Place(small()); !ok {
				t.Fatal("does not fit without the obstacle")
			}
			n, r := testNode("a"), small()
			if tc.node != nil {
				tc.node(&n)
			}
			if tc.req != nil {
				tc.req(&r)
			}
			if tc.vm != nil {
				s.UpsertVM(*tc.vm)
			}
			s.UpsertNode(n)
			_, why, ok := s.Place(r)
			if ok {
				t.Fatal("fits")
			}
			if len(why.Predicates) != 1 || why.Predicates[0].Name != tc.name || why.Predicates[0].Failed != 1 {
				t.Errorf("predicates %+v, want only %s", why.Predicates, tc.name)
			}
			if !strings.Contains(why.Suggestion, remedy[tc.name]) || !strings.Contains(why.Summary, tc.name) {
				t.Errorf("summary %q suggestion %q", why.Summary, why.Suggestion)
			}
		})
	}
}

func TestTolerationsAndFirstOfAGroup(t *testing.T) {
	s := New(Config{})
	s.UpsertNode(testNode("a", func(n *NodeInfo) {
		n.Taints = []*computev1.Taint{{Key: "gpu", Value: "1", Effect: computev1.TaintEffect_TAINT_EFFECT_NO_SCHEDULE}}
	}))
	r := small(func(r *Request) {
		r.Labels = map[string]string{"app": "db"}
		r.Placement.Tolerations = []*computev1.Toleration{{Key: "gpu"}}
		r.Placement.Affinity = []*computev1.AffinityRule{{Type: computev1.AffinityType_AFFINITY_TYPE_AFFINITY, VmLabels: map[string]string{"app": "db"}}}
	})
	if _, why, ok := s.Place(r); !ok {
		t.Fatal(why.Summary)
	}
}

func TestStrategies(t *testing.T) {
	for _, tc := range []struct {
		strategy computev1.PlacementStrategy
		want     string
	}{
		{computev1.PlacementStrategy_PLACEMENT_STRATEGY_SPREAD, "c"},
		{computev1.PlacementStrategy_PLACEMENT_STRATEGY_PACK, "a"},
		{computev1.PlacementStrategy_PLACEMENT_STRATEGY_BALANCE, "b"},
	} {
		s := New(Config{Strategy: tc.strategy})
		for _, id := range []string{"a", "b", "c"} {
			s.UpsertNode(testNode(id))
		}
		s.UpsertVM(VMInfo{ID: "1", Project: "p", NodeID: "a", VCPUs: 3, MemoryBytes: 4 * gib}) // fullest
		s.UpsertVM(VMInfo{ID: "2", Project: "p", NodeID: "b", VCPUs: 2, MemoryBytes: 5 * gib}) // evens out with 1 CPU, 1 GiB
		s.UpsertVM(VMInfo{ID: "3", Project: "p", NodeID: "c", VCPUs: 0, MemoryBytes: 3 * gib}) // emptiest
		d, _, ok := s.Place(small())
		if !ok || d.NodeID != tc.want {
			t.Errorf("%v: %+v, want %s", tc.strategy, d, tc.want)
		}
	}
}

// Overcommit and reserve bound what is claimed, exactly; a node's own settings win; a removed VM gives its claim back.
func TestCapacityIsExact(t *testing.T) {
	reserve := 1.0
	s := New(Config{OvercommitCPU: 2, OvercommitMemory: 1.5, ReservedCPUs: 3, ReservedMemory: 2 * gib})
	s.UpsertNode(testNode("a", func(n *NodeInfo) { n.ReservedCPUs = &reserve })) // (4-1)*2 = 6 CPUs, (8-2)*1.5 = 9 GiB
	for i := range 6 {
		r := small(func(r *Request) { r.VMID = fmt.Sprint(i) })
		if _, why, ok := s.Place(r); !ok {
			t.Fatalf("VM %d: %s", i, why.Summary)
		}
		s.UpsertVM(VMInfo{ID: r.VMID, Project: "p", NodeID: "a", VCPUs: 1, MemoryBytes: gib})
	}
	if _, why, ok := s.Place(small()); ok || why.Predicates[0].Name != "cpu" {
		t.Fatal("a seventh CPU was given away")
	}
	s.RemoveVM("3")
	if _, _, ok := s.Place(small(func(r *Request) { r.MemoryBytes = 4*gib + 1 })); ok {
		t.Fatal("one byte too many was given away")
	}
	if _, why, ok := s.Place(small(func(r *Request) { r.MemoryBytes = 4 * gib })); !ok {
		t.Fatal(why.Summary)
	}
}

// Place answers what trying every node with every predicate answers, and a VM that came before its node is counted.
func TestPlaceEqualsBruteForce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := New(Config{Strategy: computev1.PlacementStrategy(rapid.IntRange(0, 3).Draw(t, "strategy")), OvercommitCPU: 1.5})
		labels := rapid.MapOfN(rapid.SampledFrom([]string{"app", "tier"}), rapid.SampledFrom([]string{"x", "y"}), 0, 2)
		rules := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *computev1.AffinityRule {
			return &computev1.AffinityRule{
				Type: computev1.AffinityType(rapid.IntRange(1, 2).Draw(t, "type")), VmLabels: map[string]string{"app": rapid.SampledFrom([]string{"x", "y"}).Draw(t, "app")},
				TopologyKey: rapid.SampledFrom([]string{"", "zone"}).Draw(t, "key"), Preferred: rapid.Bool().Draw(t, "soft"), Weight: int32(rapid.IntRange(0, 100).Draw(t, "weight")),
			}
		}), 0, 2)
		ports := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) HostPort {
			return HostPort{"tcp", rapid.SampledFrom([]string{"127.0.0.1", "10.0.0.1", "0.0.0.0"}).Draw(t, "address"), uint32(rapid.IntRange(80, 82).Draw(t, "port"))}
		}), 0, 2)
		nodes := rapid.IntRange(0, 6).Draw(t, "nodes")
		add := func(i int) {
			s.UpsertNode(testNode(fmt.Sprint(i), func(n *NodeInfo) {
				n.Ready = rapid.IntRange(0, 9).Draw(t, "ready") > 0
				n.CPUs = int32(rapid.IntRange(0, 4).Draw(t, "cpus"))
				n.Labels = map[string]string{"zone": fmt.Sprint(rapid.IntRange(0, 2).Draw(t, "zone"))}
			}))
		}
		for i := range nodes / 2 {
			add(i)
		}
		for i := range rapid.IntRange(0, 12).Draw(t, "vms") {
			s.UpsertVM(VMInfo{
				ID: fmt.Sprint(i), Project: "p", NodeID: fmt.Sprint(rapid.IntRange(0, 6).Draw(t, "on")), Labels: labels.Draw(t, "labels"),
				VCPUs: 1, MemoryBytes: int64(rapid.IntRange(0, 2).Draw(t, "mem")) * gib, Rules: rules.Draw(t, "vm rules"),
				Ports: ports.Draw(t, "vm ports"),
			})
		}
		for i := nodes / 2; i < nodes; i++ {
			add(i)
		}
		req := small(func(r *Request) {
			r.Labels = labels.Draw(t, "req labels")
			r.Placement.Affinity = rules.Draw(t, "rules")
			r.Ports = ports.Draw(t, "ports")
		})
		for range rapid.IntRange(0, 3).Draw(t, "removed") {
			s.RemoveVM(fmt.Sprint(rapid.IntRange(0, 12).Draw(t, "gone")))
		}
		got, _, ok := s.Place(req)
		best, found := 0.0, false
		for _, v := range s.Explain(req).Nodes {
			if v.Feasible && (!found || v.Score > best) {
				best, found = v.Score, true
			}
		}
		for _, vm := range s.vms { // no index: every VM against every port
			for _, a := range vm.Ports {
				for _, b := range req.Ports {
					if ok && vm.NodeID == got.NodeID && a.Port == b.Port && (a.Address == b.Address || a.Address == "0.0.0.0" || b.Address == "0.0.0.0") {
						t.Fatalf("placed beside %v, which has %v", vm, a)
					}
				}
			}
		}
		if ok != found || ok && got.Score != best {
			t.Fatalf("Place %v %v, brute force %v %v", got, ok, best, found)
		}
		for id, n := range s.nodes { // recount
			var c, m int64
			for _, vm := range s.vms {
				if vm.NodeID == id {
					c, m = c+int64(vm.VCPUs), m+vm.MemoryBytes
				}
			}
			if c != n.usedC || m != n.usedM {
				t.Fatalf("node %s counts %d/%d, recount %d/%d", id, n.usedC, n.usedM, c, m)
			}
		}
	})
}

func BenchmarkPlace1000Nodes(b *testing.B) {
	s := New(Config{OvercommitCPU: 1000, OvercommitMemory: 1000})
	for i := range 1000 {
		s.UpsertNode(testNode(fmt.Sprintf("%04d", i)))
	}
	b.ResetTimer()
	for i := range b.N {
		d, _, _ := s.Place(small())
		s.UpsertVM(VMInfo{ID: fmt.Sprint(i), Project: "p", NodeID: d.NodeID, VCPUs: 1, MemoryBytes: gib})
	}
}

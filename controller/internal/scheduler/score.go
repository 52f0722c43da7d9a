package scheduler

import (
	"math"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// score says how good a fitting node is, higher is better: the strategy's part in 0..1, soft affinity up to 1 for each rule at weight 100, and
// minus 1 for each taint that prefers others.
func (s *Scheduler) score(n *node, req Request, c compiled) float64 {
	cpu := share(float64(n.usedC)+float64(req.VCPUs), n.cpus)
	mem := share(float64(n.usedM+req.MemoryBytes), float64(n.memory))
	strategy := req.Placement.GetStrategy()
	if strategy == computev1.PlacementStrategy_PLACEMENT_STRATEGY_UNSPECIFIED {
		strategy = s.cfg.Strategy
	}
	var v float64
	switch strategy {
	case computev1.PlacementStrategy_PLACEMENT_STRATEGY_PACK:
		v = (cpu + mem) / 2
	case computev1.PlacementStrategy_PLACEMENT_STRATEGY_BALANCE:
		v = 1 - math.Abs(cpu-mem)
	default:
		v = 1 - (cpu+mem)/2
	}
	for _, r := range c.rules {
		if !r.GetPreferred() {
			continue
		}
		weight := float64(r.GetWeight())
		if weight == 0 {
			weight = 50
		}
		near := r.count(s, n) > 0
		if near == (r.GetType() == computev1.AffinityType_AFFINITY_TYPE_AFFINITY) {
			v += weight / 100
		}
	}
	for _, t := range n.Taints {
		if t.GetEffect() == computev1.TaintEffect_TAINT_EFFECT_PREFER_NO_SCHEDULE && !tolerated(t, req) {
			v--
		}
	}
	return v
}

func share(used, all float64) float64 {
	if all <= 0 {
		return 1
	}
	return used / all
}

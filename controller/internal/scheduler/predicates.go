package scheduler

import (
	"fmt"
	"slices"
	"strings"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// predicate is a rule that a node must meet. check returns "" when it does, else what is missing, for people.
type predicate struct {
	name  string
	check func(s *Scheduler, n *node, req Request, c compiled) string
}

// predicates in the order in which they are tried: cheap and telling ones first.
var predicates = []predicate{
	{"ready", func(_ *Scheduler, n *node, _ Request, _ compiled) string {
		if n.Ready {
			return ""
		}
		if n.NotReadyReason != "" {
			return "is not ready: " + n.NotReadyReason
		}
		return "is not ready"
	}},
	{"cordoned", func(_ *Scheduler, n *node, _ Request, _ compiled) string {
		if !n.Cordoned {
			return ""
		}
		return "is cordoned"
	}},
	{"node", func(_ *Scheduler, n *node, req Request, _ compiled) string {
		if w := req.Placement.GetNode(); w == "" || w == n.ID || w == n.Name {
			return ""
		}
		return "is not the node asked for"
	}},
	{"selector", func(_ *Scheduler, n *node, req Request, _ compiled) string {
		for k, v := range req.Placement.GetNodeSelector() {
			if got, ok := n.Labels[k]; !ok || got != v {
				return fmt.Sprintf("lacks label %s=%s", k, v)
			}
		}
		return ""
	}},
	{"taints", func(_ *Scheduler, n *node, req Request, _ compiled) string {
		for _, t := range n.Taints {
			if t.GetEffect() == computev1.TaintEffect_TAINT_EFFECT_NO_SCHEDULE && !tolerated(t, req) {
				return fmt.Sprintf("has taint %s=%s", t.GetKey(), t.GetValue())
			}
		}
		return ""
	}},
	{"driver", func(_ *Scheduler, n *node, req Request, _ compiled) string {
		w := req.Placement.GetComputeDriver()
		switch {
		case w == "" && len(n.Drivers) > 0, w != "" && slices.Contains(n.Drivers, w):
			return ""
		case w == "":
			return "has no healthy compute driver"
		}
		return "has no healthy compute driver " + w
	}},
	{"storage", func(_ *Scheduler, n *node, req Request, _ compiled) string {
		for _, id := range req.OnNodes {
			if id != n.ID {
				return "does not hold a volume of it, which lies on one node only"
			}
		}
		for _, p := range req.Pools {
			if !slices.Contains(n.Pools, p) {
				return "does not reach pool " + p
			}
		}
		return ""
	}},
	{"network", func(_ *Scheduler, n *node, req Request, _ compiled) string {
		for _, need := range req.Networks {
			if need.Spec == nil {
				return "cannot have network " + need.Name + ", which is gone"
			}
			if why := domain.NetworkReach(need.Spec, n.Labels, n.AllDrivers, n.TunnelAddress); why != "" {
				return fmt.Sprintf("%s, as network %s needs", why, need.Name)
			}
		}
		return ""
	}},
	{"image", func(_ *Scheduler, n *node, req Request, _ compiled) string {
		for _, need := range req.Images {
			if _, ok := n.Images[need.PoolID][need.ImageID]; !ok {
				return fmt.Sprintf("has no copy of image %s in pool %s", need.ImageID, need.PoolID)
			}
		}
		return ""
	}},
	{"host-port", func(s *Scheduler, n *node, req Request, _ compiled) string { return s.portTaken(n, req) }},
	{"cpu", func(_ *Scheduler, n *node, req Request, _ compiled) string {
		if free := n.cpus - float64(n.usedC); float64(req.VCPUs) > free+1e-9 {
			return fmt.Sprintf("has %.4g of %.4g CPUs free, %d needed", max(0, free), n.cpus, req.VCPUs)
		}
		return ""
	}},
	{"memory", func(_ *Scheduler, n *node, req Request, _ compiled) string {
		if free := n.memory - n.usedM; req.MemoryBytes > free {
			return fmt.Sprintf("has %s of %s memory free, %s needed", mib(max(0, free)), mib(n.memory), mib(req.MemoryBytes))
		}
		return ""
	}},
	{"affinity", func(s *Scheduler, n *node, req Request, c compiled) string {
		for _, r := range c.rules {
			if !r.GetPreferred() && r.GetType() == computev1.AffinityType_AFFINITY_TYPE_AFFINITY && r.count(s, n) == 0 && !r.alone(req) {
				return "has no VM with " + labelText(r.GetVmLabels())
			}
		}
		return ""
	}},
	{"anti-affinity", func(s *Scheduler, n *node, _ Request, c compiled) string {
		for _, r := range c.rules {
			if hardAnti(r.AffinityRule) && r.count(s, n) > 0 {
				return "has a VM with " + labelText(r.GetVmLabels())
			}
		}
		for _, p := range c.repelled {
			if v, ok := s.placeOf(n.ID, p.key); ok && v == p.value {
				return "has a VM that keeps VMs with these labels away"
			}
		}
		return ""
	}},
}

// firstFailure names the first predicate that does not hold, or "".
func (s *Scheduler) firstFailure(n *node, req Request, c compiled) string {
	for _, p := range predicates {
		if p.check(s, n, req, c) != "" {
			return p.name
		}
	}
	return ""
}

func tolerated(t *computev1.Taint, req Request) bool {
	return slices.ContainsFunc(req.Placement.GetTolerations(), func(o *computev1.Toleration) bool {
		return (o.GetKey() == "" || o.GetKey() == t.GetKey()) && (o.GetValue() == "" || o.GetValue() == t.GetValue()) &&
			(o.GetEffect() == computev1.TaintEffect_TAINT_EFFECT_UNSPECIFIED || o.GetEffect() == t.GetEffect())
	})
}

func mib(b int64) string { return fmt.Sprintf("%d MiB", b>>20) }

func labelText(m map[string]string) string {
	out := make([]string, 0, len(m))
	for k, v := range m {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

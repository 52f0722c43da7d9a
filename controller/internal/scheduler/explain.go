package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Explanation says for a request how every node stands.
type Explanation struct {
	Summary       string
	NodeCount     int
	FeasibleCount int
	Predicates    []PredicateResult // that failed somewhere, most often first
	Nodes         []NodeVerdict     // at most 100, fitting ones first
	Suggestion    string            // smallest change that would fit; "" when it fits or none is known
}

// PredicateResult counts the nodes that failed a predicate.
type PredicateResult struct {
	Name    string
	Failed  int
	Example string
}

// NodeVerdict is how one node stands.
type NodeVerdict struct {
	NodeID, NodeName string
	Feasible         bool
	Score            float64
	Failed           []string
	Message          string
}

// maxVerdicts bounds Explanation.Nodes.
const maxVerdicts = 100

// Explain tries every predicate on every node.
func (s *Scheduler) Explain(req Request) *Explanation {
	rules := s.compile(req)
	e := &Explanation{NodeCount: len(s.order)}
	counts := map[string]*PredicateResult{}
	var near *NodeVerdict // fails fewest predicates
	for _, id := range s.order {
		n := s.nodes[id]
		v := NodeVerdict{NodeID: n.ID, NodeName: n.Name}
		var texts []string
		for _, p := range predicates {
			text := p.check(s, n, req, rules)
			if text == "" {
				continue
			}
			v.Failed = append(v.Failed, p.name)
			texts = append(texts, text)
			r := counts[p.name]
			if r == nil {
				r = &PredicateResult{Name: p.name, Example: n.Name + " " + text}
				counts[p.name] = r
			}
			r.Failed++
		}
		v.Message = strings.Join(texts, "; ")
		if v.Feasible = len(v.Failed) == 0; v.Feasible {
			e.FeasibleCount++
			v.Score = s.score(n, req, rules)
		} else if near == nil || len(v.Failed) < len(near.Failed) {
			near = &v
		}
		e.Nodes = append(e.Nodes, v)
	}
	slices.SortStableFunc(e.Nodes, func(a, b NodeVerdict) int {
		return cmp.Or(cmp.Compare(len(a.Failed), len(b.Failed)), cmp.Compare(b.Score, a.Score))
	})
	if len(e.Nodes) > maxVerdicts {
		e.Nodes = e.Nodes[:maxVerdicts]
	}
	for _, p := range predicates {
		if r := counts[p.name]; r != nil {
			e.Predicates = append(e.Predicates, *r)
		}
	}
	slices.SortStableFunc(e.Predicates, func(a, b PredicateResult) int { return cmp.Compare(b.Failed, a.Failed) })
	e.summarise(near)
	return e
}

func (e *Explanation) summarise(near *NodeVerdict) {
	switch {
	case e.NodeCount == 0:
		e.Summary = "no node has joined"
		e.Suggestion = "create a join token and start an agent"
		return
	case e.FeasibleCount > 0:
		e.Summary = fmt.Sprintf("fits on %d of %d nodes", e.FeasibleCount, e.NodeCount)
		return
	}
	parts := make([]string, len(e.Predicates))
	for i, p := range e.Predicates {
		parts[i] = fmt.Sprintf("%d %s (%s)", p.Failed, p.Name, p.Example)
	}
	e.Summary = fmt.Sprintf("fits on none of %d nodes: %s", e.NodeCount, strings.Join(parts, ", "))
	remedies := make([]string, len(near.Failed))
	for i, name := range near.Failed {
		remedies[i] = remedy[name]
	}
	e.Suggestion = fmt.Sprintf("nearest is node %s (%s): %s", near.NodeName, near.Message, strings.Join(remedies, ", and "))
}

// remedy is what would make a predicate hold.
var remedy = map[string]string{
	"ready":         "bring its agent back",
	"cordoned":      "uncordon it",
	"node":          "ask for that node, or for none",
	"selector":      "label it, or relax the node selector",
	"taints":        "add a toleration, or remove the taint",
	"driver":        "mend or install the compute driver there",
	"storage":       "make the pool reachable there",
	"network":       "mend or install a driver for the network there, or use another network",
	"image":         "import the image to it",
	"host-port":     "forward another port of the host, or add a node",
	"cpu":           "ask for fewer CPUs, or free some",
	"memory":        "ask for less memory, or free some",
	"affinity":      "relax the affinity rule",
	"anti-affinity": "relax the anti-affinity rule, or add a node",
}

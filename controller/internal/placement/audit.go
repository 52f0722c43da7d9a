package placement

import (
	"context"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
)

const (
	// auditEvery is how often the leader compares its books.
	auditEvery = time.Minute
	// auditAgain is how long a finding must last: much of what is seen once is a report on its way.
	auditAgain = 3 * time.Second
)

// AuditMetrics say what the audit found. Only the leader shows them.
type AuditMetrics struct {
	findings      *prometheus.GaugeVec
	overcommitted prometheus.Gauge
	last          prometheus.Gauge
}

// NewAuditMetrics makes them and registers them.
func NewAuditMetrics(r prometheus.Registerer) *AuditMetrics {
	m := &AuditMetrics{
		findings: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "limiquantix_audit_findings", Help: "Objects on which claims, placements and what nodes report disagree, by kind, at the leader's last audit.",
		}, []string{"kind"}),
		overcommitted: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "limiquantix_audit_overcommitted_nodes", Help: "Nodes of which more is claimed than may be, at the leader's last audit.",
		}),
		last: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "limiquantix_audit_last_run_timestamp_seconds", Help: "When this controller, as the leader, last compared its books; 0 is never.",
		}),
	}
	r.MustRegister(m.findings, m.overcommitted, m.last)
	return m
}

func (m *AuditMetrics) show(found []Finding, overcommitted int, now time.Time) {
	if m == nil {
		return
	}
	counts := map[string]int{}
	for _, f := range found {
		counts[f.Kind]++
	}
	for _, k := range findKinds {
		m.findings.WithLabelValues(k).Set(float64(counts[k]))
	}
	m.overcommitted.Set(float64(overcommitted))
	m.last.Set(float64(now.Unix()))
}

func (m *AuditMetrics) clear() {
	if m != nil {
		m.findings.Reset()
		m.overcommitted.Set(0)
	}
}

// auditor remembers what was said already.
type auditor struct {
	w     *worker
	found []Finding
	over  map[string]string // node id -> of what
}

// audit compares the books again and again until ctx ends. It never writes: what it finds is a bug, or a host that somebody else had a hand in.
func (w *worker) audit(ctx context.Context) error {
	a := &auditor{w: w, over: map[string]string{}}
	defer w.Audit.clear()
	for wait := auditAgain; ; wait = auditEvery {
		if !sleep(ctx, wait) {
			return ctx.Err()
		}
		first, ok := a.look()
		if !ok {
			continue
		}
		if len(first) > 0 {
			if !sleep(ctx, auditAgain) {
				return ctx.Err()
			}
			second, ok := a.look()
			if !ok {
				continue
			}
			first = lasting(first, second)
		}
		a.tell(first)
	}
}

func (a *auditor) look() ([]Finding, bool) {
	b, ok := a.w.recount()
	if !ok {
		return nil, false
	}
	return findings(b), true
}

// lasting are the findings of a second look that the first had too.
func lasting(first, second []Finding) []Finding {
	return slices.DeleteFunc(second, func(f Finding) bool {
		return !slices.ContainsFunc(first, func(o Finding) bool { return same(o, f) })
	})
}

// tell logs what is new and what is over, and shows the counts.
func (a *auditor) tell(found []Finding) {
	log := a.w.Log
	for _, f := range found {
		if !slices.ContainsFunc(a.found, func(o Finding) bool { return same(o, f) }) {
			log.Error("audit: records and hosts disagree", "kind", f.Kind, "object", f.Object, "node", f.Node, "detail", f.Detail)
		}
		if f.Kind == FindIndexWrong {
			a.w.Index.rebuild()
		}
	}
	for _, o := range a.found {
		if !slices.ContainsFunc(found, func(f Finding) bool { return same(o, f) }) {
			log.Info("audit: found no longer", "kind", o.Kind, "object", o.Object, "node", o.Node)
		}
	}
	a.found = found
	a.tellOvercommitted()
	a.w.Audit.show(found, len(a.over), a.w.Now())
}

// tellOvercommitted names the nodes that shrank below what is claimed of them.
func (a *auditor) tellOvercommitted() {
	b, _ := a.w.recount()
	for id, n := range b.nodes {
		of := domain.Overcommitted(n, a.w.Index.Allocatable(n.GetNode()))
		if of == a.over[id] {
			continue
		}
		if of == "" {
			delete(a.over, id)
			a.w.Log.Info("node is overcommitted no longer", "node", id, "name", n.GetNode().GetMeta().GetName())
			continue
		}
		a.over[id] = of
		a.w.Log.Warn("node is overcommitted: it gets nothing new", "node", id, "name", n.GetNode().GetMeta().GetName(), "of", of)
	}
	for id := range a.over {
		if b.nodes[id] == nil {
			delete(a.over, id)
		}
	}
}

// sleep waits; false when ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

package server

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

const metricPrefix = "limiquantix_controller_"

// Metrics are the controller's own, in a registry of their own. What costs anything to know is collected by Run in the background: a scrape waits
// for nobody.
type Metrics struct {
	registry *prometheus.Registry
	rpc      *prometheus.HistogramVec
	store    struct{ revision, size, inUse, quota, noSpace, up prometheus.Gauge }
	objects  *prometheus.GaugeVec
	pending  prometheus.Gauge
	leader   prometheus.Gauge
	placing  prometheus.Histogram
}

// ObjectCount is how many objects of a kind are in a phase.
type ObjectCount struct {
	Kind, Phase string
	Count       int
}

// Sources are what Run asks.
type Sources struct {
	Store store.Store
	// Objects counts objects; it may cost something.
	Objects func() []ObjectCount
	// Pending is how many VMs wait for a node.
	Pending func() int
	// Leading reports whether this controller leads.
	Leading func() bool
}

// NewMetrics makes the registry.
func NewMetrics(version, commit string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: metricPrefix + name, Help: help})
		m.registry.MustRegister(g)
		return g
	}
	m.rpc = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: metricPrefix + "rpc_duration_seconds", Help: "Time from a call's arrival to its end, by method and gRPC code.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60},
	}, []string{"port", "method", "code"})
	m.placing = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: metricPrefix + "scheduler_placement_duration_seconds", Help: "Time from a VM's wish for a node to its committed placement.",
		Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5, 30, 300},
	})
	m.objects = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: metricPrefix + "objects", Help: "Objects in the state, by kind and phase.",
	}, []string{"kind", "phase"})
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: metricPrefix + "build_info", Help: "Always 1; the labels say which build runs.",
	}, []string{"version", "commit"})
	build.WithLabelValues(version, commit).Set(1)
	m.registry.MustRegister(m.rpc, m.placing, m.objects, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	m.store.revision = gauge("store_revision", "Latest revision of the state store that is known.")
	m.store.size = gauge("store_size_bytes", "What the state store takes up, free pages included.")
	m.store.inUse = gauge("store_in_use_bytes", "What the state store takes up without free pages.")
	m.store.quota = gauge("store_quota_bytes", "Size at which the state store refuses writes; 0 is no quota.")
	m.store.noSpace = gauge("store_no_space", "1 while the state store refuses writes for want of space.")
	m.store.up = gauge("store_up", "1 while the state store answers.")
	m.pending = gauge("scheduler_pending_vms", "VMs that wait for a node.")
	m.leader = gauge("leader", "1 while this controller leads.")
	return m
}

// Registry is for collectors of other packages.
func (m *Metrics) Registry() *prometheus.Registry { return m.registry }

// ObservePlacement notes how long a VM waited for its node.
func (m *Metrics) ObservePlacement(waited time.Duration) { m.placing.Observe(waited.Seconds()) }

// Handler serves /metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}

func (m *Metrics) observe(procedure, code string, took time.Duration) {
	m.rpc.WithLabelValues("public", strings.TrimPrefix(procedure, "/"), code).Observe(took.Seconds())
}

func (m *Metrics) observeAgent(procedure, code string, took time.Duration) {
	m.rpc.WithLabelValues("agent", strings.TrimPrefix(procedure, "/"), code).Observe(took.Seconds())
}

// Run collects every interval until ctx ends.
func (m *Metrics) Run(ctx context.Context, interval time.Duration, src Sources) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		m.Collect(ctx, src)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Collect asks every source once.
func (m *Metrics) Collect(ctx context.Context, src Sources) {
	ask, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	st, err := src.Store.Status(ask)
	m.store.up.Set(truth(err == nil))
	if err == nil {
		m.store.revision.Set(float64(st.Revision))
		m.store.size.Set(float64(st.SizeBytes))
		m.store.inUse.Set(float64(st.InUseBytes))
		m.store.quota.Set(float64(st.QuotaBytes))
		m.store.noSpace.Set(truth(st.NoSpace))
	}
	if src.Objects != nil {
		counts := src.Objects()
		m.objects.Reset()
		for _, c := range counts {
			m.objects.WithLabelValues(c.Kind, c.Phase).Set(float64(c.Count))
		}
	}
	if src.Pending != nil {
		m.pending.Set(float64(src.Pending()))
	}
	if src.Leading != nil {
		m.leader.Set(truth(src.Leading()))
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

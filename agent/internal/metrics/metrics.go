// Package metrics serves what Prometheus scrapes. Everything is collected in the background: a scrape reads memory and waits for nobody.
package metrics

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// Interval is how often figures are collected.
const Interval = 15 * time.Second

// Sample is one collection. It is replaced, never changed.
type Sample struct {
	Node    NodeSample
	Plugins []PluginSample
	VMs     []VMSample
	Pools   map[string]*driverv1.Pool
	Ports   []PortSample
	// Networks are those of this node by id, and whether each works.
	Networks map[string]bool
	Agent    AgentSample
}

// NodeSample is of the host.
type NodeSample struct {
	CPUs            int
	CPUSeconds      map[string]float64 // by mode
	MemoryBytes     float64
	MemoryAvailable float64
	Load1           float64
	BootTime        float64 // unix seconds
}

// PluginSample is of a plugin.
type PluginSample struct {
	Name, Version, State string
	Restarts             int
}

// VMSample is of a VM that runs.
type VMSample struct {
	ID, Name, Project string
	Stats             *driverv1.DomainStats
}

// PortSample is of a port.
type PortSample struct {
	ID, VM, Network string
	Up              bool
	Stats           *driverv1.NetworkInterfaceStats // nil = not counted yet
}

// AgentSample is of the agent itself.
type AgentSample struct {
	Connected         bool
	LastHeartbeat     time.Time
	CertificateExpiry time.Time
	Running, Waiting  int
	Pending           int
	VMPhases          map[string]int
}

// Source gives what is collected. It may take its time.
type Source interface {
	Collect(ctx context.Context) Sample
	// Health is whether the agent works, and why not.
	Health() (ok bool, detail map[string]string)
}

// Metrics is the agent's registry with what was collected last. It is also the reconciler's observer.
type Metrics struct {
	registry  *prometheus.Registry
	runs      *prometheus.CounterVec
	runTime   *prometheus.HistogramVec
	calls     *prometheus.CounterVec
	callTime  *prometheus.HistogramVec
	collected prometheus.Gauge

	mu     sync.Mutex
	sample Sample
	source Source
}

// New makes the metrics of an agent.
func New(version, commit string) *Metrics {
	buckets := []float64{.001, .005, .01, .05, .1, .5, 1, 5, 10, 60, 600}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "limiquantix_agent_reconciles_total", Help: "Runs of workers, by kind of object and result.",
		}, []string{"kind", "result"}),
		runTime: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "limiquantix_agent_reconcile_duration_seconds", Help: "How long runs of workers took.", Buckets: buckets,
		}, []string{"kind"}),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "limiquantix_plugin_calls_total", Help: "Driver calls, by plugin, method and gRPC code.",
		}, []string{"plugin", "method", "code"}),
		callTime: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "limiquantix_plugin_call_duration_seconds", Help: "How long driver calls took.", Buckets: buckets,
		}, []string{"plugin", "method"}),
		collected: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "limiquantix_agent_collection_timestamp_seconds", Help: "When node, VM and plugin figures were last collected.",
		}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "limiquantix_agent_info", Help: "The agent's version; always 1.", ConstLabels: prometheus.Labels{"version": version, "commit": commit},
	})
	info.Set(1)
	m.registry.MustRegister(m.runs, m.runTime, m.calls, m.callTime, m.collected, info, sampleCollector{m},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Registry is what /metrics shows.
func (m *Metrics) Registry() *prometheus.Registry { return m.registry }

// Reconciled counts a run of a worker.
func (m *Metrics) Reconciled(kind, result string, took time.Duration) {
	m.runs.WithLabelValues(kind, result).Inc()
	m.runTime.WithLabelValues(kind).Observe(took.Seconds())
}

// Called counts a driver call.
func (m *Metrics) Called(plugin, method, code string, took time.Duration) {
	m.calls.WithLabelValues(plugin, method, code).Inc()
	m.callTime.WithLabelValues(plugin, method).Observe(took.Seconds())
}

// Run collects now and then until ctx ends.
func (m *Metrics) Run(ctx context.Context, source Source) {
	m.mu.Lock()
	m.source = source
	m.mu.Unlock()
	t := time.NewTicker(Interval)
	defer t.Stop()
	for {
		m.CollectOnce(ctx, source)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// CollectOnce collects now.
func (m *Metrics) CollectOnce(ctx context.Context, source Source) {
	s := source.Collect(ctx)
	if ctx.Err() != nil {
		return
	}
	m.mu.Lock()
	m.sample = s
	m.mu.Unlock()
	m.collected.SetToCurrentTime()
}

// Serve answers /metrics and /health on l until ctx ends.
func (m *Metrics) Serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	mux.HandleFunc("GET /health", m.health)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
	if err := srv.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}

func (m *Metrics) health(w http.ResponseWriter, _ *http.Request) {
	m.mu.Lock()
	source := m.source
	m.mu.Unlock()
	ok, detail := false, map[string]string{"agent": "is starting"}
	if source != nil {
		ok, detail = source.Health()
	}
	w.Header().Set("Content-Type", "application/json")
	status := "ok"
	if !ok {
		status = "degraded"
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"status": status, "detail": detail})
}

// Package plugins runs the node's driver plugins, each kept alive by a supervisor of its own, and tells what happens to them and on them.
package plugins

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/limiquantix/limiquantix/agent/internal/config"
	"github.com/limiquantix/limiquantix/agent/internal/reconcile"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	"github.com/limiquantix/limiquantix/sdk/host"
)

// Sink is told what happens. No method waits.
type Sink interface {
	// PluginUp: another process of the plugin serves.
	PluginUp(name string)
	// PluginsChanged: some plugin's state, health or facts changed.
	PluginsChanged()
	// Event: something happened to an object; nil = events may have been missed.
	Event(plugin string, e *driverv1.WatchEventsResponse)
}

// Config is what a manager needs to know.
type Config struct {
	Agent  config.Config
	Facts  *driverv1.HostFacts // without directories
	Policy host.Policy
	Logger *slog.Logger
}

// Manager runs the plugins. All methods may be called at once.
type Manager struct {
	c    Config
	sink Sink

	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	scan    sync.Mutex // one Rescan at a time
	mu      sync.Mutex
	plugins map[string]*plugin
}

// plugin is one that shall run.
type plugin struct {
	name     string
	sup      *host.Supervisor
	kinds    []string
	sum      string // hash of the binary that was last launched or swapped in
	instance uint64 // counts processes that came to serve; guarded by Manager.mu
	status   host.Status
	cursor   string
}

// New makes a manager; Start runs the plugins.
func New(c Config, sink Sink) *Manager {
	ctx, stop := context.WithCancel(context.Background())
	return &Manager{c: c, sink: sink, ctx: ctx, stop: stop, plugins: map[string]*plugin{}}
}

// Start begins to run what is wanted and returns at once.
func (m *Manager) Start() { m.rescan(m.ctx, m.c.Agent.Plugins) }

// Rescan looks at the plugin directory again: what is new is started, a binary that changed is swapped in while guests run on.
func (m *Manager) Rescan(ctx context.Context) { m.rescan(ctx, m.c.Agent.Plugins) }

func (m *Manager) rescan(ctx context.Context, wanted []config.Plugin) {
	m.scan.Lock()
	defer m.scan.Unlock()
	if len(wanted) == 0 {
		wanted = m.installed()
	}
	for _, w := range wanted {
		if m.ctx.Err() != nil {
			return
		}
		m.mu.Lock()
		p := m.plugins[w.Name]
		m.mu.Unlock()
		spec, man, err := m.spec(w)
		if err != nil {
			m.c.Logger.Error("plugin cannot be configured", "plugin", w.Name, "error", err)
		}
		switch {
		case p == nil:
			m.run(w.Name, spec, man)
		case man.SHA256 == "":
		case man.SHA256 != p.sum:
			m.c.Logger.Info("another binary of the plugin is installed; it is swapped in", "plugin", w.Name)
			if err := p.sup.Swap(ctx, spec); err != nil {
				m.c.Logger.Error("the plugin was not swapped; the old one serves on", "plugin", w.Name, "error", err)
				continue
			}
			m.mu.Lock()
			p.sum, p.kinds = man.SHA256, man.Kinds
			m.mu.Unlock()
		case p.sup.Status().State == host.StateQuarantined:
			if err := p.sup.Reset(ctx); err != nil {
				m.c.Logger.Error("the plugin stays in quarantine", "plugin", w.Name, "error", err)
			}
		}
	}
}

// installed lists all plugins of the plugin directory.
func (m *Manager) installed() []config.Plugin {
	entries, err := os.ReadDir(m.c.Agent.PluginDir)
	if err != nil {
		m.c.Logger.Warn("the plugin directory cannot be read: no plugin runs", "plugin_dir", m.c.Agent.PluginDir, "error", err)
	}
	var out []config.Plugin
	for _, e := range entries {
		dir := filepath.Join(m.c.Agent.PluginDir, e.Name())
		if _, err := os.Stat(filepath.Join(dir, host.ManifestName)); err == nil {
			out = append(out, config.Plugin{Name: e.Name()})
		}
	}
	return out
}

func (m *Manager) spec(w config.Plugin) (host.Spec, *host.Manifest, error) {
	dir := filepath.Join(m.c.Agent.PluginDir, w.Name)
	facts := &driverv1.HostFacts{
		ClusterId: m.c.Facts.GetClusterId(), NodeId: m.c.Facts.GetNodeId(), NodeName: m.c.Facts.GetNodeName(), BootId: m.c.Facts.GetBootId(),
		StateDirectory: filepath.Join(m.c.Agent.StateDir, w.Name), RuntimeDirectory: filepath.Join(m.c.Agent.RunDir, w.Name),
	}
	spec := host.Spec{Dir: dir, RuntimeDir: filepath.Join(m.c.Agent.RunDir, "plugins", w.Name), Host: facts, Logger: m.c.Logger}
	var errs []error
	// Guests' processes reach into these, and may be of another user: they may be passed through, not listed.
	errs = append(errs, os.MkdirAll(facts.GetStateDirectory(), 0o711), os.MkdirAll(facts.GetRuntimeDirectory(), 0o711))
	var err error
	spec.ConfigJSON, err = w.JSON()
	errs = append(errs, err)
	spec.Secrets, err = w.Secrets()
	errs = append(errs, err)
	man, err := host.ReadManifest(dir)
	if err != nil { // the supervisor says so, again and again
		man = &host.Manifest{}
	}
	return spec, man, errors.Join(errs...)
}

func (m *Manager) run(name string, spec host.Spec, man *host.Manifest) {
	p := &plugin{name: name, sup: host.NewSupervisor(spec, m.c.Policy), sum: man.SHA256, kinds: man.Kinds}
	p.status = p.sup.Status()
	m.mu.Lock()
	m.plugins[name] = p
	m.mu.Unlock()
	p.sup.Start()
	m.wg.Go(func() { m.follow(p) })
}

// follow watches one plugin's status.
func (m *Manager) follow(p *plugin) {
	var pid int
	var since time.Time
	events := func() {}
	defer func() { events() }()
	for st := range p.sup.Subscribe(m.ctx) {
		fresh := st.State == host.StateRunning && (st.PID != pid || !st.Since.Equal(since))
		m.mu.Lock()
		p.status = st
		if fresh {
			p.instance++
			pid, since = st.PID, st.Since
		}
		m.mu.Unlock()
		if fresh {
			m.c.Logger.Info("plugin runs", "plugin", p.name, "version", st.Version, "pid", st.PID)
			events()
			events = m.watchEvents(p)
			m.sink.PluginUp(p.name)
		}
		m.sink.PluginsChanged()
	}
}

// watchEvents follows the events of the plugin's present process until the returned function is called.
func (m *Manager) watchEvents(p *plugin) (stop func()) {
	ctx, cancel := context.WithCancel(m.ctx)
	done := make(chan struct{})
	m.wg.Go(func() {
		defer close(done)
		for ctx.Err() == nil {
			s, err := p.sup.Plugin().WatchEvents(ctx, &driverv1.WatchEventsRequest{Cursor: p.cursor})
			for err == nil {
				var e *driverv1.WatchEventsResponse
				if e, err = s.Recv(); err != nil {
					break
				}
				p.cursor = e.GetCursor()
				if e.GetResync() {
					m.sink.Event(p.name, nil)
				} else {
					m.sink.Event(p.name, e)
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(500 * time.Millisecond):
			}
		}
	})
	return func() { cancel(); <-done }
}

// Close stops all plugins, at once; what they manage goes on.
func (m *Manager) Close(ctx context.Context) error {
	m.stop()
	m.mu.Lock()
	var wg sync.WaitGroup
	errs := make([]error, 0, len(m.plugins))
	var emu sync.Mutex
	for _, p := range m.plugins {
		wg.Go(func() {
			err := p.sup.Close(ctx)
			emu.Lock()
			errs = append(errs, err)
			emu.Unlock()
		})
	}
	m.mu.Unlock()
	wg.Wait()
	m.wg.Wait()
	return errors.Join(errs...)
}

func (m *Manager) get(name string) *plugin {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.plugins[name]
}

// Plugin is what is known of a plugin now.
func (m *Manager) Plugin(name string) (reconcile.Plugin, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.plugins[name]
	if p == nil {
		return reconcile.Plugin{Name: name}, false
	}
	st := p.status
	return reconcile.Plugin{
		Name: name, Running: st.State == host.StateRunning, Healthy: st.Health == driverv1.HealthState_HEALTH_STATE_HEALTHY, Instance: p.instance, Reason: st.Reason, Message: st.Message, RetryTime: st.RetryTime,
		Capabilities: st.Capabilities, Kinds: st.Kinds,
	}, true
}

// Names lists plugins of a kind, in order.
func (m *Manager) Names(kind string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for name, p := range m.plugins {
		if slices.Contains(p.kinds, kind) || slices.Contains(p.status.Kinds, kind) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Compute is a client of a plugin's compute driver.
func (m *Manager) Compute(name string) driverv1.ComputeDriverServiceClient {
	return m.get(name).sup.Compute()
}

// Storage is a client of a plugin's storage driver.
func (m *Manager) Storage(name string) driverv1.StorageDriverServiceClient {
	return m.get(name).sup.Storage()
}

// Network is a client of a plugin's network driver.
func (m *Manager) Network(name string) driverv1.NetworkDriverServiceClient {
	return m.get(name).sup.Network()
}

// Status is how all plugins are, as the controller is told.
func (m *Manager) Status() []*computev1.DriverStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]*computev1.DriverStatus, 0, len(m.plugins))
	for name, p := range m.plugins {
		st := p.status
		out = append(out, &computev1.DriverStatus{
			Name: name, Kinds: st.Kinds, Version: st.Version, State: stateWord(st), Reason: st.Reason, Message: st.Message, Pid: int64(st.PID),
			RestartCount: int32(min(st.Restarts, 1<<30)), Attributes: st.Attributes, //nolint:gosec // bounded
			NetworkTypes: networkTypes(st.Capabilities.GetNetwork()), NetworkUplinks: st.Capabilities.GetNetwork().GetUplinks(),
		})
	}
	slices.SortFunc(out, func(a, b *computev1.DriverStatus) int {
		if a.GetName() < b.GetName() {
			return -1
		}
		return 1
	})
	return out
}

// networkTypes are the types of network that a driver runs, as users name them.
func networkTypes(c *driverv1.NetworkCapabilities) (out []networkv1.NetworkType) {
	for _, t := range c.GetTypes() {
		out = append(out, networkv1.NetworkType(t)) // the numbers are the same
	}
	return out
}

// stateWord is a plugin's state in the words of DriverStatus.
func stateWord(st host.Status) string {
	switch {
	case st.Reason == "PLUGIN_MISSING":
		return "missing"
	case st.State == host.StateQuarantined, st.Reason == "PLUGIN_INVALID":
		return "quarantined"
	case st.State == host.StateStarting:
		return "starting"
	case st.State != host.StateRunning:
		return "unhealthy"
	}
	switch st.Health {
	case driverv1.HealthState_HEALTH_STATE_HEALTHY:
		return "healthy"
	case driverv1.HealthState_HEALTH_STATE_DEGRADED:
		return "degraded"
	case driverv1.HealthState_HEALTH_STATE_UNSPECIFIED:
		return "starting"
	}
	return "unhealthy"
}

// Resources asks the compute plugins what the node is, the first that answers counts.
func (m *Manager) Resources(ctx context.Context) (*driverv1.GetNodeResourcesResponse, error) {
	var last error
	for _, name := range m.Names("compute") {
		callCtx, cancel := context.WithTimeout(ctx, time.Minute)
		r, err := m.Compute(name).GetNodeResources(callCtx, &driverv1.GetNodeResourcesRequest{})
		cancel()
		if err == nil {
			return r, nil
		}
		last = fault.From(err)
	}
	return nil, last
}

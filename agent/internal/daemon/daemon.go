// Package daemon puts the agent together: every part runs on its own and none waits for another.
package daemon

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/limiquantix/limiquantix/agent/internal/assign"
	"github.com/limiquantix/limiquantix/agent/internal/config"
	"github.com/limiquantix/limiquantix/agent/internal/enrol"
	"github.com/limiquantix/limiquantix/agent/internal/fetch"
	"github.com/limiquantix/limiquantix/agent/internal/link"
	"github.com/limiquantix/limiquantix/agent/internal/metrics"
	"github.com/limiquantix/limiquantix/agent/internal/plugins"
	"github.com/limiquantix/limiquantix/agent/internal/presence"
	"github.com/limiquantix/limiquantix/agent/internal/realised"
	"github.com/limiquantix/limiquantix/agent/internal/reconcile"
	"github.com/limiquantix/limiquantix/agent/internal/report"
	"github.com/limiquantix/limiquantix/agent/internal/tunnel"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk/host"
)

// Plugins is what the daemon needs of the plugin manager.
type Plugins interface {
	reconcile.Plugins
	Start()
	Rescan(ctx context.Context)
	Close(ctx context.Context) error
	Status() []*computev1.DriverStatus
	Resources(ctx context.Context) (*driverv1.GetNodeResourcesResponse, error)
}

// Options are what main decides.
type Options struct {
	Config   config.Config
	Version  string
	Commit   string
	Identity *enrol.Identity
	Logger   *slog.Logger
	// NewPlugins makes the plugins; the plugin manager when nil.
	NewPlugins func(plugins.Config, plugins.Sink) Plugins
	// Survey is how often all objects are listed; 0 = the reconciler's default.
	Survey time.Duration
	// PoolLook and PoolAnswer are how often pools are looked at and how long they may take to answer; 0 = the reconciler's defaults.
	PoolLook, PoolAnswer time.Duration
	// NetworkLook, NetworkStats and NetworkCheck are how often ports are looked at, counted, and all is compared with the host; 0 = the reconciler's defaults.
	NetworkLook, NetworkStats, NetworkCheck time.Duration
	// NetworkAnswer is how long a network driver may take for one call; 0 = the reconciler's default.
	NetworkAnswer time.Duration
}

// Daemon is a running agent.
type Daemon struct {
	o       Options
	log     *slog.Logger
	session string
	bootID  string

	store    *realised.Store
	link     *link.Link
	reporter *report.Reporter
	metrics  *metrics.Metrics
	plugins  Plugins
	engine   *reconcile.Engine
	presence *presence.Presence
	watcher  *assign.Watcher
	tunnels  *tunnel.Tunnels
	listener net.Listener
	facts    chan struct{} // a compute plugin came up: ask what the node is
}

// New opens the state and puts the agent together; Run lets it work.
func New(o Options) (*Daemon, error) {
	d := &Daemon{o: o, log: o.Logger, session: newSession(), bootID: readBootID(), facts: make(chan struct{}, 1)}
	store, recovery, err := realised.Open(o.Config.DataDir, o.Logger)
	if err != nil {
		return nil, err
	}
	d.store = store
	if o.Config.Listen != "" {
		if d.listener, err = net.Listen("tcp", o.Config.Listen); err != nil {
			return nil, errors.Join(fmt.Errorf("listen: %w", err), store.Close())
		}
	}
	id := o.Identity
	d.link = link.New(o.Config.Controllers, id.TLS, o.Logger)
	d.reporter = report.New(d.link, d.session, o.Logger)
	d.metrics = metrics.New(o.Version, o.Commit)
	if recovery.Lost {
		o.Logger.Error("what this node had realised is lost; it is found again by the marks on the host", "reason", recovery.Reason)
		d.reporter.Event("", "StateLost", "INTERNAL", "what this node had realised is found again by marks: "+recovery.Reason)
	}
	newPlugins := o.NewPlugins
	if newPlugins == nil {
		newPlugins = func(c plugins.Config, s plugins.Sink) Plugins { return plugins.New(c, s) }
	}
	d.plugins = newPlugins(plugins.Config{
		Agent: o.Config, Policy: host.Policy{}, Logger: o.Logger,
		Facts: &driverv1.HostFacts{ClusterId: id.ClusterID, NodeId: id.NodeID, NodeName: id.NodeName, BootId: d.bootID},
	}, sink{d})
	networks, err := fetch.Networks(o.Config.ImageNetworks)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	d.engine = reconcile.NewEngine(reconcile.Config{
		ClusterID: id.ClusterID, NodeID: id.NodeID, Plugins: d.plugins, Reporter: d.reporter, Fetcher: fetch.New(networks), Observer: d.metrics, Store: store, Logger: o.Logger,
		Survey: o.Survey, PoolLook: o.PoolLook, PoolAnswer: o.PoolAnswer,
		NetworkLook: o.NetworkLook, NetworkStats: o.NetworkStats, NetworkCheck: o.NetworkCheck, NetworkAnswer: o.NetworkAnswer,
	})
	d.presence = presence.New(presence.Config{
		Link: d.link, NodeID: id.NodeID, NodeName: id.NodeName, BootID: d.bootID, SessionID: d.session, Logger: o.Logger, Lease: d.engine.ExtendLease,
	}, d.nodeStatus())
	d.tunnels = tunnel.New(d.link, d.plugins, d.engine, o.Logger)
	d.watcher = assign.New(d.link, d.session, d.engine.Known(), sink{d}, o.Logger)
	return d, nil
}

// Addr is where /metrics is served; nil = nowhere.
func (d *Daemon) Addr() net.Addr {
	if d.listener == nil {
		return nil
	}
	return d.listener.Addr()
}

// Connected reports whether a controller tells what is wanted.
func (d *Daemon) Connected() bool { return d.watcher.Connected() }

// Rescan looks at the plugin directory again.
func (d *Daemon) Rescan(ctx context.Context) { d.plugins.Rescan(ctx) }

// Run works until ctx ends, then stops plugins and leaves every guest as it is.
func (d *Daemon) Run(ctx context.Context) error {
	run, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	var serveErr error
	d.engine.Start()
	d.plugins.Start()
	wg.Go(func() { d.presence.Run(run) })
	wg.Go(func() { d.watcher.Run(run) })
	wg.Go(func() { d.reporter.Run(run) })
	wg.Go(func() { d.factsLoop(run) })
	wg.Go(func() { d.metrics.Run(run, source{d}) })
	wg.Go(func() { d.o.Identity.KeepRenewed(run, d.link, d.log) })
	if d.listener != nil {
		wg.Go(func() {
			if serveErr = d.metrics.Serve(run, d.listener); serveErr != nil {
				stop()
			}
		})
	}
	<-run.Done()
	d.tunnels.Close()
	d.engine.Close()
	closeCtx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	err := d.plugins.Close(closeCtx)
	d.link.Close()
	wg.Wait()
	return errors.Join(serveErr, err, d.store.Close())
}

func newSession() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

func readBootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

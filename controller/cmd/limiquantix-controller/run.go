package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/config"
	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/pki"
	"github.com/limiquantix/limiquantix/controller/internal/server"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
)

const (
	// drainTime is how long calls under way may take once the controller is told to stop.
	drainTime = 10 * time.Second
	// startTime bounds everything before the ports are open.
	startTime = 2 * time.Minute
	// gcPercent trades a little CPU for a heap close to what is alive.
	gcPercent = 50

	metricsInterval = 5 * time.Second
	tokenInterval   = 15 * time.Second
)

// controller is one run of the program.
type controller struct {
	cfg     config.Config
	log     *slog.Logger
	started time.Time

	store   store.Store
	cluster *pki.Cluster
	cache   *state.Cache
	lead    *leadership
	metrics *server.Metrics
	tokens  *server.Tokens

	publicListener, agentListener net.Listener
	public                        *server.Public
	http                          *http.Server
	agents                        *server.Agent
	parts                         *parts
}

func newController(cfg config.Config, log *slog.Logger) *controller {
	return &controller{cfg: cfg, log: log, started: time.Now()}
}

// run serves until ctx ends, or something without which nothing works fails. The order matters: the store before what reads it, the ports last; and
// back again in reverse.
func (c *controller) run(ctx context.Context) (err error) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	startup, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	certificate, err := c.listen()
	if err != nil {
		return err
	}
	defer c.closeListeners()
	if c.store, err = openStore(startup, c.cfg, c.log); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.store.Close()) }()
	if c.cluster, err = pki.OpenCluster(startup, c.store, c.cfg.DataDir, time.Now); err != nil {
		return err
	}
	if err := c.build(startup, certificate); err != nil {
		return err
	}

	// The background outlives the ports: calls that are drained still need the cache and the lead.
	background, halt := context.WithCancel(context.WithoutCancel(ctx))
	var tasks sync.WaitGroup
	defer func() {
		halt()
		tasks.Wait()
	}()
	failed := make(chan error, 8) // more than can fail at once
	tasks.Go(func() {
		if err := c.cache.Run(background); err != nil && background.Err() == nil {
			failed <- fmt.Errorf("state cache: %w", err)
		}
	})
	select {
	case <-c.cache.Loaded():
	case err := <-failed:
		return err
	case <-startup.Done():
		return fmt.Errorf("reading the state: %w", context.Cause(startup))
	}
	for _, task := range []func(context.Context){
		c.lead.run, c.lead.follow, c.refreshToken,
		func(ctx context.Context) { observePlacements(ctx, c.cache, c.metrics) },
		func(ctx context.Context) { c.metrics.Run(ctx, metricsInterval, c.sources()) },
	} {
		tasks.Go(func() { task(background) })
	}
	for name, follow := range c.parts.followers {
		tasks.Go(func() {
			if err := follow(background); background.Err() == nil {
				failed <- fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	var ports sync.WaitGroup
	ports.Go(func() {
		if err := server.ServeHTTP(c.http, c.publicListener); err != nil {
			failed <- err
		}
	})
	ports.Go(func() {
		if err := c.agents.Serve(c.agentListener); err != nil {
			failed <- fmt.Errorf("agent port: %w", err)
		}
	})
	c.logReady()
	notifyReady()

	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	notifyStopping()
	drain, done := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer done()
	var stops sync.WaitGroup
	stops.Go(func() {
		if err := server.StopHTTP(drain, c.http, c.public); err != nil {
			c.log.Warn("public port", "error", err)
		}
	})
	stops.Go(func() { c.agents.Stop(drain) })
	stops.Wait()
	ports.Wait()
	c.parts.tunnels.Wait()
	c.log.Info("stopped")
	return err
}

// listen binds both ports, so that an address in use is known before anything else is touched, and reads the public port's certificate.
func (c *controller) listen() (*tls.Certificate, error) {
	var certificate *tls.Certificate
	if c.cfg.UsesTLS() {
		pair, err := tls.LoadX509KeyPair(c.cfg.TLS.Cert, c.cfg.TLS.Key)
		if err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
		certificate = &pair
	}
	var err error
	if c.publicListener, err = net.Listen("tcp", c.cfg.Listen); err != nil {
		return nil, fmt.Errorf("public API: %w (listen sets the address)", err)
	}
	if c.agentListener, err = net.Listen("tcp", c.cfg.AgentListen); err != nil {
		c.closeListeners()
		return nil, fmt.Errorf("agent API: %w (agent_listen sets the address)", err)
	}
	return certificate, nil
}

func (c *controller) closeListeners() {
	for _, l := range []net.Listener{c.publicListener, c.agentListener} {
		if l != nil {
			_ = l.Close() // its server may have done it
		}
	}
}

// build makes everything that does not run by itself.
func (c *controller) build(ctx context.Context, certificate *tls.Certificate) error {
	address := c.cfg.AdvertisedAgentAddress(c.agentListener.Addr().(*net.TCPAddr).Port)
	self := server.Leader{ID: domain.NewID(time.Now()), Address: address}
	leader := &state.Leader{}
	c.cache = state.NewCache(c.store, c.log, time.Now)
	c.lead = &leadership{store: c.store, state: leader, self: self, log: c.log}
	c.metrics = server.NewMetrics(version, commit)
	if err := c.openTokens(ctx); err != nil {
		return err
	}
	c.parts = newParts(c, leader)
	c.lead.duties = c.parts.duties
	peerCert, err := c.cluster.CA.IssueController(self.ID)
	if err != nil {
		return err
	}
	c.public = server.NewPublic(server.PublicConfig{
		Services: c.parts.services, Tokens: c.tokens, Probes: c.probes(self), Metrics: c.metrics, Log: c.log,
		Forwarding: &server.Forwarding{
			Leadership: c.lead, CA: c.cluster.CA, Certificate: peerCert, Revision: c.cache.Revision, Await: c.cache.Wait,
		},
	})
	c.http = server.NewHTTP(c.public, certificate, c.log)

	host, _, _ := net.SplitHostPort(address)
	hostname, _ := os.Hostname() // only one more name
	serverCert, err := c.cluster.CA.IssueServer(host, hostname, "localhost", "127.0.0.1", "::1")
	if err != nil {
		return err
	}
	c.agents, err = server.NewAgent(server.AgentConfig{
		Agent: c.parts.agentAPI, Node: c.parts.nodeForAgents, CA: c.cluster.CA, Certificate: serverCert,
		Nodes: c.nodeRecord, Leadership: c.lead, Metrics: c.metrics, Log: c.log, Now: time.Now, Peers: c.public.Peers(),
	})
	return err
}

func (c *controller) logReady() {
	c.log.Info("controller ready", "version", version, "cluster_id", c.cluster.ID, "controller_id", c.lead.self.ID,
		"listen", c.publicListener.Addr().String(), "tls", c.cfg.UsesTLS(), "agent_listen", c.agentListener.Addr().String(),
		"agent_address", c.lead.self.Address, "store", c.storeKind(), "admin_token_file", c.cluster.TokenFile,
		"started_in", time.Since(c.started).Round(time.Millisecond))
}

func (c *controller) storeKind() string {
	switch {
	case c.cfg.Store.Kind == config.StoreMemory:
		return "memory"
	case len(c.cfg.Store.Endpoints) > 0:
		return "etcd"
	}
	return "etcd (embedded)"
}

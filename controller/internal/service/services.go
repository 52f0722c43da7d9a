// Package service puts the services together. Each lives in a package of its own under this one; this package makes them share one cache, one
// scheduler index and one memory of what happened.
package service

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/placement"
	"github.com/limiquantix/limiquantix/controller/internal/scheduler"
	"github.com/limiquantix/limiquantix/controller/internal/service/agent"
	"github.com/limiquantix/limiquantix/controller/internal/service/image"
	"github.com/limiquantix/limiquantix/controller/internal/service/node"
	"github.com/limiquantix/limiquantix/controller/internal/service/operation"
	"github.com/limiquantix/limiquantix/controller/internal/service/pool"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/service/seam"
	"github.com/limiquantix/limiquantix/controller/internal/service/unimplemented"
	"github.com/limiquantix/limiquantix/controller/internal/service/vm"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// Config is what the services need from the process.
type Config struct {
	Store  store.Store
	Cache  *state.Cache  // nil = made here
	Leader *state.Leader // nil = made here; whoever campaigns sets it
	Sealer seam.Sealer
	CA     seam.CA // nil: join tokens are refused
	// Scheduler and Timing as configured; zero values are fit for use.
	Scheduler scheduler.Config
	Timing    seam.Timing
	Now       func() time.Time // nil = time.Now
	Log       *slog.Logger
}

// Services are all of them, ready to be served. Fields without state of their own are values.
type Services struct {
	Cache         *state.Cache
	Leader        *state.Leader
	Index         *placement.Index
	VM            *vm.Service
	Node          *node.Service
	NodeAgent     *node.Agent
	Operation     *operation.Service
	Image         *image.Service
	Pool          *pool.Service
	Agent         *agent.Service
	Volume        unimplemented.Volume
	Snapshot      unimplemented.Snapshot
	Network       unimplemented.Network
	SecurityGroup unimplemented.SecurityGroup
	Port          unimplemented.Port

	loops   *placement.Loops
	tunnels atomic.Pointer[seam.Tunnels]
}

// New makes the services. They answer from an empty cache until Run has loaded it.
func New(cfg Config) *Services {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Cache == nil {
		cfg.Cache = state.NewCache(cfg.Store, cfg.Log, cfg.Now)
	}
	if cfg.Leader == nil {
		cfg.Leader = &state.Leader{}
	}
	timing := cfg.Timing.WithDefaults()
	runner := &request.Runner{Store: cfg.Store, Cache: cfg.Cache, Now: cfg.Now}
	history, live := state.NewHistory(), state.NewLiveness()
	s := &Services{Cache: cfg.Cache, Leader: cfg.Leader, Index: placement.NewIndex(cfg.Cache, cfg.Scheduler)}
	s.VM = vm.New(vm.Config{
		Cache: cfg.Cache, Runner: runner, Sealer: cfg.Sealer, Tunnels: s.Tunnels, History: history, Explain: s.Index, Now: cfg.Now, Log: cfg.Log,
	})
	s.Operation = operation.New(operation.Config{Cache: cfg.Cache, Runner: runner, History: history, Now: cfg.Now})
	s.Node = node.New(node.Config{
		Cache: cfg.Cache, Runner: runner, Leader: cfg.Leader, Live: live, CA: cfg.CA, Timing: timing, Allocatable: s.Index.Allocatable,
		Now: cfg.Now, Log: cfg.Log,
	})
	s.NodeAgent = node.NewAgent(s.Node)
	s.Image = image.New(image.Config{Cache: cfg.Cache, Runner: runner, Tunnels: s.Tunnels, Now: cfg.Now, Log: cfg.Log})
	s.Pool = pool.New(cfg.Cache)
	s.Agent = agent.New(agent.Config{
		Store: cfg.Store, Cache: cfg.Cache, Leader: cfg.Leader, History: history, Sealer: cfg.Sealer, Now: cfg.Now, Log: cfg.Log,
	})
	s.loops = placement.New(placement.Config{
		Store: cfg.Store, Cache: cfg.Cache, Index: s.Index, Live: live, History: history,
		HeartbeatTimeout: timing.HeartbeatTimeout, HeartbeatInterval: timing.HeartbeatInterval, Now: cfg.Now, Log: cfg.Log,
	})
	return s
}

// SetTunnels gives the services their way to nodes. Until then consoles and uploads are refused.
func (s *Services) SetTunnels(t seam.Tunnels) { s.tunnels.Store(&t) }

// Tunnels is the way to nodes; nil while there is none.
func (s *Services) Tunnels() seam.Tunnels {
	if t := s.tunnels.Load(); t != nil {
		return *t
	}
	return nil
}

// Run keeps the cache, the scheduler's index and the agents' streams in step with the store, until ctx ends. Every controller runs it; one whose
// cache is run elsewhere calls Follow instead.
func (s *Services) Run(ctx context.Context) error {
	var all sync.WaitGroup
	all.Go(func() { _ = s.Cache.Run(ctx) }) // its only error is the end
	err := s.Follow(ctx)
	all.Wait()
	return err
}

// Follow is Run without the cache.
func (s *Services) Follow(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.Cache.Loaded():
	}
	var all sync.WaitGroup
	all.Go(func() { _ = s.Index.Run(ctx) })
	all.Go(func() { _ = s.Agent.Run(ctx) })
	all.Wait()
	return ctx.Err()
}

// Lead does the leader's work until ctx ends or the leadership is lost. The Leader is the caller's to set and to clear.
func (s *Services) Lead(ctx context.Context, lead store.Leadership) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.Cache.Loaded():
	}
	return s.loops.Run(ctx, lead)
}

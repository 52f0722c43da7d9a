package together_test

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
	"github.com/limiquantix/limiquantix/controller/internal/service/network"
	"github.com/limiquantix/limiquantix/controller/internal/service/node"
	"github.com/limiquantix/limiquantix/controller/internal/service/operation"
	"github.com/limiquantix/limiquantix/controller/internal/service/pool"
	"github.com/limiquantix/limiquantix/controller/internal/service/port"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/service/seam"
	"github.com/limiquantix/limiquantix/controller/internal/service/securitygroup"
	"github.com/limiquantix/limiquantix/controller/internal/service/snapshot"
	"github.com/limiquantix/limiquantix/controller/internal/service/vm"
	"github.com/limiquantix/limiquantix/controller/internal/service/volume"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// services are all of them, put together as the process does.
type services struct {
	Cache     *state.Cache
	Leader    *state.Leader
	VM        *vm.Service
	Node      *node.Service
	NodeAgent *node.Agent
	Operation *operation.Service
	Image     *image.Service
	Pool      *pool.Service
	Volume    *volume.Service
	Snapshot  *snapshot.Service
	Network   *network.Service
	Port      *port.Service
	Groups    *securitygroup.Service
	Agent     *agent.Service

	// ahead is how far this controller's clock is before the real one.
	ahead *atomic.Int64

	index   *placement.Index
	loops   *placement.Loops
	tunnels seam.Tunnels
}

func newServices(s store.Store) *services {
	log := slog.New(slog.DiscardHandler)
	ahead := &atomic.Int64{}
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	cache, leader := state.NewCache(s, log, now), &state.Leader{}
	runner := &request.Runner{Store: s, Cache: cache, Now: now}
	history, live := state.NewHistory(), state.NewLiveness()
	index := placement.NewIndex(cache, scheduler.Config{OvercommitCPU: 1, OvercommitMemory: 1})
	out := &services{Cache: cache, Leader: leader, index: index, ahead: ahead}
	tunnels := func() seam.Tunnels { return out.tunnels }
	out.Agent = agent.New(agent.Config{Store: s, Cache: cache, Leader: leader, History: history, Sealer: clearBox{}, Now: now, Log: log})
	out.VM = vm.New(vm.Config{
		Cache: cache, Runner: runner, Sealer: clearBox{}, Tunnels: tunnels, History: history, Explain: index, Nodes: out.Agent,
		Now: now, Log: log,
	})
	out.Operation = operation.New(operation.Config{Cache: cache, Runner: runner, History: history, Now: now})
	out.Node = node.New(node.Config{
		Cache: cache, Runner: runner, Leader: leader, Live: live, CA: fakeCA{}, Timing: timing, Allocatable: index.Allocatable, Nodes: out.Agent,
		Now: now, Log: log,
	})
	out.NodeAgent = node.NewAgent(out.Node)
	out.Image = image.New(image.Config{Cache: cache, Runner: runner, Tunnels: tunnels, Now: now, Log: log})
	out.Pool = pool.New(pool.Config{Cache: cache, Runner: runner, Sealer: clearBox{}, Now: now})
	out.Volume = volume.New(volume.Config{Cache: cache, Runner: runner, Tunnels: tunnels, Now: now})
	out.Snapshot = snapshot.New(snapshot.Config{Cache: cache, Runner: runner, Now: now})
	out.Network = network.New(network.Config{Cache: cache, Runner: runner, Now: now})
	out.Port = port.New(port.Config{Cache: cache, Runner: runner, Nodes: out.Agent, Now: now})
	out.Groups = securitygroup.New(securitygroup.Config{Cache: cache, Runner: runner, Now: now})
	out.loops = placement.New(placement.Config{
		Store: s, Cache: cache, Index: index, Live: live, History: history, Uploading: out.Image.Uploading,
		HeartbeatTimeout: timing.HeartbeatTimeout, HeartbeatInterval: timing.HeartbeatInterval, Lease: timing.WithDefaults().Lease, Now: now, Log: log,
	})
	return out
}

// run does what every controller does, and lead what the leader does, until ctx ends.
func (s *services) run(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { _ = s.Cache.Run(ctx) })
	select {
	case <-ctx.Done():
	case <-s.Cache.Loaded():
		all.Go(func() { _ = s.index.Run(ctx) })
		all.Go(func() { _ = s.Agent.Run(ctx) })
	}
	all.Wait()
}

func (s *services) lead(ctx context.Context, lead store.Leadership) {
	select {
	case <-ctx.Done():
	case <-s.Cache.Loaded():
		_ = s.loops.Run(ctx, lead)
	}
}

// fakeCA is any certificate.
type fakeCA struct{}

func (fakeCA) CertificateDER() []byte { return []byte("certificate") }

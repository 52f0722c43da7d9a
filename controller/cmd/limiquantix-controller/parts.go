package main

import (
	"context"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/config"
	"github.com/limiquantix/limiquantix/controller/internal/placement"
	"github.com/limiquantix/limiquantix/controller/internal/scheduler"
	"github.com/limiquantix/limiquantix/controller/internal/server"
	"github.com/limiquantix/limiquantix/controller/internal/service/agent"
	"github.com/limiquantix/limiquantix/controller/internal/service/enrol"
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
	"github.com/limiquantix/limiquantix/controller/internal/tunnel"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// parts are the services and loops, put together.
type parts struct {
	services      server.Services
	agentAPI      *server.AgentAPI
	nodeForAgents computev1.NodeServiceServer
	tunnels       *tunnel.Hub
	// followers run on every controller until their ctx ends; duties on the leader alone.
	followers map[string]func(context.Context) error
	duties    func(ctx context.Context, lead store.Leadership) error
}

func newParts(c *controller, leader *state.Leader) *parts {
	runner := &request.Runner{Store: c.store, Cache: c.cache, Now: time.Now}
	history, live, seen, sealer := state.NewHistory(), state.NewLiveness(), state.NewSightings(), c.cluster.Key
	index := placement.NewIndex(c.cache, schedulerConfig(c.cfg.Scheduler))
	streams := agent.New(agent.Config{
		Store: c.store, Cache: c.cache, Leader: leader, History: history, Seen: seen, Sealer: sealer, Now: time.Now, Log: c.log,
	})
	hub := tunnel.New(streams, 0)
	tunnels := func() seam.Tunnels { return hub }
	nodes := node.New(node.Config{
		Cache: c.cache, Runner: runner, Leader: leader, Live: live, CA: c.cluster.CA, Timing: timing(c.cfg.Heartbeat), Nodes: streams,
		Allocatable: index.Allocatable, Now: time.Now, Log: c.log,
	})
	images := image.New(image.Config{Cache: c.cache, Runner: runner, Tunnels: tunnels, Now: time.Now, Log: c.log})
	loops := placement.New(placement.Config{
		Store: c.store, Cache: c.cache, Index: index, Live: live, History: history, Seen: seen, Uploading: images.Uploading, Audit: placement.NewAuditMetrics(c.metrics.Registry()),
		HeartbeatTimeout: c.cfg.Heartbeat.Timeout, HeartbeatInterval: c.cfg.Heartbeat.Interval,
		Lease: timing(c.cfg.Heartbeat).Lease, Now: time.Now, Log: c.log,
	})
	return &parts{
		services: server.Services{
			VM: vm.New(vm.Config{
				Cache: c.cache, Runner: runner, Sealer: sealer, Tunnels: tunnels, History: history, Explain: index, Nodes: streams,
				Now: time.Now, Log: c.log,
			}),
			Node:          nodes,
			Operation:     operation.New(operation.Config{Cache: c.cache, Runner: runner, History: history, Now: time.Now}),
			StoragePool:   pool.New(pool.Config{Cache: c.cache, Runner: runner, Sealer: sealer, Now: time.Now}),
			Image:         images,
			Volume:        volume.New(volume.Config{Cache: c.cache, Runner: runner, Tunnels: tunnels, Now: time.Now}),
			Snapshot:      snapshot.New(snapshot.Config{Cache: c.cache, Runner: runner, Now: time.Now}),
			Network:       network.New(network.Config{Cache: c.cache, Runner: runner, Now: time.Now}),
			SecurityGroup: securitygroup.New(securitygroup.Config{Cache: c.cache, Runner: runner, Now: time.Now}),
			Port:          port.New(port.Config{Cache: c.cache, Runner: runner, Nodes: streams, Now: time.Now}),
		},
		agentAPI: &server.AgentAPI{
			Streams:   streams,
			Enrolment: &enrol.Service{Store: c.store, Cache: c.cache, Leader: leader, CA: c.cluster.CA, Log: c.log, Now: time.Now},
			Tunnels:   hub,
		},
		nodeForAgents: node.NewAgent(nodes),
		tunnels:       hub,
		followers:     map[string]func(context.Context) error{"placement index": index.Run, "desired sets": streams.Run},
		duties:        loops.Run,
	}
}

func schedulerConfig(s config.Scheduler) scheduler.Config {
	strategy := map[string]computev1.PlacementStrategy{
		"spread": computev1.PlacementStrategy_PLACEMENT_STRATEGY_SPREAD, "pack": computev1.PlacementStrategy_PLACEMENT_STRATEGY_PACK,
		"balance": computev1.PlacementStrategy_PLACEMENT_STRATEGY_BALANCE,
	}
	return scheduler.Config{
		Strategy: strategy[s.PlacementStrategy], OvercommitCPU: s.OvercommitCPU, OvercommitMemory: s.OvercommitMemory,
		ReservedCPUs: s.ReservedCPUs, ReservedMemory: int64(s.ReservedMemory),
	}
}

// timing gives a session's lease room to end before its node counts as unknown.
func timing(h config.Heartbeat) seam.Timing {
	return seam.Timing{HeartbeatInterval: h.Interval, HeartbeatTimeout: h.Timeout, Lease: min(3*h.Interval, h.Timeout*3/4)}
}

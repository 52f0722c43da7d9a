package main

import (
	"context"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/server"
	"github.com/limiquantix/limiquantix/controller/internal/service/enrol"
	"github.com/limiquantix/limiquantix/controller/internal/service/operation"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/service/seam"
	"github.com/limiquantix/limiquantix/controller/internal/service/vm"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/controller/internal/tunnel"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1/networkv1connect"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1/storagev1connect"
)

// parts are the services and loops, put together.
type parts struct {
	services      server.Services
	agentAPI      *server.AgentAPI
	nodeForAgents computev1.NodeServiceServer
	tunnels       *tunnel.Hub
	duties        func(ctx context.Context, lead store.Leadership) error
	pending       func() int
}

type asker struct {
	agentv1.UnimplementedAgentServiceServer
}

func (asker) AskTunnel(string, *agentv1.OpenTunnel) error { return nil }

func newParts(c *controller, leader *state.Leader) *parts {
	runner := &request.Runner{Store: c.store, Cache: c.cache, Now: time.Now}
	history := state.NewHistory()
	p := &parts{}
	p.tunnels = tunnel.New(asker{}, 0)
	p.services = server.Services{
		VM:        vm.New(vm.Config{Cache: c.cache, Runner: runner, Sealer: c.cluster.Key, Tunnels: func() seam.Tunnels { return p.tunnels }, History: history, Now: time.Now, Log: c.log}),
		Operation: operation.New(operation.Config{Cache: c.cache, Runner: runner, History: history, Now: time.Now}),
		Node:      computev1connect.UnimplementedNodeServiceHandler{}, StoragePool: storagev1connect.UnimplementedStoragePoolServiceHandler{},
		Volume: storagev1connect.UnimplementedVolumeServiceHandler{}, Snapshot: storagev1connect.UnimplementedSnapshotServiceHandler{},
		Image: storagev1connect.UnimplementedImageServiceHandler{}, Network: networkv1connect.UnimplementedVirtualNetworkServiceHandler{},
		SecurityGroup: networkv1connect.UnimplementedSecurityGroupServiceHandler{}, Port: networkv1connect.UnimplementedPortServiceHandler{},
	}
	p.agentAPI = &server.AgentAPI{
		Streams:   asker{},
		Enrolment: &enrol.Service{Store: c.store, Cache: c.cache, Leader: leader, CA: c.cluster.CA, Log: c.log, Now: time.Now},
		Tunnels:   p.tunnels,
	}
	p.nodeForAgents = computev1.UnimplementedNodeServiceServer{}
	p.duties = func(ctx context.Context, _ store.Leadership) error { <-ctx.Done(); return ctx.Err() }
	return p
}

package server

import (
	"context"

	"github.com/limiquantix/limiquantix/controller/internal/service/caller"
	"github.com/limiquantix/limiquantix/controller/internal/service/enrol"
	"github.com/limiquantix/limiquantix/controller/internal/tunnel"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
)

// Streams is what agents follow and report.
type Streams interface {
	WatchDesired(*agentv1.WatchDesiredRequest, agentv1.AgentService_WatchDesiredServer) error
	ReportStatus(context.Context, *agentv1.ReportStatusRequest) (*agentv1.ReportStatusResponse, error)
}

// AgentAPI is AgentService put together from those who do its parts.
type AgentAPI struct {
	agentv1.UnsafeAgentServiceServer // every method is here, or this does not compile
	Streams
	Enrolment *enrol.Service
	Tunnels   *tunnel.Hub
}

var _ agentv1.AgentServiceServer = (*AgentAPI)(nil)

// Enrol implements agentv1.AgentServiceServer.
func (a *AgentAPI) Enrol(ctx context.Context, in *agentv1.EnrolRequest) (*agentv1.EnrolResponse, error) {
	return a.Enrolment.Enrol(ctx, in)
}

// Renew implements agentv1.AgentServiceServer.
func (a *AgentAPI) Renew(ctx context.Context, in *agentv1.RenewRequest) (*agentv1.RenewResponse, error) {
	return a.Enrolment.Renew(ctx, in)
}

// Tunnel implements agentv1.AgentServiceServer.
func (a *AgentAPI) Tunnel(stream agentv1.AgentService_TunnelServer) error {
	return a.Tunnels.Serve(caller.Node(stream.Context()), stream)
}

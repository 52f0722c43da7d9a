package server

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/limiquantix/limiquantix/controller/internal/pki"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// NodeRecords finds the record of a node; nil when there is none.
type NodeRecords func(id string) *statev1.NodeRecord

// Leadership tells whether this controller serves agents, and who does.
type Leadership interface {
	Leading() bool
	// Term is closed once this controller leads no longer; closed already when it does not lead.
	Term() <-chan struct{}
	Leader() Leader
}

// AgentConfig is what the agent port is made of.
type AgentConfig struct {
	Agent agentv1.AgentServiceServer
	Node  computev1.NodeServiceServer
	CA    *pki.CA
	// Certificate is the server's, see pki.CA.IssueServer.
	Certificate tls.Certificate
	Nodes       NodeRecords
	Leadership  Leadership
	Metrics     *Metrics
	Log         *slog.Logger
	Now         func() time.Time
	// Peers serves other controllers, see Public.Peers; nil = they are refused.
	Peers http.Handler

	recheck time.Duration // tests look more often
}

// Agent is the agent port: gRPC with TLS, where a node is who its certificate says.
type Agent struct {
	grpc  *grpc.Server
	peers *peerPort // nil = none
	drain func()
}

// NewAgent builds the agent port. A method without a rule is an error.
func NewAgent(cfg AgentConfig) (*Agent, error) {
	draining := make(chan struct{})
	g := &agentGate{cfg: cfg, draining: draining, every: recheck}
	if cfg.recheck > 0 {
		g.every = cfg.recheck
	}
	var peers *peerPort
	if cfg.Peers != nil {
		peers = newPeerPort(cfg.CA.ClusterID(), cfg.Peers, cfg.Log)
	}
	srv := grpc.NewServer(
		grpc.Creds(newPortCredentials(&tls.Config{
			Certificates: []tls.Certificate{cfg.Certificate},
			ClientCAs:    cfg.CA.Pool(),
			// Enrol comes without; the gate refuses the rest.
			ClientAuth: tls.VerifyClientCertIfGiven,
			MinVersion: tls.VersionTLS13,
			// A resumed session keeps a certificate for good that was verified once.
			SessionTicketsDisabled: true,
		}, peers)),
		grpc.ChainUnaryInterceptor(g.unary),
		grpc.ChainStreamInterceptor(g.stream),
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.MaxSendMsgSize(MaxMessage),
		grpc.MaxConcurrentStreams(1024),
		grpc.ConnectionTimeout(20*time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
	agentv1.RegisterAgentServiceServer(srv, cfg.Agent)
	computev1.RegisterNodeServiceServer(srv, cfg.Node)
	if err := checkRules(srv.GetServiceInfo(), agentRules); err != nil {
		return nil, err
	}
	return &Agent{grpc: srv, peers: peers, drain: sync.OnceFunc(func() { close(draining) })}, nil
}

// Serve accepts agents until Stop; nil then.
func (a *Agent) Serve(l net.Listener) error {
	var peers sync.WaitGroup
	if a.peers != nil {
		peers.Go(func() { a.peers.serve(l.Addr()) })
	}
	err := a.grpc.Serve(l)
	if a.peers != nil {
		a.peers.close()
	}
	peers.Wait()
	return err
}

// Stop accepts nothing new, ends streams, and waits for calls under way until ctx ends.
func (a *Agent) Stop(ctx context.Context) {
	a.drain()
	var peers sync.WaitGroup
	defer peers.Wait()
	if a.peers != nil {
		peers.Go(func() { a.peers.stop(ctx) })
	}
	done := make(chan struct{})
	go func() {
		a.grpc.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		a.grpc.Stop()
		<-done
	}
}

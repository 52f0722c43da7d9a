package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
	"github.com/limiquantix/limiquantix/test/stack"
)

// createToStream measures, with a fake agent that enrols and follows its stream as a real one does, how long a created VM takes to get there.
func createToStream(ctx context.Context, s *stack.Stack, vms computev1connect.VMServiceClient, nodes computev1connect.NodeServiceClient, got samples) error {
	conn, err := enrol(ctx, s, nodes)
	if err != nil {
		return fmt.Errorf("fake agent: %w", err)
	}
	defer func() { _ = conn.Close() }()
	node := computev1.NewNodeServiceClient(conn)
	_, err = node.RegisterNode(ctx, &computev1.RegisterNodeRequest{Node: &computev1.Node{Status: &computev1.NodeStatus{
		Resources: &computev1.NodeResources{Architecture: "x86_64", Cpus: 1000, MemoryBytes: 1 << 42}, BootId: "bench",
		Drivers: []*computev1.DriverStatus{{Name: "kvm", Kinds: []string{"compute"}, State: "healthy"}, {Name: "local", Kinds: []string{"storage"}, State: "healthy"}},
	}}})
	if err != nil {
		return fmt.Errorf("fake agent registers: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	agent := agentv1.NewAgentServiceClient(conn)
	stream, err := agent.WatchDesired(ctx, &agentv1.WatchDesiredRequest{SessionId: "bench"})
	if err != nil {
		return fmt.Errorf("fake agent watches: %w", err)
	}
	seen, failed := make(chan string, 1024), make(chan error, 1)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			if p := m.GetUpsert().GetPool(); p != nil {
				_, err := agent.ReportStatus(ctx, &agentv1.ReportStatusRequest{SessionId: "bench", Sequence: 1, Pools: []*agentv1.PoolReport{{
					PoolId: p.GetPool().GetMeta().GetId(), Status: &storagev1.PoolNodeStatus{Health: storagev1.PoolHealth_POOL_HEALTH_HEALTHY, CapacityBytes: 1 << 40},
				}}})
				if err != nil {
					failed <- err
					return
				}
			}
			if v := m.GetUpsert().GetVm(); v != nil && !v.GetAbsent() {
				seen <- v.GetVmId()
			}
		}
	}()
	for round := range rounds {
		m, err := median(50, func(i int) error {
			vm := vmFor(fmt.Sprintf("stream-%d-%d", round, i), nil)
			vm.Spec.Placement = nil
			vm.Spec.MemoryBytes = 16 << 20
			r, err := vms.CreateVM(ctx, connect.NewRequest(&computev1.CreateVMRequest{Vm: vm}))
			if err != nil {
				return err
			}
			for limit := time.After(30 * time.Second); ; {
				select {
				case id := <-seen:
					if id == r.Msg.GetVm().GetMeta().GetId() {
						return nil
					}
				case err := <-failed:
					return fmt.Errorf("fake agent: %w", err)
				case <-limit:
					return fmt.Errorf("VM %s never came to its agent", vm.GetMeta().GetName())
				}
			}
		})
		if err != nil {
			return err
		}
		got.add("create_to_stream_p50_ms", m)
	}
	return nil
}

// enrol trades a join token for a certificate and dials with it.
func enrol(ctx context.Context, s *stack.Stack, nodes computev1connect.NodeServiceClient) (*grpc.ClientConn, error) {
	t, err := nodes.CreateJoinToken(ctx, connect.NewRequest(&computev1.CreateJoinTokenRequest{NodeName: "bench"}))
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	first, err := grpc.NewClient(s.AgentAddress(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}))) //nolint:gosec // on loopback, in a benchmark
	if err != nil {
		return nil, err
	}
	defer func() { _ = first.Close() }()
	e, err := agentv1.NewAgentServiceClient(first).Enrol(ctx, &agentv1.EnrolRequest{Token: strings.TrimSpace(t.Msg.GetToken()), CertificateRequest: csr})
	if err != nil {
		return nil, err
	}
	ca, err := x509.ParseCertificate(e.GetCaCertificate())
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return grpc.NewClient(s.AgentAddress(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		RootCAs: pool, ServerName: "limiquantix-controller", Certificates: []tls.Certificate{{Certificate: [][]byte{e.GetCertificate()}, PrivateKey: key}}, MinVersion: tls.VersionTLS13,
	})))
}

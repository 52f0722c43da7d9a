package etcd

import (
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// OpenExternal uses an etcd cluster that others run: its quota, compaction and
// backups are theirs to set. It returns once the cluster has answered, or
// ErrUnavailable.
func OpenExternal(ctx context.Context, cfg ExternalConfig) (*Store, error) {
	cfg.Common = cfg.Common.withDefaults()
	if len(cfg.Endpoints) == 0 {
		return nil, fmt.Errorf("%w: no etcd endpoints", store.ErrInvalid)
	}
	if cfg.TLS == nil {
		cfg.TLS = tlsFor(cfg.Endpoints)
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            cfg.Endpoints,
		TLS:                  cfg.TLS,
		Username:             cfg.Username,
		Password:             cfg.Password,
		DialTimeout:          cfg.RequestTimeout,
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
		DialOptions:          []grpc.DialOption{grpc.WithConnectParams(reconnect())},
		Logger:               newZap(cfg.Logger),
	})
	if err != nil {
		return nil, cannotReach(ctx, cfg, fmt.Errorf("%w: %w", store.ErrUnavailable, err))
	}
	s := start(cfg.Common, client, client.Close)
	s.endpoints = cfg.Endpoints
	s.connected = func(ctx context.Context) bool {
		conn := client.ActiveConnection()
		for conn.GetState() == connectivity.TransientFailure {
			if !conn.WaitForStateChange(ctx, connectivity.TransientFailure) {
				return false
			}
		}
		return true
	}
	if _, err := s.List(ctx, "", store.ListOptions{Limit: 1}); err != nil {
		_ = s.Close()
		return nil, cannotReach(ctx, cfg, err)
	}
	return s, nil
}

// reconnect has a cluster that was away used within seconds after it is back: gRPC by itself waits longer and longer, up to two minutes, and a
// leader would lose its lease meanwhile.
func reconnect() grpc.ConnectParams {
	wait := backoff.DefaultConfig
	wait.BaseDelay, wait.MaxDelay = 100*time.Millisecond, time.Second
	return grpc.ConnectParams{Backoff: wait, MinConnectTimeout: 5 * time.Second}
}

// tlsFor is the system's trust for endpoints that are https, and nil for others.
func tlsFor(endpoints []string) *tls.Config {
	if strings.HasPrefix(endpoints[0], "https://") {
		return &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return nil
}

// cannotReach is err with what stands behind it, as far as it can be found out.
func cannotReach(ctx context.Context, cfg ExternalConfig, err error) error {
	if why := diagnose(ctx, cfg, err); why != nil {
		return fmt.Errorf("reach etcd at %v: %w: %w", cfg.Endpoints, why, err)
	}
	return fmt.Errorf("reach etcd at %v: %w", cfg.Endpoints, err)
}

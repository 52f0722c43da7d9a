package etcd

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
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
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            cfg.Endpoints,
		TLS:                  cfg.TLS,
		Username:             cfg.Username,
		Password:             cfg.Password,
		DialTimeout:          cfg.RequestTimeout,
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
		Logger:               newZap(cfg.Logger),
	})
	if err != nil {
		return nil, fmt.Errorf("open etcd client: %w: %w", store.ErrUnavailable, err)
	}
	s := start(cfg.Common, client, client.Close)
	s.endpoints = cfg.Endpoints
	s.connected = func() bool {
		return client.ActiveConnection().GetState() != connectivity.TransientFailure
	}
	if _, err := s.List(ctx, "", store.ListOptions{Limit: 1}); err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("reach etcd at %v: %w", cfg.Endpoints, err)
	}
	return s, nil
}

package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// keepAliveTimeout bounds one renewal: the client tries again at once, without
// a pause, for as long as it is let.
const keepAliveTimeout = time.Second

var errNotConnected = errors.New("not connected")

// Grant implements store.Store. etcd counts in whole seconds.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (store.Lease, error) {
	if ttl <= 0 {
		return store.Lease{}, fmt.Errorf("%w: lease of %v", store.ErrInvalid, ttl)
	}
	if err := s.space.check(); err != nil {
		return store.Lease{}, fmt.Errorf("grant lease: %w", err)
	}
	call, cancel, err := s.bound(ctx)
	if err != nil {
		return store.Lease{}, err
	}
	defer cancel()
	seconds := int64((ttl + time.Second - 1) / time.Second)
	res, err := s.lease.Grant(call, seconds)
	if err != nil {
		return store.Lease{}, s.explain(ctx, "grant lease", err)
	}
	return store.Lease{ID: store.LeaseID(res.ID), TTL: time.Duration(res.TTL) * time.Second}, nil
}

// KeepAlive implements store.Store.
func (s *Store) KeepAlive(ctx context.Context, id store.LeaseID) (time.Duration, error) {
	call, cancel, err := s.bound(ctx)
	if err != nil {
		return 0, err
	}
	defer cancel()
	call, cancelSooner := context.WithTimeout(call, keepAliveTimeout)
	defer cancelSooner()
	if s.connected != nil && !s.connected(call) {
		return 0, s.explain(ctx, "keep lease alive", errNotConnected)
	}
	res, err := s.lease.KeepAliveOnce(call, clientv3.LeaseID(id))
	if err != nil {
		return 0, s.explain(ctx, "keep lease alive", err)
	}
	return time.Duration(res.TTL) * time.Second, nil
}

// Revoke implements store.Store.
func (s *Store) Revoke(ctx context.Context, id store.LeaseID) error {
	call, cancel, err := s.bound(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	_, err = s.lease.Revoke(call, clientv3.LeaseID(id))
	err = s.explain(ctx, "revoke lease", err)
	if errors.Is(err, store.ErrLeaseNotFound) {
		return nil
	}
	return err
}

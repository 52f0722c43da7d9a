package memory

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

type lease struct {
	ttl  time.Duration
	ends time.Time
	keys map[string]struct{}
}

// Grant implements store.Store.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (store.Lease, error) {
	if err := s.enter(ctx); err != nil {
		return store.Lease{}, err
	}
	defer s.mu.Unlock()
	if ttl <= 0 {
		return store.Lease{}, fmt.Errorf("%w: lease of %v", store.ErrInvalid, ttl)
	}
	s.lastLease++
	s.leases[s.lastLease] = &lease{ttl: ttl, ends: s.opts.Clock.Now().Add(ttl), keys: map[string]struct{}{}}
	select {
	case s.rescan <- struct{}{}:
	default:
	}
	return store.Lease{ID: s.lastLease, TTL: ttl}, nil
}

// KeepAlive implements store.Store.
func (s *Store) KeepAlive(ctx context.Context, id store.LeaseID) (time.Duration, error) {
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	now := s.opts.Clock.Now()
	l := s.leases[id]
	if l == nil || !l.ends.After(now) {
		return 0, fmt.Errorf("keep lease %d alive: %w", id, store.ErrLeaseNotFound)
	}
	l.ends = now.Add(l.ttl)
	return l.ttl, nil
}

// Revoke implements store.Store.
func (s *Store) Revoke(ctx context.Context, id store.LeaseID) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	s.revoke(id)
	return nil
}

func (s *Store) revoke(id store.LeaseID) {
	l := s.leases[id]
	if l == nil {
		return
	}
	var ops []store.Op
	for _, key := range slices.Sorted(maps.Keys(l.keys)) {
		ops = append(ops, store.Delete(key))
	}
	s.write(ops)
	delete(s.leases, id)
}

// expire revokes leases as they run out.
func (s *Store) expire() {
	for {
		var wake <-chan time.Time
		if pause, any := s.expireDue(); any {
			wake = s.opts.Clock.After(pause)
		}
		select {
		case <-s.done:
			return
		case <-s.rescan:
		case <-wake:
		}
	}
}

// expireDue revokes what has run out and says how long the next one has.
func (s *Store) expireDue() (pause time.Duration, any bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.opts.Clock.Now()
	for _, id := range slices.Sorted(maps.Keys(s.leases)) {
		left := s.leases[id].ends.Sub(now)
		if left <= 0 {
			s.revoke(id)
			continue
		}
		if !any || left < pause {
			pause, any = left, true
		}
	}
	return pause, any
}

// Package memory is a store that lives in this process and dies with it: for
// tests and for trying things out. It keeps the whole contract of store.Store
// but durability.
package memory

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/controller/internal/store/election"
)

// Clock is the time that leases run by.
type Clock interface {
	Now() time.Time
	// After delivers once d has passed.
	After(d time.Duration) <-chan time.Time
}

type systemClock struct{}

func (systemClock) Now() time.Time                         { return time.Now() }
func (systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Options tune a store. The zero value is fit for use.
type Options struct {
	// Clock defaults to the system's.
	Clock Clock
	// History is how many revisions can be watched from and listed; default
	// 10,000.
	History int
	// QuotaBytes refuses writes once keys and values take up this much; 0 is no
	// quota.
	QuotaBytes int64
	// ElectionTTL is how long a silent leader is waited for; default 10 s.
	ElectionTTL time.Duration
	// ProgressInterval is how long a watch may be silent; default 1 s.
	ProgressInterval time.Duration
}

// Store is a store in memory. It implements store.Store and store.Compactor.
type Store struct {
	opts    Options
	done    chan struct{}
	expirer sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	revision  int64
	compacted int64
	keys      index
	history   []store.Batch // what each revision changed, ascending
	size      int64
	full      bool // the last write was refused, and nothing has shrunk since
	leases    map[store.LeaseID]*lease
	lastLease store.LeaseID
	changed   chan struct{} // closed and replaced with each revision
	rescan    chan struct{} // the earliest lease end may have changed
}

// Open makes an empty store.
func Open(opts Options) *Store {
	if opts.Clock == nil {
		opts.Clock = systemClock{}
	}
	if opts.History <= 0 {
		opts.History = 10_000
	}
	if opts.ElectionTTL <= 0 {
		opts.ElectionTTL = 10 * time.Second
	}
	if opts.ProgressInterval <= 0 {
		opts.ProgressInterval = time.Second
	}
	s := &Store{
		opts:     opts,
		done:     make(chan struct{}),
		revision: 1,
		leases:   map[store.LeaseID]*lease{},
		changed:  make(chan struct{}),
		rescan:   make(chan struct{}, 1),
	}
	s.expirer.Go(s.expire)
	return s
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string) (store.KV, error) {
	if err := s.enter(ctx); err != nil {
		return store.KV{}, err
	}
	defer s.mu.Unlock()
	if kv := s.keys.current(key); kv != nil {
		return *kv, nil
	}
	return store.KV{}, fmt.Errorf("%w: %s", store.ErrNotFound, key)
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string, opts store.ListOptions) (store.ListResult, error) {
	if err := s.enter(ctx); err != nil {
		return store.ListResult{}, err
	}
	defer s.mu.Unlock()
	at := opts.Revision
	switch {
	case at == 0:
		at = s.revision
	case at < s.compacted:
		return store.ListResult{}, fmt.Errorf("list %s at %d: %w", prefix, at, store.ErrCompacted)
	case at > s.revision:
		return store.ListResult{}, fmt.Errorf("%w: list at revision %d, which is yet to come", store.ErrInvalid, at)
	}
	res := store.ListResult{Revision: at}
	for kv := range s.keys.scan(prefix, opts.From, at) {
		if opts.Limit > 0 && len(res.KVs) == opts.Limit {
			res.More = true
			res.Next = kv.Key
			break
		}
		res.KVs = append(res.KVs, kv)
	}
	return res, nil
}

// Campaign implements store.Store.
func (s *Store) Campaign(ctx context.Context, name, id string) (store.Leadership, error) {
	return election.Campaign(ctx, s, name, id, election.Options{TTL: s.opts.ElectionTTL})
}

// Status implements store.Store.
func (s *Store) Status(ctx context.Context) (store.Status, error) {
	if err := s.enter(ctx); err != nil {
		return store.Status{}, err
	}
	defer s.mu.Unlock()
	status := store.Status{
		Revision:   s.revision,
		SizeBytes:  s.size,
		InUseBytes: s.size,
		QuotaBytes: s.opts.QuotaBytes,
	}
	if s.full {
		status.NoSpace, status.Reason = true, fmt.Sprintf("%d of %d bytes of its quota are in use", s.size, s.opts.QuotaBytes)
	}
	return status, nil
}

// Compact implements store.Compactor.
func (s *Store) Compact(ctx context.Context, revision int64) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if revision > s.revision {
		return fmt.Errorf("%w: compact revision %d, which is yet to come", store.ErrInvalid, revision)
	}
	s.compact(revision)
	return nil
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	first := !s.closed
	if first {
		s.closed = true
		close(s.done)
	}
	s.mu.Unlock()
	s.expirer.Wait()
	return nil
}

// enter takes the lock for a caller who may still be served.
func (s *Store) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return store.ErrClosed
	}
	return nil
}

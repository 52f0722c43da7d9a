package election

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// leadership keeps a won key alive and notices its loss.
type leadership struct {
	store  store.Store
	fence  store.Condition
	lease  store.Lease
	cancel context.CancelFunc
	done   chan struct{}
	resign sync.Once
	err    error
}

func lead(s store.Store, key string, revision int64, lease store.Lease, granted time.Time) *leadership {
	ctx, cancel := context.WithCancel(context.Background())
	l := &leadership{
		store:  s,
		fence:  store.CreateRevisionEquals(key, revision),
		lease:  lease,
		cancel: cancel,
		done:   make(chan struct{}),
	}
	var both sync.WaitGroup
	both.Go(func() {
		defer cancel()
		l.keepAlive(ctx, granted.Add(lease.TTL))
	})
	both.Go(func() {
		defer cancel()
		l.observe(ctx)
	})
	go func() {
		<-ctx.Done()
		close(l.done)
		both.Wait()
	}()
	return l
}

func (l *leadership) Fence() store.Condition { return l.fence }

func (l *leadership) Done() <-chan struct{} { return l.done }

func (l *leadership) Resign(ctx context.Context) error {
	l.resign.Do(func() {
		l.cancel()
		<-l.done
		l.err = l.store.Revoke(ctx, l.lease.ID)
	})
	return l.err
}

// keepAlive renews the lease until it is lost or may have run out: until
// deadline, counted from before each renewal was sent.
func (l *leadership) keepAlive(ctx context.Context, deadline time.Time) {
	pause := l.lease.TTL / 3
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(pause, time.Until(deadline))):
		}
		sent := time.Now()
		if !sent.Before(deadline) {
			return
		}
		try, cancel := context.WithDeadline(ctx, deadline)
		ttl, err := l.store.KeepAlive(try, l.lease.ID)
		cancel()
		switch {
		case err == nil:
			pause, deadline = ttl/3, sent.Add(ttl)
		case errors.Is(err, store.ErrLeaseNotFound), errors.Is(err, store.ErrClosed):
			return
		default:
			pause = l.lease.TTL / 10
		}
	}
}

// observe returns when the leader key is no longer ours.
func (l *leadership) observe(ctx context.Context) {
	for ctx.Err() == nil {
		kv, err := l.store.Get(ctx, l.fence.Key)
		switch {
		case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrClosed):
			return
		case err == nil && !l.fence.Holds(&kv):
			return
		case err == nil && awaitVacancy(ctx, l.store, kv) == nil:
			continue
		}
		// The store cannot be asked: the lease's deadline decides meanwhile.
		select {
		case <-ctx.Done():
		case <-time.After(l.lease.TTL / 10):
		}
	}
}

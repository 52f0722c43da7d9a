package reconcile

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// lease is until when this node may work on what lies in shared pools. Nobody else does before it is over.
type lease struct {
	mu    sync.Mutex
	until time.Time // zero = never granted
	ended bool      // something was refused or cancelled for it
}

// errLeaseOver is why a call ends whose node's lease did.
var errLeaseOver = errors.New("the node's lease is over")

func leaseOver(pool string) error {
	return fault.New(metav1.Reason_REASON_POOL_UNHEALTHY, "pool %s is shared, and this node's lease is over", pool).
		WithRemedy("it goes on when a controller answers its heartbeats; another node may go on meanwhile")
}

// needsLease reports whether a call changes what an executor is responsible for. Attaching is no such call: the volumes of a VM are its node's for as long as the VM is.
func needsLease(method string) bool {
	return slices.Contains([]string{
		"CreateVolume", "DeleteVolume", "ResizeVolume", "CreateSnapshot", "CommitSnapshot", "RestoreSnapshot", "DeleteSnapshot", "ImportImage", "ImportVolume", "DeleteImage",
	}, method)
}

// left is how much of the lease is left. The clock on the wall counts too: the other one stands still while a host sleeps.
func (l *lease) left(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return min(l.until.Sub(now), l.until.Round(0).Sub(now.Round(0)))
}

func (l *lease) noteEnded() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
}

// extend takes a new end; true when things were left undone for want of it.
func (l *lease) extend(until time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if until.After(l.until) {
		l.until = until
	}
	ended := l.ended
	l.ended = false
	return ended
}

// ExtendLease says until when a controller lets this node work on shared pools.
func (e *Engine) ExtendLease(until time.Time) {
	if !e.lease.extend(until) {
		return
	}
	drivers := map[realised.Key]string{}
	e.mu.Lock()
	for k, w := range e.wants {
		if k.Kind == realised.KindPool {
			drivers[k] = w.obj.GetPool().GetPool().GetSpec().GetDriver()
		}
	}
	e.mu.Unlock()
	for k, driver := range drivers {
		if e.sharesPools(driver) {
			e.dependents(k)
		}
	}
}

func (e *Engine) sharesPools(driver string) bool {
	p, _ := e.plugins.Plugin(driver)
	return p.Capabilities.GetStorage().GetSharedPools()
}

// underLease lets an executor's call in a shared pool begin while the lease lives, and ends its context when the lease ends.
func (e *Engine) underLease(ctx context.Context, plugin, pool, method string) (context.Context, func(), error) {
	if !needsLease(method) || !e.sharesPools(plugin) {
		return ctx, func() {}, nil
	}
	left := e.lease.left(e.now())
	if left <= 0 {
		e.lease.noteEnded()
		return nil, nil, leaseOver(pool)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		t := time.NewTimer(left)
		defer t.Stop()
		for {
			select {
			case <-done:
				return
			case <-t.C:
			}
			left := e.lease.left(e.now())
			if left <= 0 {
				e.lease.noteEnded()
				cancel(errLeaseOver)
				return
			}
			t.Reset(left)
		}
	})
	return ctx, func() { close(done); watch.Wait(); cancel(nil) }, nil
}

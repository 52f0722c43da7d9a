package reconcile

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	callsPerPlugin = 32
	callsPerPool   = 8

	shortCall = 20 * time.Second
	usualCall = time.Minute
	longCall  = 15 * time.Minute // copies of whole disks
	copyCall  = 12 * time.Hour   // the same between pools
)

// limits bounds concurrent calls: those of one pool among themselves, so that a pool that hangs does not take all of its plugin's.
type limits struct {
	mu    sync.Mutex
	slots map[string]chan struct{}
}

func newLimits() *limits { return &limits{slots: map[string]chan struct{}{}} }

func (l *limits) slot(name string, size int) chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.slots[name]
	if c == nil {
		c = make(chan struct{}, size)
		l.slots[name] = c
	}
	return c
}

// enter takes a place of the pool; without one, of the plugin: however many pools of a plugin hang, none holds a place that another needs.
func (l *limits) enter(ctx context.Context, plugin, pool string) (leave func(), err error) {
	if pool != "" {
		return l.place(ctx, "pool "+pool, callsPerPool)
	}
	return l.place(ctx, "plugin "+plugin, callsPerPlugin)
}

// place takes one of the size places that somebody's calls have.
func (l *limits) place(ctx context.Context, whose string, size int) (leave func(), err error) {
	slot := l.slot(whose, size)
	select {
	case slot <- struct{}{}:
		return func() { <-slot }, nil
	case <-ctx.Done():
		return nil, fault.New(metav1.Reason_REASON_BACKEND_TIMEOUT, "too many calls of %s are under way: %w", whose, ctx.Err())
	}
}

// call is one driver call with its deadline and its place. With pool set it is for that pool: its timeouts count against the pool, it ends when the pool is quarantined, and
// in a shared pool when the node's lease does. Looks take no place: they find out why others do not give theirs back.
func (e *Engine) call(ctx context.Context, plugin, pool, method string, deadline time.Duration, f func(context.Context) error) error {
	ctx, leavePool, err := e.Within(ctx, plugin, pool, method)
	if err != nil {
		return err
	}
	defer leavePool()
	callCtx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	entered, done := e.progress.call(callCtx, plugin, method)
	defer done()
	if !isLook(method) {
		leave, err := e.limits.enter(callCtx, plugin, pool)
		if err != nil {
			return e.whyEnded(callCtx, pool, err)
		}
		defer leave()
	}
	entered()
	return e.observed(callCtx, plugin, pool, method, f)
}

// placedCall is a call that takes one of the places of those whose it is.
func (e *Engine) placedCall(ctx context.Context, plugin, whose string, places int, method string, f func(context.Context) error) error {
	callCtx, cancel := context.WithTimeout(ctx, e.netAnswer)
	defer cancel()
	entered, done := e.progress.call(callCtx, plugin, method)
	defer done()
	leave, err := e.limits.place(callCtx, whose, places)
	if err != nil {
		return err
	}
	defer leave()
	entered()
	return e.observed(callCtx, plugin, "", method, f)
}

// callUnbounded is a call that takes as long as a guest likes: it has a deadline, but takes no place.
func (e *Engine) callUnbounded(ctx context.Context, plugin, method string, deadline time.Duration, f func(context.Context) error) error {
	callCtx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	entered, done := e.progress.call(callCtx, plugin, method)
	defer done()
	entered()
	return e.observed(callCtx, plugin, "", method, f)
}

func (e *Engine) observed(ctx context.Context, plugin, pool, method string, f func(context.Context) error) error {
	begin := time.Now()
	err := f(ctx)
	code := codes.OK
	if err != nil {
		fe := fault.From(err)
		if code = fe.Code; code == codes.DeadlineExceeded && (fault.TimeIsUp(ctx) || fe.Reason == metav1.Reason_REASON_UNSPECIFIED) { // ours, not the driver's word
			fe = fault.New(metav1.Reason_REASON_BACKEND_TIMEOUT, "plugin %s did not answer %s within %s", plugin, method, people(time.Since(begin)))
		}
		err = e.whyEnded(ctx, pool, fe)
	}
	e.observer.Called(plugin, method, code.String(), time.Since(begin))
	if pool != "" && code != codes.Canceled {
		e.poolAnswered(pool, method, code == codes.DeadlineExceeded)
	}
	return err
}

// Within lets a call for a pool begin, unless the pool is quarantined, or it is shared and the node's lease is over; the call ends with the context, and done is called then.
func (e *Engine) Within(ctx context.Context, plugin, pool, method string) (within context.Context, done func(), err error) {
	if pool == "" {
		return ctx, func() {}, nil
	}
	ctx, leave, err := e.enterPool(ctx, pool, method)
	if err != nil {
		return nil, nil, err
	}
	ctx, end, err := e.underLease(ctx, plugin, pool, method)
	if err != nil {
		leave()
		return nil, nil, err
	}
	return ctx, func() { end(); leave() }, nil
}

// whyEnded is the error of a call: when its context was ended by us it says why, not just that.
func (e *Engine) whyEnded(ctx context.Context, pool string, err error) error {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errBarred):
		return barred(pool, "")
	case errors.Is(cause, errLeaseOver):
		return leaseOver(pool)
	}
	return err
}

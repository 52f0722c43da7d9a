package reconcile

import (
	"context"
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

	// poolTimeouts in a row put a pool into quarantine: its calls are refused until it answers a probe.
	poolTimeouts = 3
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

// enter takes a place of the pool, if any, then one of the plugin.
func (l *limits) enter(ctx context.Context, plugin, pool string) (leave func(), err error) {
	var taken []chan struct{}
	leave = func() {
		for _, c := range taken {
			<-c
		}
	}
	if pool != "" {
		taken, err = take(ctx, taken, l.slot("pool/"+pool, callsPerPool))
	}
	if err == nil {
		taken, err = take(ctx, taken, l.slot("plugin/"+plugin, callsPerPlugin))
	}
	if err != nil {
		leave()
		return nil, fault.New(metav1.Reason_REASON_BACKEND_TIMEOUT, "too many calls of plugin %s are under way: %w", plugin, err)
	}
	return leave, nil
}

func take(ctx context.Context, taken []chan struct{}, c chan struct{}) ([]chan struct{}, error) {
	select {
	case c <- struct{}{}:
		return append(taken, c), nil
	case <-ctx.Done():
		return taken, ctx.Err()
	}
}

// call is one driver call with its deadline and its place. With pool set, its timeouts count against the pool.
func (e *Engine) call(ctx context.Context, plugin, pool, method string, deadline time.Duration, f func(context.Context) error) error {
	if pool != "" && method != "GetPool" && method != "EnsurePool" {
		if err := e.poolBarred(pool); err != nil {
			return err
		}
	}
	callCtx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	entered, done := e.progress.call(callCtx, plugin, method)
	defer done()
	leave, err := e.limits.enter(callCtx, plugin, pool)
	if err != nil {
		return err
	}
	defer leave()
	entered()
	return e.observed(callCtx, plugin, pool, method, f)
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
		code, err = fe.Code, fe
	}
	e.observer.Called(plugin, method, code.String(), time.Since(begin))
	if pool != "" {
		e.poolAnswered(pool, code == codes.DeadlineExceeded)
	}
	return err
}

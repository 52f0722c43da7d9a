package reconcile

import (
	"context"
	"sync"
	"time"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
)

// never says that a worker need not run again by itself.
const never = time.Duration(-1)

// queue runs one worker per key at a time. A key that is added while its worker runs is run once more, however often it was added.
type queue struct {
	run func(ctx context.Context, k realised.Key) (again time.Duration)

	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu    sync.Mutex
	items map[realised.Key]*item
}

type item struct {
	running   bool
	again     bool
	timer     *time.Timer
	interrupt context.CancelFunc
}

func newQueue(run func(context.Context, realised.Key) time.Duration) *queue {
	ctx, stop := context.WithCancel(context.Background())
	return &queue{run: run, ctx: ctx, stop: stop, items: map[realised.Key]*item{}}
}

// add runs the key's worker as soon as it is free.
func (q *queue) add(k realised.Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	it := q.items[k]
	if it == nil {
		it = &item{}
		q.items[k] = it
	}
	if it.timer != nil {
		it.timer.Stop()
		it.timer = nil
	}
	if it.running {
		it.again = true
		return
	}
	if q.ctx.Err() != nil {
		return
	}
	it.running = true
	q.wg.Go(func() { q.work(k, it) })
}

func (q *queue) work(k realised.Key, it *item) {
	for {
		after := q.run(q.ctx, k)
		q.mu.Lock()
		it.interrupt = nil
		if q.ctx.Err() != nil {
			it.running = false
			q.mu.Unlock()
			return
		}
		if it.again {
			it.again = false
			q.mu.Unlock()
			continue
		}
		it.running = false
		if after >= 0 {
			it.timer = time.AfterFunc(after, func() { q.add(k) })
		} else {
			delete(q.items, k)
		}
		q.mu.Unlock()
		return
	}
}

// interruptible gives the key's worker a context that interrupt ends.
func (q *queue) interruptible(ctx context.Context, k realised.Key) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	q.mu.Lock()
	defer q.mu.Unlock()
	if it := q.items[k]; it != nil {
		it.interrupt = cancel
	}
	return ctx, cancel
}

// interrupt ends a long wait of the key's worker, if it is in one.
func (q *queue) interrupt(k realised.Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if it := q.items[k]; it != nil && it.interrupt != nil {
		it.interrupt()
	}
}

// depth is how many workers run, and how many keys wait for a time.
func (q *queue) depth() (running, waiting int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, it := range q.items {
		switch {
		case it.running:
			running++
		case it.timer != nil:
			waiting++
		}
	}
	return running, waiting
}

// close ends all workers; what they call is cancelled.
func (q *queue) close() {
	q.stop()
	q.mu.Lock()
	for _, it := range q.items {
		if it.timer != nil {
			it.timer.Stop()
		}
	}
	q.mu.Unlock()
	q.wg.Wait()
}

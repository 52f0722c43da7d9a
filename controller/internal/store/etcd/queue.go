package etcd

import (
	"sync"
	"sync/atomic"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// call is one Commit. The dispatcher fills results and then closes done; until
// then nobody else may look at them.
type call struct {
	results   []store.Result
	left      int
	done      chan struct{}
	abandoned atomic.Bool
}

// item is one transaction of a call.
type item struct {
	call  *call
	index int
	txn   store.Txn
}

// finish records an outcome.
func (it item) finish(res store.Result) {
	it.call.results[it.index] = res
	it.call.left--
	if it.call.left == 0 {
		close(it.call.done)
	}
}

// queue holds the transactions that wait for their turn, oldest first.
type queue struct {
	mu      *sync.Mutex
	waiting []item
	wake    chan struct{}
}

func newQueue() queue {
	return queue{mu: &sync.Mutex{}, wake: make(chan struct{}, 1)}
}

func (q *queue) push(items []item) {
	q.mu.Lock()
	q.waiting = append(q.waiting, items...)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// drain takes everything.
func (q *queue) drain() []item {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := q.waiting
	q.waiting = nil
	return all
}

// next takes the transactions that can go to etcd together: those that write, or
// those that need no space, for a full etcd refuses the former. One that conflicts
// with an earlier one, be it in the group or left behind, stays for a later
// group: so those that touch the same key keep their order.
func (q *queue) next() []item {
	q.mu.Lock()
	defer q.mu.Unlock()
	var group, left []item
	seen := newFootprint()
	bytes := 0
	for i, it := range q.waiting {
		if it.call.abandoned.Load() {
			continue
		}
		if len(group) == maxGroup || i == maxScan || len(group) > 0 && !nests(group[0].txn) {
			left = append(left, q.waiting[i:]...)
			break
		}
		size := it.txn.Bytes()
		fits := len(group) == 0 || nests(it.txn) && bytes+size <= maxGroupBytes && it.txn.Puts() == group[0].txn.Puts()
		if fits && !seen.conflicts(it.txn) {
			group = append(group, it)
			bytes += size
		} else {
			left = append(left, it)
		}
		seen.add(it.txn)
	}
	q.waiting = left
	return group
}

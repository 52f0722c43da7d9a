package state

import (
	"sync"

	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Leader knows whether this process leads, and the fence of its writes.
type Leader struct {
	mu   sync.RWMutex
	lead store.Leadership
}

// Set notes a won leadership; nil notes that it is over.
func (l *Leader) Set(lead store.Leadership) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lead = lead
}

// Leading reports whether this process leads, as far as it knows.
func (l *Leader) Leading() bool {
	_, err := l.Fence()
	return err == nil
}

// Fence is the condition that every write of the leader carries. Not leading: NOT_LEADER.
func (l *Leader) Fence() (store.Condition, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.lead != nil {
		select {
		case <-l.lead.Done():
		default:
			return l.lead.Fence(), nil
		}
	}
	return store.Condition{}, fault.New(metav1.Reason_REASON_NOT_LEADER, "this controller is not the leader").
		WithRemedy("ask the leader")
}

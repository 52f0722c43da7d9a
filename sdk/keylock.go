package sdk

import (
	"sync"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// KeyLock lets one call at a time work on a key; a second one is refused (BUSY), as the contract asks, and never waits. The zero value is ready.
type KeyLock struct {
	mu   sync.Mutex
	held map[string]struct{}
}

// Lock takes all keys or none. The function it returns frees them; calling it again does nothing.
//
//	unlock, err := d.keys.Lock(req.GetDomainId())
//	if err != nil {
//		return nil, err
//	}
//	defer unlock()
func (l *KeyLock) Lock(keys ...string) (unlock func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, k := range keys {
		if _, busy := l.held[k]; busy {
			l.free(keys[:i])
			return nil, fault.New(metav1.Reason_REASON_BUSY, "another call on %s is under way", k).WithRemedy("retry soon")
		}
		if l.held == nil {
			l.held = map[string]struct{}{}
		}
		l.held[k] = struct{}{}
	}
	var once sync.Once
	return func() {
		once.Do(func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.free(keys)
		})
	}, nil
}

// free gives up keys. Needs mu.
func (l *KeyLock) free(keys []string) {
	for _, k := range keys {
		delete(l.held, k)
	}
}

package agent

import "sync"

// memo keeps what many streams render alike: the part of a network that is the same on all nodes, a rule set, the members of a group. What is kept counts until a change that
// concerns it is dispatched; whoever rendered from it before that is told to look again by the same change.
type memo struct {
	mu      sync.Mutex
	entries map[key]*entry
}

type entry struct {
	mu       sync.Mutex
	revision int64 // of the state that value was made from
	value    any
	stale    int64 // revision of the newest change that concerns it; guarded by the memo's mu
}

func newMemo() *memo { return &memo{entries: map[key]*entry{}} }

// remembered is the value of a key, made anew when it was outdated.
func remembered[T any](m *memo, k key, revision func() int64, make func() T) T {
	m.mu.Lock()
	e := m.entries[k]
	if e == nil {
		e = &entry{revision: -1}
		m.entries[k] = e
	}
	stale := e.stale
	m.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.revision < stale || e.value == nil {
		at := revision() // before it is made: it is at least as new as that
		e.value, e.revision = make(), at
	}
	v, _ := e.value.(T)
	return v
}

// outdate says that a change concerns a key.
func (m *memo) outdate(k key, revision int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.entries[k]; e != nil {
		e.stale = max(e.stale, revision)
	}
}

// forget drops a key that stands for nothing any more.
func (m *memo) forget(k key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.entries, k)
}

// reset drops everything: changes may have been missed.
func (m *memo) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.entries)
}

package state

import (
	"sync"
	"time"
)

// Beat is what the last heartbeat of a node said.
type Beat struct {
	Time     time.Time
	BootID   string
	Session  string
	Sequence int64
	Count    int // since the node was last forgotten
}

// Liveness remembers heartbeats. They are never stored.
type Liveness struct {
	mu    sync.Mutex
	beats map[string]Beat
	wake  chan struct{}
}

// NewLiveness makes a memory without heartbeats.
func NewLiveness() *Liveness {
	return &Liveness{beats: map[string]Beat{}, wake: make(chan struct{}, 1)}
}

// Note takes in a heartbeat. A late one of the same session, or one that comes again, changes nothing.
func (l *Liveness) Note(nodeID string, b Beat) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.beats[nodeID]
	if old.Session == b.Session && b.Session != "" && b.Sequence <= old.Sequence {
		return
	}
	b.Count = old.Count + 1
	l.beats[nodeID] = b
	if b.Count <= 2 {
		l.kick()
	}
}

// Last is the last heartbeat of a node; zero when there was none.
func (l *Liveness) Last(nodeID string) Beat {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.beats[nodeID]
}

// Restart begins to count a node's heartbeats anew.
func (l *Liveness) Restart(nodeID string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b, ok := l.beats[nodeID]; ok {
		b.Count = 0
		l.beats[nodeID] = b
	}
}

// Forget drops a node.
func (l *Liveness) Forget(nodeID string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.beats, nodeID)
}

// Wake tells the node monitor, its one reader, that a node is heard of again.
func (l *Liveness) Wake() <-chan struct{} { return l.wake }

func (l *Liveness) kick() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

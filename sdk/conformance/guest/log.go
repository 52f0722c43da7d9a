package guest

import (
	"context"
	"sync"
)

// Log holds what reached whom: tokens of packets by the receiver's name.
type Log struct {
	mu   sync.Mutex
	seen map[arrival]int
	more chan struct{} // closed at the next arrival
}

type arrival struct {
	at    string
	token uint32
}

// NewLog makes an empty log.
func NewLog() *Log { return &Log{seen: map[arrival]int{}, more: make(chan struct{})} }

func (l *Log) add(at string, token uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen[arrival{at, token}]++
	close(l.more)
	l.more = make(chan struct{})
}

// Seen is how often a token reached a guest.
func (l *Log) Seen(at string, token uint32) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen[arrival{at, token}]
}

// Keep forgets all tokens but these.
func (l *Log) Keep(tokens map[uint32]bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for a := range l.seen {
		if !tokens[a.token] {
			delete(l.seen, a)
		}
	}
}

// Forget empties the log.
func (l *Log) Forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.seen)
}

// Wait waits until all of the tokens have reached the guest, and reports whether they did before ctx ended.
func (l *Log) Wait(ctx context.Context, at string, tokens ...uint32) bool {
	for {
		l.mu.Lock()
		missing := false
		for _, t := range tokens {
			missing = missing || l.seen[arrival{at, t}] == 0
		}
		more := l.more
		l.mu.Unlock()
		if !missing {
			return true
		}
		select {
		case <-more:
		case <-ctx.Done():
			return false
		}
	}
}

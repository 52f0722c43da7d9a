package state

import (
	"testing"
	"time"
)

// A heartbeat counts once, however often it comes, and a late one not at all; one of a new run of the agent does.
func TestHeartbeatsCountOnce(t *testing.T) {
	t.Parallel()
	l, now := NewLiveness(), time.Now()
	for i, b := range []struct {
		session  string
		sequence int64
		count    int
	}{{"a", 5, 1}, {"a", 5, 1}, {"a", 4, 1}, {"a", 6, 2}, {"a", 6, 2}, {"b", 1, 3}, {"", 0, 4}, {"", 0, 5}} {
		l.Note("n", Beat{Time: now, Session: b.session, Sequence: b.sequence})
		if got := l.Last("n").Count; got != b.count {
			t.Errorf("beat %d: %d count, want %d", i, got, b.count)
		}
	}
}

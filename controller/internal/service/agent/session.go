package agent

import (
	"sync"

	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
)

// session is one open stream: what it has yet to look at.
type session struct {
	over chan struct{} // closed when a newer stream of the node takes its place
	wake chan struct{}

	mu       sync.Mutex
	dirty    map[key]struct{}
	all      bool // everything has to be looked at
	tunnels  []*agentv1.OpenTunnel
	revision int64
}

func newSession() *session {
	return &session{over: make(chan struct{}), wake: make(chan struct{}, 1), dirty: map[key]struct{}{}}
}

func (ss *session) mark(k key, revision int64) {
	ss.mu.Lock()
	ss.dirty[k] = struct{}{}
	ss.revision = max(ss.revision, revision)
	ss.mu.Unlock()
	ss.kick()
}

func (ss *session) resync() {
	ss.mu.Lock()
	ss.all = true
	ss.mu.Unlock()
	ss.kick()
}

func (ss *session) ask(open *agentv1.OpenTunnel) {
	ss.mu.Lock()
	ss.tunnels = append(ss.tunnels, open)
	ss.mu.Unlock()
	ss.kick()
}

func (ss *session) kick() {
	select {
	case ss.wake <- struct{}{}:
	default:
	}
}

// work is what a session has taken up.
type work struct {
	dirty    map[key]struct{}
	all      bool
	tunnels  []*agentv1.OpenTunnel
	revision int64
}

func (ss *session) take() work {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	w := work{dirty: ss.dirty, all: ss.all, tunnels: ss.tunnels, revision: ss.revision}
	ss.dirty, ss.all, ss.tunnels = map[key]struct{}{}, false, nil
	return w
}

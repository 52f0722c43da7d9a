package host

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// State is what a Supervisor does with its plugin.
type State string

// The states of a supervised plugin.
const (
	StateStopped     State = "STOPPED"     // not started, or closed
	StateStarting    State = "STARTING"    // being launched, negotiated, configured
	StateRunning     State = "RUNNING"     // serves calls; Health says how well
	StateBackoff     State = "BACKOFF"     // crashed or refused; tried again at RetryTime
	StateQuarantined State = "QUARANTINED" // crashed too often; waits for Reset or Swap
)

// Status is what is known of a supervised plugin. It is a copy: change it as you like, but for Capabilities, which is shared and read-only.
type Status struct {
	Name    string // from the manifest, once read
	Version string
	Kinds   []string
	State   State
	// Health is what the plugin last reported; UNHEALTHY whenever State is not RUNNING.
	Health driverv1.HealthState
	// Reason is machine-readable, empty when all is well: the plugin's own, or PLUGIN_UNAVAILABLE, PLUGIN_QUARANTINED, PLUGIN_INVALID, ...
	Reason string
	// Message is for people; of a crash it holds the last lines that the plugin printed.
	Message      string
	PID          int               // 0 unless RUNNING
	Restarts     int               // how often the plugin was started again, since the supervisor was started
	Attributes   map[string]string // the plugin's facts, from its last report
	Capabilities *driverv1.GetCapabilitiesResponse
	Since        time.Time // when State began
	RetryTime    time.Time // in BACKOFF, when it is tried again
}

func (s Status) clone() Status {
	s.Attributes = maps.Clone(s.Attributes)
	s.Kinds = slices.Clone(s.Kinds)
	return s
}

// board holds the current Status and tells subscribers of changes. A slow subscriber misses steps in between, never the last one.
type board struct {
	now func() time.Time

	mu     sync.Mutex
	status Status
	subs   map[chan Status]struct{}
	closed bool
}

func newBoard(now func() time.Time) *board {
	return &board{now: now, status: Status{State: StateStopped, Health: driverv1.HealthState_HEALTH_STATE_UNHEALTHY, Since: now()}, subs: map[chan Status]struct{}{}}
}

// update changes the status and tells all subscribers.
func (b *board) update(change func(*Status)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.status.State
	change(&b.status)
	if b.status.State != before {
		b.status.Since = b.now()
	}
	for c := range b.subs {
		b.offer(c)
	}
}

func (b *board) get() Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.status.clone()
}

// subscribe returns a channel that holds the current status, then every later one; closed when ctx ends or the board is closed.
func (b *board) subscribe(ctx context.Context) <-chan Status {
	c := make(chan Status, 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	c <- b.status.clone()
	if b.closed {
		close(c)
		return c
	}
	b.subs[c] = struct{}{}
	context.AfterFunc(ctx, func() { b.drop(c) })
	return c
}

func (b *board) drop(c chan Status) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.subs[c]; ok {
		delete(b.subs, c)
		close(c)
	}
}

func (b *board) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for c := range b.subs {
		delete(b.subs, c)
		close(c)
	}
}

// offer puts the status into a channel of one, in place of what is there. Needs mu, so nobody else puts.
func (b *board) offer(c chan Status) {
	select {
	case <-c:
	default:
	}
	c <- b.status.clone()
}

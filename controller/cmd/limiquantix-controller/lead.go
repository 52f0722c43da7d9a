package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/server"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/controller/internal/store/election"
)

// electionName is what controllers campaign for.
const electionName = "controller"

// leadership campaigns for the lead, runs what only a leader runs, and knows who leads.
type leadership struct {
	store  store.Store
	state  *state.Leader
	self   server.Leader
	log    *slog.Logger
	duties func(ctx context.Context, lead store.Leadership) error // runs while we lead, until ctx ends

	mu    sync.Mutex
	other server.Leader // as last read; ours too
	term  chan struct{} // of the present leadership, closed at its end; nil = none
}

// Term implements server.Leadership.
func (l *leadership) Term() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.term == nil {
		return ended
	}
	return l.term
}

// ended is the term of who does not lead.
var ended = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// Leading implements server.Leadership.
func (l *leadership) Leading() bool { return l.state.Leading() }

// Leader implements server.Leadership.
func (l *leadership) Leader() server.Leader {
	if l.Leading() {
		return l.self
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.other == l.self {
		return server.Leader{} // we lead no longer, and nobody else does yet
	}
	return l.other
}

// run campaigns again and again until ctx ends.
func (l *leadership) run(ctx context.Context) {
	for ctx.Err() == nil {
		lead, err := l.store.Campaign(ctx, electionName, l.self.ID+" "+l.self.Address)
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, store.ErrClosed) {
				l.log.Warn("campaign for leadership failed", "error", err)
			}
			if !pause(ctx, time.Second) {
				return
			}
			continue
		}
		l.log.Info("this controller leads", "controller_id", l.self.ID, "agent_address", l.self.Address)
		if !l.lead(ctx, lead) && !pause(ctx, time.Second) {
			return
		}
	}
}

// lead does a leader's duties until the leadership or ctx ends; false when they ended by themselves.
func (l *leadership) lead(ctx context.Context, lead store.Leadership) bool {
	term := make(chan struct{})
	l.mu.Lock()
	l.term = term
	l.mu.Unlock()
	l.state.Set(lead)
	duty, cancel := context.WithCancel(ctx)
	stop := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-lead.Done():
		case <-stop:
		}
		cancel()
	})
	err := l.duties(duty, lead)
	willing := duty.Err() != nil
	if !willing {
		l.log.Error("a leader's duty ended by itself; giving the leadership up", "error", err)
	}
	close(stop)
	watch.Wait()
	l.state.Set(nil)
	l.mu.Lock()
	l.term = nil
	l.mu.Unlock()
	close(term)
	resign, done := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer done()
	if err := lead.Resign(resign); err != nil {
		l.log.Warn("resigning failed; others wait until the lease runs out", "error", err)
	}
	l.log.Info("this controller leads no longer", "controller_id", l.self.ID)
	return willing
}

// follow reads who leads, until ctx ends.
func (l *leadership) follow(ctx context.Context) {
	for {
		kv, err := l.store.Get(ctx, election.KeyPrefix+electionName)
		var who server.Leader
		if err == nil {
			who.ID, who.Address, _ = strings.Cut(string(kv.Value), " ")
		}
		if err == nil || errors.Is(err, store.ErrNotFound) {
			l.mu.Lock()
			l.other = who
			l.mu.Unlock()
		}
		if !pause(ctx, time.Second) {
			return
		}
	}
}

// pause waits; false when ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

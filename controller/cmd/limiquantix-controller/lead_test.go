package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/server"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/controller/internal/store/memory"
)

func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !so(); {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// Two controllers on one store: one leads, the other knows it, and takes over when the first stops.
func TestLeadershipPassesOn(t *testing.T) {
	t.Parallel()
	s := memory.Open(memory.Options{})
	defer s.Close()
	var duty sync.Mutex // held by who does the duties: never two at once
	var tasks sync.WaitGroup
	begin := func(id string) (*leadership, context.CancelFunc) {
		l := &leadership{
			store: s, state: &state.Leader{}, self: server.Leader{ID: id, Address: id + ":8081"}, log: slog.New(slog.DiscardHandler),
			duties: func(ctx context.Context, _ store.Leadership) error {
				if !duty.TryLock() {
					t.Error("two leaders")
					return errors.New("two leaders")
				}
				defer duty.Unlock()
				<-ctx.Done()
				return ctx.Err()
			},
		}
		ctx, cancel := context.WithCancel(context.Background())
		tasks.Go(func() { l.run(ctx) })
		tasks.Go(func() { l.follow(ctx) })
		return l, cancel
	}
	a, stopA := begin("a")
	eventually(t, "a leads", a.Leading)
	b, stopB := begin("b")
	eventually(t, "b knows that a leads", func() bool { return b.Leader() == a.self })
	if b.Leading() || a.Leader() != a.self {
		t.Error("b leads too, or a does not know itself")
	}
	term := a.Term()
	select {
	case <-term:
		t.Error("a's term is over")
	default:
	}
	<-b.Term() // closed: it has none
	stopA()
	<-term
	eventually(t, "b leads", b.Leading)
	if a.Leading() {
		t.Error("a still leads")
	}
	stopB()
	tasks.Wait()
}

// A duty that fails does not leave a leader that does nothing.
func TestFailedDutyGivesTheLeadUp(t *testing.T) {
	t.Parallel()
	s := memory.Open(memory.Options{})
	defer s.Close()
	terms := make(chan struct{}, 2)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l := &leadership{
		store: s, state: &state.Leader{}, self: server.Leader{ID: "a"}, log: slog.New(slog.DiscardHandler),
		duties: func(context.Context, store.Leadership) error {
			select {
			case terms <- struct{}{}:
				return errors.New("broken")
			default:
				<-ctx.Done()
				return ctx.Err()
			}
		},
	}
	var tasks sync.WaitGroup
	tasks.Go(func() { l.run(ctx) })
	eventually(t, "it tries again", func() bool { return len(terms) == 2 && l.Leading() })
	cancel()
	tasks.Wait()
}

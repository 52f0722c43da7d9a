package host

import (
	"context"
	"time"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// loop is the supervisor's one decision maker: launch, serve, and after a failure wait, until the supervisor is closed.
func (s *Supervisor) loop() {
	defer func() {
		s.gate.clear(fault.New(metav1.Reason_REASON_PLUGIN_UNAVAILABLE, "the plugin has been stopped"))
		s.board.update(func(st *Status) {
			st.State, st.PID, st.Health, st.Reason, st.Message = StateStopped, 0, unhealthy, "", ""
		})
	}()
	if err := Sweep(s.spec.RuntimeDir); err != nil {
		s.spec.Logger.Warn("cannot remove what an earlier life left", "directory", s.spec.RuntimeDir, "error", err)
	}
	var history crashes
	for first := true; s.life.Err() == nil; first = false {
		s.starting(first)
		p, err := Launch(s.life, s.spec)
		if err == nil {
			err = s.serve(p, &history)
		}
		if s.life.Err() != nil {
			return
		}
		s.wait(err, &history)
	}
}

const unhealthy = driverv1.HealthState_HEALTH_STATE_UNHEALTHY

func (s *Supervisor) starting(first bool) {
	m, _ := ReadManifest(s.spec.Dir) // Launch says what is wrong with it
	s.board.update(func(st *Status) {
		st.State, st.RetryTime = StateStarting, time.Time{}
		if !first {
			st.Restarts++
		}
		if m != nil {
			st.Name, st.Version, st.Kinds = m.Name, m.Version, m.Kinds
		}
	})
}

// serve lets p serve until it ends, hangs or the supervisor is closed, and returns why. A swap puts another process in p's place.
func (s *Supervisor) serve(p *Process, history *crashes) error {
	s.gate.set(p)
	w := s.running(p)
	defer func() {
		w.stop()
		_ = p.Stop(context.Background(), s.policy.StopGrace)
	}()
	for {
		select {
		case <-s.life.Done():
			s.gate.clear(fault.New(metav1.Reason_REASON_PLUGIN_UNAVAILABLE, "the plugin is being stopped"))
			return nil
		case <-p.Done():
			err := p.Err()
			s.gate.clear(err)
			return err
		case <-w.hangs:
			err := p.unavailable("plugin %s hangs: %s", p.manifest.Name, w.why)
			s.gate.clear(err)
			_ = p.Stop(context.Background(), 0) // at once: it would not hear anything else
			return err
		case a := <-s.asks:
			switch {
			case a.reset:
				history.reset()
				a.done <- nil
			case a.spec != nil:
				a.done <- s.reconfigure(a, p)
			case a.swap != nil:
				next, err := s.launchFor(a)
				if err != nil {
					a.done <- err
					continue
				}
				w.stop()
				s.spec = *a.swap
				history.reset()
				old := p
				p = next
				w = s.running(p)
				s.swapped(old, p, a.done)
			}
		}
	}
}

// launchFor launches the plugin of a swap, for as long as both the asker and the supervisor want it.
func (s *Supervisor) launchFor(a ask) (*Process, error) {
	if s.draining.Load() {
		return nil, fault.New(metav1.Reason_REASON_BUSY, "an earlier swap of the plugin is not done").WithRemedy("retry soon")
	}
	ctx, cancel := context.WithCancel(a.ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	return Launch(ctx, *a.swap)
}

// swapped leads calls to next, and ends old behind the loop's back when its calls are done.
func (s *Supervisor) swapped(old, next *Process, done chan<- error) {
	s.draining.Store(true)
	switched := make(chan struct{})
	s.wg.Go(func() {
		ctx, cancel := context.WithTimeout(s.life, s.policy.DrainTimeout)
		defer cancel()
		s.gate.swap(ctx, next, switched)
		if err := old.Stop(context.Background(), s.policy.StopGrace); err != nil {
			old.log.Warn("the plugin that was replaced does not end", "error", err)
		}
		s.draining.Store(false)
		done <- nil
	})
	<-switched
}

// reconfigure hands a new configuration to p and keeps it.
func (s *Supervisor) reconfigure(a ask, p *Process) error {
	ctx, cancel := context.WithTimeout(a.ctx, s.spec.StartTimeout)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	if err := p.Configure(ctx, a.spec.Host, a.spec.ConfigJSON, a.spec.Secrets); err != nil {
		return err
	}
	s.spec.Host, s.spec.ConfigJSON, s.spec.Secrets = a.spec.Host, a.spec.ConfigJSON, a.spec.Secrets
	caps := p.Capabilities()
	s.board.update(func(st *Status) { st.Capabilities = caps })
	return nil
}

// wait passes the time until the next start, after err: backoff, or quarantine until somebody asks.
func (s *Supervisor) wait(err error, history *crashes) {
	state, wait := StateBackoff, s.policy.BackoffMax
	if !permanent(err) {
		var quarantine bool
		if wait, quarantine = history.add(s.policy, s.policy.Now()); quarantine {
			state = StateQuarantined
			f := fault.New(metav1.Reason_REASON_PLUGIN_QUARANTINED, "the plugin failed %d times within %s and is quarantined; the last time: %s",
				s.policy.Crashes, s.policy.Window, fault.From(err).Message)
			err = f.WithRemedy("mend the cause, then reset the plugin or install another version").WithMetadata("plugin", s.Status().Name)
		}
	}
	s.spec.Logger.Warn("plugin failed", "plugin", s.Status().Name, "state", state, "retry_in", wait, "error", err)
	s.gate.clear(err)
	f := fault.From(err)
	s.board.update(func(st *Status) {
		st.State, st.PID, st.Health, st.Reason, st.Message = state, 0, unhealthy, fault.ReasonName(f.Reason), f.Message
		if state == StateBackoff {
			st.RetryTime = s.policy.Now().Add(wait)
		}
	})
	var due <-chan time.Time
	if state == StateBackoff {
		t := time.NewTimer(wait)
		defer t.Stop()
		due = t.C
	}
	for {
		select {
		case <-s.life.Done():
			return
		case <-due:
			return
		case a := <-s.asks:
			if s.askedWhileDown(a, state, history) {
				return
			}
		}
	}
}

// askedWhileDown answers a request while no process runs and reports whether to start one now.
func (s *Supervisor) askedWhileDown(a ask, state State, history *crashes) bool {
	defer func() { a.done <- nil }()
	switch {
	case a.reset:
		history.reset()
		return true
	case a.swap != nil:
		s.spec = *a.swap
		history.reset()
		return true
	default:
		s.spec.Host, s.spec.ConfigJSON, s.spec.Secrets = a.spec.Host, a.spec.ConfigJSON, a.spec.Secrets
		return state != StateQuarantined
	}
}

package host

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// quick is a policy for tests.
var quick = Policy{
	BackoffMin: 5 * time.Millisecond, BackoffMax: 20 * time.Millisecond, Crashes: 3, Window: time.Minute,
	CheckInterval: 50 * time.Millisecond, CheckTimeout: 500 * time.Millisecond, StopGrace: 300 * time.Millisecond,
}

func supervise(t *testing.T, spec Spec, policy Policy) *Supervisor {
	t.Helper()
	s := NewSupervisor(spec, policy)
	s.Start()
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if st := s.Status(); st.State != StateStopped {
			t.Errorf("closed, but %s", st.State)
		}
		assertEmpty(t, spec.RuntimeDir)
	})
	return s
}

// until waits for a status and returns it.
func until(t *testing.T, s *Supervisor, what string, ok func(Status) bool) Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var last Status
	for st := range s.Subscribe(ctx) {
		if last = st; ok(st) {
			return st
		}
	}
	t.Fatalf("%s never was; last: %+v", what, last)
	return last
}

func healthy(st Status) bool {
	return st.State == StateRunning && st.Health == driverv1.HealthState_HEALTH_STATE_HEALTHY
}

func TestSupervisorRestartsWhatIsKilled(t *testing.T) {
	t.Parallel()
	s := supervise(t, install(t, "serve"), quick)
	st := until(t, s, "healthy", healthy)
	if st.Name != "fake" || st.Version != "1.2.3" || st.Attributes["fake.version"] != "1.2.3" || st.Capabilities.GetCompute() == nil {
		t.Errorf("status %+v", st)
	}
	if err := syscall.Kill(st.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	again := until(t, s, "running again", func(n Status) bool { return healthy(n) && n.PID != st.PID })
	if again.Restarts != 1 {
		t.Errorf("%d restarts", again.Restarts)
	}
	if _, err := do(t.Context(), s.Compute(), "version"); err != nil {
		t.Errorf("a client from before does not lead to the new process: %v", err)
	}
}

func TestCrashLoopQuarantineReset(t *testing.T) {
	t.Parallel()
	spec := install(t, "serve")
	spec.ConfigJSON = `{"crash":true}`
	s := supervise(t, spec, quick)
	st := until(t, s, "quarantined", func(st Status) bool { return st.State == StateQuarantined })
	if st.Restarts != 2 || st.Reason != "PLUGIN_QUARANTINED" || !strings.Contains(st.Message, "told to crash") {
		t.Errorf("status %+v", st)
	}
	if _, err := do(t.Context(), s.Compute(), "version"); !fault.Is(err, metav1.Reason_REASON_PLUGIN_QUARANTINED) {
		t.Errorf("a call: %v", err)
	}
	if err := s.Reconfigure(t.Context(), spec.Host, `{}`, nil); err != nil {
		t.Fatal(err)
	}
	if st := s.Status(); st.State != StateQuarantined {
		t.Errorf("a new configuration alone ended the quarantine: %s", st.State)
	}
	if err := s.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, s, "healthy after the reset", healthy)
}

func TestSupervisorWaitsForWhatCannotStart(t *testing.T) {
	t.Parallel()
	spec := install(t, "serve")
	spec.ConfigJSON = `{"unknown":1}`
	s := supervise(t, spec, quick)
	// Far more tries than crashes are allowed: a wrong configuration is no crash.
	st := until(t, s, "tried often", func(st Status) bool { return st.Restarts > 2*quick.Crashes })
	if st.State == StateQuarantined {
		t.Errorf("status %+v", st)
	}
	if err := s.Reconfigure(t.Context(), spec.Host, `{"number":2}`, nil); err != nil {
		t.Fatal(err)
	}
	until(t, s, "healthy", healthy)
}

func TestSupervisorReplacesWhatHangs(t *testing.T) {
	t.Parallel()
	for mode, tc := range map[string]struct {
		health time.Duration
		stop   bool
	}{"serve": {time.Minute, true}, "serve:silent": {200 * time.Millisecond, false}} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			policy := quick
			policy.HealthTimeout, policy.CheckTimeout = tc.health, 50*time.Millisecond
			s := supervise(t, install(t, mode), policy)
			st := until(t, s, "running", func(st Status) bool { return st.State == StateRunning })
			if tc.stop {
				if err := syscall.Kill(st.PID, syscall.SIGSTOP); err != nil {
					t.Fatal(err)
				}
			}
			until(t, s, "replaced", func(n Status) bool { return n.State == StateRunning && n.PID != st.PID })
			eventually(t, 5*time.Second, "the old process is gone", func() bool { return !alive(st.PID) })
		})
	}
}

func TestSwap(t *testing.T) {
	t.Parallel()
	old := install(t, "serve")
	s := supervise(t, old, quick)
	before := until(t, s, "healthy", healthy)

	bad := install(t, "exit")
	bad.RuntimeDir = old.RuntimeDir
	if err := s.Swap(t.Context(), bad); !fault.Is(err, metav1.Reason_REASON_PLUGIN_UNAVAILABLE) {
		t.Fatalf("swap for a broken one: %v", err)
	}
	if st := s.Status(); !healthy(st) || st.PID != before.PID {
		t.Fatalf("the old one does not serve on: %+v", st)
	}

	// A call is under way during the swap: the old process finishes it, a later one waits for that and goes to the new one.
	flag := filepath.Join(t.TempDir(), "go")
	slow := make(chan error, 1)
	go func() {
		_, err := do(t.Context(), s.Compute(), "wait:"+flag)
		slow <- err
	}()
	eventually(t, 5*time.Second, "the call is under way", func() bool {
		s.gate.mu.Lock()
		defer s.gate.mu.Unlock()
		return len(s.gate.calls) == 1
	})
	next := install(t, "serve:version=2.0.0", func(m *Manifest) { m.Version = "2.0.0" })
	next.RuntimeDir = old.RuntimeDir
	swapped := make(chan error, 1)
	go func() { swapped <- s.Swap(t.Context(), next) }()
	until(t, s, "the new one runs", func(st Status) bool { return st.Version == "2.0.0" && st.State == StateRunning })
	later := make(chan string, 1)
	go func() {
		v, err := do(t.Context(), s.Compute(), "version")
		if err != nil {
			v = err.Error()
		}
		later <- v
	}()
	if err := s.Swap(t.Context(), old); !fault.Is(err, metav1.Reason_REASON_BUSY) {
		t.Errorf("a swap during a swap: %v", err)
	}
	select {
	case v := <-later:
		t.Errorf("a call (%s) did not wait for the old process", v)
	default:
	}
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-slow; err != nil {
		t.Errorf("the call under way: %v", err)
	}
	if v := <-later; v != "2.0.0" {
		t.Errorf("the later call was answered by %q", v)
	}
	if err := <-swapped; err != nil {
		t.Error(err)
	}
	if alive(before.PID) {
		t.Error("the old process lives")
	}
}

func TestClosedSupervisorRefuses(t *testing.T) {
	t.Parallel()
	s := NewSupervisor(install(t, "serve"), quick)
	if _, err := do(t.Context(), s.Compute(), "version"); !fault.Is(err, metav1.Reason_REASON_PLUGIN_UNAVAILABLE) {
		t.Errorf("not started: %v", err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Start()
	if err := s.Reset(t.Context()); !fault.Is(err, metav1.Reason_REASON_PLUGIN_UNAVAILABLE) {
		t.Errorf("closed: %v", err)
	}
	if _, err := s.Conn(); !fault.Is(err, metav1.Reason_REASON_PLUGIN_UNAVAILABLE) {
		t.Errorf("closed: %v", err)
	}
}

package placement

import (
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/state"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

const (
	ready   = computev1.NodePhase_NODE_PHASE_READY
	unknown = computev1.NodePhase_NODE_PHASE_UNKNOWN
)

func TestAlive(t *testing.T) {
	t.Parallel()
	began := time.Unix(1000, 0)
	w := &worker{Config: Config{HeartbeatTimeout: 20 * time.Second}, since: began}
	at := func(s int) time.Time { return began.Add(time.Duration(s) * time.Second) }
	for name, tc := range map[string]struct {
		was   computev1.NodePhase
		beat  int // seconds; -1 = none since this controller runs
		count int
		now   int
		want  bool
	}{
		"beats":                        {ready, 95, 10, 100, true},
		"a beat was lost":              {ready, 85, 10, 100, true},
		"at the timeout":               {ready, 80, 10, 100, true},
		"past the timeout":             {ready, 79, 10, 100, false},
		"not heard of by a new leader": {ready, -1, 0, 20, true},
		"not heard of for a full timeout of its own": {ready, -1, 0, 21, false},
		"unknown, and silent":                        {unknown, 10, 0, 100, false},
		"unknown, one beat":                          {unknown, 99, 1, 100, false},
		"unknown, two beats":                         {unknown, 99, 2, 100, true},
		"unknown, two beats long ago":                {unknown, 10, 2, 100, false},
		"unknown, not heard of by a new leader":      {unknown, -1, 0, 5, false},
	} {
		var beat state.Beat
		if tc.beat >= 0 {
			beat = state.Beat{Time: at(tc.beat), Count: tc.count}
		}
		if got := w.alive(tc.was, beat, at(tc.now)); got != tc.want {
			t.Errorf("%s: alive is %v", name, got)
		}
	}
}

// A node that is heard of now and then, at any pace that is slower than the timeout, is unknown the whole time: its phase does not flap with each heartbeat.
func TestFlappingNodeStaysUnknown(t *testing.T) {
	t.Parallel()
	const timeout = 20 * time.Second
	for _, pace := range []time.Duration{timeout + 3*time.Second, 2 * timeout, 10 * timeout} {
		now := time.Unix(1000, 0)
		live := state.NewLiveness()
		w := &worker{Config: Config{HeartbeatTimeout: timeout, Live: live}, since: now}
		phase, changes := ready, 0
		next := now.Add(pace)
		for end := now.Add(50 * pace); now.Before(end); now = now.Add(time.Second) {
			if !now.Before(next) {
				live.Note("n", state.Beat{Time: now, Session: "s"})
				next = next.Add(pace)
			}
			if _, alive := w.heard("n", phase, now); alive != (phase != unknown) {
				changes++
				if phase = unknown; alive {
					phase = ready
				} else {
					live.Restart("n")
				}
			}
		}
		if changes != 1 || phase != unknown {
			t.Errorf("heard of every %s with a timeout of %s: phase changed %d times, ends as %s", pace, timeout, changes, phase)
		}
	}
}

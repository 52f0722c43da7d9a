package host

import (
	"testing"
	"time"
)

func TestBackoffAndQuarantine(t *testing.T) {
	t.Parallel()
	p := Policy{Random: func() float64 { return 0 }}.withDefaults()
	var c crashes
	now := time.Unix(1000, 0)
	for i, want := range []time.Duration{200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond, 1600 * time.Millisecond} {
		if got, q := c.add(p, now); got != want || q {
			t.Errorf("crash %d: %s, %v; want %s", i+1, got, q, want)
		}
	}
	if _, q := c.add(p, now.Add(p.Window-1)); !q {
		t.Error("the fifth crash within the window is no quarantine")
	}
	c.reset()
	for i := range 20 { // one crash per window is borne for ever
		if got, q := c.add(p, now.Add(time.Duration(i)*p.Window)); got != p.BackoffMin || q {
			t.Errorf("rare crash %d: %s, %v", i+1, got, q)
		}
	}
	if got := p.backoff(60); got != p.BackoffMax {
		t.Errorf("longest wait: %s", got)
	}
	p.Random = func() float64 { return 0.999 }
	if got := p.backoff(60); got < p.BackoffMax*8/10 || got >= p.BackoffMax {
		t.Errorf("jitter: %s", got)
	}
}

package host

import (
	"math/rand/v2"
	"time"
)

// Policy is how a Supervisor keeps its plugin running. Zero values mean the defaults in parentheses.
type Policy struct {
	BackoffMin    time.Duration // wait after the first crash (200 ms); doubles with each further one
	BackoffMax    time.Duration // longest wait (30 s)
	Crashes       int           // so many crashes ... (5)
	Window        time.Duration // ... within this time mean quarantine (10 min)
	HealthTimeout time.Duration // no report of health for so long: the plugin hangs (45 s; the contract asks for one every 30 s)
	CheckInterval time.Duration // how often the plugin is asked whether it answers at all (10 s)
	CheckTimeout  time.Duration // how long it may take to answer (5 s); three times late in a row: it hangs
	StopGrace     time.Duration // how long calls under way may take when the plugin is stopped (5 s)
	DrainTimeout  time.Duration // the same when it is swapped for another (30 s)

	Now    func() time.Time // time.Now
	Random func() float64   // in [0,1), for jitter
}

func (p Policy) withDefaults() Policy {
	dur := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	dur(&p.BackoffMin, 200*time.Millisecond)
	dur(&p.BackoffMax, 30*time.Second)
	dur(&p.Window, 10*time.Minute)
	dur(&p.HealthTimeout, 45*time.Second)
	dur(&p.CheckInterval, 10*time.Second)
	dur(&p.CheckTimeout, 5*time.Second)
	dur(&p.StopGrace, 5*time.Second)
	dur(&p.DrainTimeout, 30*time.Second)
	if p.Crashes <= 0 {
		p.Crashes = 5
	}
	if p.Now == nil {
		p.Now = time.Now
	}
	if p.Random == nil {
		p.Random = rand.Float64
	}
	return p
}

// maxLate is how many checks in a row may be late before the plugin counts as hanging.
const maxLate = 3

// crashes is the recent history of a plugin's crashes.
type crashes struct {
	at []time.Time
}

// add notes a crash at now and decides: wait for so long, or quarantine.
func (c *crashes) add(p Policy, now time.Time) (wait time.Duration, quarantine bool) {
	kept := c.at[:0]
	for _, t := range c.at {
		if now.Sub(t) < p.Window {
			kept = append(kept, t)
		}
	}
	c.at = append(kept, now)
	if len(c.at) >= p.Crashes {
		return 0, true
	}
	return p.backoff(len(c.at)), false
}

func (c *crashes) reset() { c.at = nil }

// backoff is how long to wait after the n-th crash in a row: doubling, capped, and up to a fifth less so that many plugins do not start in step.
func (p Policy) backoff(n int) time.Duration {
	d := p.BackoffMin
	for i := 1; i < n && d < p.BackoffMax; i++ {
		d *= 2
	}
	d = min(d, p.BackoffMax)
	return d - time.Duration(p.Random()*0.2*float64(d))
}

package reconcile

import (
	"time"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

const (
	restartMin = time.Second
	restartMax = 5 * time.Minute
	// steadyAfter is how long a guest must run for its earlier ends to be forgotten.
	steadyAfter = 10 * time.Minute
)

// endings counts how often a guest ended by itself in a row, so that one that crashes at once does not do so all the time.
type endings struct {
	count int
	at    time.Time // when it is started again; zero = it runs, as far as is known
	since time.Time // when it was first seen running
}

// runs notes that the domain is on, or off for another reason.
func (n *endings) runs(d *driverv1.Domain, now time.Time) {
	n.at = time.Time{}
	if !isOn(d) {
		n.since = time.Time{}
		return
	}
	if n.since.IsZero() {
		n.since = now
	}
	if now.Sub(n.since) >= steadyAfter {
		n.count = 0
	}
}

// restartAt counts the end, once, and says when to start again: doubling with each end in a row.
func (n *endings) restartAt(now time.Time) time.Time {
	if !n.at.IsZero() {
		return n.at
	}
	if !n.since.IsZero() && now.Sub(n.since) >= steadyAfter {
		n.count = 0
	}
	d := restartMin
	for i := 0; i < n.count && d < restartMax; i++ {
		d *= 2
	}
	n.count++
	n.since, n.at = time.Time{}, now.Add(min(d, restartMax))
	return n.at
}

// restarted notes that it was started again.
func (n *endings) restarted() { n.at = time.Time{} }

package store

import (
	"context"
	"time"
)

// LeaseID names a lease; 0 is no lease.
type LeaseID int64

// Lease is a lease as it was granted.
type Lease struct {
	ID  LeaseID
	TTL time.Duration
}

// Leadership is a won election.
type Leadership interface {
	// Fence holds as long as this leadership does. Every write made as the
	// leader carries it.
	Fence() Condition
	// Done is closed when the leadership is lost, given up, or can no longer be
	// shown to be alive; that is never later than the lease's own end.
	Done() <-chan struct{}
	// Resign gives up at once, so that another can lead without waiting for the
	// lease to run out. To resign again does nothing.
	Resign(ctx context.Context) error
}

// Package store says what the controller asks of the place that holds its
// state. It holds the interface, the values that cross it and the errors it
// returns; the implementations are its sub-packages. It imports nothing of the
// rest of the controller.
package store

import (
	"context"
	"time"
)

// Store is an ordered map from keys to small values, with one revision counter
// for the whole map.
//
// # Revisions
//
// Every change raises the revision. A key remembers the revision that created
// it, the revision that last changed it and how many times it was written since
// it was created. Revisions are comparable across keys, survive a restart of a
// durable store and never go back. Transactions that the store groups share one
// revision, so an equal revision does not mean the same transaction.
//
// # Reading
//
// Get and List see every commit that was acknowledged before they were called.
// List answers from one revision; naming that revision again continues the walk
// as if nothing had been written meanwhile, until the revision is compacted
// away and List says ErrCompacted. What a Store returns may be shared with
// others: never modify a returned value.
//
// # Writing
//
// All writes go through Commit. It takes independent transactions: each has its
// own conditions, operations and outcome, and one that does not hold leaves the
// others alone. Each transaction is atomic. Transactions of one call that touch
// the same key take effect in the order given; those that share no key have no
// order. The store may write several transactions, also of different callers,
// at once, so that they share the cost of making them durable. Once Commit has
// returned, what it acknowledged survives a crash (of a durable store).
//
// # Watching
//
// A watch delivers every change under a prefix, in revision order, with all the
// changes of one revision in one batch. A consumer that falls behind loses
// nothing: it either gets everything or is told ErrCompacted, and then lists
// again and watches from the revision after the listed one.
//
// # Leases and leadership
//
// A lease is a promise to stay alive: the keys attached to it are deleted, in
// one revision, when it runs out or is revoked. Campaign builds leadership on
// it. Leadership alone proves nothing, since a leader may be paused between
// checking and writing: every write of a leader carries Leadership.Fence as a
// condition, and then a deposed leader's write is refused by the store itself.
//
// # Errors
//
// The sentinels of this package, wrapped; test with errors.Is. A cancelled or
// expired ctx gives the ctx's error. After Close every call gives ErrClosed. All
// methods are safe for concurrent use.
type Store interface {
	// Get returns one key, or ErrNotFound.
	Get(ctx context.Context, key string) (KV, error)

	// List returns the keys with a prefix in byte order. The empty prefix is
	// every key.
	List(ctx context.Context, prefix string, opts ListOptions) (ListResult, error)

	// Commit runs transactions. The results are in the order of txns, one for
	// each, also when err is not nil, unless nothing at all was attempted.
	//
	// A transaction whose conditions do not hold is not an error: its result
	// says so. err is the first Result.Err, for the caller who has nothing to
	// say about single failures. After ErrUnavailable, ErrClosed, or the ctx's
	// own error, it is unknown whether a transaction took effect: conditions
	// make it safe to ask again.
	Commit(ctx context.Context, txns []Txn) ([]Result, error)

	// Watch follows the changes under prefix from revision from on, that one
	// included; 0 means from now on. To follow a List, pass its Revision + 1.
	// The watcher lives until ctx ends, Close, or its first terminal error.
	Watch(ctx context.Context, prefix string, from int64) (Watcher, error)

	// Grant makes a lease of at least ttl; an implementation may round up, and
	// the lease says to what.
	Grant(ctx context.Context, ttl time.Duration) (Lease, error)

	// KeepAlive renews a lease for its whole time to live, which it returns.
	// ErrLeaseNotFound is final: the lease and its keys are gone.
	KeepAlive(ctx context.Context, id LeaseID) (time.Duration, error)

	// Revoke ends a lease and deletes its keys. No such lease is no error.
	Revoke(ctx context.Context, id LeaseID) error

	// Campaign waits until the caller leads the election called name, and ctx
	// bounds only that wait. id says who leads, for those who look.
	Campaign(ctx context.Context, name, id string) (Leadership, error)

	// Status describes the health of the store; it is cheap.
	Status(ctx context.Context) (Status, error)

	// Close ends every watch, lets go of the data and forgets unfinished
	// commits, whose outcome is then unknown. A second Close does nothing.
	Close() error
}

// Compactor is the ability to forget history on demand. Every store also does
// so by itself, by age or by amount.
type Compactor interface {
	// Compact forgets what was superseded before revision: older revisions can
	// no longer be listed or watched. Compacting what is compacted already is no
	// error.
	Compact(ctx context.Context, revision int64) error
}

// KV is a key as it was at some revision.
type KV struct {
	Key   string
	Value []byte
	// ModRevision is the revision of the last write of the key.
	ModRevision int64
	// CreateRevision is the revision that created the key; deleting it and
	// writing it again makes a new one.
	CreateRevision int64
	// Version counts the writes since creation: 1 for a new key.
	Version int64
	// Lease is the lease that the key dies with; 0 for none.
	Lease LeaseID
}

// ListOptions narrow a List. The zero value lists all of the prefix, now.
type ListOptions struct {
	// Limit is the most keys to return; 0 is no limit.
	Limit int
	// From leaves out keys before it. To continue a walk pass ListResult.Next.
	From string
	// Revision asks for the map as it was then; 0 is now.
	Revision int64
}

// ListResult is what List found.
type ListResult struct {
	KVs []KV
	// Revision is the revision the listing is of.
	Revision int64
	// More says that the limit cut the listing off; Next is where to go on.
	More bool
	Next string
}

// Status is the health of a store.
type Status struct {
	// Revision is the latest revision known.
	Revision int64
	// SizeBytes is what the data takes up, free pages included; InUseBytes
	// without them.
	SizeBytes  int64
	InUseBytes int64
	// QuotaBytes is the size at which writes are refused; 0 is no quota.
	QuotaBytes int64
	// NoSpace says that writes are refused for want of space; reads go on.
	NoSpace bool
	// Reason says, for people, why NoSpace is so.
	Reason string
}

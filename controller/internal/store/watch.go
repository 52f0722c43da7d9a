package store

import "context"

// Event is one change of one key.
type Event struct {
	// Deleted says that the key is gone. KV then holds only Key and the
	// ModRevision at which it went.
	Deleted bool
	KV      KV
}

// Batch is everything that one revision changed under the watched prefix. A
// batch without events is a progress notification: every change up to and
// including Revision has been delivered. They come about once a second while
// nothing else does, and so show that the watch is alive.
type Batch struct {
	Revision int64
	Events   []Event
}

// Watcher yields batches. It is for one goroutine at a time; Close may be
// called from any.
type Watcher interface {
	// Next waits for the next batch. The end of ctx leaves the watcher usable.
	// Other errors are final: ErrCompacted (list again), ErrUnavailable (watch
	// again from the revision after the last batch), ErrClosed, or the error of
	// the ctx that Watch was given.
	Next(ctx context.Context) (Batch, error)
	// Close lets go of the watch. A second Close does nothing.
	Close()
}

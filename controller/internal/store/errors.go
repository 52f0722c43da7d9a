package store

import "errors"

var (
	// ErrNotFound: there is no such key.
	ErrNotFound = errors.New("store: key not found")
	// ErrCompacted: the history asked for is gone; list again and go on from
	// there.
	ErrCompacted = errors.New("store: revision compacted")
	// ErrNoSpace: the store is full. Writes are refused, reads and deletes go
	// on. Free space or raise the quota; trying again does not help.
	ErrNoSpace = errors.New("store: no space left")
	// ErrTooLarge: a transaction is over MaxTxnOps or MaxTxnBytes; nothing was
	// written.
	ErrTooLarge = errors.New("store: transaction too large")
	// ErrInvalid: the request can never work, for instance two writes of one key
	// in one transaction; nothing was written.
	ErrInvalid = errors.New("store: invalid request")
	// ErrLeaseNotFound: the lease ran out, was revoked or never was.
	ErrLeaseNotFound = errors.New("store: lease not found")
	// ErrUnavailable: the store did not answer in time or cannot be reached.
	// Whether a write took effect is unknown.
	ErrUnavailable = errors.New("store: unavailable")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("store: closed")
)

package etcd

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// explain turns an error of etcd into one of package store. ctx is the caller's,
// whose own end is not the store's fault.
func (s *Store) explain(ctx context.Context, what string, err error) error {
	switch {
	case err == nil:
		return nil
	case s.ctx.Err() != nil:
		return fmt.Errorf("%s: %w", what, store.ErrClosed)
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
	kind := class(err)
	if errors.Is(kind, store.ErrNoSpace) {
		s.full.Store(true)
	}
	return fmt.Errorf("%s: %w: %w", what, kind, err)
}

func class(err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		return store.ErrCompacted
	case errors.Is(err, rpctypes.ErrNoSpace):
		return store.ErrNoSpace
	case errors.Is(err, rpctypes.ErrRequestTooLarge), errors.Is(err, rpctypes.ErrTooManyOps):
		return store.ErrTooLarge
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return store.ErrLeaseNotFound
	case errors.Is(err, rpctypes.ErrFutureRev), errors.Is(err, rpctypes.ErrDuplicateKey),
		errors.Is(err, rpctypes.ErrEmptyKey), errors.Is(err, rpctypes.ErrLeaseTTLTooLarge):
		return store.ErrInvalid
	default:
		return store.ErrUnavailable
	}
}

// refused reports whether etcd has certainly written nothing.
func refused(err error) bool {
	return errors.Is(err, store.ErrNoSpace) || errors.Is(err, store.ErrTooLarge) ||
		errors.Is(err, store.ErrLeaseNotFound) || errors.Is(err, store.ErrInvalid)
}

func isCompacted(err error) bool { return errors.Is(err, store.ErrCompacted) }

// Package election builds leadership from a store's transactions, leases and
// watches, so that every store elects in the same way.
package election

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// KeyPrefix is where the leader keys are: KeyPrefix + the election's name.
const KeyPrefix = "leader/"

// Options tune an election.
type Options struct {
	// TTL is how long a leader that fell silent is waited for.
	TTL time.Duration
	// StaleBefore names a revision at or before which no leader key can belong
	// to a living process, because only this one can reach the store. Such a key
	// is removed without waiting for its lease. 0 trusts every key.
	StaleBefore int64
}

// Campaign waits for its turn and returns the leadership it won.
func Campaign(ctx context.Context, s store.Store, name, id string, opts Options) (store.Leadership, error) {
	if name == "" {
		return nil, fmt.Errorf("%w: an election needs a name", store.ErrInvalid)
	}
	key := KeyPrefix + name
	for {
		kv, err := s.Get(ctx, key)
		switch {
		case errors.Is(err, store.ErrNotFound):
			l, err := claim(ctx, s, key, id, opts.TTL)
			if err != nil {
				return nil, fmt.Errorf("campaign for %s: %w", name, err)
			}
			if l != nil {
				return l, nil
			}
		case err != nil:
			return nil, fmt.Errorf("campaign for %s: %w", name, err)
		case kv.CreateRevision <= opts.StaleBefore:
			txn := store.Txn{
				Conditions: []store.Condition{store.CreateRevisionEquals(key, kv.CreateRevision)},
				Ops:        []store.Op{store.Delete(key)},
			}
			if _, err := s.Commit(ctx, []store.Txn{txn}); err != nil {
				return nil, fmt.Errorf("campaign for %s: remove stale leader: %w", name, err)
			}
		default:
			if err := awaitVacancy(ctx, s, kv); err != nil {
				return nil, fmt.Errorf("campaign for %s: %w", name, err)
			}
		}
	}
}

// claim tries to become the leader of a vacant key; nil means that another was
// faster.
func claim(ctx context.Context, s store.Store, key, id string, ttl time.Duration) (*leadership, error) {
	granted := time.Now()
	lease, err := s.Grant(ctx, ttl)
	if err != nil {
		return nil, err
	}
	res, err := s.Commit(ctx, []store.Txn{{
		Conditions: []store.Condition{store.KeyAbsent(key)},
		Ops:        []store.Op{store.PutLeased(key, []byte(id), lease.ID)},
	}})
	if err == nil && res[0].Succeeded {
		return lead(s, key, res[0].Revision, lease, granted), nil
	}
	// Also when the outcome is unknown: the key, if written, goes with the lease.
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), ttl)
	defer cancel()
	return nil, errors.Join(err, s.Revoke(undo, lease.ID))
}

// awaitVacancy returns when the key seen as kv may be gone.
func awaitVacancy(ctx context.Context, s store.Store, kv store.KV) error {
	w, err := s.Watch(ctx, kv.Key, kv.ModRevision+1)
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		batch, err := w.Next(ctx)
		if errors.Is(err, store.ErrCompacted) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, ev := range batch.Events {
			if ev.KV.Key == kv.Key && ev.Deleted {
				return nil
			}
		}
	}
}

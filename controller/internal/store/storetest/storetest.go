// Package storetest is the suite that every store.Store must pass. It holds the
// contract as named checks, and nothing about any one implementation.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// patience is how long a check waits for what must come.
const patience = 30 * time.Second

// Subject is a fresh, empty store under test.
type Subject struct {
	Store store.Store
	// Reopen closes the store and opens the same data again. Nil for a store
	// that is not durable.
	Reopen func() store.Store
}

// Factory opens a Subject and sees to its closing when the test ends.
type Factory func(t *testing.T) Subject

// Run runs every check, each on a store of its own.
func Run(t *testing.T, open Factory) {
	t.Helper()
	checks := []struct {
		name string
		run  func(t *testing.T, sub Subject)
	}{
		{"KeyLife", keyLife},
		{"Conditions", conditions},
		{"InvalidTransactions", invalidTransactions},
		{"DeletePrefix", deletePrefix},
		{"ListPages", listPages},
		{"ListAtOneRevisionUnderWriters", listAtOneRevision},
		{"IndependentTransactions", independentTransactions},
		{"TransactionsOfOneCallInOrder", orderedTransactions},
		{"NoWriteSkew", noWriteSkew},
		{"CompareAndSwapRace", compareAndSwapRace},
		{"CountersOfManyCallers", countersOfManyCallers},
		{"Linearizable", linearizable},
		{"LargeTransactions", largeTransactions},
		{"CancelledContext", cancelledContext},
		{"WatchFromOldRevision", watchFromOldRevision},
		{"WatchPrefixOnly", watchPrefixOnly},
		{"WatchProgress", watchProgress},
		{"WatchLosesNothing", watchLosesNothing},
		{"WatchResumes", watchResumes},
		{"WatchCompacted", watchCompacted},
		{"LeaseExpires", leaseExpires},
		{"LeaseKeptAliveAndRevoked", leaseKeptAliveAndRevoked},
		{"LeaderIsOne", leaderIsOne},
		{"DeposedLeaderIsFenced", deposedLeaderIsFenced},
		{"SilentLeaderIsReplaced", silentLeaderIsReplaced},
		{"CampaignCancelled", campaignCancelled},
		{"Status", status},
		{"RestartKeepsEverything", restartKeepsEverything},
		{"Closed", closed},
	}
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

// within is a ctx for what must come.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: got error %v, want %v", what, err, want)
	}
}

// commit runs one transaction.
func commit(ctx context.Context, s store.Store, conds []store.Condition, ops ...store.Op) (store.Result, error) {
	res, err := s.Commit(ctx, []store.Txn{{Conditions: conds, Ops: ops}})
	if err != nil {
		return store.Result{}, err
	}
	return res[0], nil
}

// put writes one key and returns its revision.
func put(t *testing.T, s store.Store, key, value string) int64 {
	t.Helper()
	res, err := commit(within(t), s, nil, store.Put(key, []byte(value)))
	must(t, err)
	if !res.Succeeded || res.Revision == 0 {
		t.Fatalf("put %s: %+v", key, res)
	}
	return res.Revision
}

func wantValue(t *testing.T, s store.Store, key, want string) store.KV {
	t.Helper()
	kv, err := s.Get(within(t), key)
	must(t, err)
	if string(kv.Value) != want {
		t.Fatalf("%s = %q, want %q", key, kv.Value, want)
	}
	return kv
}

func wantAbsent(t *testing.T, s store.Store, key string) {
	t.Helper()
	_, err := s.Get(within(t), key)
	wantErr(t, "get "+key, err, store.ErrNotFound)
}

func watch(t *testing.T, s store.Store, prefix string, from int64) store.Watcher {
	t.Helper()
	w, err := s.Watch(t.Context(), prefix, from)
	must(t, err)
	t.Cleanup(w.Close)
	return w
}

// nextEvents skips progress notifications.
func nextEvents(t *testing.T, w store.Watcher) store.Batch {
	t.Helper()
	ctx := within(t)
	for {
		batch, err := w.Next(ctx)
		must(t, err)
		if len(batch.Events) > 0 {
			return batch
		}
	}
}

func awaitDone(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%s: not done in %v", what, patience)
	}
}

func keys(kvs []store.KV) string {
	names := make([]string, len(kvs))
	for i, kv := range kvs {
		names[i] = kv.Key
	}
	return fmt.Sprint(names)
}

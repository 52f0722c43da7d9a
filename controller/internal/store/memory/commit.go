package memory

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// Commit implements store.Store. Each transaction has a revision of its own.
func (s *Store) Commit(ctx context.Context, txns []store.Txn) ([]store.Result, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	results := make([]store.Result, len(txns))
	var first error
	for i, txn := range txns {
		results[i] = s.run(txn)
		if first == nil {
			first = results[i].Err
		}
	}
	return results, first
}

func (s *Store) run(txn store.Txn) store.Result {
	if err := txn.Validate(); err != nil {
		return store.Result{Err: err}
	}
	res := store.Result{Succeeded: true, Revision: s.revision}
	for _, c := range txn.Conditions {
		kv := s.keys.current(c.Key)
		check := store.Check{Condition: c, Met: c.Holds(kv)}
		if kv != nil {
			current := *kv
			check.Current = &current
		}
		res.Checks = append(res.Checks, check)
		res.Succeeded = res.Succeeded && check.Met
	}
	if !res.Succeeded {
		return res
	}
	res.Checks = nil
	if err := s.refuse(txn); err != nil {
		return store.Result{Err: err}
	}
	s.write(txn.Ops)
	res.Revision = s.revision
	return res
}

// refuse says why a transaction whose conditions hold cannot be done.
func (s *Store) refuse(txn store.Txn) error {
	for _, op := range txn.Ops {
		if op.Lease != 0 && s.leases[op.Lease] == nil {
			return fmt.Errorf("put %s: %w", op.Key, store.ErrLeaseNotFound)
		}
	}
	if q := s.opts.QuotaBytes; q > 0 && txn.Puts() && s.size+int64(txn.Bytes()) > q {
		s.full = true
		return fmt.Errorf("%w: %d of %d bytes in use", store.ErrNoSpace, s.size, q)
	}
	return nil
}

// write does operations as one revision, if they change anything.
func (s *Store) write(ops []store.Op) {
	before := s.size
	batch := store.Batch{Revision: s.revision + 1}
	for _, op := range ops {
		switch op.Kind {
		case store.OpPut:
			batch.Events = append(batch.Events, s.put(op, batch.Revision))
		case store.OpDelete:
			if kv := s.keys.current(op.Key); kv != nil {
				batch.Events = append(batch.Events, s.remove(*kv, batch.Revision))
			}
		case store.OpDeletePrefix:
			for _, kv := range slices.Collect(s.keys.scan(op.Key, "", s.revision)) {
				batch.Events = append(batch.Events, s.remove(kv, batch.Revision))
			}
		}
	}
	if len(batch.Events) == 0 {
		return
	}
	s.full = s.full && s.size >= before
	s.revision = batch.Revision
	s.history = append(s.history, batch)
	if excess := len(s.history) - s.opts.History; excess > 0 {
		s.compact(s.history[excess].Revision)
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Store) put(op store.Op, revision int64) store.Event {
	kv := store.KV{
		Key:            op.Key,
		Value:          bytes.Clone(op.Value),
		ModRevision:    revision,
		CreateRevision: revision,
		Version:        1,
		Lease:          op.Lease,
	}
	e := s.keys.entry(op.Key)
	if old := e.latest(); old != nil {
		kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
		s.forget(*old)
	}
	e.versions = append(e.versions, version{kv: kv})
	s.size += int64(len(kv.Key) + len(kv.Value))
	if l := s.leases[kv.Lease]; l != nil {
		l.keys[kv.Key] = struct{}{}
	}
	return store.Event{KV: kv}
}

func (s *Store) remove(old store.KV, revision int64) store.Event {
	gone := store.KV{Key: old.Key, ModRevision: revision}
	e := s.keys.entry(old.Key)
	e.versions = append(e.versions, version{kv: gone, deleted: true})
	s.forget(old)
	return store.Event{Deleted: true, KV: gone}
}

// forget takes a superseded value out of the books.
func (s *Store) forget(old store.KV) {
	s.size -= int64(len(old.Key) + len(old.Value))
	if l := s.leases[old.Lease]; l != nil {
		delete(l.keys, old.Key)
	}
}

// compact forgets what revision and later do not need.
func (s *Store) compact(revision int64) {
	if revision <= s.compacted {
		return
	}
	s.compacted = revision
	n := 0
	for n < len(s.history) && s.history[n].Revision <= revision {
		for _, ev := range s.history[n].Events {
			s.keys.prune(ev.KV.Key, revision)
		}
		n++
	}
	s.history = slices.Delete(s.history, 0, n)
}

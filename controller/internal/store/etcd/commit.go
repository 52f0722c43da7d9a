package etcd

import (
	"context"
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// Commit implements store.Store. While etcd makes one group durable the next
// one gathers, so the more callers there are, the more of them share an fsync.
func (s *Store) Commit(ctx context.Context, txns []store.Txn) ([]store.Result, error) {
	if s.ctx.Err() != nil {
		return nil, store.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c := &call{results: make([]store.Result, len(txns)), done: make(chan struct{})}
	items := make([]item, 0, len(txns))
	for i, txn := range txns {
		if err := txn.Validate(); err != nil {
			c.results[i].Err = err
			continue
		}
		items = append(items, item{call: c, index: i, txn: txn})
	}
	if c.left = len(items); c.left > 0 {
		s.queue.push(items)
		select {
		case <-c.done:
		case <-s.ctx.Done():
			return nil, fmt.Errorf("commit: %w", store.ErrClosed)
		case <-ctx.Done():
			c.abandoned.Store(true)
			return nil, fmt.Errorf("commit, outcome unknown: %w", ctx.Err())
		}
	}
	for _, res := range c.results {
		if res.Err != nil {
			return c.results, fmt.Errorf("commit: %w", res.Err)
		}
	}
	return c.results, nil
}

// dispatch sends groups to etcd, one at a time.
func (s *Store) dispatch() {
	for {
		select {
		case <-s.ctx.Done():
			for _, it := range s.queue.drain() {
				it.finish(store.Result{Err: store.ErrClosed})
			}
			return
		case <-s.queue.wake:
		}
		for group := s.queue.next(); len(group) > 0; group = s.queue.next() {
			s.run(group)
		}
	}
}

// run commits a group. When etcd refuses it as a whole, because of some of its
// transactions, each is tried by itself: they are none of each other's business.
func (s *Store) run(group []item) {
	floor := s.seen.Load()
	results, err := s.send(group)
	if errors.Is(err, rpctypes.ErrNoSpace) {
		results, err = s.outcomes(group, floor, err)
	}
	for i, it := range group {
		switch {
		case err == nil:
			it.finish(results[i])
		case len(group) == 1, !refused(err), errors.Is(err, store.ErrNoSpace):
			it.finish(store.Result{Err: err})
		default:
			s.run([]item{it})
		}
	}
}

// send makes one request of a group and reads the answer.
func (s *Store) send(group []item) ([]store.Result, error) {
	if group[0].txn.Puts() {
		if err := s.space.check(); err != nil {
			return nil, err
		}
	}
	op := toOp(group[0].txn)
	if len(group) > 1 {
		nested := make([]clientv3.Op, len(group))
		for i, it := range group {
			nested[i] = toOp(it.txn)
		}
		op = clientv3.OpTxn(nil, nested, nil)
	}
	call, cancel, err := s.bound(s.ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	answer, err := s.kv.Do(call, op)
	if err != nil {
		return nil, s.explain(context.Background(), "etcd transaction", err)
	}
	res := answer.Txn()
	revision := res.Header.Revision
	s.saw(revision)
	if len(group) == 1 {
		return []store.Result{toResult(group[0].txn, (*pb.TxnResponse)(res), revision)}, nil
	}
	results := make([]store.Result, len(group))
	for i, it := range group {
		results[i] = toResult(it.txn, res.Responses[i].GetResponseTxn(), revision)
	}
	return results, nil
}

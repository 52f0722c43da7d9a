package etcd

import (
	"bytes"
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// outcomes finds out what became of a group of which etcd said that there was no space. etcd checks its quota twice: before it takes a request, and
// when it carries it out, and then it carries out what it says to have refused. A transaction was done if the key that it writes first has what it
// wrote, at a revision after floor, one from before it was sent.
func (s *Store) outcomes(group []item, floor int64, refusal error) ([]store.Result, error) {
	reads := make([]clientv3.Op, len(group))
	for i, it := range group {
		reads[i] = clientv3.OpGet(firstPut(it.txn).Key)
	}
	call, cancel, err := s.bound(s.ctx)
	if err != nil {
		return nil, err
	}
	defer cancel()
	answer, err := s.kv.Do(call, clientv3.OpTxn(nil, reads, nil))
	if err != nil {
		return nil, fmt.Errorf("%w: it may have been done: %w", store.ErrUnavailable, s.explain(context.Background(), "look after no space", err))
	}
	res := answer.Txn()
	s.saw(res.Header.Revision)
	results := make([]store.Result, len(group))
	for i, it := range group {
		results[i].Err = refusal
		wrote := firstPut(it.txn)
		for _, kv := range res.Responses[i].GetResponseRange().GetKvs() {
			if kv.ModRevision > floor && kv.Lease == int64(wrote.Lease) && bytes.Equal(kv.Value, wrote.Value) {
				results[i] = store.Result{Succeeded: true, Revision: kv.ModRevision}
			}
		}
	}
	return results, nil
}

// firstPut is the first operation that writes: a group in which one transaction does is made of those that do.
func firstPut(txn store.Txn) store.Op {
	for _, op := range txn.Ops {
		if op.Kind == store.OpPut {
			return op
		}
	}
	return store.Op{}
}

// saw remembers the latest revision that etcd spoke of.
func (s *Store) saw(revision int64) {
	for {
		old := s.seen.Load()
		if revision <= old || s.seen.CompareAndSwap(old, revision) {
			return
		}
	}
}

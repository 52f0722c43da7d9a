package etcd

import "github.com/limiquantix/limiquantix/controller/internal/store"

const (
	// maxGroup is how many transactions go into one of etcd's. etcd counts the
	// outer and the inner operations against one limit (128 unless told
	// otherwise), which leaves maxInner to each.
	maxGroup = 64
	maxInner = 64
	// maxScan is how far down the queue is looked for what fits a group.
	maxScan = 4 * maxGroup
	// maxGroupBytes keeps a group under etcd's request limit of 1.5 MiB.
	maxGroupBytes = store.MaxTxnBytes
)

// footprint is the set of keys that some transactions read and write.
type footprint struct {
	reads    map[string]struct{}
	writes   map[string]struct{}
	prefixes []store.Op
}

func newFootprint() *footprint {
	return &footprint{reads: map[string]struct{}{}, writes: map[string]struct{}{}}
}

// add takes up a transaction's keys.
func (f *footprint) add(txn store.Txn) {
	for _, c := range txn.Conditions {
		f.reads[c.Key] = struct{}{}
	}
	for _, op := range txn.Ops {
		if op.Kind == store.OpDeletePrefix {
			f.prefixes = append(f.prefixes, op)
		} else {
			f.writes[op.Key] = struct{}{}
		}
	}
}

// conflicts reports whether the order between the transaction and those of the
// footprint matters: one writes what the other reads or writes. etcd refuses two
// writes of one key in a transaction, and judges all conditions before any
// write.
func (f *footprint) conflicts(txn store.Txn) bool {
	for _, c := range txn.Conditions {
		if f.writesKey(c.Key) {
			return true
		}
	}
	for _, op := range txn.Ops {
		if op.Kind == store.OpDeletePrefix {
			if f.touchesPrefix(op) {
				return true
			}
			continue
		}
		if _, read := f.reads[op.Key]; read || f.writesKey(op.Key) {
			return true
		}
	}
	return false
}

func (f *footprint) writesKey(key string) bool {
	if _, ok := f.writes[key]; ok {
		return true
	}
	for _, p := range f.prefixes {
		if p.Touches(key) {
			return true
		}
	}
	return false
}

func (f *footprint) touchesPrefix(p store.Op) bool {
	for key := range f.reads {
		if p.Touches(key) {
			return true
		}
	}
	for key := range f.writes {
		if p.Touches(key) {
			return true
		}
	}
	for _, q := range f.prefixes {
		if p.Touches(q.Key) || q.Touches(p.Key) {
			return true
		}
	}
	return false
}

// nests reports whether the transaction may be one of several in a group.
func nests(txn store.Txn) bool {
	return len(txn.Ops) <= maxInner && len(txn.Conditions) <= maxInner
}

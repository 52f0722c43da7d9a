package store

import (
	"bytes"
	"fmt"
	"strings"
)

const (
	// MaxTxnOps bounds the conditions of a transaction, and its operations.
	MaxTxnOps = 128
	// MaxTxnBytes bounds the keys and values of a transaction together.
	MaxTxnBytes = 1 << 20
)

// Txn is a transaction: if every condition holds, every operation is done. No
// two of its operations may touch the same key.
type Txn struct {
	Conditions []Condition
	Ops        []Op
}

// Result is the outcome of one transaction.
type Result struct {
	// Succeeded says that the conditions held and the operations were done.
	Succeeded bool
	// Revision is the revision of the writes, or, where there were none, the
	// one at which the conditions were judged.
	Revision int64
	// Checks has one entry for each condition when they did not all hold.
	Checks []Check
	// Err says why there is no outcome; see Store.Commit.
	Err error
}

// Unmet returns the checks that failed.
func (r Result) Unmet() []Check {
	var unmet []Check
	for _, c := range r.Checks {
		if !c.Met {
			unmet = append(unmet, c)
		}
	}
	return unmet
}

// Check is a condition beside what it was judged by.
type Check struct {
	Condition Condition
	Met       bool
	// Current is the key as it was found; nil when absent.
	Current *KV
}

// ConditionKind is what a condition compares.
type ConditionKind int

// The kinds of conditions.
const (
	CondAbsent ConditionKind = iota + 1
	CondExists
	CondModRevision
	CondCreateRevision
	CondValue
)

// Condition is something a key must satisfy. Make one with the functions below.
type Condition struct {
	Kind     ConditionKind
	Key      string
	Revision int64
	Value    []byte
}

// KeyAbsent holds when there is no such key.
func KeyAbsent(key string) Condition { return Condition{Kind: CondAbsent, Key: key} }

// KeyExists holds when there is such a key.
func KeyExists(key string) Condition { return Condition{Kind: CondExists, Key: key} }

// ModRevisionEquals holds when the key was last written at revision; 0 means
// that it is absent.
func ModRevisionEquals(key string, revision int64) Condition {
	return Condition{Kind: CondModRevision, Key: key, Revision: revision}
}

// CreateRevisionEquals holds when the key was created at revision and not
// deleted since; 0 means that it is absent.
func CreateRevisionEquals(key string, revision int64) Condition {
	return Condition{Kind: CondCreateRevision, Key: key, Revision: revision}
}

// ValueEquals holds when the key exists with this value.
func ValueEquals(key string, value []byte) Condition {
	return Condition{Kind: CondValue, Key: key, Value: value}
}

// Holds judges the condition by the key as it is; nil is an absent key.
func (c Condition) Holds(kv *KV) bool {
	var mod, create int64
	if kv != nil {
		mod, create = kv.ModRevision, kv.CreateRevision
	}
	switch c.Kind {
	case CondAbsent:
		return kv == nil
	case CondExists:
		return kv != nil
	case CondModRevision:
		return mod == c.Revision
	case CondCreateRevision:
		return create == c.Revision
	case CondValue:
		return kv != nil && bytes.Equal(kv.Value, c.Value)
	default:
		return false
	}
}

// OpKind is what an operation does.
type OpKind int

// The kinds of operations.
const (
	OpPut OpKind = iota + 1
	OpDelete
	OpDeletePrefix
)

// Op is one write. Make one with the functions below.
type Op struct {
	Kind  OpKind
	Key   string
	Value []byte
	Lease LeaseID
}

// Put writes a key. It takes the key off the lease it had.
func Put(key string, value []byte) Op { return Op{Kind: OpPut, Key: key, Value: value} }

// PutLeased writes a key that dies with the lease. Commit says ErrLeaseNotFound
// when the lease is gone.
func PutLeased(key string, value []byte, lease LeaseID) Op {
	return Op{Kind: OpPut, Key: key, Value: value, Lease: lease}
}

// Delete removes a key; an absent key is no error.
func Delete(key string) Op { return Op{Kind: OpDelete, Key: key} }

// DeletePrefix removes every key with the prefix, which must not be empty.
func DeletePrefix(prefix string) Op { return Op{Kind: OpDeletePrefix, Key: prefix} }

// Touches reports whether the operation would write the key.
func (o Op) Touches(key string) bool {
	if o.Kind == OpDeletePrefix {
		return strings.HasPrefix(key, o.Key)
	}
	return o.Key == key
}

// Puts reports whether the transaction writes anything but deletions.
func (t Txn) Puts() bool {
	for _, op := range t.Ops {
		if op.Kind == OpPut {
			return true
		}
	}
	return false
}

// Bytes is the size that counts towards MaxTxnBytes.
func (t Txn) Bytes() int {
	n := 0
	for _, c := range t.Conditions {
		n += len(c.Key) + len(c.Value)
	}
	for _, op := range t.Ops {
		n += len(op.Key) + len(op.Value)
	}
	return n
}

// Validate returns ErrTooLarge or ErrInvalid, with the reason, for a transaction
// that no store would take.
func (t Txn) Validate() error {
	if len(t.Conditions) > MaxTxnOps || len(t.Ops) > MaxTxnOps {
		return fmt.Errorf("%w: %d conditions and %d operations, at most %d of each",
			ErrTooLarge, len(t.Conditions), len(t.Ops), MaxTxnOps)
	}
	if n := t.Bytes(); n > MaxTxnBytes {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, n, MaxTxnBytes)
	}
	for _, c := range t.Conditions {
		if c.Key == "" || c.Kind < CondAbsent || c.Kind > CondValue {
			return fmt.Errorf("%w: condition of kind %d on key %q", ErrInvalid, c.Kind, c.Key)
		}
	}
	return validateOps(t.Ops)
}

func validateOps(ops []Op) error {
	written := make(map[string]struct{}, len(ops))
	var prefixes []Op
	for _, op := range ops {
		if op.Key == "" || op.Kind < OpPut || op.Kind > OpDeletePrefix {
			return fmt.Errorf("%w: operation of kind %d on key %q", ErrInvalid, op.Kind, op.Key)
		}
		if op.Kind == OpDeletePrefix {
			prefixes = append(prefixes, op)
			continue
		}
		if _, twice := written[op.Key]; twice {
			return fmt.Errorf("%w: key %q is written twice in one transaction", ErrInvalid, op.Key)
		}
		written[op.Key] = struct{}{}
	}
	for i, p := range prefixes {
		for key := range written {
			if p.Touches(key) {
				return fmt.Errorf("%w: key %q is also deleted by prefix %q", ErrInvalid, key, p.Key)
			}
		}
		for j, q := range prefixes {
			if i != j && strings.HasPrefix(q.Key, p.Key) {
				return fmt.Errorf("%w: prefixes %q and %q overlap", ErrInvalid, p.Key, q.Key)
			}
		}
	}
	return nil
}

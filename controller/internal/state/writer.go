package state

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// Writer collects the conditions and writes of one transaction. The zero value is empty.
type Writer struct {
	conds []store.Condition
	ops   []store.Op
	err   error
}

// Require adds conditions.
func (w *Writer) Require(conds ...store.Condition) { w.conds = append(w.conds, conds...) }

// Same requires that a record is still at the revision of the row.
func (w *Writer) Same(r *Row) { w.Require(store.ModRevisionEquals(Key(r.Kind, r.ID), r.Revision)) }

// Put writes a message.
func (w *Writer) Put(key string, m proto.Message) {
	b, err := proto.Marshal(m)
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("encode %s: %w", key, err)
	}
	w.ops = append(w.ops, store.Put(key, b))
}

// PutText writes a plain text, such as the id behind a name.
func (w *Writer) PutText(key, text string) { w.ops = append(w.ops, store.Put(key, []byte(text))) }

// Delete removes a key.
func (w *Writer) Delete(key string) { w.ops = append(w.ops, store.Delete(key)) }

// DeletePrefix removes all keys with a prefix.
func (w *Writer) DeletePrefix(prefix string) { w.ops = append(w.ops, store.DeletePrefix(prefix)) }

// Size is the number of conditions or of writes, whichever is more.
func (w *Writer) Size() int { return max(len(w.conds), len(w.ops)) }

// Txn is what was collected, or the first record that could not be encoded.
func (w *Writer) Txn() (store.Txn, error) {
	return store.Txn{Conditions: w.conds, Ops: w.ops}, w.err
}

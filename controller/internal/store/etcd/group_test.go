package etcd

import (
	"fmt"
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// txnOf makes a transaction from key lists such as "a b p/*".
func txnOf(reads, writes string) store.Txn {
	var txn store.Txn
	for _, key := range strings.Fields(reads) {
		txn.Conditions = append(txn.Conditions, store.KeyExists(key))
	}
	for _, key := range strings.Fields(writes) {
		if prefix, ok := strings.CutSuffix(key, "*"); ok {
			txn.Ops = append(txn.Ops, store.DeletePrefix(prefix))
		} else {
			txn.Ops = append(txn.Ops, store.Put(key, nil))
		}
	}
	return txn
}

func TestConflicts(t *testing.T) {
	cases := []struct {
		a, b store.Txn
		want bool
	}{
		{txnOf("f", "a"), txnOf("f", "b"), false},
		{txnOf("", "a"), txnOf("", "a"), true},
		{txnOf("a", ""), txnOf("", "a"), true},
		{txnOf("a", "b"), txnOf("b", "c"), true},
		{txnOf("", "p/*"), txnOf("", "p/1"), true},
		{txnOf("", "p/*"), txnOf("p/1", "x"), true},
		{txnOf("", "p/*"), txnOf("", "p/q/*"), true},
		{txnOf("", "p/*"), txnOf("p", "q/1 q/2/*"), false},
	}
	for i, c := range cases {
		for _, pair := range [][2]store.Txn{{c.a, c.b}, {c.b, c.a}} {
			seen := newFootprint()
			seen.add(pair[0])
			if got := seen.conflicts(pair[1]); got != c.want {
				t.Errorf("case %d: %+v after %+v: %v", i, pair[1], pair[0], got)
			}
		}
	}
}

// TestGroups drains a queue and checks what goes together, by the names of the
// written keys.
func TestGroups(t *testing.T) {
	wide := store.Txn{}
	for i := range maxInner + 1 {
		wide.Ops = append(wide.Ops, store.Put(fmt.Sprintf("wide/%d", i), nil))
	}
	heavy := func(key string) store.Txn {
		return store.Txn{Ops: []store.Op{store.Put(key, make([]byte, maxGroupBytes/2))}}
	}
	cases := []struct {
		name string
		txns []store.Txn
		want string
	}{
		{"all together", []store.Txn{txnOf("f", "a"), txnOf("f", "b"), txnOf("f", "c")}, "a b c"},
		{"same key", []store.Txn{txnOf("", "a"), txnOf("", "a"), txnOf("", "b")}, "a b | a"},
		{"not past one left behind", []store.Txn{txnOf("", "a"), txnOf("a", "b"), txnOf("b", "c"), txnOf("", "d")}, "a d | b | c"},
		{"what needs no space apart", []store.Txn{txnOf("f", "a"), txnOf("", "p/*"), txnOf("f", "b"), txnOf("", "q/*"), txnOf("p/1", "c")}, "a b | p/ q/ | c"},
		{"wide one alone", []store.Txn{txnOf("", "a"), wide, txnOf("", "b")}, "a b | wide/0"},
		{"wide one first", []store.Txn{wide, txnOf("", "a")}, "wide/0 | a"},
		{"too many bytes", []store.Txn{heavy("a"), heavy("b"), txnOf("", "c")}, "a c | b"},
	}
	for _, c := range cases {
		q := newQueue()
		cl := &call{}
		var items []item
		for _, txn := range c.txns {
			items = append(items, item{call: cl, txn: txn})
		}
		q.push(items)
		var groups []string
		for group := q.next(); len(group) > 0; group = q.next() {
			var names []string
			for _, it := range group {
				names = append(names, it.txn.Ops[0].Key)
			}
			groups = append(groups, strings.Join(names, " "))
		}
		if got := strings.Join(groups, " | "); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestGroupLimitsAndAbandonedCalls(t *testing.T) {
	q := newQueue()
	gone, here := &call{}, &call{}
	gone.abandoned.Store(true)
	for i := range 2 * maxGroup {
		q.push([]item{
			{call: gone, txn: txnOf("", fmt.Sprintf("x%d", i))},
			{call: here, txn: txnOf("", fmt.Sprintf("y%d", i))},
		})
	}
	for _, want := range []int{maxGroup, maxGroup, 0} {
		group := q.next()
		if len(group) != want {
			t.Fatalf("group of %d, want %d", len(group), want)
		}
		for _, it := range group {
			if it.call != here {
				t.Fatal("an abandoned transaction was sent")
			}
		}
	}
}

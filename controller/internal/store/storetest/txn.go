package storetest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

func conditions(t *testing.T, sub Subject) {
	s := sub.Store
	created := put(t, s, "c/there", "1")
	changed := put(t, s, "c/there", "2")
	cases := []struct {
		name string
		cond store.Condition
		want bool
	}{
		{"absent of present", store.KeyAbsent("c/there"), false},
		{"absent of absent", store.KeyAbsent("c/none"), true},
		{"exists of present", store.KeyExists("c/there"), true},
		{"exists of absent", store.KeyExists("c/none"), false},
		{"mod revision", store.ModRevisionEquals("c/there", changed), true},
		{"old mod revision", store.ModRevisionEquals("c/there", created), false},
		{"mod revision of absent", store.ModRevisionEquals("c/none", changed), false},
		{"zero mod revision of absent", store.ModRevisionEquals("c/none", 0), true},
		{"create revision", store.CreateRevisionEquals("c/there", created), true},
		{"other create revision", store.CreateRevisionEquals("c/there", changed), false},
		{"value", store.ValueEquals("c/there", []byte("2")), true},
		{"old value", store.ValueEquals("c/there", []byte("1")), false},
		{"empty value of absent", store.ValueEquals("c/none", nil), false},
	}
	for i, c := range cases {
		out := fmt.Sprintf("c/out/%d", i)
		res, err := commit(within(t), s, []store.Condition{store.KeyAbsent("c/never"), c.cond}, store.Put(out, nil))
		must(t, err)
		if res.Succeeded != c.want {
			t.Errorf("%s: succeeded = %v", c.name, res.Succeeded)
		}
		if _, err := s.Get(within(t), out); (err == nil) != c.want {
			t.Errorf("%s: its operation: %v", c.name, err)
		}
		if c.want {
			continue
		}
		unmet := res.Unmet()
		if len(res.Checks) != 2 || len(unmet) != 1 || unmet[0].Condition.Key != c.cond.Key || unmet[0].Condition.Kind != c.cond.Kind {
			t.Errorf("%s: checks %+v", c.name, res.Checks)
			continue
		}
		cur := unmet[0].Current
		if c.cond.Key == "c/none" && cur != nil ||
			c.cond.Key == "c/there" && (cur == nil || cur.ModRevision != changed || string(cur.Value) != "2") {
			t.Errorf("%s: current %+v", c.name, cur)
		}
	}
}

func invalidTransactions(t *testing.T, sub Subject) {
	s := sub.Store
	many := make([]store.Op, store.MaxTxnOps+1)
	for i := range many {
		many[i] = store.Put(fmt.Sprintf("i/%d", i), nil)
	}
	cases := []struct {
		name string
		txn  store.Txn
		want error
	}{
		{"two puts of a key", store.Txn{Ops: []store.Op{store.Put("i/a", nil), store.Put("i/a", nil)}}, store.ErrInvalid},
		{"put and delete of a key", store.Txn{Ops: []store.Op{store.Put("i/a", nil), store.Delete("i/a")}}, store.ErrInvalid},
		{"put under a deleted prefix", store.Txn{Ops: []store.Op{store.DeletePrefix("i/"), store.Put("i/a", nil)}}, store.ErrInvalid},
		{"empty key", store.Txn{Ops: []store.Op{store.Put("", nil)}}, store.ErrInvalid},
		{"empty prefix", store.Txn{Ops: []store.Op{store.DeletePrefix("")}}, store.ErrInvalid},
		{"empty condition", store.Txn{Conditions: []store.Condition{{}}}, store.ErrInvalid},
		{"too many operations", store.Txn{Ops: many}, store.ErrTooLarge},
		{"too many bytes", store.Txn{Ops: []store.Op{store.Put("i/a", make([]byte, store.MaxTxnBytes))}}, store.ErrTooLarge},
		{"no such lease", store.Txn{Ops: []store.Op{store.PutLeased("i/a", nil, 4711)}}, store.ErrLeaseNotFound},
	}
	for _, c := range cases {
		good := store.Txn{Ops: []store.Op{store.Put("good/"+c.name, nil)}}
		res, err := s.Commit(within(t), []store.Txn{c.txn, good})
		if !errors.Is(err, c.want) || len(res) != 2 || !errors.Is(res[0].Err, c.want) {
			t.Errorf("%s: %+v, %v, want %v", c.name, res, err, c.want)
			continue
		}
		if !res[1].Succeeded || res[1].Err != nil {
			t.Errorf("%s: the good transaction beside it: %+v", c.name, res[1])
		}
	}
	list, err := s.List(within(t), "i/", store.ListOptions{})
	must(t, err)
	if len(list.KVs) != 0 {
		t.Errorf("left behind: %s", keys(list.KVs))
	}
}

func independentTransactions(t *testing.T, sub Subject) {
	s := sub.Store
	put(t, s, "t/taken", "old")
	fence := store.KeyExists("t/taken")
	res, err := s.Commit(within(t), []store.Txn{
		{Conditions: []store.Condition{fence}, Ops: []store.Op{store.Put("t/1", nil), store.Put("t/2", nil)}},
		{Conditions: []store.Condition{fence, store.KeyAbsent("t/taken")}, Ops: []store.Op{store.Put("t/3", nil)}},
		{Conditions: []store.Condition{fence}, Ops: []store.Op{store.Put("t/4", nil)}},
		{Conditions: []store.Condition{store.KeyAbsent("t/5")}},
	})
	must(t, err)
	for i, want := range []bool{true, false, true, true} {
		if res[i].Succeeded != want {
			t.Errorf("transaction %d: %+v", i, res[i])
		}
	}
	list, err := s.List(within(t), "t/", store.ListOptions{})
	must(t, err)
	if got := keys(list.KVs); got != "[t/1 t/2 t/4 t/taken]" {
		t.Fatalf("keys %s", got)
	}
	for _, kv := range list.KVs[:2] {
		if kv.ModRevision != res[0].Revision {
			t.Errorf("%s is of revision %d, its transaction of %d", kv.Key, kv.ModRevision, res[0].Revision)
		}
	}
	if none, err := s.Commit(within(t), nil); err != nil || len(none) != 0 {
		t.Errorf("no transactions: %v, %v", none, err)
	}
}

// orderedTransactions checks that transactions that touch the same key see each
// other, in order, although they come in one call.
func orderedTransactions(t *testing.T, sub Subject) {
	s := sub.Store
	res, err := s.Commit(within(t), []store.Txn{
		{Conditions: []store.Condition{store.KeyAbsent("o/1")}, Ops: []store.Op{store.Put("o/1", []byte("a"))}},
		{Conditions: []store.Condition{store.ValueEquals("o/1", []byte("a"))}, Ops: []store.Op{store.Put("o/1", []byte("b"))}},
		{Conditions: []store.Condition{store.KeyAbsent("o/1")}, Ops: []store.Op{store.Put("o/2", nil)}},
		{Ops: []store.Op{store.Put("o/1", []byte("c"))}},
		{Ops: []store.Op{store.Put("o/x/1", nil)}},
		{Ops: []store.Op{store.DeletePrefix("o/x/")}},
		{Conditions: []store.Condition{store.KeyAbsent("o/x/1")}, Ops: []store.Op{store.Put("o/x/2", nil)}},
	})
	must(t, err)
	for i, want := range []bool{true, true, false, true, true, true, true} {
		if res[i].Succeeded != want {
			t.Errorf("transaction %d: %+v", i, res[i])
		}
		if i > 0 && i < 4 && res[i].Revision < res[i-1].Revision {
			t.Errorf("transaction %d is of revision %d, the one before of %d", i, res[i].Revision, res[i-1].Revision)
		}
	}
	if unmet := res[2].Unmet(); len(unmet) != 1 || unmet[0].Current == nil || string(unmet[0].Current.Value) != "b" {
		t.Errorf("the third transaction did not see the second: %+v", unmet)
	}
	list, err := s.List(within(t), "o/", store.ListOptions{})
	must(t, err)
	if got := keys(list.KVs); got != "[o/1 o/x/2]" || string(list.KVs[0].Value) != "c" || list.KVs[0].Version != 3 {
		t.Fatalf("ended with %+v", list.KVs)
	}
}

// noWriteSkew has transactions that each write what the other must not find: no
// key is written twice, and yet they may not be judged side by side.
func noWriteSkew(t *testing.T, sub Subject) {
	s := sub.Store
	unless := func(other, key string) store.Txn {
		return store.Txn{Conditions: []store.Condition{store.KeyAbsent(other)}, Ops: []store.Op{store.Put(key, nil)}}
	}
	res, err := s.Commit(within(t), []store.Txn{unless("k/b", "k/a"), unless("k/a", "k/b")})
	must(t, err)
	if !res[0].Succeeded || res[1].Succeeded {
		t.Fatalf("in one call: %+v", res)
	}
	for round := range 30 {
		a, b := fmt.Sprintf("k/%d/a", round), fmt.Sprintf("k/%d/b", round)
		var won atomic.Int32
		var wg sync.WaitGroup
		for n := range 16 {
			wg.Go(func() {
				mine, other := a, b
				if n%2 == 1 {
					mine, other = b, a
				}
				res, err := s.Commit(t.Context(), []store.Txn{unless(other, mine)})
				switch {
				case err != nil:
					t.Error(err)
				case res[0].Succeeded:
					won.Add(1)
				}
			})
		}
		wg.Wait()
		list, err := s.List(within(t), fmt.Sprintf("k/%d/", round), store.ListOptions{})
		must(t, err)
		if len(list.KVs) != 1 || list.KVs[0].Version != int64(won.Load()) {
			t.Fatalf("round %d: %+v after %d successes", round, list.KVs, won.Load())
		}
	}
}

func compareAndSwapRace(t *testing.T, sub Subject) {
	s := sub.Store
	const racers, rounds = 64, 15
	put(t, s, "race", "")
	for round := range rounds {
		kv, err := s.Get(within(t), "race")
		must(t, err)
		var won atomic.Int32
		var winner atomic.Value
		var wg sync.WaitGroup
		for n := range racers {
			wg.Go(func() {
				name := fmt.Sprintf("%d-%d", round, n)
				res, err := commit(t.Context(), s,
					[]store.Condition{store.ModRevisionEquals("race", kv.ModRevision)}, store.Put("race", []byte(name)))
				switch {
				case err != nil:
					t.Error(err)
				case res.Succeeded:
					won.Add(1)
					winner.Store(name)
				case len(res.Unmet()) != 1 || res.Unmet()[0].Current.ModRevision <= kv.ModRevision:
					t.Errorf("a loser was not told who won: %+v", res)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("round %d has %d winners", round, won.Load())
		}
		wantValue(t, s, "race", winner.Load().(string))
	}
}

// countersOfManyCallers has callers raise shared counters, two at a time: the
// sums show whether any acknowledged transaction was lost or half done.
func countersOfManyCallers(t *testing.T, sub Subject) {
	s := sub.Store
	const callers, raises, counters = 32, 12, 5
	for i := range counters {
		put(t, s, fmt.Sprintf("n/%d", i), "0")
	}
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for r := range raises {
				a, b := fmt.Sprintf("n/%d", (c+r)%counters), fmt.Sprintf("n/%d", (c+r+1)%counters)
				for done := false; !done && !t.Failed(); {
					done = raise(t, s, a, b)
				}
				if _, err := commit(t.Context(), s, nil, store.Put("n/log", []byte(a))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	sum := 0
	for i := range counters {
		kv, err := s.Get(within(t), fmt.Sprintf("n/%d", i))
		must(t, err)
		n, err := strconv.Atoi(string(kv.Value))
		must(t, err)
		if int64(n) != kv.Version-1 {
			t.Errorf("%s = %d after %d writes", kv.Key, n, kv.Version-1)
		}
		sum += n
	}
	if want := 2 * callers * raises; sum != want {
		t.Errorf("the counters sum to %d, want %d", sum, want)
	}
	if kv, err := s.Get(within(t), "n/log"); err != nil || kv.Version != callers*raises {
		t.Errorf("the log key was written %d times (%v), want %d", kv.Version, err, callers*raises)
	}
}

func raise(t *testing.T, s store.Store, names ...string) bool {
	var txn store.Txn
	for _, name := range names {
		kv, err := s.Get(t.Context(), name)
		if err != nil {
			t.Error(err)
			return false
		}
		n, err := strconv.Atoi(string(kv.Value))
		if err != nil {
			t.Error(err)
			return false
		}
		txn.Conditions = append(txn.Conditions, store.ModRevisionEquals(name, kv.ModRevision))
		txn.Ops = append(txn.Ops, store.Put(name, []byte(strconv.Itoa(n+1))))
	}
	res, err := s.Commit(t.Context(), []store.Txn{txn})
	if err != nil {
		t.Error(err)
		return false
	}
	return res[0].Succeeded
}

// largeTransactions sends the largest transactions allowed, several at once.
func largeTransactions(t *testing.T, sub Subject) {
	s := sub.Store
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			var wide store.Txn
			for i := range store.MaxTxnOps {
				key := fmt.Sprintf("big/%d/%03d", n, i)
				wide.Conditions = append(wide.Conditions, store.KeyAbsent(key))
				wide.Ops = append(wide.Ops, store.Put(key, nil))
			}
			key := fmt.Sprintf("big/%d/heavy", n)
			heavy := store.Txn{Ops: []store.Op{store.Put(key, []byte(strings.Repeat("x", store.MaxTxnBytes-len(key))))}}
			small := store.Txn{Ops: []store.Op{store.Put(fmt.Sprintf("big/%d/small", n), nil)}}
			res, err := s.Commit(t.Context(), []store.Txn{small, wide, heavy})
			if err != nil || !res[0].Succeeded || !res[1].Succeeded || !res[2].Succeeded {
				t.Errorf("caller %d: %v", n, err)
			}
		})
	}
	wg.Wait()
	list, err := s.List(within(t), "big/", store.ListOptions{})
	must(t, err)
	if want := 4 * (store.MaxTxnOps + 2); len(list.KVs) != want {
		t.Fatalf("%d keys, want %d", len(list.KVs), want)
	}
}

package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// HistoryOptions say what load to record. The zero value is a small one.
type HistoryOptions struct {
	// Clients is how many act at once; default 6.
	Clients int
	// Calls is how many each makes; default 60.
	Calls int
	// Groups is how many groups of keys there are; transactions stay within one. Default 4.
	Groups int
	// Seed draws what is called.
	Seed uint64
	// Faulty says that the store is meant to fail meanwhile: a call whose outcome is unknown may have taken effect, then or later, or not.
	Faulty bool
	// Prefix goes before the keys.
	Prefix string
}

func (o HistoryOptions) withDefaults() HistoryOptions {
	if o.Clients == 0 {
		o.Clients = 6
	}
	if o.Calls == 0 {
		o.Calls = 60
	}
	if o.Groups == 0 {
		o.Groups = 4
	}
	return o
}

// History is what clients asked of a store and were told, with the order in which calls began and ended.
type History struct {
	opts  HistoryOptions
	clock atomic.Int64
	names atomic.Int64
	done  atomic.Int64
	mu    sync.Mutex
	calls []porcupine.Operation
}

// NewHistory makes an empty history.
func NewHistory(opts HistoryOptions) *History { return &History{opts: opts.withDefaults()} }

// Record runs the clients, spread over ways to the same store, and returns when all have ended.
func (h *History) Record(t *testing.T, ways ...store.Store) {
	t.Helper()
	t.Logf("seed %d: %d clients, %d calls each", h.opts.Seed, h.opts.Clients, h.opts.Calls)
	var clients sync.WaitGroup
	for n := range h.opts.Clients {
		clients.Go(func() {
			c := &recorder{h: h, s: ways[n%len(ways)], r: rand.New(rand.NewPCG(h.opts.Seed, uint64(n))), id: n} //nolint:gosec // to be had again
			for range h.opts.Calls {
				c.act(t)
				h.done.Add(1)
			}
		})
	}
	clients.Wait()
}

// Done is how many calls have ended, and Total how many there will be.
func (h *History) Done() int { return int(h.done.Load()) }

// Total is how many calls there will be.
func (h *History) Total() int { return h.opts.Clients * h.opts.Calls }

// recorder is one client.
type recorder struct {
	h  *History
	s  store.Store
	r  *rand.Rand
	id int
	// seen is what this client last read of each key.
	seen map[string]cell
}

// act makes one call and records it.
func (c *recorder) act(t *testing.T) {
	if c.seen == nil {
		c.seen = map[string]cell{}
	}
	in := input{group: c.r.IntN(c.h.opts.Groups)}
	switch c.r.IntN(10) {
	case 0, 1, 2:
		in.read = 1 << c.r.IntN(keysPerGroup)
	case 3:
		in.read = 1<<keysPerGroup - 1
	default:
		c.choose(&in)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	began := c.h.clock.Add(1)
	out := c.call(ctx, in)
	ended := c.h.clock.Add(1)
	if out.err != nil && !(c.h.opts.Faulty && errors.Is(out.err, store.ErrUnavailable)) {
		t.Errorf("%v: %v", in, out.err)
	}
	if out.err != nil {
		ended = forever
		defer c.awaitAnswer(ctx) // or there would be no end of unknown outcomes
		if in.read != 0 {
			return // says nothing
		}
	}
	c.h.add(porcupine.Operation{ClientId: c.id, Input: in, Output: out, Call: began, Return: ended})
}

func (h *History) add(call porcupine.Operation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, call)
}

// awaitAnswer waits until the store serves again.
func (c *recorder) awaitAnswer(ctx context.Context) {
	pause := time.NewTicker(10 * time.Millisecond)
	defer pause.Stop()
	for ctx.Err() == nil {
		if _, err := c.s.Get(ctx, c.key(0, 0)); err == nil || isNotFound(err) {
			return
		}
		<-pause.C
	}
}

// forever is when a call ends that nobody saw the end of.
const forever = int64(1) << 60

// choose draws the conditions and operations of a transaction; every written value is written once in a history.
func (c *recorder) choose(in *input) {
	for k := range keysPerGroup {
		in.conds[k], in.ops[k] = cond{}, op{}
		known, ok := c.seen[c.key(in.group, k)]
		switch c.r.IntN(6) {
		case 0:
			in.conds[k] = cond{kind: condAbsent}
		case 1, 2:
			if ok && known.value != "" {
				in.conds[k] = cond{kind: condValue, value: known.value}
			}
		case 3:
			if ok && known.value != "" {
				in.conds[k] = cond{kind: condRevision, value: known.value, revision: known.revision}
			}
		}
	}
	one := c.r.IntN(keysPerGroup) // at least one is written
	for k := range keysPerGroup {
		if k != one && c.r.IntN(2) == 0 {
			continue
		}
		if c.r.IntN(6) == 0 {
			in.ops[k] = op{kind: opDelete}
		} else {
			in.ops[k] = op{kind: opPut, value: strconv.FormatInt(c.h.names.Add(1), 10)}
		}
	}
	if c.r.IntN(3) == 0 { // a plain one, of a single key
		for k := range keysPerGroup {
			if k != one {
				in.conds[k], in.ops[k] = cond{}, op{}
			}
		}
	}
}

func (c *recorder) key(group, k int) string {
	return fmt.Sprintf("%sh/%d/%c", c.h.opts.Prefix, group, 'a'+k)
}

// call asks the store.
func (c *recorder) call(ctx context.Context, in input) output {
	if in.read != 0 {
		return c.read(ctx, in)
	}
	var txn store.Txn
	for k := range keysPerGroup {
		key := c.key(in.group, k)
		switch in.conds[k].kind {
		case condAbsent:
			txn.Conditions = append(txn.Conditions, store.KeyAbsent(key))
		case condValue:
			txn.Conditions = append(txn.Conditions, store.ValueEquals(key, []byte(in.conds[k].value)))
		case condRevision:
			txn.Conditions = append(txn.Conditions, store.ModRevisionEquals(key, in.conds[k].revision))
		}
		switch in.ops[k].kind {
		case opPut:
			txn.Ops = append(txn.Ops, store.Put(key, []byte(in.ops[k].value)))
		case opDelete:
			txn.Ops = append(txn.Ops, store.Delete(key))
		}
	}
	res, err := commit(ctx, c.s, txn.Conditions, txn.Ops...)
	out := output{err: err, succeeded: res.Succeeded, revision: res.Revision}
	if err != nil || res.Succeeded {
		return out
	}
	// What a refusal shows of the keys is a read too.
	for _, check := range res.Checks {
		for k := range keysPerGroup {
			if c.key(in.group, k) == check.Condition.Key {
				out.shown |= 1 << k
				out.cells[k] = c.take(check.Condition.Key, check.Current)
			}
		}
	}
	return out
}

func (c *recorder) read(ctx context.Context, in input) output {
	if in.read == 1<<keysPerGroup-1 {
		list, err := c.s.List(ctx, fmt.Sprintf("%sh/%d/", c.h.opts.Prefix, in.group), store.ListOptions{})
		if err != nil {
			return output{err: err}
		}
		out := output{shown: in.read}
		byKey := map[string]*store.KV{}
		for i := range list.KVs {
			byKey[list.KVs[i].Key] = &list.KVs[i]
		}
		for k := range keysPerGroup {
			out.cells[k] = c.take(c.key(in.group, k), byKey[c.key(in.group, k)])
		}
		return out
	}
	out := output{shown: in.read}
	for k := range keysPerGroup {
		if in.read != 1<<k {
			continue
		}
		key := c.key(in.group, k)
		kv, err := c.s.Get(ctx, key)
		switch {
		case err == nil:
			out.cells[k] = c.take(key, &kv)
		case isNotFound(err):
			out.cells[k] = c.take(key, nil)
		default:
			return output{err: err}
		}
	}
	return out
}

// take remembers a key as it was found.
func (c *recorder) take(key string, kv *store.KV) cell {
	var found cell
	if kv != nil {
		found = cell{value: string(kv.Value), revision: kv.ModRevision, version: kv.Version}
	}
	c.seen[key] = found
	return found
}

// Check says whether the history can be explained by calls that took effect one after the other, each between its begin and its end.
func (h *History) Check(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	unknown := 0
	for _, c := range h.calls {
		if c.Return == forever {
			unknown++
		}
	}
	began := time.Now()
	result := porcupine.CheckOperationsTimeout(model(), h.calls, 5*time.Minute)
	t.Logf("checked in %v", time.Since(began).Round(time.Millisecond))
	t.Logf("evidence: %s | %d calls, %d of unknown outcome: linearizable %s", t.Name(), len(h.calls), unknown, result)
	if result != porcupine.Ok {
		t.Errorf("seed %d: the history is not linearizable: %s", h.opts.Seed, result)
		for _, c := range h.calls {
			t.Logf("%6d %6d  client %d: %v -> %v", c.Call, c.Return, c.ClientId, c.Input, c.Output)
		}
	}
}

// linearizable records a history of one store and checks it.
func linearizable(t *testing.T, sub Subject) {
	h := NewHistory(HistoryOptions{Seed: Seed(t), Calls: 60 * Count(t, 1), Prefix: "lin/"})
	f := Follow(t, sub.Store, "lin/")
	h.Record(t, sub.Store)
	h.Check(t)
	h.CheckFollower(t, f)
}

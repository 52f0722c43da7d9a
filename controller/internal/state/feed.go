package state

import (
	"context"
	"fmt"
	"strings"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// loadPage is how many keys are listed at once.
const loadPage = 2000

// load reads everything at one revision and makes the cache so. It returns the revision to watch from.
func (c *Cache) load(ctx context.Context) (int64, error) {
	var rows []*Row
	claims, ranges := map[string]string{}, map[string]int64{}
	opts := store.ListOptions{Limit: loadPage}
	for {
		res, err := c.store.List(ctx, "", opts)
		if err != nil {
			return 0, fmt.Errorf("list state: %w", err)
		}
		for _, kv := range res.KVs {
			if isClaim(kv.Key) {
				claims[kv.Key] = string(kv.Value)
			} else if strings.HasPrefix(kv.Key, rangesPrefix) {
				ranges[kv.Key] = kv.ModRevision
			} else if r := c.read(kv); r != nil {
				rows = append(rows, r)
			}
		}
		opts.Revision = res.Revision
		if !res.More {
			break
		}
		opts.From = res.Next
	}
	c.replace(rows, claims, ranges, opts.Revision)
	return opts.Revision + 1, nil
}

// read makes the row of a key; nil for keys that the cache does not hold, and for records that cannot be read, which are logged.
func (c *Cache) read(kv store.KV) *Row {
	kind, id, ok := splitKey(kv.Key)
	if !ok {
		return nil
	}
	r, err := newRow(kind, id, kv)
	if err != nil {
		c.log.Error("unreadable record is left out", "key", kv.Key, "error", err)
		return nil
	}
	return r
}

func (c *Cache) replace(rows []*Row, claims map[string]string, ranges map[string]int64, revision int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.tables {
		c.tables[k] = newTable()
	}
	for _, r := range rows {
		c.tables[r.Kind].put(r)
	}
	c.claims, c.ranges = claims, ranges
	c.ring.reset(revision)
	for key, ws := range c.waiters {
		closeAll(ws)
		delete(c.waiters, key)
	}
	c.advance(revision)
	if !c.isLoaded {
		c.isLoaded = true
		close(c.loaded)
	}
}

// apply takes in one batch of the watch. Records are decoded outside the lock.
func (c *Cache) apply(b store.Batch) {
	read := make([]*Row, len(b.Events))
	for i, ev := range b.Events {
		if !ev.Deleted {
			read[i] = c.read(ev.KV)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var changes []Change
	for i, ev := range b.Events {
		if isClaim(ev.KV.Key) {
			if ev.Deleted {
				delete(c.claims, ev.KV.Key)
			} else {
				c.claims[ev.KV.Key] = string(ev.KV.Value)
			}
			continue
		}
		if strings.HasPrefix(ev.KV.Key, rangesPrefix) {
			c.ranges[ev.KV.Key] = ev.KV.ModRevision
			continue
		}
		kind, id, ok := splitKey(ev.KV.Key)
		if !ok {
			continue
		}
		ch := Change{Revision: b.Revision, New: read[i]}
		if ch.New != nil {
			ch.Old = c.tables[kind].put(ch.New)
		} else {
			ch.Old = c.tables[kind].remove(id)
		}
		if ch.Old != nil || ch.New != nil {
			changes = append(changes, ch)
		}
		closeAll(c.waiters[ev.KV.Key])
		delete(c.waiters, ev.KV.Key)
	}
	c.ring.add(changes)
	c.advance(b.Revision)
}

// advance says that everything up to revision is known.
func (c *Cache) advance(revision int64) {
	c.heard = c.now()
	if revision <= c.revision {
		return
	}
	c.revision = revision
	close(c.changed)
	c.changed = make(chan struct{})
}

func closeAll(ws []chan struct{}) {
	for _, w := range ws {
		close(w)
	}
}

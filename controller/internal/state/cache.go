package state

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// staleAfter is how long the watch may be silent; the store says something about once a second.
const staleAfter = 5 * time.Second

// Cache is the state in memory. All methods are safe for concurrent use.
type Cache struct {
	store store.Store
	log   *slog.Logger
	now   func() time.Time

	mu       sync.RWMutex
	tables   map[Kind]*table
	claims   map[string]string // key of a name, an address, a MAC address or a VNI -> id of who has it
	ranges   map[string]int64  // RangesKey -> revision that last wrote it
	revision int64
	heard    time.Time
	ring     ring
	changed  chan struct{} // closed and replaced when revision grows
	loaded   chan struct{} // closed after the first load
	isLoaded bool
	waiters  map[string][]chan struct{} // record key -> closed at its next change
}

// NewCache makes a cache that knows nothing until Run.
func NewCache(s store.Store, log *slog.Logger, now func() time.Time) *Cache {
	c := &Cache{
		store: s, log: log, now: now, tables: map[Kind]*table{}, claims: map[string]string{}, ranges: map[string]int64{},
		changed: make(chan struct{}), loaded: make(chan struct{}), waiters: map[string][]chan struct{}{},
	}
	for _, k := range []Kind{KindVM, KindNode, KindVolume, KindSnapshot, KindPool, KindImage, KindNetwork, KindPort, KindSecurityGroup, KindOperation, KindJoinToken} {
		c.tables[k] = newTable()
	}
	return c
}

// Revision is the revision up to which the cache knows everything.
func (c *Cache) Revision() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.revision
}

// Loaded is closed once the cache holds the whole state.
func (c *Cache) Loaded() <-chan struct{} { return c.loaded }

// Ready is nil while reads are fresh, else STORE_UNAVAILABLE with the reason.
func (c *Cache) Ready() error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	switch silent := c.now().Sub(c.heard); {
	case !c.isLoaded:
		return fault.New(metav1.Reason_REASON_STORE_UNAVAILABLE, "state is still being read")
	case silent > staleAfter:
		return fault.New(metav1.Reason_REASON_STORE_UNAVAILABLE, "state is stale: the store has been silent for %s", silent.Round(time.Second))
	}
	return nil
}

// Wait returns when the cache knows everything up to revision, so that a writer reads what it wrote.
func (c *Cache) Wait(ctx context.Context, revision int64) error {
	for {
		c.mu.RLock()
		rev, changed := c.revision, c.changed
		c.mu.RUnlock()
		if rev >= revision {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for revision %d of the state: %w", revision, ctx.Err())
		case <-changed:
		}
	}
}

// Row is a record; nil when there is none.
func (c *Cache) Row(kind Kind, id string) *Row {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.tables[kind].rows[id]
}

// ByName is the id of the object with a name; "" when there is none.
func (c *Cache) ByName(project string, kind Kind, name string) string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.claims[NameKey(project, kind, name)]
}

// Holder is the id of the object that has what a key of a name, an address, a MAC address or a VNI stands for; "" when nobody does.
func (c *Cache) Holder(key string) string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.claims[key]
}

// RangesRevision is the revision at which a project's RangesKey was last written; 0 = never.
func (c *Cache) RangesRevision(project string) int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.ranges[RangesKey(project)]
}

// Notify returns a channel that is closed when the record changes next. Call stop when it is no longer waited for.
func (c *Cache) Notify(kind Kind, id string) (changed <-chan struct{}, stop func()) {
	key, ch := Key(kind, id), make(chan struct{})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiters[key] = append(c.waiters[key], ch)
	return ch, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		left := c.waiters[key][:0]
		for _, w := range c.waiters[key] {
			if w != ch {
				left = append(left, w)
			}
		}
		if len(left) == 0 {
			delete(c.waiters, key)
		} else {
			c.waiters[key] = left
		}
	}
}

// Run loads the state and follows it until ctx ends, whose error it returns. Trouble of the store is logged and shows in Ready.
func (c *Cache) Run(ctx context.Context) error {
	for from := int64(0); ; {
		var err error
		if from == 0 {
			from, err = c.load(ctx)
		}
		if err == nil {
			err = c.follow(ctx, from)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, store.ErrClosed) {
			return err
		}
		from = 0
		if c.isKnown() && !errors.Is(err, store.ErrCompacted) {
			from = c.Revision() + 1
		}
		c.log.Warn("state cache lost its watch", "error", err, "resume_revision", from)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (c *Cache) isKnown() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.isLoaded
}

// follow applies what the watch says.
func (c *Cache) follow(ctx context.Context, from int64) error {
	w, err := c.store.Watch(ctx, "", from)
	if err != nil {
		return fmt.Errorf("watch from %d: %w", from, err)
	}
	defer w.Close()
	for {
		b, err := w.Next(ctx)
		if err != nil {
			return fmt.Errorf("watch: %w", err)
		}
		c.apply(b)
	}
}

package memory

import (
	"iter"
	"slices"
	"strings"

	"github.com/limiquantix/limiquantix/controller/internal/store"
)

// index holds every key with its history, in byte order.
type index []*entry

// entry is one key; versions ascend by ModRevision.
type entry struct {
	key      string
	versions []version
}

type version struct {
	kv      store.KV
	deleted bool
}

// at returns the key as it was at a revision, or nil.
func (e *entry) at(revision int64) *store.KV {
	for _, v := range slices.Backward(e.versions) {
		if v.kv.ModRevision <= revision {
			if v.deleted {
				return nil
			}
			return &v.kv
		}
	}
	return nil
}

// latest returns the key as it is, or nil.
func (e *entry) latest() *store.KV {
	if n := len(e.versions); n > 0 && !e.versions[n-1].deleted {
		return &e.versions[n-1].kv
	}
	return nil
}

func (x index) search(key string) (int, bool) {
	return slices.BinarySearchFunc(x, key, func(e *entry, k string) int { return strings.Compare(e.key, k) })
}

// current returns the key as it is, or nil.
func (x index) current(key string) *store.KV {
	if i, ok := x.search(key); ok {
		return x[i].latest()
	}
	return nil
}

// entry finds or makes the entry of a key.
func (x *index) entry(key string) *entry {
	i, ok := x.search(key)
	if !ok {
		*x = slices.Insert(*x, i, &entry{key: key})
	}
	return (*x)[i]
}

// scan yields the keys with a prefix, not before from, as of a revision.
func (x index) scan(prefix, from string, revision int64) iter.Seq[store.KV] {
	return func(yield func(store.KV) bool) {
		i, _ := x.search(max(prefix, from))
		for ; i < len(x) && strings.HasPrefix(x[i].key, prefix); i++ {
			if kv := x[i].at(revision); kv != nil && !yield(*kv) {
				return
			}
		}
	}
}

// prune forgets the versions of a key that revision and later do not need.
func (x *index) prune(key string, revision int64) {
	i, ok := x.search(key)
	if !ok {
		return
	}
	e := (*x)[i]
	first := 0
	for j, v := range e.versions {
		if v.kv.ModRevision <= revision {
			first = j
			if v.deleted {
				first++
			}
		}
	}
	e.versions = slices.Delete(e.versions, 0, first)
	if len(e.versions) == 0 {
		*x = slices.Delete(*x, i, i+1)
	}
}

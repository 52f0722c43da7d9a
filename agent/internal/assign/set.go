package assign

import (
	"bytes"

	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
)

// set is which objects are wanted, and under which revision and digest the controller knows that this agent knows. What is known from the state file has
// no secrets, so it counts as unknown to the controller.
type set struct {
	keys     map[key]*agentv1.DesiredKey
	repeated map[key]bool // not nil between a snapshot and its sync
	revision int64
	digest   []byte
	whole    bool // all that was sent since the last sync is in the set
}

type key struct {
	kind agentv1.DesiredKind
	id   string
}

func keyOf(k *agentv1.DesiredKey) key { return key{k.GetKind(), k.GetId()} }

func newSet(known []*agentv1.DesiredKey) set {
	s := set{keys: map[key]*agentv1.DesiredKey{}}
	for _, k := range known {
		s.keys[keyOf(k)] = k
	}
	return s
}

// known is what to say when the stream is opened. Changes that came after the last sync are not part of it and are sent again.
func (s *set) known() (revision int64, digest []byte) {
	if !s.whole {
		return 0, nil
	}
	return s.revision, bytes.Clone(s.digest)
}

// restart forgets a snapshot that was cut off.
func (s *set) restart() { s.repeated = nil }

func (s *set) snapshot() {
	s.repeated = map[key]bool{}
	s.whole = false
}

func (s *set) upsert(k *agentv1.DesiredKey) {
	s.keys[keyOf(k)] = k
	if s.repeated != nil {
		s.repeated[keyOf(k)] = true
	}
	s.whole = false
}

func (s *set) remove(k *agentv1.DesiredKey) {
	delete(s.keys, keyOf(k))
	s.whole = false
}

// sync ends a snapshot or a group of changes, and returns what is wanted no longer because a snapshot did not repeat it.
func (s *set) sync(revision int64, digest []byte) (gone []*agentv1.DesiredKey) {
	if s.repeated != nil {
		for k, v := range s.keys {
			if !s.repeated[k] {
				gone = append(gone, v)
				delete(s.keys, k)
			}
		}
		s.repeated = nil
	}
	s.revision, s.digest, s.whole = revision, bytes.Clone(digest), true
	return gone
}

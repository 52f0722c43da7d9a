package storetest

import (
	"fmt"
	"strings"

	"github.com/anishathalye/porcupine"
)

// keysPerGroup is how many keys a transaction of a history can span.
const keysPerGroup = 3

// cell is a key: a value that is written once in a history, or "" for absent.
type cell struct {
	value    string
	revision int64 // 0 is not known, for the writer was never told
	version  int64
}

// state is the keys of a group, and the last revision known of them.
type state struct {
	cells [keysPerGroup]cell
	last  int64
}

type condKind int

const (
	condNone condKind = iota
	condAbsent
	condValue
	condRevision // of the value beside it, and so the same question
)

type cond struct {
	kind     condKind
	value    string
	revision int64
}

type opKind int

const (
	opNone opKind = iota
	opPut
	opDelete
)

type op struct {
	kind  opKind
	value string
}

// input is a call: a read of the keys whose bits are set at one revision, or a transaction.
type input struct {
	group int
	read  int
	conds [keysPerGroup]cond
	ops   [keysPerGroup]op
}

// output is what the caller was told. With an error a transaction may have taken effect at any time since, or never.
type output struct {
	err       error
	succeeded bool
	revision  int64
	shown     int // bits of the keys that cells tell of
	cells     [keysPerGroup]cell
}

// model is a map from keys to values with one counter of revisions, by the group.
func model() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			var groups [][]porcupine.Operation
			for _, call := range history {
				g := call.Input.(input).group //nolint:forcetypeassert // ours
				for len(groups) <= g {
					groups = append(groups, nil)
				}
				groups[g] = append(groups[g], call)
			}
			return groups
		},
		Init: func() any { return state{} },
		Step: func(s, in, out any) (bool, any) {
			return step(s.(state), in.(input), out.(output)) //nolint:forcetypeassert // ours
		},
	}
}

// step says whether a call in this state can have had this outcome, and what comes after it.
func step(s state, in input, out output) (bool, state) {
	if in.read != 0 {
		return s.shows(out)
	}
	holds := true
	for k, c := range in.conds {
		switch c.kind {
		case condAbsent:
			holds = holds && s.cells[k].value == ""
		case condValue, condRevision:
			holds = holds && s.cells[k].value == c.value
		}
	}
	switch {
	case out.err != nil && !holds:
		return true, s
	case out.err != nil:
		return true, s.after(in.ops, 0)
	case out.succeeded != holds:
		return false, s
	case !holds:
		return s.shows(out)
	}
	next := s.after(in.ops, out.revision)
	if next.cells != s.cells {
		// A group of transactions shares a revision, but those that touch the same key do not, and a group of keys is one such.
		if out.revision < s.last {
			return false, s
		}
		next.last = out.revision
	}
	return true, next
}

// after is the state once operations were done, at a revision that may not be known.
func (s state) after(ops [keysPerGroup]op, revision int64) state {
	for k, o := range ops {
		switch o.kind {
		case opPut:
			version := int64(1)
			if s.cells[k].value != "" {
				version = s.cells[k].version + 1
			}
			s.cells[k] = cell{value: o.value, revision: revision, version: version}
		case opDelete:
			s.cells[k] = cell{}
		}
	}
	return s
}

// shows says whether keys can have been seen so, and learns their revisions.
func (s state) shows(out output) (bool, state) {
	for k, seen := range out.cells {
		if out.shown&(1<<k) == 0 {
			continue
		}
		is := s.cells[k]
		if seen.value != is.value || seen.version != is.version || is.revision != 0 && seen.revision != is.revision {
			return false, s
		}
		s.cells[k].revision = seen.revision
		s.last = max(s.last, seen.revision)
	}
	return true, s
}

func (in input) String() string {
	if in.read != 0 {
		return fmt.Sprintf("read %d/%03b", in.group, in.read)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "txn %d:", in.group)
	for k := range keysPerGroup {
		switch c := in.conds[k]; c.kind {
		case condAbsent:
			fmt.Fprintf(&b, " %c absent", 'a'+k)
		case condValue, condRevision:
			fmt.Fprintf(&b, " %c is %s", 'a'+k, c.value)
		}
		switch o := in.ops[k]; o.kind {
		case opPut:
			fmt.Fprintf(&b, " %c=%s", 'a'+k, o.value)
		case opDelete:
			fmt.Fprintf(&b, " %c gone", 'a'+k)
		}
	}
	return b.String()
}

func (out output) String() string {
	if out.err != nil {
		return out.err.Error()
	}
	return fmt.Sprintf("ok %v at %d, shows %03b %v", out.succeeded, out.revision, out.shown, out.cells)
}

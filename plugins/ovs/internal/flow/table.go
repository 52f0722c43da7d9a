package flow

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Table is all flows that a bridge shall have, by owner. It does no I/O: Changes says what to send.
type Table struct {
	owners  map[string][]Key
	entries map[Key]entry
	sent    map[Key]uint64 // cookies of what was sent last
	cookies map[uint64]Owned
	touched map[Key]bool
}

// Owned is a flow that is wanted, and one of those who want it.
type Owned struct {
	Key   Key
	Owner string
}

// NewTable makes an empty table.
func NewTable() *Table {
	return &Table{owners: map[string][]Key{}, entries: map[Key]entry{}, sent: map[Key]uint64{}, cookies: map[uint64]Owned{}, touched: map[Key]bool{}}
}

// Set makes flows all that an owner wants.
func (t *Table) Set(owner string, flows []Flow) {
	next := make(map[Key]Flow, len(flows))
	for _, f := range flows {
		k := f.key()
		if have, ok := next[k]; ok {
			f.Clauses = append(slices.Clone(have.Clauses), f.Clauses...)
		}
		next[k] = f
	}
	for _, k := range t.owners[owner] {
		if _, ok := next[k]; !ok {
			delete(t.entries[k], owner)
			t.touched[k] = true
		}
	}
	for k, f := range next {
		e := t.entries[k]
		if e == nil {
			e = entry{}
			t.entries[k] = e
		}
		if have, ok := e[owner]; !ok || have.Actions != f.Actions || have.Class != f.Class || !slices.Equal(have.Clauses, f.Clauses) {
			e[owner] = f
			t.touched[k] = true
		}
	}
	if len(next) == 0 {
		delete(t.owners, owner)
		return
	}
	t.owners[owner] = slices.Collect(maps.Keys(next))
}

// Owners are all that want flows.
func (t *Table) Owners() []string { return slices.Collect(maps.Keys(t.owners)) }

// Changes bring a bridge from what was sent last to what is wanted; none when nothing differs. They count as sent: when sending fails, send All.
func (t *Table) Changes() (changes []Change) {
	for k := range t.touched {
		e := t.entries[k]
		if e == nil {
			continue
		}
		actions, class := e.render()
		old, was := t.sent[k]
		switch {
		case actions == "" && was:
			delete(t.cookies, old)
			delete(t.sent, k)
			changes = append(changes, Change{Key: k})
		case actions != "":
			c := cookie(k.line(actions), class)
			if was && c == old {
				break
			}
			delete(t.cookies, old)
			t.sent[k], t.cookies[c] = c, Owned{k, e.owner()}
			changes = append(changes, Change{k, c, actions})
		}
		if len(e) == 0 {
			delete(t.entries, k)
		}
	}
	clear(t.touched)
	return changes
}

func (e entry) owner() string {
	owner := ""
	for o := range e {
		if owner == "" || o < owner {
			owner = o
		}
	}
	return owner
}

// All are all flows, in the format of files of flows.
func (t *Table) All() string {
	t.Changes()
	var b strings.Builder
	for k, e := range t.entries {
		if actions, class := e.render(); actions != "" {
			line := k.line(actions)
			fmt.Fprintf(&b, "cookie=%#x,%s\n", cookie(line, class), line)
		}
	}
	return b.String()
}

// Len is the number of flows.
func (t *Table) Len() int { return len(t.entries) }

// Wanted is the flow with a cookie.
func (t *Table) Wanted(cookie uint64) (Owned, bool) {
	o, ok := t.cookies[cookie]
	return o, ok
}

// Text is a sorted rendering without cookies, for people and golden files.
func (t *Table) Text() string {
	var lines []string
	for k, e := range t.entries {
		if actions, _ := e.render(); actions != "" {
			lines = append(lines, k.line(actions))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

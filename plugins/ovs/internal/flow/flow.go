// Package flow holds OpenFlow flows as text, the table of those that shall be in a bridge, and what brings them there: always as one atomic bundle.
package flow

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
)

// Class says what a flow's counter counts, so that counters can be read without all other flows.
type Class uint8

// The classes.
const (
	Plain   Class = iota + 1
	Spoofed       // packets of an interface that lied
	Ingress       // packets to an interface that no rule allowed
	Egress        // packets from an interface that no rule allowed
)

// Clause makes a flow one dimension of a conjunction.
type Clause struct {
	ID   uint32
	K, N int
}

// Flow is a flow, or a part of one: flows of several owners with the same key and clauses are one flow with all their clauses.
type Flow struct {
	Table    uint8
	Priority uint16
	Match    string
	Actions  string // empty when there are clauses
	Clauses  []Clause
	Class    Class // Plain when 0
}

// Key is what a flow is known by in a bridge.
type Key struct {
	Table    uint8
	Priority uint16
	Match    string
}

func (f Flow) key() Key { return Key{f.Table, f.Priority, f.Match} }

func (k Key) match() string {
	s := fmt.Sprintf("table=%d,priority=%d", k.Table, k.Priority)
	if k.Match != "" {
		s += "," + k.Match
	}
	return s
}

// entry is what owners say of one key.
type entry map[string]Flow

// render is what the flow does; empty when nobody wants it.
func (e entry) render() (actions string, class Class) {
	if len(e) == 0 {
		return "", 0
	}
	class = Plain
	var clauses []Clause
	for _, f := range e {
		clauses = append(clauses, f.Clauses...)
		if f.Actions != "" && (actions == "" || f.Actions < actions) {
			actions = f.Actions
		}
		if f.Class != 0 {
			class = f.Class
		}
	}
	if actions == "" {
		slices.SortFunc(clauses, func(a, b Clause) int {
			if a.ID != b.ID {
				return int(int64(a.ID) - int64(b.ID))
			}
			return a.K - b.K
		})
		clauses = slices.Compact(clauses)
		parts := make([]string, len(clauses))
		for i, c := range clauses {
			parts[i] = fmt.Sprintf("conjunction(%d,%d/%d)", c.ID, c.K, c.N)
		}
		actions = strings.Join(parts, ",")
	}
	return actions, class
}

// line is a flow without its cookie, as ovs-ofctl has it.
func (k Key) line(actions string) string { return k.match() + ",actions=" + actions }

// cookie names a flow by its class and all that it is.
func cookie(line string, class Class) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(line))
	return uint64(class)<<56 | h.Sum64()>>8
}

// CookieMask selects a class.
func CookieMask(c Class) string { return fmt.Sprintf("cookie=%#x/0xff00000000000000", uint64(c)<<56) }

package domain

import (
	"fmt"
	"strings"
)

// SelectorOp is how a requirement compares.
type SelectorOp int

// The comparisons of a label selector.
const (
	SelectEquals SelectorOp = iota + 1
	SelectNotEquals
	SelectExists
	SelectAbsent
)

// Requirement is one part of a selector.
type Requirement struct {
	Key   string
	Op    SelectorOp
	Value string
}

// Selector selects by labels; every requirement must hold. The empty one selects everything.
type Selector []Requirement

// ParseSelector reads "a=b,c!=d,e,!f". "==" means "=".
func ParseSelector(s string) (Selector, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	var out Selector
	for part := range strings.SplitSeq(s, ",") {
		r, err := parseRequirement(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func parseRequirement(p string) (Requirement, error) {
	var r Requirement
	if k, v, ok := strings.Cut(p, "!="); ok {
		r = Requirement{strings.TrimSpace(k), SelectNotEquals, strings.TrimSpace(v)}
	} else if k, v, ok := strings.Cut(p, "="); ok {
		r = Requirement{strings.TrimSpace(k), SelectEquals, strings.TrimSpace(strings.TrimPrefix(v, "="))}
	} else if k, ok := strings.CutPrefix(p, "!"); ok {
		r = Requirement{strings.TrimSpace(k), SelectAbsent, ""}
	} else {
		r = Requirement{p, SelectExists, ""}
	}
	if !ValidLabelKey(r.Key) {
		return r, fmt.Errorf("%q: key %s", p, labelKeyRule)
	}
	if !ValidLabelValue(r.Value) {
		return r, fmt.Errorf("%q: value %s", p, labelValRule)
	}
	return r, nil
}

// Matches reports whether every requirement holds. A key that is absent differs from every value.
func (s Selector) Matches(labels map[string]string) bool {
	for _, r := range s {
		got, has := labels[r.Key]
		var ok bool
		switch r.Op {
		case SelectEquals:
			ok = has && got == r.Value
		case SelectNotEquals:
			ok = !has || got != r.Value
		case SelectExists:
			ok = has
		case SelectAbsent:
			ok = !has
		}
		if !ok {
			return false
		}
	}
	return true
}

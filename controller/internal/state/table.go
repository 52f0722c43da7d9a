package state

import (
	"slices"
	"strings"
)

// table holds the rows of one kind with their indexes.
type table struct {
	rows map[string]*Row
	all  list
	by   map[string]*list
}

// list is a set of rows ordered by id.
type list struct{ rows []*Row }

func newTable() *table { return &table{rows: map[string]*Row{}, by: map[string]*list{}} }

func compareID(r *Row, id string) int { return strings.Compare(r.ID, id) }

func (l *list) put(r *Row) {
	if n := len(l.rows); n == 0 || l.rows[n-1].ID < r.ID {
		l.rows = append(l.rows, r)
		return
	}
	i, found := slices.BinarySearchFunc(l.rows, r.ID, compareID)
	if found {
		l.rows[i] = r
		return
	}
	l.rows = slices.Insert(l.rows, i, r)
}

func (l *list) remove(id string) {
	if i, found := slices.BinarySearchFunc(l.rows, id, compareID); found {
		l.rows = slices.Delete(l.rows, i, i+1)
	}
}

// put adds a row or replaces the one of its id, and returns the replaced one.
func (t *table) put(r *Row) *Row {
	old := t.rows[r.ID]
	t.rows[r.ID] = r
	t.all.put(r)
	keys := terms(r)
	if old != nil {
		for _, k := range terms(old) {
			if !slices.Contains(keys, k) {
				t.drop(k, r.ID)
			}
		}
	}
	for _, k := range keys {
		l := t.by[k]
		if l == nil {
			l = &list{}
			t.by[k] = l
		}
		l.put(r)
	}
	return old
}

func (t *table) remove(id string) *Row {
	old := t.rows[id]
	if old == nil {
		return nil
	}
	delete(t.rows, id)
	t.all.remove(id)
	for _, k := range terms(old) {
		t.drop(k, id)
	}
	return old
}

func (t *table) drop(term, id string) {
	l := t.by[term]
	if l == nil {
		return
	}
	if l.remove(id); len(l.rows) == 0 {
		delete(t.by, term)
	}
}

func termProject(p string) string { return "p\x00" + p }
func termNode(n string) string    { return "n\x00" + n }
func termOwner(o string) string   { return "o\x00" + o }
func termName(n string) string    { return "m\x00" + n }
func termPool(p string) string    { return "q\x00" + p }
func termRef(r string) string     { return "r\x00" + r }
func termPhase(p int32) string    { return "s\x00" + string(rune(p)) }
func termLabel(k, v string) string {
	return "l\x00" + k + "\x00" + v
}
func termHas(k string) string { return "k\x00" + k }

// terms are what a row can be found by.
func terms(r *Row) []string {
	out := make([]string, 0, 4+len(r.Nodes)+len(r.Refs)+2*len(r.Labels))
	out = append(out, termPhase(r.Phase))
	if r.Project != "" && r.Kind != KindOperation {
		out = append(out, termProject(r.Project))
	}
	if r.Name != "" && r.Kind != KindOperation {
		out = append(out, termName(r.Name))
	}
	if r.Owner != "" {
		out = append(out, termOwner(r.Owner))
	}
	if r.InPool != "" {
		out = append(out, termPool(r.InPool))
	}
	for _, n := range r.Nodes {
		out = append(out, termNode(n))
	}
	for i, ref := range r.Refs {
		if !slices.Contains(r.Refs[:i], ref) {
			out = append(out, termRef(ref))
		}
	}
	for k, v := range r.Labels {
		out = append(out, termLabel(k, v), termHas(k))
	}
	return out
}

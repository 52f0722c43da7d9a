package state

import (
	"slices"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
)

// Query selects rows of one kind. Empty fields select everything.
type Query struct {
	Kind     Kind
	Project  string
	Selector domain.Selector
	Node     string
	Owner    string
	Pool     string
	Name     string
	Ref      string
	Phases   []int32
	// Keep decides what the fields above cannot say; nil keeps all. It runs under the cache's lock: it must be quick and not call the cache.
	Keep func(*Row) bool
	// After is the id to go on after, in the walk's direction; "" begins.
	After string
	// Limit is the most rows to return; 0 is no limit.
	Limit int
	// Newest walks from the highest id down.
	Newest bool
}

// Page is what a query found.
type Page struct {
	Rows     []*Row
	More     bool
	Revision int64
}

// Find answers a query from the smallest index that serves it.
func (c *Cache) Find(q Query) Page {
	c.mu.RLock()
	defer c.mu.RUnlock()
	t := c.tables[q.Kind]
	rows := t.candidates(q)
	page := Page{Revision: c.revision}
	add := func(r *Row) bool {
		if !q.matches(r) {
			return true
		}
		if q.Limit > 0 && len(page.Rows) == q.Limit {
			page.More = true
			return false
		}
		page.Rows = append(page.Rows, r)
		return true
	}
	if q.Newest {
		end := len(rows)
		if q.After != "" {
			end, _ = slices.BinarySearchFunc(rows, q.After, compareID)
		}
		for i := end - 1; i >= 0 && add(rows[i]); i-- {
		}
		return page
	}
	start := 0
	if q.After != "" {
		var found bool
		if start, found = slices.BinarySearchFunc(rows, q.After, compareID); found {
			start++
		}
	}
	for i := start; i < len(rows) && add(rows[i]); i++ {
	}
	return page
}

// Count is the number of rows that a query selects.
func (c *Cache) Count(q Query) int { return len(c.Find(q).Rows) }

// candidates is the shortest index list that holds every row the query can select.
func (t *table) candidates(q Query) []*Row {
	best, chosen := t.all.rows, false
	try := func(term string) {
		var rows []*Row
		if l := t.by[term]; l != nil {
			rows = l.rows
		}
		if !chosen || len(rows) < len(best) {
			best, chosen = rows, true
		}
	}
	if q.Project != "" && q.Kind != KindOperation {
		try(termProject(q.Project))
	}
	if q.Node != "" {
		try(termNode(q.Node))
	}
	if q.Owner != "" {
		try(termOwner(q.Owner))
	}
	if q.Pool != "" {
		try(termPool(q.Pool))
	}
	if q.Name != "" && q.Kind != KindOperation {
		try(termName(q.Name))
	}
	if q.Ref != "" {
		try(termRef(q.Ref))
	}
	if len(q.Phases) == 1 {
		try(termPhase(q.Phases[0]))
	}
	for _, r := range q.Selector {
		switch r.Op {
		case domain.SelectEquals:
			try(termLabel(r.Key, r.Value))
		case domain.SelectExists:
			try(termHas(r.Key))
		}
	}
	return best
}

func (q Query) matches(r *Row) bool {
	return (q.Project == "" || r.Project == q.Project) &&
		(q.Node == "" || slices.Contains(r.Nodes, q.Node)) &&
		(q.Owner == "" || r.Owner == q.Owner) &&
		(q.Pool == "" || r.InPool == q.Pool) &&
		(q.Name == "" || r.Name == q.Name) &&
		(q.Ref == "" || slices.Contains(r.Refs, q.Ref)) &&
		(len(q.Phases) == 0 || slices.Contains(q.Phases, r.Phase)) &&
		q.Selector.Matches(r.Labels) &&
		(q.Keep == nil || q.Keep(r))
}

// Resolve finds an object by id, or by name within a project; nil when there is none. An object that is being deleted is found by id only.
func (c *Cache) Resolve(kind Kind, project, ref string) *Row {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if domain.IsID(ref) {
		return c.tables[kind].rows[ref]
	}
	return c.tables[kind].rows[c.claims[NameKey(project, kind, ref)]]
}

// CountOn is the number of records of a kind on a node.
func (c *Cache) CountOn(kind Kind, nodeID string) int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if l := c.tables[kind].by[termNode(nodeID)]; l != nil {
		return len(l.rows)
	}
	return 0
}

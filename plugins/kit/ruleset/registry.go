package ruleset

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/plugins/kit/netspec"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Set is an address set in a generation. It is not changed once made.
type Set struct {
	ID         string
	Generation int64
	Mark       *driverv1.OwnershipMark
	*Members
}

// Registry knows which rule sets and address sets are in force. Its methods that begin with Plan say what a call would change and change nothing: a plugin makes it so on the host
// and then calls Commit. It does no I/O and no locking.
type Registry struct {
	owner    netspec.Owner
	maxRules int
	rules    map[string]*Plan
	sets     map[string]*Set
}

// NewRegistry makes an empty registry of what belongs to owner. maxRules 0 = MaxRules.
func NewRegistry(owner netspec.Owner, maxRules int) *Registry {
	return &Registry{owner: owner, maxRules: maxRules, rules: map[string]*Plan{}, sets: map[string]*Set{}}
}

// Rules is a rule set in force; nil when it was never applied.
func (r *Registry) Rules(id string) *Plan { return r.rules[id] }

// Set is an address set in force; nil when it is absent.
func (r *Registry) Set(id string) *Set { return r.sets[id] }

// Members are those of an address set in force, for Policy.
func (r *Registry) Members(id string) *Members {
	if s := r.sets[id]; s != nil {
		return s.Members
	}
	return nil
}

// RuleIDs are the ids of all rule sets in force, sorted.
func (r *Registry) RuleIDs() []string { return slices.Sorted(maps.Keys(r.rules)) }

// SetIDs are the ids of all address sets in force, sorted.
func (r *Registry) SetIDs() []string { return slices.Sorted(maps.Keys(r.sets)) }

// Update is what a call changes: rule sets and address sets as they are to be. What it replaces stands beside it.
type Update struct {
	Rules, OldRules *Plan // nil when no rule set changes; OldRules is nil when it is new
	Sets            []SetChange
	RemovedRules    []*Plan
	RemovedSets     []*Set
}

// SetChange is an address set as it is to be, what it was (nil when it is new), and the difference between the two.
type SetChange struct {
	*Set
	Old         *Set
	Add, Remove []netip.Prefix
}

// Empty reports whether nothing changes.
func (u *Update) Empty() bool {
	return u.Rules == nil && len(u.Sets) == 0 && len(u.RemovedRules) == 0 && len(u.RemovedSets) == 0
}

// Commit makes an update that is in force on the host the state of the registry.
func (r *Registry) Commit(u *Update) {
	if u.Rules != nil {
		r.rules[u.Rules.ID] = u.Rules
	}
	for _, s := range u.Sets {
		r.sets[s.ID] = s.Set
	}
	for _, p := range u.RemovedRules {
		delete(r.rules, p.ID)
	}
	for _, s := range u.RemovedSets {
		delete(r.sets, s.ID)
	}
}

// Restore puts in what was found on the host.
func (r *Registry) Restore(plans []*Plan, sets []*Set) {
	for _, p := range plans {
		r.rules[p.ID] = p
	}
	for _, s := range sets {
		r.sets[s.ID] = s
	}
}

// PlanApply says what ApplyRuleSet changes, or why it is refused: INVALID_ARGUMENT for what is wrong, ALREADY_EXISTS (SPEC_CONFLICT) for other content in the generation in force,
// FAILED_PRECONDITION (WRONG_STATE) for an older generation or an address set that is neither there nor comes along.
func (r *Registry) PlanApply(req *driverv1.ApplyRuleSetRequest) (*Update, error) {
	rs := req.GetRuleSet()
	v := netspec.MarkViolations("rule_set.mark", rs.GetMark(), rs.GetRuleSetId(), r.owner)
	v = append(v, Violations("rule_set", rs, r.maxRules)...)
	coming, seen := []*Set(nil), map[string]bool{}
	for i, a := range req.GetAddressSets() {
		field := fmt.Sprintf("address_sets[%d]", i)
		s, bad := r.parseSet(field, a.GetAddressSetId(), a.GetMark(), a.GetGeneration(), field+".members", a.GetMembers())
		v = append(v, bad...)
		if seen[a.GetAddressSetId()] {
			v = append(v, fault.Violation{Field: field + ".address_set_id", Description: "comes twice"})
		}
		seen[a.GetAddressSetId()] = true
		coming = append(coming, s)
	}
	if len(v) > 0 {
		return nil, fault.Invalid(v...)
	}
	plan, err := Compile(rs, r.maxRules)
	if err != nil {
		return nil, err
	}
	u, old := &Update{}, r.rules[plan.ID]
	switch {
	case old == nil || old.Generation < plan.Generation:
		u.Rules, u.OldRules = plan, old
	case old.Generation > plan.Generation:
		return nil, wrongState("generation %d of rule set %s is in force, which is newer than %d", old.Generation, plan.ID, plan.Generation)
	case old.Hash != plan.Hash:
		return nil, fault.New(metav1.Reason_REASON_SPEC_CONFLICT, "generation %d of rule set %s is in force with other content", old.Generation, plan.ID).
			WithRemedy("send the new content with a greater generation")
	}
	for _, s := range coming {
		if there := r.sets[s.ID]; there == nil || there.Generation < s.Generation {
			u.Sets = append(u.Sets, changeOf(there, s))
		}
	}
	for i, rule := range rs.GetRules() {
		if id := rule.GetAddressSetId(); id != "" && r.sets[id] == nil && !seen[id] {
			return nil, wrongState("rule_set.rules[%d].address_set_id: address set %s is absent", i, id).WithRemedy("send the set with the request")
		}
	}
	return u, nil
}

func (r *Registry) parseSet(field, id string, mark *driverv1.OwnershipMark, generation int64, path string, members []string) (*Set, []fault.Violation) {
	if field != "" {
		field += "."
	}
	v := netspec.IDViolations(field+"address_set_id", id)
	v = append(v, netspec.MarkViolations(field+"mark", mark, id, r.owner)...)
	if generation < 1 {
		v = append(v, fault.Violation{Field: field + "generation", Description: "must be at least 1"})
	}
	m, bad := ParseMembers(path, members)
	return &Set{ID: id, Generation: generation, Mark: proto.CloneOf(mark), Members: m}, append(v, bad...)
}

// PlanUpdateSet says what UpdateAddressSet changes, or why it is refused. An empty update means that the set is already at that generation.
func (r *Registry) PlanUpdateSet(req *driverv1.UpdateAddressSetRequest) (*Update, error) {
	id, there := req.GetAddressSetId(), r.sets[req.GetAddressSetId()]
	switch change := req.GetChange().(type) {
	case *driverv1.UpdateAddressSetRequest_Replace:
		s, v := r.parseSet("", id, req.GetMark(), req.GetGeneration(), "replace.members", change.Replace.GetMembers())
		if len(v) > 0 {
			return nil, fault.Invalid(v...)
		}
		if there != nil && there.Generation == s.Generation {
			return &Update{}, nil
		}
		if there != nil && there.Generation > s.Generation {
			return nil, wrongState("generation %d of address set %s is in force, which is newer than %d", there.Generation, id, s.Generation)
		}
		return &Update{Sets: []SetChange{changeOf(there, s)}}, nil
	case *driverv1.UpdateAddressSetRequest_Delta:
		s, v := r.parseSet("", id, req.GetMark(), req.GetGeneration(), "", nil)
		add, bad := parse("delta.add", change.Delta.GetAdd(), false)
		v = append(v, bad...)
		remove, bad := parse("delta.remove", change.Delta.GetRemove(), false)
		v = append(v, bad...)
		for i, p := range remove {
			if slices.Contains(add, p) {
				v = append(v, fault.Violation{Field: fmt.Sprintf("delta.remove[%d]", i), Description: Text(p) + " is in delta.add too"})
			}
		}
		base := change.Delta.GetBaseGeneration()
		if base >= req.GetGeneration() {
			v = append(v, fault.Violation{Field: "delta.base_generation", Description: "must be less than generation"})
		}
		if len(v) > 0 {
			return nil, fault.Invalid(v...)
		}
		switch {
		case there == nil:
			return nil, wrongState("address set %s is absent", id).WithRemedy("send it whole")
		case there.Generation == req.GetGeneration():
			return &Update{}, nil
		case there.Generation != base:
			return nil, wrongState("generation %d of address set %s is in force, not %d", there.Generation, id, base).WithRemedy("send it whole")
		}
		s.Members = there.with(add, remove)
		return &Update{Sets: []SetChange{changeOf(there, s)}}, nil
	}
	return nil, fault.Invalid(fault.Violation{Field: "change", Description: "required: replace or delta"})
}

func changeOf(old, next *Set) SetChange {
	c := SetChange{Set: next, Old: old}
	var before *Members
	if old != nil {
		before = old.Members
	}
	c.Add, c.Remove = DiffMembers(before, next.Members)
	return c
}

// PlanGarbage says which rule sets and address sets are neither kept by name nor used: inUse are the rule sets of interfaces. An address set that a rule set in force refers to is
// used as long as that one is not garbage itself.
func (r *Registry) PlanGarbage(keepRules, keepSets, inUse []string) *Update {
	u, used, kept := &Update{}, map[string]bool{}, map[string]bool{}
	for _, id := range slices.Concat(keepRules, inUse) {
		kept[id] = true
	}
	for _, id := range keepSets {
		used[id] = true
	}
	for _, id := range r.RuleIDs() {
		if !kept[id] {
			u.RemovedRules = append(u.RemovedRules, r.rules[id])
			continue
		}
		for _, s := range r.rules[id].Sets {
			used[s] = true
		}
	}
	for _, id := range r.SetIDs() {
		if !used[id] {
			u.RemovedSets = append(u.RemovedSets, r.sets[id])
		}
	}
	return u
}

func wrongState(format string, args ...any) *fault.Error {
	return fault.New(metav1.Reason_REASON_WRONG_STATE, format, args...)
}

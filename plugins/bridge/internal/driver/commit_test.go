package driver

import (
	"slices"
	"testing"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/record"
	"github.com/limiquantix/limiquantix/plugins/kit/ruleset"
)

// While rules change that refer to a set, it has the members of both states; a set that alone changes, or is new, is at once as it shall be.
func TestBetween(t *testing.T) {
	set := func(id string, members ...string) *ruleset.Set {
		m, v := ruleset.ParseMembers("m", members)
		if len(v) > 0 {
			t.Fatal(v)
		}
		return &ruleset.Set{ID: id, Members: m}
	}
	rules := func(sets ...string) *ruleset.Plan { return &ruleset.Plan{Sets: sets} }
	old := record.NewState()
	old.Plans["r"], old.Plans["other"] = rules("a"), rules("b")
	old.Members["a"], old.Members["b"] = set("a", "10.0.0.1", "10.0.0.3", "fd00::1"), set("b", "10.0.0.1")
	next := old.Clone()
	next.Plans["r"] = rules("a", "b", "c")
	next.Members["a"], next.Members["b"], next.Members["c"] = set("a", "10.0.0.2", "10.0.0.3", "fd00::2"), set("b", "10.0.0.2"), set("c", "10.0.0.9")
	mid := between(old, next)
	for id, want := range map[string][]string{"a": {"10.0.0.3"}, "b": {"10.0.0.2"}, "c": {"10.0.0.9"}} {
		if got := mid.Members[id].Strings(); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", id, got, want)
		}
	}
	if !slices.Equal(next.Members["a"].Strings(), []string{"10.0.0.2", "10.0.0.3", "fd00::2"}) {
		t.Error("what shall be was changed")
	}
	delete(next.Plans, "r") // rules that go are a change, too
	if got := between(old, next).Members["a"].Strings(); !slices.Equal(got, []string{"10.0.0.3"}) {
		t.Error(got)
	}
	next.Plans["r"] = old.Plans["r"]
	if between(old, next) != next {
		t.Error("sets alone change in one step")
	}
}

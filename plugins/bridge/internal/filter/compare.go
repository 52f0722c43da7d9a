package filter

import (
	"maps"
	"slices"
	"strings"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// Difference is one chain, set or counter that is not as it shall be.
type Difference struct {
	Where string // "iptables mangle LQ-PRE"
	What  string // "missing", "differs", "is nobody's"
}

// String says it for people.
func (f Difference) String() string { return f.Where + " " + f.What }

// Owner is an object that chains belong to.
type Owner struct {
	ID   string
	Kind driverv1.NetworkObjectKind
}

// Owner finds whose chain it is, by the key in its name; what is everybody's has no id.
func (f Difference) Owner(objects map[string]Owner) (string, driverv1.NetworkObjectKind) {
	for key, o := range objects {
		if strings.Contains(f.Where, key) {
			return o.ID, o.Kind
		}
	}
	return "", driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_NETWORK
}

// Differences are what of have is not as want says.
func Differences(have, want *Rendered) (all []Difference) {
	all = append(all, tableDifferences("iptables", have.V4, want.V4)...)
	all = append(all, tableDifferences("ip6tables", have.V6, want.V6)...)
	h, w := have.Frames, want.Frames
	all = append(all, chainDifferences("nft bridge ", h.Chains, w.Chains)...)
	for _, s := range slices.Sorted(maps.Keys(w.Elements)) {
		if !maps.Equal(h.Elements[s], w.Elements[s]) {
			all = append(all, Difference{"nft bridge set " + s, "differs"})
		}
	}
	for _, c := range gone(w.Counters, h.Counters) {
		all = append(all, Difference{"nft bridge counter " + c, "missing"})
	}
	return all
}

func tableDifferences(tool string, have, want Tables) (all []Difference) {
	for _, t := range tableNames {
		all = append(all, chainDifferences(tool+" "+t+" ", have[t], want[t])...)
	}
	return all
}

func chainDifferences(where string, have, want map[string][]string) (all []Difference) {
	for _, c := range slices.Sorted(maps.Keys(want)) {
		switch old, there := have[c]; {
		case !there:
			all = append(all, Difference{where + c, "missing"})
		case !slices.Equal(old, want[c]) && !sameUnordered(c, old, want[c]):
			all = append(all, Difference{where + c, "differs"})
		}
	}
	for _, c := range gone(have, want) {
		all = append(all, Difference{where + c, "is nobody's"})
	}
	return all
}

// sameUnordered compares chains in which order means nothing.
func sameUnordered(chain string, a, b []string) bool {
	add, del, ok := difference(chain, a, b)
	return ok && len(add) == 0 && len(del) == 0
}

// FramesOpen reports whether the second layer, as it is, could let pass what it should not: the first layer alone never opens.
func (r *Rendered) FramesOpen(want *Rendered) bool {
	return len(chainDifferences("", r.Frames.Chains, want.Frames.Chains)) > 0
}

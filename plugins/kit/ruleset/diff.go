package ruleset

// Change is a line that is added or removed.
type Change struct {
	Direction Direction
	Family    Family
	Line      Line
}

// Delta is what must change to get from one plan to another.
type Delta struct {
	Added, Removed []Change
	// Renamed are lines of the new plan that stand for other rules than before; what passes is the same.
	Renamed []Change
	// EgressDeny says that the default for what goes out changes.
	EgressDeny bool
}

// Empty reports whether nothing changes.
func (d Delta) Empty() bool {
	return len(d.Added) == 0 && len(d.Removed) == 0 && len(d.Renamed) == 0 && !d.EgressDeny
}

// Diff says what must change to get from old to next; nil stands for a plan without lines. Removed and added lines come in the order of Compare.
func Diff(old, next *Plan) (delta Delta) {
	old, next = orEmpty(old), orEmpty(next)
	delta.EgressDeny = old.EgressDeny != next.EgressDeny
	for d := range old.Lines {
		for f := range old.Lines[d] {
			change := func(l Line) Change { return Change{Direction(d), Family(f), l} } //nolint:gosec // 0 or 1
			a, b := old.Lines[d][f], next.Lines[d][f]
			for len(a) > 0 || len(b) > 0 {
				switch {
				case len(b) == 0 || len(a) > 0 && Compare(a[0].Match, b[0].Match) < 0:
					delta.Removed, a = append(delta.Removed, change(a[0])), a[1:]
				case len(a) == 0 || Compare(a[0].Match, b[0].Match) > 0:
					delta.Added, b = append(delta.Added, change(b[0])), b[1:]
				default:
					if !equal(a[0].Rules, b[0].Rules) {
						delta.Renamed = append(delta.Renamed, change(b[0]))
					}
					a, b = a[1:], b[1:]
				}
			}
		}
	}
	return delta
}

func equal(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func orEmpty(p *Plan) *Plan {
	if p == nil {
		return &Plan{}
	}
	return p
}

// Gone are lines of old that no single line of next covers: flows that they allowed may have to be cut. Whether another line or another set of the interface still allows a flow,
// Policy tells. When the default for what goes out becomes to drop, a line that matches everything is gone in both families.
func Gone(old, next *Plan) (gone []Change) {
	old, next = orEmpty(old), orEmpty(next)
	for d := range old.Lines {
		for f := range old.Lines[d] {
			var x *index
			for _, l := range old.Lines[d][f] {
				if x == nil {
					x = newIndex(func(yield func(Match) bool) {
						for _, l := range next.Lines[d][f] {
							if !yield(l.Match) {
								return
							}
						}
					})
				}
				if _, ok := x.cover(l.Match, true); !ok {
					gone = append(gone, Change{Direction(d), Family(f), l}) //nolint:gosec // 0 or 1
				}
			}
		}
	}
	if next.EgressDeny && !old.EgressDeny {
		gone = append(gone, Change{Egress, IPv4, Line{Match: Everything}}, Change{Egress, IPv6, Line{Match: Everything}})
	}
	return gone
}

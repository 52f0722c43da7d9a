package packetgen

import (
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/sdk/conformance/packetmodel"
)

// Case is one packet that a driver and the model disagree on, with all that it takes to see it again.
type Case struct {
	// Before is in force first; then Flow passes, if there is one; then After is in force, and Probe is sent.
	Before Policy
	Flow   *packetmodel.Packet
	After  Policy
	Probe  packetmodel.Packet
}

func (c Case) String() string {
	if c.Flow == nil {
		return fmt.Sprintf("policy:\n%spacket: %s\n", c.After, c.Probe)
	}
	return fmt.Sprintf("policy before:\n%sflow: %s\npolicy after:\n%spacket: %s\n", c.Before, c.Flow, c.After, c.Probe)
}

// Shrink leaves out of a case what it fails without: rule sets, rules, members. It asks fails at most most times.
func Shrink(c Case, most int, fails func(Case) bool) Case {
	try := func(x Case) bool {
		most--
		if most < 0 || !fails(x) {
			return false
		}
		c = x
		return true
	}
	if c.Flow != nil {
		alone := c
		alone.Flow, alone.Before = nil, c.After
		try(alone)
	}
	for again := true; again && most > 0; {
		again = false
		for _, reduce := range reductions(c) {
			x := c
			x.Before, x.After = c.Before.Clone(), c.After.Clone()
			reduce(&x.After)
			reduce(&x.Before)
			if try(x) {
				again = true
				break
			}
		}
	}
	return c
}

// reductions are the ways to make a case smaller by one thing, the largest things first.
func reductions(c Case) (out []func(*Policy)) {
	for _, name := range slices.Sorted(maps.Keys(c.After.Ports)) {
		for _, id := range c.After.Ports[name] {
			out = append(out, func(p *Policy) {
				p.Ports[name] = slices.DeleteFunc(p.Ports[name], func(s string) bool { return s == id })
			})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(c.After.Rules)) {
		rules := slices.Concat(c.After.Rules[id].GetRules(), c.Before.Rules[id].GetRules())
		if len(rules) > 1 {
			out = append(out, func(p *Policy) { p.Rules[id].Rules = nil })
		}
		for _, r := range rules {
			out = append(out, func(p *Policy) {
				for i, x := range p.Rules[id].GetRules() {
					if proto.Equal(x, r) {
						p.Rules[id].Rules = slices.Delete(p.Rules[id].GetRules(), i, i+1)
						return
					}
				}
			})
		}
		if c.After.Rules[id].GetEgressDefaultDeny() || c.Before.Rules[id].GetEgressDefaultDeny() {
			out = append(out, func(p *Policy) { p.Rules[id].EgressDefaultDeny = false })
		}
	}
	for _, id := range slices.Sorted(maps.Keys(c.After.Sets)) {
		for _, m := range slices.Concat(c.After.Sets[id], c.Before.Sets[id]) {
			out = append(out, func(p *Policy) {
				p.Sets[id] = slices.DeleteFunc(p.Sets[id], func(s string) bool { return s == m })
			})
		}
	}
	return out
}

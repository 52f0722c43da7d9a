package packetgen

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk/conformance/packetmodel"
)

// Guest is what packets can be sent from and to.
type Guest struct {
	Name string
	// Addrs are its own addresses, Extra what it may send from besides.
	Addrs []netip.Addr
	Extra []netip.Prefix
}

// Policy is everything that is in force.
type Policy struct {
	Rules map[string]*driverv1.RuleSet // by id; generations are not its matter
	Sets  map[string][]string          // members by id
	Ports map[string][]string          // rule sets by guest
}

// Clone is a policy that goes its own way.
func (p Policy) Clone() Policy {
	c := Policy{Rules: maps.Clone(p.Rules), Sets: map[string][]string{}, Ports: map[string][]string{}}
	for id, r := range c.Rules {
		c.Rules[id] = proto.CloneOf(r)
	}
	for id, m := range p.Sets {
		c.Sets[id] = slices.Clone(m)
	}
	for name, ids := range p.Ports {
		c.Ports[name] = slices.Clone(ids)
	}
	return c
}

// Shut is a policy with the same objects that allows nothing.
func (p Policy) Shut() Policy {
	c := p.Clone()
	for id, r := range c.Rules {
		c.Rules[id] = &driverv1.RuleSet{RuleSetId: r.GetRuleSetId(), EgressDefaultDeny: true}
	}
	for id := range c.Sets {
		c.Sets[id] = nil
	}
	return c
}

// Step is one change on the way from one policy to another; exactly one of its parts is set.
type Step struct {
	Set     string // address set whose members become Members
	Members []string
	Rules   *driverv1.RuleSet
	Port    string // guest whose rule sets become RuleSets
	Sets    []string
}

// Do does the step in a model.
func (s Step) Do(m *packetmodel.Model) {
	m.Change(func(c *packetmodel.Change) {
		switch {
		case s.Set != "":
			c.AddressSet(s.Set, s.Members...)
		case s.Rules != nil:
			c.RuleSet(s.Rules)
		default:
			c.Port(s.Port, s.Sets...)
		}
	})
}

// Steps lead from p to another policy with the same objects, in the order in which a driver is told.
func (p Policy) Steps(to Policy) (steps []Step) {
	for _, id := range slices.Sorted(maps.Keys(to.Sets)) {
		if have, ok := p.Sets[id]; !ok || !slices.Equal(have, to.Sets[id]) {
			steps = append(steps, Step{Set: id, Members: to.Sets[id]})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(to.Rules)) {
		if have, ok := p.Rules[id]; !ok || !proto.Equal(have, to.Rules[id]) {
			steps = append(steps, Step{Rules: to.Rules[id]})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(to.Ports)) {
		if have, ok := p.Ports[name]; !ok || !slices.Equal(have, to.Ports[name]) {
			steps = append(steps, Step{Port: name, Sets: to.Ports[name]})
		}
	}
	return steps
}

func (p Policy) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(p.Ports)) {
		fmt.Fprintf(&b, "  guest %s: %s\n", name, strings.Join(p.Ports[name], ", "))
	}
	for _, id := range slices.Sorted(maps.Keys(p.Rules)) {
		r := p.Rules[id]
		fmt.Fprintf(&b, "  rule set %s: egress denied by default: %v\n", id, r.GetEgressDefaultDeny())
		for _, rule := range r.GetRules() {
			fmt.Fprintf(&b, "    %s\n", prototext.MarshalOptions{}.Format(rule))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(p.Sets)) {
		fmt.Fprintf(&b, "  address set %s: %s\n", id, strings.Join(p.Sets[id], " "))
	}
	return b.String()
}

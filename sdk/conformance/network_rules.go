package conformance

import (
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// ruleSet is one rule set under check.
type ruleSet struct {
	e   *Env
	id  string
	req *driverv1.ApplyRuleSetRequest
}

// ruleSet thinks of a rule set that lets TCP in on some ports. What nobody uses is collected when the check ends.
func (e *Env) ruleSet(t T, generation int64, ports ...uint32) *ruleSet {
	id := newID()
	r := &ruleSet{e: e, id: id, req: &driverv1.ApplyRuleSetRequest{RuleSet: &driverv1.RuleSet{RuleSetId: id, Mark: e.mark(id), Generation: generation}}}
	for _, p := range ports {
		r.req.RuleSet.Rules = append(r.req.RuleSet.Rules, tcpRule(p))
	}
	t.Cleanup(func() {
		ctx, cancel := cleanupContext()
		defer cancel()
		if _, err := e.network().CollectGarbage(ctx, &driverv1.CollectGarbageRequest{}); err != nil {
			t.Errorf("cleaning up: %v", err)
		}
	})
	return r
}

func tcpRule(p uint32) *driverv1.Rule {
	return &driverv1.Rule{
		RuleId: "tcp-" + string(rune('a'+p%26)), Direction: driverv1.RuleDirection_RULE_DIRECTION_INGRESS, IpVersion: driverv1.IpVersion_IP_VERSION_4,
		Protocol: proto.Uint32(6), Ports: &driverv1.PortRange{First: p, Last: p}, Remote: &driverv1.Rule_Cidr{Cidr: "192.0.2.0/24"},
	}
}

func (r *ruleSet) apply(t T) {
	t.Helper()
	if got := call(t, r.e.network().ApplyRuleSet, r.req).GetGeneration(); got != r.req.GetRuleSet().GetGeneration() {
		t.Errorf("generation %d is in force, want %d", got, r.req.GetRuleSet().GetGeneration())
	}
}

// wantInForce fails the check unless an interface that uses the set says that it has that generation.
func (r *ruleSet) wantInForce(t T, generation int64) {
	t.Helper()
	p := r.e.ensured(t, 0).port(t)
	p.req.Spec.RuleSetIds = []string{r.id}
	refs := p.attach(t).GetRuleSets()
	if len(refs) != 1 || refs[0].GetRuleSetId() != r.id || refs[0].GetGeneration() != generation {
		t.Errorf("in force: %v, want generation %d", refs, generation)
	}
}

func ruleGenerations(t T, e *Env) {
	r := e.ruleSet(t, 5, 22)
	for range 2 {
		r.apply(t)
	}
	other := e.ruleSet(t, 5, 22, 80)
	other.req.RuleSet.RuleSetId, other.req.RuleSet.Mark = r.id, e.mark(r.id)
	refused(t, "other content", e.network().ApplyRuleSet, other.req, codes.AlreadyExists)
	older := proto.CloneOf(r.req)
	older.RuleSet.Generation = 4
	refused(t, "an older generation", e.network().ApplyRuleSet, older, codes.FailedPrecondition)
	r.wantInForce(t, 5)
	other.req.RuleSet.Generation = 6
	call(t, e.network().ApplyRuleSet, other.req)
	r.wantInForce(t, 6)
}

func rulesInvalid(t T, e *Env) {
	r := e.ruleSet(t, 1, 22)
	r.apply(t)
	for what, spoil := range map[string]func(*driverv1.Rule){
		"no direction":         func(x *driverv1.Rule) { x.Direction = 0 },
		"ports the wrong way":  func(x *driverv1.Rule) { x.Ports = &driverv1.PortRange{First: 9, Last: 8} },
		"ports without TCP":    func(x *driverv1.Rule) { x.Protocol = proto.Uint32(1) },
		"a port beyond 65535":  func(x *driverv1.Rule) { x.Ports = &driverv1.PortRange{First: 1, Last: 65536} },
		"no CIDR":              func(x *driverv1.Rule) { x.Remote = &driverv1.Rule_Cidr{Cidr: "anywhere"} },
		"a CIDR and host bits": func(x *driverv1.Rule) { x.Remote = &driverv1.Rule_Cidr{Cidr: "192.0.2.1/24"} },
		"no rule id":           func(x *driverv1.Rule) { x.RuleId = "" },
		"an id of two lines":   func(x *driverv1.Rule) { x.RuleId = "a\nb" },
		"protocol 256":         func(x *driverv1.Rule) { x.Protocol, x.Ports = proto.Uint32(256), nil },
		"a type without ICMP":  func(x *driverv1.Rule) { x.IcmpType = proto.Uint32(8) },
		"two versions of IP":   func(x *driverv1.Rule) { x.IpVersion = driverv1.IpVersion_IP_VERSION_6 },
	} {
		bad := proto.CloneOf(r.req)
		bad.RuleSet.Generation = 2
		bad.RuleSet.Rules = append(bad.RuleSet.Rules, tcpRule(80))
		spoil(bad.RuleSet.Rules[1])
		refused(t, what, e.network().ApplyRuleSet, bad, codes.InvalidArgument)
	}
	r.wantInForce(t, 1)
	r.apply(t)
}

func addressSets(t T, e *Env) {
	id := newID()
	update := func(generation int64, change *driverv1.UpdateAddressSetRequest) *driverv1.UpdateAddressSetRequest {
		change.AddressSetId, change.Mark, change.Generation = id, e.mark(id), generation
		return change
	}
	delta := func(generation, base int64, add ...string) *driverv1.UpdateAddressSetRequest {
		return update(generation, &driverv1.UpdateAddressSetRequest{Change: &driverv1.UpdateAddressSetRequest_Delta{Delta: &driverv1.AddressSetDelta{BaseGeneration: base, Add: add}}})
	}
	whole := func(generation int64, members ...string) *driverv1.UpdateAddressSetRequest {
		return update(generation, &driverv1.UpdateAddressSetRequest{Change: &driverv1.UpdateAddressSetRequest_Replace{Replace: &driverv1.AddressSetMembers{Members: members}}})
	}
	c := e.network()
	refused(t, "a difference of an absent set", c.UpdateAddressSet, delta(2, 1, "192.0.2.1"), codes.FailedPrecondition)
	for range 2 {
		if got := call(t, c.UpdateAddressSet, whole(3, "192.0.2.1", "2001:db8::1")).GetGeneration(); got != 3 {
			t.Errorf("generation %d", got)
		}
	}
	refused(t, "a difference of another generation", c.UpdateAddressSet, delta(9, 2, "192.0.2.2"), codes.FailedPrecondition)
	for range 2 {
		call(t, c.UpdateAddressSet, delta(4, 3, "192.0.2.2", "192.0.2.1"))
	}
	refused(t, "no address", c.UpdateAddressSet, whole(5, "nonsense"), codes.InvalidArgument)
	r := e.ruleSet(t, 1, 22)
	r.req.RuleSet.Rules[0].Remote = &driverv1.Rule_AddressSetId{AddressSetId: id}
	r.apply(t)
	with := e.ruleSet(t, 1, 22) // a set that comes with its rules
	set := newID()
	with.req.RuleSet.Rules[0].Remote = &driverv1.Rule_AddressSetId{AddressSetId: set}
	refused(t, "a rule on an absent set", c.ApplyRuleSet, with.req, codes.FailedPrecondition, codes.InvalidArgument)
	with.req.AddressSets = []*driverv1.AddressSet{{AddressSetId: set, Mark: e.mark(set), Generation: 1, Members: []string{"192.0.2.9"}}}
	with.apply(t)
}

func garbage(t T, e *Env) {
	used, named, loose := e.ruleSet(t, 1, 22), e.ruleSet(t, 1, 23), e.ruleSet(t, 1, 24)
	for _, r := range []*ruleSet{used, named, loose} {
		r.apply(t)
	}
	b := e.ensured(t, 0)
	p := b.port(t)
	p.req.Spec.RuleSetIds = []string{used.id}
	p.attach(t)
	collect := func(dry bool) map[string]bool {
		removed := map[string]bool{}
		for _, o := range call(t, e.network().CollectGarbage, &driverv1.CollectGarbageRequest{RuleSetIds: []string{named.id}, DryRun: dry}).GetObjects() {
			removed[o.GetObjectId()] = o.GetRemoved()
		}
		return removed
	}
	found := collect(true)
	if removed, ok := found[loose.id]; !ok || removed {
		t.Errorf("a dry run says of the loose rule set: found %v, removed %v", ok, removed)
	}
	found = collect(false)
	if !found[loose.id] {
		t.Errorf("the loose rule set was not removed")
	}
	for _, id := range []string{used.id, named.id} {
		if _, ok := found[id]; ok {
			t.Errorf("a rule set that is used or named was taken for garbage")
		}
	}
	for what, id := range map[string]string{"network": b.id, "interface": p.id} {
		if removed, ok := found[id]; !ok || removed {
			t.Errorf("%s that nobody named: reported %v, removed %v", what, ok, removed)
		}
	}
	b.wantListed(t, true)
	p.wantListed(t, true)
	if refs := p.attach(t).GetRuleSets(); !slices.ContainsFunc(refs, func(r *driverv1.RuleSetRef) bool { return r.GetGeneration() == 1 }) {
		t.Errorf("afterwards in force: %v", refs)
	}
}

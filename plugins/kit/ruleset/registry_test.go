package ruleset_test

import (
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/plugins/kit/ruleset"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

func TestApply(t *testing.T) {
	r := ruleset.NewRegistry(owner, 0)
	apply := func(what string, req *driverv1.ApplyRuleSetRequest, want codes.Code, empty bool) {
		t.Helper()
		u, err := r.PlanApply(req)
		if code(err) != want || err == nil && u.Empty() != empty {
			t.Errorf("%s: %v, %+v", what, err, u)
		}
		if err == nil {
			r.Commit(u)
		}
	}
	req := func(generation int64, rs ...*driverv1.Rule) *driverv1.ApplyRuleSetRequest {
		x := rules(rs...)
		x.Generation = generation
		return &driverv1.ApplyRuleSetRequest{RuleSet: x}
	}
	apply("new", req(2, tcp("a", 80, 80)), codes.OK, false)
	apply("same", req(2, tcp("a", 80, 80)), codes.OK, true)
	apply("same generation, other content", req(2, tcp("a", 81, 81)), codes.AlreadyExists, false)
	apply("older", req(1, tcp("a", 80, 80)), codes.FailedPrecondition, false)
	apply("newer but wrong", req(3, tcp("a", 0, 80)), codes.InvalidArgument, false)
	apply("newer", req(3, tcp("a", 81, 81)), codes.OK, false)
	if r.Rules(id).Generation != 3 {
		t.Error("in force:", r.Rules(id))
	}
	onSet := tcp("s", 22, 22)
	onSet.Remote = &driverv1.Rule_AddressSetId{AddressSetId: setA}
	apply("absent set", req(4, onSet), codes.FailedPrecondition, false)
	with := req(4, onSet)
	with.AddressSets = []*driverv1.AddressSet{{AddressSetId: setA, Mark: mark(setA), Generation: 5, Members: []string{"10.0.0.1"}}}
	wrong := proto.CloneOf(with)
	wrong.AddressSets[0].Members = []string{"10.0.0.1", "10.0.0.1"}
	apply("set with a member twice", wrong, codes.InvalidArgument, false)
	apply("with its set", with, codes.OK, false)
	with.RuleSet.Generation, with.AddressSets[0].Generation, with.AddressSets[0].Members = 5, 4, []string{"10.0.0.2"}
	apply("set that is newer here", with, codes.OK, false)
	if s := r.Set(setA); s.Generation != 5 || s.Strings()[0] != "10.0.0.1" {
		t.Error("the newer set did not stay:", s)
	}
	foreign := req(9, tcp("a", 80, 80))
	foreign.RuleSet.Mark.NodeId = other
	apply("another node's mark", foreign, codes.InvalidArgument, false)
}

func TestAddressSets(t *testing.T) {
	r := ruleset.NewRegistry(owner, 0)
	do := func(what string, generation int64, change any, want codes.Code, members string) {
		t.Helper()
		req := &driverv1.UpdateAddressSetRequest{AddressSetId: setA, Mark: mark(setA), Generation: generation}
		switch c := change.(type) {
		case []string:
			req.Change = &driverv1.UpdateAddressSetRequest_Replace{Replace: &driverv1.AddressSetMembers{Members: c}}
		case *driverv1.AddressSetDelta:
			req.Change = &driverv1.UpdateAddressSetRequest_Delta{Delta: c}
		}
		u, err := r.PlanUpdateSet(req)
		if code(err) != want {
			t.Errorf("%s: %v", what, err)
		}
		if err == nil {
			r.Commit(u)
		}
		if s := r.Set(setA); s != nil && fmt.Sprint(s.Strings()) != members {
			t.Errorf("%s: members are %v, want %s", what, s.Strings(), members)
		}
	}
	delta := func(base int64, add, remove string) *driverv1.AddressSetDelta {
		d := &driverv1.AddressSetDelta{BaseGeneration: base}
		if add != "" {
			d.Add = []string{add}
		}
		if remove != "" {
			d.Remove = []string{remove}
		}
		return d
	}
	do("difference of an absent set", 2, delta(1, "10.0.0.1", ""), codes.FailedPrecondition, "")
	do("whole", 3, []string{"10.0.0.1", "2001:db8::1"}, codes.OK, "[10.0.0.1 2001:db8::1]")
	do("already there", 3, []string{"10.0.0.7"}, codes.OK, "[10.0.0.1 2001:db8::1]")
	do("difference of another generation", 9, delta(2, "10.0.0.2", ""), codes.FailedPrecondition, "[10.0.0.1 2001:db8::1]")
	do("difference", 4, delta(3, "10.0.0.2", "2001:db8::1"), codes.OK, "[10.0.0.1 10.0.0.2]")
	do("again", 4, delta(3, "10.0.0.2", "2001:db8::1"), codes.OK, "[10.0.0.1 10.0.0.2]")
	do("one that is there and one that is not", 5, delta(4, "10.0.0.2", "10.0.0.77"), codes.OK, "[10.0.0.1 10.0.0.2]")
	do("added and removed", 6, delta(5, "10.0.0.3", "10.0.0.3"), codes.InvalidArgument, "[10.0.0.1 10.0.0.2]")
	do("backwards", 4, delta(5, "10.0.0.3", ""), codes.InvalidArgument, "[10.0.0.1 10.0.0.2]")
	do("older, whole", 4, []string{"10.0.0.9"}, codes.FailedPrecondition, "[10.0.0.1 10.0.0.2]")
	do("neither", 7, nil, codes.InvalidArgument, "[10.0.0.1 10.0.0.2]")
	do("whole again", 8, []string{"10.0.0.2", "10.0.0.3"}, codes.OK, "[10.0.0.2 10.0.0.3]")
}

func TestGarbage(t *testing.T) {
	r := ruleset.NewRegistry(owner, 0)
	put := func(id, set string) {
		x := rules(tcp("a", 80, 80))
		x.RuleSetId, x.Mark = id, mark(id)
		x.Rules[0].Remote = &driverv1.Rule_AddressSetId{AddressSetId: set}
		u, err := r.PlanApply(&driverv1.ApplyRuleSetRequest{RuleSet: x, AddressSets: []*driverv1.AddressSet{{AddressSetId: set, Mark: mark(set), Generation: 1}}})
		if err != nil {
			t.Fatal(err)
		}
		r.Commit(u)
	}
	put(id, setA)
	put(other, setB)
	if u := r.PlanGarbage([]string{id}, nil, []string{other}); !u.Empty() {
		t.Errorf("all is wanted: %+v", u)
	}
	u := r.PlanGarbage(nil, []string{setB}, []string{id})
	if len(u.RemovedRules) != 1 || u.RemovedRules[0].ID != other || len(u.RemovedSets) != 0 {
		t.Errorf("%+v", u)
	}
	u = r.PlanGarbage(nil, nil, []string{id})
	r.Commit(u)
	if r.Rules(other) != nil || r.Set(setB) != nil || r.Rules(id) == nil || r.Set(setA) == nil {
		t.Errorf("left: %v %v", r.RuleIDs(), r.SetIDs())
	}
}

func code(err error) codes.Code {
	if err == nil {
		return codes.OK
	}
	return fault.From(err).Code
}

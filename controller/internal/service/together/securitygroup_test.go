package together_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
)

func TestMembersFollowPorts(t *testing.T) {
	r := newRig(t, newStore(t))
	a, b := r.join("node-a", 16, 1<<34), r.join("node-b", 16, 1<<34)
	n := r.newNetwork("blue", bridge()).GetMeta().GetId()
	web := r.newGroup("web").GetMeta().GetId()
	db := r.newGroup("db", fromGroup("web")).GetMeta().GetId()
	first := r.newPort("w1", n, "web")
	p := r.newPort("d1", n, "db").GetMeta().GetId()
	r.runVM("d1", a, p)
	other := r.newPort("w2", n, "web")
	r.runVM("w2", b, other.GetMeta().GetId())
	want := append(slices.Clone(first.GetStatus().GetIpAddresses()), other.GetStatus().GetIpAddresses()...)
	slices.Sort(want)
	a.know("members are there, whether they run or not", func(net *netAgent) bool {
		return slices.Equal(net.members[web].GetMembers(), want) && len(net.members) == 1 && net.rules[db] != nil && len(net.rules) == 1
	})
	b.know("a node on which no rule refers to it has no members", func(net *netAgent) bool { return net.rules[web] != nil && len(net.members) == 0 })

	r.until("all is up", func() bool { return r.port(p).GetStatus().GetPhase() == networkv1.PortPhase_PORT_PHASE_UP })
	came := func() (rules, sets, ports int) {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.net.came[agentv1.DesiredKind_DESIRED_KIND_RULE_SET]), len(a.net.came[agentv1.DesiredKind_DESIRED_KIND_ADDRESS_SET]), len(a.net.came[agentv1.DesiredKind_DESIRED_KIND_PORT])
	}
	rules, sets, ports := came()
	third := r.newPort("w3", n, "web")
	want = append(want, third.GetStatus().GetIpAddresses()...)
	slices.Sort(want)
	a.know("the new member is there", func(net *netAgent) bool { return slices.Equal(net.members[web].GetMembers(), want) })
	if rules2, sets2, ports2 := came(); rules2 != rules || sets2 != sets+1 || ports2 != ports {
		t.Errorf("one more member brought %d rule sets, %d address sets, %d ports", rules2-rules, sets2-sets, ports2-ports)
	}
	must(t, r.Port.SetSecurityGroups, &networkv1.SetSecurityGroupsRequest{Id: "w3", SecurityGroupIds: []string{"db"}})
	a.know("who left is no member", func(net *netAgent) bool {
		return !slices.Contains(net.members[web].GetMembers(), third.GetStatus().GetIpAddresses()[0])
	})
}

func TestOneRuleChangesOneRuleSetWhereItIsNeeded(t *testing.T) {
	r := newRig(t, newStore(t))
	a, b := r.join("node-a", 16, 1<<34), r.join("node-b", 16, 1<<34)
	n := r.newNetwork("blue", bridge()).GetMeta().GetId()
	web := r.newGroup("web").GetMeta().GetId()
	r.newGroup("ssh", ingress("tcp", 22))
	p := r.newPort("w1", n, "web", "ssh").GetMeta().GetId()
	q := r.newPort("s1", n, "ssh").GetMeta().GetId()
	r.runVM("w1", a, p)
	r.runVM("s1", b, q)
	r.untilUp(p)
	r.untilUp(q)
	count := func(f *fakeAgent, kind agentv1.DesiredKind) int {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.net.came[kind])
	}
	wasA, wasB := count(a, agentv1.DesiredKind_DESIRED_KIND_RULE_SET), count(b, agentv1.DesiredKind_DESIRED_KIND_RULE_SET)
	dry := must(t, r.Groups.AddRule, &networkv1.AddRuleRequest{Id: "web", Rule: ingress("tcp", 80), DryRun: true})
	if dry.GetOperation() != nil || !slices.Equal(dry.GetAffectedPortIds(), []string{p}) || dry.GetAffectedPortCount() != 1 || len(r.group(web).GetSpec().GetRules()) != 0 {
		t.Fatalf("dry run: %v", dry)
	}
	a.set(func(a *fakeAgent) { a.net.lazy = true })
	added := must(t, r.Groups.AddRule, &networkv1.AddRuleRequest{Id: "web", Rule: ingress("tcp", 80)})
	a.know("the rule is there", func(net *netAgent) bool {
		set := net.rules[web].GetRuleSet()
		return set.GetGeneration() == 2 && len(set.GetRules()) == 1 && set.GetRules()[0].GetProtocol() == 6 && set.GetRules()[0].GetPorts().GetLast() == 80 && set.GetRules()[0].GetRuleId() == added.GetRule().GetId()
	})
	if g := r.group(web); g.GetStatus().GetPhase() != networkv1.SecurityGroupPhase_SECURITY_GROUP_PHASE_APPLYING || !slices.Equal(g.GetStatus().GetPendingNodeIds(), []string{a.id}) ||
		g.GetStatus().GetObservedGeneration() != 1 || g.GetStatus().GetPortCount() != 1 {
		t.Fatalf("while it is under way: %v", g.GetStatus())
	}
	if op := r.Cache.Row(state.KindOperation, added.GetOperation().GetId()).Operation().GetOperation(); op.GetState() != operationv1.OperationState_OPERATION_STATE_RUNNING {
		t.Fatalf("ended before it was in force: %v", op)
	}
	again := must(t, r.Groups.AddRule, &networkv1.AddRuleRequest{Id: "web", Rule: &networkv1.SecurityRule{Direction: networkv1.RuleDirection_RULE_DIRECTION_INGRESS, Protocol: "6", PortFirst: 80, PortLast: 80}})
	if again.GetRule().GetId() != added.GetRule().GetId() || again.GetSecurityGroup().GetMeta().GetGeneration() != 2 {
		t.Fatalf("an equal rule was added: %v", again.GetRule())
	}
	a.mu.Lock()
	a.net.lazy = false
	a.net.applied[web] = 2
	all := a.net.all()
	a.mu.Unlock()
	a.report(a.ctx, &agentv1.ReportStatusRequest{Ports: all})
	r.done(added.GetOperation().GetId())
	r.done(again.GetOperation().GetId())
	if g := r.group(web); g.GetStatus().GetPhase() != networkv1.SecurityGroupPhase_SECURITY_GROUP_PHASE_READY || g.GetStatus().GetObservedGeneration() != 2 {
		t.Fatalf("afterwards: %v", g.GetStatus())
	}
	if nowA, nowB := count(a, agentv1.DesiredKind_DESIRED_KIND_RULE_SET), count(b, agentv1.DesiredKind_DESIRED_KIND_RULE_SET); nowA != wasA+1 || nowB != wasB {
		t.Errorf("one rule brought %d and %d rule sets", nowA-wasA, nowB-wasB)
	}
	removed := must(t, r.Groups.RemoveRule, &networkv1.RemoveRuleRequest{Id: web, RuleId: added.GetRule().GetId()})
	r.done(removed.GetOperation().GetId())
	if none := must(t, r.Groups.RemoveRule, &networkv1.RemoveRuleRequest{Id: web, RuleId: added.GetRule().GetId()}); none.GetOperation() != nil || none.GetSecurityGroup().GetMeta().GetGeneration() != 3 {
		t.Errorf("an absent rule was removed: %v", none)
	}
}

func TestGroupThatANodeRefuses(t *testing.T) {
	r := newRig(t, newStore(t))
	a := r.join("node-a", 16, 1<<34)
	n := r.newNetwork("blue", bridge()).GetMeta().GetId()
	web := r.newGroup("web").GetMeta().GetId()
	p := r.newPort("w1", n, "web").GetMeta().GetId()
	r.runVM("w1", a, p)
	r.untilUp(p)
	a.set(func(a *fakeAgent) { a.net.refuse = "too many elements" })
	added := must(t, r.Groups.AddRule, &networkv1.AddRuleRequest{Id: "web", Rule: ingress("tcp", 80)})
	if op := r.ended(added.GetOperation().GetId()); op.GetState() != operationv1.OperationState_OPERATION_STATE_FAILED || !strings.Contains(op.GetMessage(), "too many elements") || !strings.Contains(op.GetMessage(), "node-a") {
		t.Fatalf("operation is %v", op)
	}
	if g := r.group(web); g.GetStatus().GetPhase() != networkv1.SecurityGroupPhase_SECURITY_GROUP_PHASE_FAILED || g.GetStatus().GetObservedGeneration() != 1 {
		t.Fatalf("status is %v", g.GetStatus())
	}
	a.set(func(a *fakeAgent) { a.net.refuse = "" })
	next := must(t, r.Groups.RemoveRule, &networkv1.RemoveRuleRequest{Id: web, RuleId: added.GetRule().GetId()})
	r.done(next.GetOperation().GetId())
	if g := r.group(web); g.GetStatus().GetPhase() != networkv1.SecurityGroupPhase_SECURITY_GROUP_PHASE_READY {
		t.Fatalf("status is %v", g.GetStatus())
	}
}

func TestGroupIsNotDeletedWhileItIsUsed(t *testing.T) {
	r := newRig(t, newStore(t))
	n := r.newNetwork("blue", bridge()).GetMeta().GetId()
	web := r.newGroup("web").GetMeta().GetId()
	must(t, r.Groups.AddRule, &networkv1.AddRuleRequest{Id: "web", Rule: fromGroup("web")}) // itself
	db := r.newGroup("db", fromGroup(web))
	p := r.newPort("w1", n, "web")
	refused := func(id, words string) {
		t.Helper()
		_, err := r.Groups.DeleteSecurityGroup(admin(), connect.NewRequest(&networkv1.DeleteSecurityGroupRequest{Id: id}))
		if !fault.Is(err, metav1.Reason_REASON_WRONG_STATE) || !strings.Contains(err.Error(), words) {
			t.Fatalf("delete %s: %v", id, err)
		}
	}
	refused("web", "port w1")
	must(t, r.Port.SetSecurityGroups, &networkv1.SetSecurityGroupsRequest{Id: p.GetMeta().GetId()}) // the default one
	refused("web", "group db")
	if g := r.group(web); !slices.Contains(g.GetStatus().GetReferringSecurityGroupIds(), db.GetMeta().GetId()) {
		t.Fatalf("status is %v", g.GetStatus())
	}
	gone := must(t, r.Groups.DeleteSecurityGroup, &networkv1.DeleteSecurityGroupRequest{Id: "db"})
	r.done(gone.GetOperation().GetId())
	gone = must(t, r.Groups.DeleteSecurityGroup, &networkv1.DeleteSecurityGroupRequest{Id: "web"})
	r.done(gone.GetOperation().GetId())
	if resp := must(t, r.Groups.DeleteSecurityGroup, &networkv1.DeleteSecurityGroupRequest{Id: web}); resp.GetSecurityGroup() != nil {
		t.Fatalf("gone, and still there: %v", resp)
	}
	refused("default", "default of project")
}

func TestTenThousandRules(t *testing.T) {
	r := newRig(t, newStore(t))
	a := r.join("node-a", 16, 1<<34)
	n := r.newNetwork("blue", bridge()).GetMeta().GetId()
	rules := make([]*networkv1.SecurityRule, 10_000)
	for i := range rules {
		rules[i] = ingress("tcp", uint32(1+i))
		rules[i].Description = fmt.Sprintf("what comes from customer %d", i)
		rules[i].Remote = &networkv1.SecurityRule_Cidr{Cidr: fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)}
	}
	begun := time.Now()
	big := must(t, r.Groups.CreateSecurityGroup, &networkv1.CreateSecurityGroupRequest{RequestId: "one", SecurityGroup: &networkv1.SecurityGroup{
		Meta: &metav1.ObjectMeta{Name: "big"}, Spec: &networkv1.SecurityGroupSpec{Rules: rules},
	}})
	t.Logf("made in %s", time.Since(begun))
	again := must(t, r.Groups.CreateSecurityGroup, &networkv1.CreateSecurityGroupRequest{RequestId: "one", SecurityGroup: &networkv1.SecurityGroup{
		Meta: &metav1.ObjectMeta{Name: "big"}, Spec: &networkv1.SecurityGroupSpec{Rules: rules},
	}})
	if len(again.GetSecurityGroup().GetSpec().GetRules()) != 10_000 || again.GetSecurityGroup().GetSpec().GetRules()[9999].GetId() != big.GetSecurityGroup().GetSpec().GetRules()[9999].GetId() {
		t.Fatal("the repeated request has another answer")
	}
	p := r.newPort("w1", n, "big").GetMeta().GetId()
	r.runVM("w1", a, p)
	r.untilUp(p)
	_, err := r.Groups.AddRule(admin(), connect.NewRequest(&networkv1.AddRuleRequest{Id: "big", Rule: ingress("udp", 53)}))
	if !fault.Is(err, metav1.Reason_REASON_LIMIT_EXCEEDED) {
		t.Fatalf("one more: %v", err)
	}
	begun = time.Now()
	removed := must(t, r.Groups.RemoveRule, &networkv1.RemoveRuleRequest{Id: "big", RuleId: big.GetSecurityGroup().GetSpec().GetRules()[0].GetId()})
	r.done(removed.GetOperation().GetId())
	t.Logf("one rule removed, and in force, in %s", time.Since(begun))
	a.know("the rules are there", func(net *netAgent) bool {
		return len(net.rules[big.GetSecurityGroup().GetMeta().GetId()].GetRuleSet().GetRules()) == 9999
	})
	// Wrong rules are all named, and nothing is stored.
	for _, w := range rules {
		w.PortLast = 70_000
	}
	_, err = r.Groups.UpdateSecurityGroup(admin(), connect.NewRequest(&networkv1.UpdateSecurityGroupRequest{
		SecurityGroup: &networkv1.SecurityGroup{Meta: &metav1.ObjectMeta{Name: "big"}, Spec: &networkv1.SecurityGroupSpec{Rules: rules}},
		UpdateMask:    &fieldmaskpb.FieldMask{Paths: []string{"spec.rules"}},
	}))
	if err == nil || !strings.Contains(err.Error(), "spec.rules[0].port_last") || !strings.Contains(err.Error(), "200-9999") {
		t.Fatalf("wrong rules: %.300s", err)
	}
}

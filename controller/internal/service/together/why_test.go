package together_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

func (r *rig) why(id string) *computev1.Explanation {
	r.t.Helper()
	resp, err := r.VM.ExplainVM(context.Background(), connect.NewRequest(&computev1.ExplainVMRequest{Id: id}))
	if err != nil {
		r.t.Fatal(err)
	}
	x := resp.Msg.GetExplanation()
	if !x.GetAsWanted() && (x.GetSummary() == "" || x.GetWaitsFor() == "") && x.GetProgress().GetNextTryTime() == nil {
		r.t.Errorf("not as wanted, and neither whom it waits for nor when it is tried next: %v", x)
	}
	return x
}

func (r *rig) untilWhy(id, what string, is func(x *computev1.Explanation) bool) {
	r.t.Helper()
	r.until(what, func() bool { return is(r.why(id)) })
}

// At every point of a VM's way it is said whom it waits for.
func TestWhy(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	id := r.mustCreate("v", spec(64*mib, "root")).GetVm().GetMeta().GetId()
	r.untilWhy(id, "waits for the scheduler", func(x *computev1.Explanation) bool {
		return x.GetWaitsFor() == "scheduler" && x.GetState() == "PENDING" && x.GetWanted() == "RUNNING" && x.GetSince() != nil
	})
	r.join("n1", 8, 32*mib)
	r.untilWhy(id, "says what nodes lack", func(x *computev1.Explanation) bool {
		return x.GetWaitsFor() == "scheduler" && strings.Contains(x.GetSummary(), "memory fails on 1")
	})
	b := r.join("n2", 8, 1<<30)
	r.untilPhase(id, computev1.VMPhase_VM_PHASE_RUNNING)
	r.untilWhy(id, "is as wanted", func(x *computev1.Explanation) bool {
		return x.GetAsWanted() && x.GetWaitsFor() == "" && strings.Contains(x.GetSummary(), "node n2")
	})

	// What the node is at is told from memory: no report of it is written.
	b.set(func(a *fakeAgent) { a.frozen = true })
	if _, err := r.VM.StopVM(context.Background(), connect.NewRequest(&computev1.StopVMRequest{Id: id})); err != nil {
		t.Fatal(err)
	}
	b.settled(id)
	r.untilWhy(id, "waits for its node", func(x *computev1.Explanation) bool { return x.GetWaitsFor() == "node n2" })
	revision := r.Cache.Revision()
	vmKey := &agentv1.DesiredKey{Kind: agentv1.DesiredKind_DESIRED_KIND_VM, Id: id}
	told := func(p *computev1.Progress) {
		b.report(b.ctx, &agentv1.ReportStatusRequest{Progress: []*agentv1.ObjectProgress{{Key: vmKey, Progress: p}}})
	}
	told(&computev1.Progress{Doing: "stopping it", Calls: []*computev1.DriverCall{{
		Driver: "kvm", Method: "StopDomain", StartTime: timestamppb.New(time.Now().Add(-time.Minute)),
	}}})
	x := r.why(id)
	if x.GetWaitsFor() != "driver kvm on node n2" || !strings.Contains(x.GetSummary(), "StopDomain of driver kvm has been under way for 1m") {
		t.Errorf("a call that hangs: %v", x)
	}
	told(&computev1.Progress{
		Doing: "stopping it", Tries: 3, NextTryTime: timestamppb.New(time.Now().Add(time.Minute)),
		LastError: &computev1.Failure{Code: "INTERNAL", Reason: "BACKEND_FAILED", Message: "no", Remedy: "help", Time: timestamppb.Now()},
	})
	x = r.why(id)
	if x.GetProgress().GetTries() != 3 || x.GetProgress().GetLastError().GetRemedy() != "help" || !strings.Contains(x.GetSummary(), "failed 3 times in a row, last with: no; next try in") {
		t.Errorf("a call that fails: %v", x)
	}
	if got := r.Cache.Revision(); got != revision {
		t.Errorf("progress was written: revision %d became %d", revision, got)
	}
	told(nil)
	if x := r.why(id); x.GetProgress() != nil || x.GetWaitsFor() != "node n2" {
		t.Errorf("nothing is under way: %v", x)
	}

	// A node without a stream, then one that is not heard of.
	b.stop()
	r.untilWhy(id, "the agent does not follow", func(x *computev1.Explanation) bool {
		return x.GetWaitsFor() == "node n2" && x.GetSince() != nil && strings.Contains(x.GetSummary(), "does not follow")
	})
	r.untilWhy(id, "the node is not heard of", func(x *computev1.Explanation) bool {
		return x.GetWaitsFor() == "node n2" && x.GetState() == "UNKNOWN" && strings.Contains(x.GetSummary(), "does not report")
	})
	node, err := r.Node.ExplainNode(context.Background(), connect.NewRequest(&computev1.ExplainNodeRequest{Id: "n2"}))
	if err != nil {
		t.Fatal(err)
	}
	if x := node.Msg.GetExplanation(); x.GetAsWanted() || x.GetState() != "UNKNOWN" || x.GetWaitsFor() != "its agent" || x.GetSince() == nil {
		t.Errorf("the node: %v", x)
	}
	r.delete(id)
	r.untilWhy(id, "its deletion waits for the node", func(x *computev1.Explanation) bool {
		return x.GetWanted() == "gone" && x.GetState() == "DELETING" && x.GetWaitsFor() == "node n2"
	})
}

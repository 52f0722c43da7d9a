package together_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
)

var listAll = store.ListOptions{}

func answerVM(d *agentv1.DesiredVM) *agentv1.ReportStatusRequest {
	return &agentv1.ReportStatusRequest{Vms: []*agentv1.VMReport{vmReport(d)}}
}

// A VM that fits nowhere waits, says why, and is placed when a node joins.
func TestPendingUntilNodeJoins(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	c := r.mustCreate("one", spec(128*mib, "root"))
	id := c.GetVm().GetMeta().GetId()
	r.until("it says why", func() bool { return r.vm(id).GetStatus().GetReason() == "UNSCHEDULABLE" })
	if vm := r.vm(id); vm.GetStatus().GetPhase() != computev1.VMPhase_VM_PHASE_PENDING || vm.GetStatus().GetMessage() == "" {
		t.Fatalf("VM is %v", vm)
	}
	resp, err := r.VM.ExplainVM(context.Background(), connect.NewRequest(&computev1.ExplainVMRequest{Id: id}))
	if err != nil || resp.Msg.GetSummary() == "" || resp.Msg.GetFeasibleCount() != 0 {
		t.Fatalf("explanation is %v, %v", resp, err)
	}
	r.join("n1", 4, 1024*mib)
	r.done(c.GetOperation().GetId())
	if m := r.vm(id).GetStatus().GetMessage(); m != "" {
		t.Fatalf("message is left: %q", m)
	}
}

// Many creates at once on nodes with few places: claims never exceed what there is, and as many as fit are placed.
func TestClaimsAreExact(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	agents := []*fakeAgent{r.join("n1", 8, 1024*mib), r.join("n2", 8, 512*mib)}
	const places = 12 // of 128 MiB
	var all sync.WaitGroup
	ids := make([]string, 64)
	for i := range ids {
		all.Go(func() {
			ids[i] = r.mustCreate(fmt.Sprintf("vm-%d", i), spec(128*mib, "root")).GetVm().GetMeta().GetId()
		})
	}
	all.Wait()
	running := func() (n int) {
		for _, id := range ids {
			if r.vm(id).GetStatus().GetPhase() == computev1.VMPhase_VM_PHASE_RUNNING {
				n++
			}
		}
		return n
	}
	r.until("all places are taken", func() bool { return running() == places })
	check := func() {
		t.Helper()
		for i, want := range []int64{1024 * mib, 512 * mib} {
			var sum int64
			for _, row := range r.Cache.Find(state.Query{Kind: state.KindVM, Node: agents[i].id}).Rows {
				sum += row.VM().GetClaim().GetMemoryBytes()
			}
			if got := agents[i].record().GetClaimedMemoryBytes(); got != want || sum != want {
				t.Fatalf("node %d: %d claimed by its record, %d by its VMs, of %d", i, got, sum, want)
			}
		}
	}
	check()
	// Room that is made is taken.
	var gone string
	for _, id := range ids {
		if r.vm(id).GetStatus().GetPhase() == computev1.VMPhase_VM_PHASE_RUNNING {
			gone = id
			break
		}
	}
	r.done(r.delete(gone).GetOperation().GetId())
	r.until("the place is taken again", func() bool { return running() == places })
	check()
}

// A stopped VM that gives up its claim has to wait for room when it is started.
func TestReleaseClaimWhenStopped(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a := r.join("n1", 8, 256*mib)
	s := spec(256 * mib)
	s.ReleaseClaimWhenStopped = true
	one := r.mustCreate("one", s)
	id := one.GetVm().GetMeta().GetId()
	r.done(one.GetOperation().GetId())
	ctx := context.Background()
	if _, err := r.VM.StopVM(ctx, connect.NewRequest(&computev1.StopVMRequest{Id: id})); err != nil {
		t.Fatal(err)
	}
	r.until("the claim is given up", func() bool { return a.record().GetClaimedMemoryBytes() == 0 })
	two := r.mustCreate("two", spec(256*mib))
	r.done(two.GetOperation().GetId())
	start, err := r.VM.StartVM(ctx, connect.NewRequest(&computev1.StartVMRequest{Id: id}))
	if err != nil {
		t.Fatal(err)
	}
	r.until("it waits", func() bool { return r.vm(id).GetStatus().GetReason() == "UNSCHEDULABLE" })
	if p := a.known(id).GetSpec().GetDesiredPower(); p != computev1.PowerState_POWER_STATE_STOPPED {
		t.Fatalf("without a claim the agent is told %s", p)
	}
	r.done(r.delete(two.GetVm().GetMeta().GetId()).GetOperation().GetId())
	r.done(start.Msg.GetOperation().GetId())
}

// A controller that starts anew on the same store goes on where the last one ended, and its agents are sent nothing that they know.
func TestRestart(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := newRig(t, s)
	a := r.join("n1", 4, 1024*mib)
	c := r.mustCreate("one", spec(128*mib, "root"))
	id := c.GetVm().GetMeta().GetId()
	r.done(c.GetOperation().GetId())
	waiting := r.mustCreate("two", spec(4096*mib))
	a.settled(id)
	a.stop()
	r.stop()

	r2 := newRig(t, s)
	b := &fakeAgent{r: r2, id: a.id, session: "again", vms: map[string]*agentv1.DesiredVM{}, revision: a.revision, digest: a.digest}
	b.start(4, 1024*mib)
	r2.until("the stream is current", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.syncs > 0 })
	b.mu.Lock()
	snaps, sent := b.snaps, b.sent
	b.mu.Unlock()
	if snaps != 0 || sent != 0 {
		t.Fatalf("%d snapshots, %d objects sent again", snaps, sent)
	}
	if _, err := r2.Node.UpdateNode(context.Background(), connect.NewRequest(&computev1.UpdateNodeRequest{
		Node:       &computev1.Node{Meta: &metav1.ObjectMeta{Name: "n1"}, Spec: &computev1.NodeSpec{OvercommitMemory: 8}},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"spec.overcommit_memory"}},
	})); err != nil {
		t.Fatal(err)
	}
	r2.done(waiting.GetOperation().GetId())
	if vm := r2.vm(id); vm.GetStatus().GetPhase() != computev1.VMPhase_VM_PHASE_RUNNING {
		t.Fatalf("VM is %v", vm)
	}
}

// A deposed leader's writes are refused.
func TestFence(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := newRig(t, s)
	a := r.join("n1", 4, 1024*mib)
	c := r.mustCreate("one", spec(128*mib))
	id := c.GetVm().GetMeta().GetId()
	r.done(c.GetOperation().GetId())
	key := r.term.Fence().Key
	if _, err := s.Commit(context.Background(), []store.Txn{{Ops: []store.Op{store.Delete(key)}}, {Ops: []store.Op{store.Put(key, []byte("usurper"))}}}); err != nil {
		t.Fatal(err)
	}
	rep := answerVM(a.known(id))
	rep.Vms[0].Status.Phase = computev1.VMPhase_VM_PHASE_FAILED
	rep.SessionId, rep.Sequence = "late", 1
	if _, err := r.Agent.ReportStatus(a.ctx, rep); err == nil {
		t.Fatal("a deposed leader took a report")
	}
	if p := r.vm(id).GetStatus().GetPhase(); p != computev1.VMPhase_VM_PHASE_RUNNING {
		t.Fatalf("and wrote it: %s", p)
	}
}

// A node that falls silent is unknown, and so are its VMs, until it is heard of again; with force its VMs are placed elsewhere.
func TestSilentNode(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a := r.join("n1", 4, 1024*mib)
	c := r.mustCreate("one", spec(128*mib, "root"))
	id := c.GetVm().GetMeta().GetId()
	r.done(c.GetOperation().GetId())
	a.set(func(a *fakeAgent) { a.mute = true })
	r.untilPhase(id, computev1.VMPhase_VM_PHASE_UNKNOWN)
	a.set(func(a *fakeAgent) { a.mute = false })
	r.untilPhase(id, computev1.VMPhase_VM_PHASE_RUNNING)
	a.stop()
	r.untilPhase(id, computev1.VMPhase_VM_PHASE_UNKNOWN)
	b := r.join("n2", 4, 1024*mib)
	ctx := context.Background()
	if _, err := r.Node.DeleteNode(ctx, connect.NewRequest(&computev1.DeleteNodeRequest{Id: "n1"})); err == nil {
		t.Fatal("a node with VMs was deleted without force")
	}
	if _, err := r.Node.DeleteNode(ctx, connect.NewRequest(&computev1.DeleteNodeRequest{Id: "n1", Force: true})); err != nil {
		t.Fatal(err)
	}
	r.until("it runs on the other node", func() bool {
		st := r.vm(id).GetStatus()
		return st.GetPhase() == computev1.VMPhase_VM_PHASE_RUNNING && st.GetVmPlacement().GetNodeName() == "n2" && st.GetVmPlacement().GetEpoch() == 2
	})
	r.until("the node is gone", func() bool { return r.Cache.Row(state.KindNode, a.id) == nil })
	if got := b.record().GetClaimedMemoryBytes(); got != 128*mib {
		t.Fatalf("claim is %d", got)
	}
}

// Pages walked while others write hold no row twice and lose none that stayed.
func TestPagesUnderWrites(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	stay := map[string]bool{}
	for i := range 200 {
		resp, err := r.create(&computev1.CreateVMRequest{Vm: &computev1.VM{
			Meta: &metav1.ObjectMeta{Name: fmt.Sprintf("stay-%d", i), Labels: map[string]string{"keep": "yes"}}, Spec: spec(64 * mib),
		}})
		if err != nil {
			t.Fatal(err)
		}
		stay[resp.GetVm().GetMeta().GetId()] = true
	}
	ctx, cancel := context.WithCancel(context.Background())
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			r.delete(r.mustCreate(fmt.Sprintf("come-%d", i), spec(64*mib)).GetVm().GetMeta().GetId())
		}
	})
	defer writer.Wait()
	defer cancel()
	for _, sel := range []string{"", "keep=yes"} {
		seen, token := map[string]bool{}, ""
		for {
			page, err := r.VM.ListVMs(ctx, connect.NewRequest(&computev1.ListVMsRequest{PageSize: 7, PageToken: token, LabelSelector: sel}))
			if err != nil {
				t.Fatal(err)
			}
			for _, vm := range page.Msg.GetVms() {
				if seen[vm.GetMeta().GetId()] {
					t.Fatalf("%s came twice", vm.GetMeta().GetName())
				}
				seen[vm.GetMeta().GetId()] = true
			}
			if token = page.Msg.GetNextPageToken(); token == "" {
				break
			}
		}
		for id := range stay {
			if !seen[id] {
				t.Fatalf("%s was lost", id)
			}
		}
	}
	page, err := r.VM.ListVMs(ctx, connect.NewRequest(&computev1.ListVMsRequest{PageSize: 7}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.VM.ListVMs(ctx, connect.NewRequest(&computev1.ListVMsRequest{PageToken: page.Msg.GetNextPageToken(), LabelSelector: "x"})); err == nil {
		t.Fatal("a token of another query was taken")
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	c := r.mustCreate("one", spec(128*mib))
	ctx := context.Background()
	req := connect.NewRequest(&operationv1.CancelOperationRequest{Id: c.GetOperation().GetId()})
	for range 2 {
		resp, err := r.Operation.CancelOperation(ctx, req)
		if err != nil || resp.Msg.GetOperation().GetState() != operationv1.OperationState_OPERATION_STATE_CANCELLED {
			t.Fatalf("cancel: %v %v", resp, err)
		}
	}
	r.until("the VM is gone", func() bool { return r.vm(c.GetVm().GetMeta().GetId()) == nil })
	list, err := r.Operation.ListOperations(ctx, connect.NewRequest(&operationv1.ListOperationsRequest{}))
	if err != nil || len(list.Msg.GetOperations()) != 1 {
		t.Fatalf("operations: %v %v", list, err)
	}
}

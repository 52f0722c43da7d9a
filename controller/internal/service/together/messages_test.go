package together_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
)

// number reads a number of the environment.
func number(t *testing.T, name string, usual int) int {
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// forward checks that nothing of a VM ever goes back: its epoch, and within an epoch the generation that is realised.
type forward struct {
	mu   sync.Mutex
	seen map[string][2]int64
	bad  []string
}

func (f *forward) follow(ctx context.Context, r *rig) {
	sub, err := r.Cache.Subscribe(r.Cache.Revision())
	for err == nil {
		var changes []state.Change
		changes, _, err = sub.Next(ctx)
		for _, c := range changes {
			if c.New == nil || c.New.Kind != state.KindVM {
				continue
			}
			rec := c.New.VM()
			now := [2]int64{rec.GetLastEpoch(), rec.GetVm().GetStatus().GetObservedGeneration()}
			f.mu.Lock()
			if was := f.seen[c.New.ID]; now[0] < was[0] || now[0] == was[0] && now[1] < was[1] && rec.GetVm().GetStatus().GetVmPlacement() != nil {
				f.bad = append(f.bad, fmt.Sprintf("VM %s went back from epoch %d, generation %d to %d, %d", c.New.ID, was[0], was[1], now[0], now[1]))
			}
			f.seen[c.New.ID] = now
			f.mu.Unlock()
		}
	}
}

// Dozens of agents whose reports and heartbeats are lost, delayed, repeated and reordered, while VMs come, change and go and nodes are declared off:
// everything converges, nothing is claimed or placed twice, nothing goes back. The seed is LIMIQUANTIX_TEST_SEED, the number of changes
// LIMIQUANTIX_TEST_COUNT.
func TestMessagesLostLateTwiceReordered(t *testing.T) {
	t.Parallel()
	seed := uint64(number(t, "LIMIQUANTIX_TEST_SEED", int(time.Now().UnixNano()&0xffffffff)))
	changes := number(t, "LIMIQUANTIX_TEST_COUNT", 150)
	t.Logf("LIMIQUANTIX_TEST_SEED=%d", seed)
	draw := rand.New(rand.NewPCG(seed, 0))
	r := newRig(t, newStore(t))
	ctx, cancel := context.WithCancel(context.Background())
	fw := &forward{seen: map[string][2]int64{}}
	var watch sync.WaitGroup
	watch.Go(func() { fw.follow(ctx, r) })
	defer func() { cancel(); watch.Wait() }()

	var agents []*fakeAgent
	join := func() {
		agents = append(agents, r.joinBy(newLink(seed+uint64(len(agents))), fmt.Sprintf("n%d", len(agents)), 16, 4096*mib))
	}
	for range 24 {
		join()
	}
	var ids, ops []string
	for i := range changes {
		if len(ids) < 40 || draw.IntN(4) == 0 {
			c := r.mustCreate(fmt.Sprintf("vm-%d", i), spec(128*mib, "root"))
			ids, ops = append(ids, c.GetVm().GetMeta().GetId()), append(ops, c.GetOperation().GetId())
			continue
		}
		id := ids[draw.IntN(len(ids))]
		var op *operationv1.Operation
		switch draw.IntN(8) {
		case 0:
			if resp, err := r.VM.DeleteVM(ctx, connect.NewRequest(&computev1.DeleteVMRequest{Id: id})); err == nil {
				op = resp.Msg.GetOperation()
			}
		case 1, 2, 3:
			if resp, err := r.VM.StopVM(ctx, connect.NewRequest(&computev1.StopVMRequest{Id: id})); err == nil {
				op = resp.Msg.GetOperation()
			}
		case 4, 5, 6:
			if resp, err := r.VM.StartVM(ctx, connect.NewRequest(&computev1.StartVMRequest{Id: id})); err == nil {
				op = resp.Msg.GetOperation()
			}
		case 7: // a host burns down; what its agent said last may still be on its way
			n := draw.IntN(len(agents))
			agents[n].set(func(a *fakeAgent) { a.frozen = true })
			_, _ = r.Node.DeleteNode(ctx, connect.NewRequest(&computev1.DeleteNodeRequest{Id: agents[n].id, Force: true}))
			join()
		}
		if op != nil {
			ops = append(ops, op.GetId())
		}
	}
	for _, op := range ops {
		r.ended(op)
	}
	r.until("every VM is at rest or gone", func() bool {
		for _, row := range r.Cache.Find(state.Query{Kind: state.KindVM}).Rows {
			if !domain.AtRest(row.VM()) {
				return false
			}
		}
		return true
	})
	r.exact(agents)
	fw.mu.Lock()
	defer fw.mu.Unlock()
	for _, bad := range fw.bad {
		t.Error(bad)
	}
	t.Logf("%d VMs are left of %d, on %d nodes of %d", r.Cache.Count(state.Query{Kind: state.KindVM}), len(ids), r.Cache.Count(state.Query{Kind: state.KindNode}), len(agents))
}

// exact recounts claims, and that no two agents are told to have the same VM.
func (r *rig) exact(agents []*fakeAgent) {
	r.t.Helper()
	told := map[string]string{}
	for _, a := range agents {
		rec := a.record()
		if rec == nil {
			continue
		}
		var memory, cpus int64
		for _, row := range r.Cache.Find(state.Query{Kind: state.KindVM, Node: a.id}).Rows {
			c := row.VM().GetClaim()
			memory, cpus = memory+c.GetMemoryBytes(), cpus+int64(c.GetVcpus())
			if other := told[row.ID]; other != "" {
				r.t.Errorf("VM %s is on nodes %s and %s", row.ID, other, a.id)
			}
			told[row.ID] = a.id
		}
		if rec.GetClaimedMemoryBytes() != memory || rec.GetClaimedVcpus() != cpus {
			r.t.Errorf("node %s says %d CPUs and %d bytes, its VMs claim %d and %d", a.id, rec.GetClaimedVcpus(), rec.GetClaimedMemoryBytes(), cpus, memory)
		}
	}
}

// slow is a store whose commits wait when they are told to.
type slow struct {
	store.Store
	mu   sync.Mutex
	gate chan struct{} // nil = at once
	at   chan struct{}
}

func (s *slow) Commit(ctx context.Context, txns []store.Txn) ([]store.Result, error) {
	s.mu.Lock()
	gate := s.gate
	s.gate = nil
	s.mu.Unlock()
	if gate != nil {
		close(s.at)
		<-gate
	}
	return s.Store.Commit(ctx, txns)
}

// A report whose sender gave it up, and which is still being written when the next one comes, does not write over that one.
func TestReportUnderWayIsNotTheLastWord(t *testing.T) {
	t.Parallel()
	s := &slow{Store: newStore(t)}
	r := newRig(t, s)
	a := r.join("n1", 4, 1024*mib)
	c := r.mustCreate("one", spec(128*mib))
	id := c.GetVm().GetMeta().GetId()
	r.done(c.GetOperation().GetId())
	a.settled(id)
	say := func(sequence int64, phase computev1.VMPhase) {
		rep := answerVM(a.known(id))
		rep.SessionId, rep.Sequence, rep.Vms[0].Status.Phase = a.session, sequence, phase
		if _, err := r.Agent.ReportStatus(a.ctx, rep); err != nil {
			t.Error(err)
		}
	}
	gate := make(chan struct{})
	s.mu.Lock()
	s.gate, s.at = gate, make(chan struct{})
	s.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { say(1000, computev1.VMPhase_VM_PHASE_FAILED) })
	<-s.at
	both.Go(func() { say(1001, computev1.VMPhase_VM_PHASE_PAUSED) })
	overtaken := time.AfterFunc(200*time.Millisecond, func() { close(gate) }) // long enough for the second, if it does not wait
	defer overtaken.Stop()
	both.Wait()
	if got := r.vm(id).GetStatus().GetPhase(); got != computev1.VMPhase_VM_PHASE_PAUSED {
		t.Fatalf("the last word was PAUSED, the VM is %v", got)
	}
}

// A report of an older sequence, one of a run of the agent that is over, one of an older epoch and one of an
// older generation change nothing that came later.
func TestOldReportsAreRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a := r.join("n1", 4, 1024*mib)
	c := r.mustCreate("one", spec(128*mib))
	id := c.GetVm().GetMeta().GetId()
	r.done(c.GetOperation().GetId())
	a.settled(id)
	say := func(session string, sequence, epoch, generation int64, phase computev1.VMPhase) {
		t.Helper()
		_, err := r.Agent.ReportStatus(a.ctx, &agentv1.ReportStatusRequest{SessionId: session, Sequence: sequence, Vms: []*agentv1.VMReport{{
			VmId: id, Epoch: epoch, ObservedGeneration: generation, Status: &computev1.VMStatus{Phase: phase},
		}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	is := func(want computev1.VMPhase, why string) {
		t.Helper()
		if got := r.vm(id).GetStatus().GetPhase(); got != want {
			t.Fatalf("%s: VM is %v, want %v", why, got, want)
		}
	}
	const failed, running, paused = computev1.VMPhase_VM_PHASE_FAILED, computev1.VMPhase_VM_PHASE_RUNNING, computev1.VMPhase_VM_PHASE_PAUSED
	say("n1", 1000, 0, 1, failed)
	is(running, "of an older epoch")
	say("n1", 999, 1, 1, failed)
	is(running, "of an older sequence")
	say("next run", 1, 1, 1, paused)
	is(paused, "of the next run of the agent")
	say("n1", 1001, 1, 1, failed)
	is(paused, "of a run that is over")
	say("next run", 2, 1, 0, running)
	if g := r.vm(id).GetStatus().GetObservedGeneration(); g != 1 {
		t.Fatalf("the realised generation went back to %d", g)
	}
}

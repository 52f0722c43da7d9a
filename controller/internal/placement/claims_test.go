package placement_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/placement"
	"github.com/limiquantix/limiquantix/controller/internal/scheduler"
	"github.com/limiquantix/limiquantix/controller/internal/service/caller"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// ledger recounts claims from scratch at every revision of the store.
type ledger struct {
	r     *rig
	watch store.Watcher
	seen  int64
	vms   map[string]*statev1.VMRecord
	nodes map[string]*statev1.NodeRecord
}

func newLedger(r *rig) *ledger {
	w, err := r.store.Watch(r.ctx, "", 1)
	r.must(err)
	return &ledger{r: r, watch: w, vms: map[string]*statev1.VMRecord{}, nodes: map[string]*statev1.NodeRecord{}}
}

// audit looks at every revision up to the present one, and then compares the index.
func (l *ledger) audit() {
	l.r.t.Helper()
	now, err := l.r.store.Status(l.r.ctx)
	l.r.must(err)
	for l.seen < now.Revision {
		b, err := l.watch.Next(l.r.ctx)
		l.r.must(err)
		before := map[string]*statev1.NodeRecord{}
		for id, n := range l.nodes {
			before[id] = n
		}
		for _, ev := range b.Events {
			l.take(ev.KV, ev.Deleted)
		}
		l.seen = max(l.seen, b.Revision)
		l.recount(before)
	}
	for id, n := range l.nodes {
		if c, m := l.r.index.Claimed(id); c != n.GetClaimedVcpus() || m != n.GetClaimedMemoryBytes() {
			l.r.t.Fatalf("node %s: the index counts %d CPUs and %d bytes, the record %d and %d", id, c, m, n.GetClaimedVcpus(), n.GetClaimedMemoryBytes())
		}
		l.condition(id, n)
	}
}

func (l *ledger) take(kv store.KV, deleted bool) {
	var kind, id string
	for i, c := range kv.Key {
		if c == '/' {
			kind, id = kv.Key[:i], kv.Key[i+1:]
			break
		}
	}
	switch kind {
	case "vm":
		delete(l.vms, id)
		if !deleted {
			rec := &statev1.VMRecord{}
			l.r.must(proto.Unmarshal(kv.Value, rec))
			l.vms[id] = rec
		}
	case "node":
		delete(l.nodes, id)
		if !deleted {
			rec := &statev1.NodeRecord{}
			l.r.must(proto.Unmarshal(kv.Value, rec))
			l.nodes[id] = rec
		}
	}
}

func (l *ledger) recount(before map[string]*statev1.NodeRecord) {
	t := l.r.t
	t.Helper()
	cpus, memory := map[string]int64{}, map[string]int64{}
	for id, vm := range l.vms {
		placed := vm.GetVm().GetStatus().GetVmPlacement().GetNodeId()
		c := vm.GetClaim()
		if c != nil && c.GetNodeId() != placed {
			t.Fatalf("revision %d: VM %s claims of %q and is placed on %q", l.seen, id, c.GetNodeId(), placed)
		}
		if c == nil && placed != "" && !vm.GetVm().GetSpec().GetReleaseClaimWhenStopped() {
			t.Fatalf("revision %d: VM %s is placed on %s without a claim", l.seen, id, placed)
		}
		cpus[c.GetNodeId()] += int64(c.GetVcpus())
		memory[c.GetNodeId()] += c.GetMemoryBytes()
	}
	for id, n := range l.nodes {
		if n.GetClaimedVcpus() != cpus[id] || n.GetClaimedMemoryBytes() != memory[id] {
			t.Fatalf("revision %d: node %s says %d CPUs and %d bytes, its VMs claim %d and %d",
				l.seen, id, n.GetClaimedVcpus(), n.GetClaimedMemoryBytes(), cpus[id], memory[id])
		}
		was := before[id]
		grew := n.GetClaimedVcpus() > was.GetClaimedVcpus() || n.GetClaimedMemoryBytes() > was.GetClaimedMemoryBytes()
		if !grew {
			continue
		}
		if over := domain.Overcommitted(n, l.r.index.Allocatable(n.GetNode())); over != "" {
			t.Fatalf("revision %d: a commit makes node %s claim more %s than there is", l.seen, id, over)
		}
		if was != nil && domain.Overcommitted(was, l.r.index.Allocatable(was.GetNode())) != "" &&
			proto.Equal(was.GetNode(), n.GetNode()) {
			t.Fatalf("revision %d: node %s was overcommitted and got something new", l.seen, id)
		}
	}
}

// condition compares what clients are told of a node.
func (l *ledger) condition(id string, n *statev1.NodeRecord) {
	t := l.r.t
	t.Helper()
	resp, err := l.r.nodes.GetNode(l.r.ctx, connect.NewRequest(&computev1.GetNodeRequest{Id: id}))
	l.r.must(err)
	want := domain.Overcommitted(n, l.r.index.Allocatable(n.GetNode())) != ""
	c := domain.Condition(resp.Msg.GetNode().GetStatus().GetConditions(), "Overcommitted")
	if got := c.GetStatus() == metav1.ConditionStatus_CONDITION_STATUS_TRUE; got != want {
		t.Fatalf("node %s overcommitted: %v, its condition says %v", id, want, c)
	}
}

// losing is a store that can fail a commit, before or after it took effect.
type losing struct {
	store.Store
	next   string // "", "refuse", "lose the reply", "meddle"
	meddle func() // changes something between a decision and its commit
}

var errLost = fmt.Errorf("%w: by the test", store.ErrUnavailable)

func (s *losing) Commit(ctx context.Context, txns []store.Txn) ([]store.Result, error) {
	how := s.next
	s.next = ""
	switch how {
	case "meddle":
		s.meddle()
	case "refuse":
		return nil, errLost
	case "lose the reply":
		if _, err := s.Store.Commit(ctx, txns); err != nil {
			return nil, err
		}
		return nil, errLost
	}
	return s.Store.Commit(ctx, txns)
}

// fleet is the random history: what exists, and what can happen to it.
type fleet struct {
	*rig
	rt     *rapid.T
	ledger *ledger
	ids    []string // of nodes
	made   int
	old    []*placement.Stepper // leaders of before, who do not know it
}

func (f *fleet) anyVM() *state.Row {
	rows := f.cache.Find(state.Query{Kind: state.KindVM}).Rows
	if len(rows) == 0 {
		f.rt.Skip("no VM")
	}
	return rows[rapid.IntRange(0, len(rows)-1).Draw(f.rt, "vm")]
}

func (f *fleet) anyNode() string {
	if len(f.ids) == 0 {
		f.rt.Skip("no node")
	}
	return rapid.SampledFrom(f.ids).Draw(f.rt, "node")
}

func (f *fleet) size() (int32, int64) {
	return int32(rapid.IntRange(1, 3).Draw(f.rt, "vcpus")), int64(rapid.IntRange(1, 4).Draw(f.rt, "memory")) * 128 * mib
}

func (f *fleet) create() {
	f.made++
	cpus, memory := f.size()
	s := &computev1.VMSpec{Cpu: &computev1.CPU{Vcpus: cpus}, MemoryBytes: memory, ReleaseClaimWhenStopped: rapid.Bool().Draw(f.rt, "release")}
	_, err := f.vms.CreateVM(f.ctx, connect.NewRequest(&computev1.CreateVMRequest{Vm: &computev1.VM{
		Meta: &metav1.ObjectMeta{Name: fmt.Sprintf("vm-%d", f.made)}, Spec: s,
	}}))
	f.must(err)
}

// change calls a method of the API on a VM; one that is being deleted is refused.
func (f *fleet) change(call func(row *state.Row) error) {
	if row := f.anyVM(); !row.Deleting {
		f.must(call(row))
	}
}

func (f *fleet) resize() {
	cpus, memory := f.size()
	f.change(func(row *state.Row) error { f.rig.resize(row.ID, cpus, memory); return nil })
}

// report is a node's word about one of its VMs: true, or of an older epoch or generation, and perhaps twice.
func (f *fleet) report() {
	row := f.anyVM()
	rec := row.VM()
	p := rec.GetVm().GetStatus().GetVmPlacement()
	if p == nil {
		f.rt.Skip("not placed")
	}
	rep := &agentv1.VMReport{
		VmId: row.ID, Epoch: p.GetEpoch() - int64(rapid.IntRange(0, 1).Draw(f.rt, "epochs late")), Absent: row.Deleting && rapid.Bool().Draw(f.rt, "absent"),
		ObservedGeneration: rec.GetVm().GetMeta().GetGeneration() - int64(rapid.IntRange(0, 2).Draw(f.rt, "generations late")),
		Status:             &computev1.VMStatus{Phase: computev1.VMPhase_VM_PHASE_RUNNING, RestartRequired: rapid.Bool().Draw(f.rt, "restart required")},
	}
	if rec.GetVm().GetSpec().GetDesiredPower() == computev1.PowerState_POWER_STATE_STOPPED {
		rep.Status.Phase = computev1.VMPhase_VM_PHASE_STOPPED
	}
	if f.node(p.GetNodeId()).GetNode().GetMeta().GetDeleteTime() != nil {
		f.rt.Skip("the gate refuses nodes that were declared off")
	}
	for range rapid.IntRange(1, 2).Draw(f.rt, "times") {
		f.made++
		_, err := f.agents.ReportStatus(caller.WithNode(f.ctx, p.GetNodeId()), &agentv1.ReportStatusRequest{
			SessionId: "s", Sequence: int64(f.made), Vms: []*agentv1.VMReport{rep},
		})
		f.must(err)
	}
}

func (f *fleet) resizeNode() {
	id := f.anyNode()
	f.resources(id, int32(rapid.IntRange(1, 8).Draw(f.rt, "cpus")), int64(rapid.IntRange(1, 12).Draw(f.rt, "memory"))*128*mib)
}

func (f *fleet) cordon() {
	id := f.anyNode()
	var err error
	if f.node(id).GetNode().GetSpec().GetCordoned() {
		_, err = f.nodes.UncordonNode(f.ctx, connect.NewRequest(&computev1.UncordonNodeRequest{Id: id}))
	} else {
		_, err = f.nodes.CordonNode(f.ctx, connect.NewRequest(&computev1.CordonNodeRequest{Id: id}))
	}
	f.must(err)
}

func (f *fleet) newNode() {
	if len(f.ids) == 4 {
		f.rt.Skip("enough nodes")
	}
	f.made++
	f.ids = append(f.ids, f.join(fmt.Sprintf("n%d", f.made), int32(rapid.IntRange(1, 8).Draw(f.rt, "cpus")), int64(rapid.IntRange(1, 12).Draw(f.rt, "memory"))*128*mib))
}

func (f *fleet) evacuate() {
	id := f.anyNode()
	f.ids = slices.DeleteFunc(f.ids, func(other string) bool { return other == id })
	_, err := f.nodes.DeleteNode(f.ctx, connect.NewRequest(&computev1.DeleteNodeRequest{Id: id, Force: true}))
	f.must(err)
}

// leaderStep runs a loop of the leader; when the store fails it begins anew, as its loops do.
func (f *fleet) leaderStep(step func(*placement.Stepper) error) {
	f.losing.next = rapid.SampledFrom([]string{"", "", "meddle", "refuse", "lose the reply"}).Draw(f.rt, "store")
	err := step(f.step)
	f.losing.next = ""
	if errors.Is(err, store.ErrUnavailable) {
		st, err := f.store.Status(f.ctx)
		f.must(err)
		f.must(f.cache.Wait(f.ctx, st.Revision))
		f.step, err = placement.NewStepper(f.ctx, f.cfg, f.lead.Fence())
		f.must(err)
		return
	}
	f.must(err)
}

func (f *fleet) meddle() {
	if len(f.ids) > 0 && rapid.Bool().Draw(f.rt, "meddle with a node") {
		f.resizeNode()
		return
	}
	if f.cache.Count(state.Query{Kind: state.KindVM}) > 0 {
		f.resize()
	}
}

func (f *fleet) changeLeader() {
	f.old = append(f.old, f.step)
	f.campaign()
}

// zombie is a leader of before that wakes and goes on. It writes nothing.
func (f *fleet) zombie() {
	if len(f.old) == 0 {
		f.rt.Skip("no leader of before")
	}
	z := rapid.SampledFrom(f.old).Draw(f.rt, "zombie")
	was, _ := f.store.Status(f.ctx)
	_ = z.Schedule(f.ctx)
	_ = z.Finish(f.ctx)
	_ = z.End(f.ctx)
	if is, _ := f.store.Status(f.ctx); is.Revision != was.Revision {
		f.rt.Fatalf("a deposed leader wrote")
	}
}

// At every revision of any history the sums in the nodes' records, the index, and a recount of the VMs' claims are equal; no commit makes a node claim
// more than it may, whatever is resized, moved, shrunk, deposed or lost; and a node that shrank gets nothing new and says so.
func TestClaimsEqualRecount(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(rt, scheduler.Config{OvercommitCPU: 2, OvercommitMemory: 1.5})
		defer r.close()
		f := &fleet{rig: r, rt: rt}
		f.losing.meddle = f.meddle
		f.ledger = newLedger(r)
		schedule := func(*rapid.T) { f.leaderStep(func(s *placement.Stepper) error { return s.Schedule(f.ctx) }) }
		finish := func(*rapid.T) { f.leaderStep(func(s *placement.Stepper) error { return s.Finish(f.ctx) }) }
		as := func(do func()) func(*rapid.T) { return func(*rapid.T) { do() } }
		rt.Repeat(map[string]func(*rapid.T){
			"create": as(f.create), "create another": as(f.create), "resize": as(f.resize), "node": as(f.newNode), "resize node": as(f.resizeNode),
			"cordon": as(f.cordon), "evacuate": as(f.evacuate), "report": as(f.report), "report again": as(f.report),
			"stop": as(func() {
				f.change(func(row *state.Row) error {
					_, err := f.vms.StopVM(f.ctx, connect.NewRequest(&computev1.StopVMRequest{Id: row.ID}))
					return err
				})
			}),
			"start": as(func() {
				f.change(func(row *state.Row) error {
					_, err := f.vms.StartVM(f.ctx, connect.NewRequest(&computev1.StartVMRequest{Id: row.ID}))
					return err
				})
			}),
			"delete": as(func() {
				f.change(func(row *state.Row) error {
					_, err := f.vms.DeleteVM(f.ctx, connect.NewRequest(&computev1.DeleteVMRequest{Id: row.ID}))
					return err
				})
			}),
			"schedule": schedule, "schedule again": schedule, "finish": finish,
			"end":        func(*rapid.T) { f.leaderStep(func(s *placement.Stepper) error { return s.End(f.ctx) }) },
			"notes":      func(*rapid.T) { f.leaderStep(func(s *placement.Stepper) error { return s.Notes(f.ctx) }) },
			"new leader": as(f.changeLeader), "old leader": as(f.zombie),
			"": as(f.ledger.audit),
		})
	})
}

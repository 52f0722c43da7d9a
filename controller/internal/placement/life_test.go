package placement_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/scheduler"
	"github.com/limiquantix/limiquantix/controller/internal/service/caller"
	"github.com/limiquantix/limiquantix/controller/internal/service/vm"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// life is one point of the product: where a VM stands.
type life struct {
	phase    computev1.VMPhase
	power    computev1.PowerState
	node     computev1.NodePhase // of the node where it is placed
	placed   bool
	deleting bool
	id       string
}

func (l life) String() string {
	at := "nowhere"
	if l.placed {
		at = "on a node that is " + l.node.String()
	}
	return fmt.Sprintf("%s, wanted %s, %s, deleting: %v", l.phase, l.power, at, l.deleting)
}

// lives is the product of the enums of the protocol, so that a new value is in it the moment it exists.
func lives() []*life {
	var out []*life
	for _, phase := range slices.Sorted(maps.Keys(computev1.VMPhase_name)) {
		for _, power := range slices.Sorted(maps.Keys(computev1.PowerState_name)) {
			for _, deleting := range []bool{false, true} {
				l := life{phase: computev1.VMPhase(phase), power: computev1.PowerState(power), deleting: deleting}
				out = append(out, &l)
				for _, node := range slices.Sorted(maps.Keys(computev1.NodePhase_name)) {
					on := l
					on.node, on.placed = computev1.NodePhase(node), true
					out = append(out, &on)
				}
			}
		}
	}
	return out
}

// answers says of every phase of a node whether its agent does what is wanted; a new phase has to be put here.
var answers = map[computev1.NodePhase]bool{
	computev1.NodePhase_NODE_PHASE_UNSPECIFIED: false, computev1.NodePhase_NODE_PHASE_REGISTERED: false, computev1.NodePhase_NODE_PHASE_READY: true,
	computev1.NodePhase_NODE_PHASE_NOT_READY: false, computev1.NodePhase_NODE_PHASE_UNKNOWN: false, computev1.NodePhase_NODE_PHASE_DELETING: false,
}

// world is a store that holds every life at once.
type world struct {
	*rig
	lives    []*life
	nodes    map[computev1.NodePhase]string
	pool     string
	sequence int64
}

// newWorld keeps one of every part lives, beginning with the one of an offset.
func newWorld(t *testing.T, part, offset int) *world {
	t.Helper()
	w := &world{rig: newTestRig(t, scheduler.Config{OvercommitCPU: 1000, OvercommitMemory: 1000}), nodes: map[computev1.NodePhase]string{}}
	for i, l := range lives() {
		if (i+offset)%part == 0 {
			w.lives = append(w.lives, l)
		}
	}
	w.pool = w.cache.ByName(domain.DefaultProject, state.KindPool, domain.DefaultPool)
	var txns []store.Txn
	commit := func(out *state.Writer) {
		txn, err := out.Txn()
		w.must(err)
		txns = append(txns, txn)
	}
	for phase := range computev1.NodePhase_name {
		name := "n-" + strings.ToLower(strings.ReplaceAll(computev1.NodePhase(phase).String()[len("NODE_PHASE_"):], "_", "-"))
		w.nodes[computev1.NodePhase(phase)] = w.join(name, 1000, 1<<40)
	}
	w.answer(computev1.NodePhase_NODE_PHASE_READY) // it reaches the pool
	counts := map[string]int64{}
	for i, l := range w.lives {
		l.id = domain.NewID(w.now)
		var out state.Writer
		w.put1(&out, i, l)
		commit(&out)
		if l.placed {
			counts[w.nodes[l.node]]++
		}
	}
	for phase, id := range w.nodes {
		rec := w.node(id)
		rec.ClaimedVcpus, rec.ClaimedMemoryBytes = counts[id], counts[id]*128*mib
		st := rec.GetNode().GetStatus()
		st.Phase, st.Message = phase, "as the test wants it"
		if phase == computev1.NodePhase_NODE_PHASE_DELETING {
			rec.Node.Meta.DeleteTime = timestamppb.New(w.now)
		}
		var out state.Writer
		out.Put(state.Key(state.KindNode, id), rec)
		commit(&out)
	}
	res, err := w.store.Commit(w.ctx, txns)
	w.must(err)
	w.must(w.cache.Wait(w.ctx, res[len(res)-1].Revision))
	w.campaign()
	return w
}

// put1 writes a VM with a disk as a life wants it.
func (w *world) put1(out *state.Writer, i int, l *life) {
	meta := domain.NewMeta(l.id, fmt.Sprintf("vm-%d", i), domain.DefaultProject, nil, nil)
	meta.Generation = 2
	spec := &computev1.VMSpec{
		Cpu: &computev1.CPU{Vcpus: 1}, MemoryBytes: 128 * mib, DesiredPower: l.power,
		Disks: []*computev1.Disk{{Name: "root", Source: &computev1.Disk_Inline{Inline: &computev1.InlineVolume{SizeBytes: 1 << 20, Pool: w.pool}}}},
	}
	domain.DefaultVM(spec, l.id)
	spec.DesiredPower = l.power
	rec := &statev1.VMRecord{SchemaVersion: 1, LastEpoch: 1, Vm: &computev1.VM{Meta: meta, Spec: spec, Status: &computev1.VMStatus{Phase: l.phase, ObservedGeneration: 1}}}
	vol := &statev1.VolumeRecord{SchemaVersion: 1, OwnerVmId: l.id, Volume: &storagev1.Volume{
		Meta: domain.NewMeta(domain.NewID(w.now), "root", domain.DefaultProject, nil, nil), Spec: &storagev1.VolumeSpec{PoolId: w.pool, SizeBytes: 1 << 20},
		Status: &storagev1.VolumeStatus{Phase: storagev1.VolumePhase_VOLUME_PHASE_PENDING},
	}}
	rec.DiskVolumes = []*statev1.DiskVolume{{DiskName: "root", VolumeId: vol.GetVolume().GetMeta().GetId()}}
	if l.placed {
		id := w.nodes[l.node]
		rec.Claim = &statev1.Claim{NodeId: id, Vcpus: 1, MemoryBytes: 128 * mib}
		rec.Vm.Status.VmPlacement = &computev1.VMPlacement{NodeId: id, Epoch: 1}
		vol.ExecutorNodeId, vol.ExecutorEpoch = id, 1
	}
	if l.deleting {
		rec.Vm.Meta.DeleteTime = timestamppb.New(w.now)
	} else {
		out.PutText(state.NameKey(domain.DefaultProject, state.KindVM, meta.GetName()), l.id)
	}
	out.Put(state.Key(state.KindVM, l.id), rec)
	out.Put(state.Key(state.KindVolume, vol.GetVolume().GetMeta().GetId()), vol)
}

// set is a desired stream that ends once the whole set has come.
type set struct {
	grpc.ServerStream
	ctx     context.Context
	objects []*agentv1.DesiredObject
}

var errWhole = errors.New("that is all")

func (s *set) Context() context.Context { return s.ctx }

func (s *set) Send(m *agentv1.WatchDesiredResponse) error {
	if o := m.GetUpsert(); o != nil {
		s.objects = append(s.objects, o)
	}
	if m.GetSync() != nil {
		return errWhole
	}
	return nil
}

// answer lets a node do all that is wanted of it, and say so.
func (w *world) answer(phase computev1.NodePhase) {
	w.t.Helper()
	id := w.nodes[phase]
	s := &set{ctx: caller.WithNode(w.ctx, id)}
	if err := w.agents.WatchDesired(&agentv1.WatchDesiredRequest{SessionId: "s"}, s); !errors.Is(err, errWhole) {
		w.t.Fatalf("stream: %v", err)
	}
	rep := &agentv1.ReportStatusRequest{}
	for _, o := range s.objects {
		switch o := o.GetObject().(type) {
		case *agentv1.DesiredObject_Pool:
			rep.Pools = append(rep.Pools, &agentv1.PoolReport{PoolId: o.Pool.GetPool().GetMeta().GetId(), Status: &storagev1.PoolNodeStatus{
				Health: storagev1.PoolHealth_POOL_HEALTH_HEALTHY, CapacityBytes: 1 << 40,
			}})
		case *agentv1.DesiredObject_Volume:
			rep.Volumes = append(rep.Volumes, &agentv1.VolumeReport{
				VolumeId: o.Volume.GetVolume().GetMeta().GetId(), Epoch: o.Volume.GetEpoch(), Absent: o.Volume.GetAbsent(), ObservedGeneration: 1,
				Status: &storagev1.VolumeStatus{Phase: storagev1.VolumePhase_VOLUME_PHASE_READY},
			})
		case *agentv1.DesiredObject_Vm:
			rep.Vms = append(rep.Vms, realised(o.Vm))
		}
	}
	w.report(id, rep)
}

// realised is the word of an agent that did what was wanted.
func realised(d *agentv1.DesiredVM) *agentv1.VMReport {
	phase := map[computev1.PowerState]computev1.VMPhase{
		computev1.PowerState_POWER_STATE_STOPPED: computev1.VMPhase_VM_PHASE_STOPPED, computev1.PowerState_POWER_STATE_PAUSED: computev1.VMPhase_VM_PHASE_PAUSED,
	}[d.GetSpec().GetDesiredPower()]
	if phase == computev1.VMPhase_VM_PHASE_UNSPECIFIED {
		phase = runs
	}
	return &agentv1.VMReport{
		VmId: d.GetVmId(), Epoch: d.GetEpoch(), Absent: d.GetAbsent(), ObservedGeneration: d.GetGeneration(),
		Status: &computev1.VMStatus{Phase: phase, ObservedRestartGeneration: d.GetSpec().GetRestartGeneration()},
	}
}

func (w *world) report(node string, rep *agentv1.ReportStatusRequest) {
	w.sequence++
	rep.SessionId, rep.Sequence = "s", w.sequence
	_, err := w.agents.ReportStatus(caller.WithNode(w.ctx, node), rep)
	if err != nil && !errors.Is(err, store.ErrUnavailable) {
		w.must(err)
	}
}

// pass lets time pass: the leader does what it can, and so do the nodes that answer, until nothing changes any more.
func (w *world) pass(nodesAnswer bool) {
	w.t.Helper()
	for range 20 {
		was, err := w.store.Status(w.ctx)
		w.must(err)
		w.now = w.now.Add(beatTimeout + 1)
		if nodesAnswer {
			for phase, id := range w.nodes {
				if answers[phase] {
					for range 2 {
						w.sequence++
						_, err := w.asNode.Heartbeat(caller.WithNode(w.ctx, id), &computev1.HeartbeatRequest{NodeId: id, SessionId: "s", Sequence: w.sequence})
						w.must(err)
					}
				}
			}
		}
		w.must(w.step.Monitor(w.ctx))
		w.must(w.step.Finish(w.ctx))
		w.must(w.step.Schedule(w.ctx))
		w.must(w.step.Notes(w.ctx))
		if nodesAnswer {
			for phase := range w.nodes {
				if answers[phase] {
					w.answer(phase)
				}
			}
		}
		w.must(w.step.End(w.ctx))
		if is, err := w.store.Status(w.ctx); err != nil || is.Revision == was.Revision {
			w.must(err)
			return
		}
	}
	w.t.Fatalf("it never comes to rest")
}

// check looks at every VM: at rest, gone, or waiting for somebody that it names.
func (w *world) check(t *testing.T, nodesAnswer bool) {
	t.Helper()
	for _, l := range w.lives {
		row := w.cache.Row(state.KindVM, l.id)
		var named bool
		if row != nil {
			rec := row.VM()
			st := vm.View(w.cache, row).GetStatus()
			named = st.GetReason() != "" && st.GetMessage() != ""
			p := rec.GetVm().GetStatus().GetVmPlacement()
			permanent := domain.Condition(st.GetConditions(), domain.CondRealisable) != nil
			stuck := !domain.AtRest(rec) && !named
			if nodesAnswer && (p == nil && !row.Deleting || w.nodes[computev1.NodePhase_NODE_PHASE_READY] == p.GetNodeId()) {
				stuck = !domain.AtRest(rec) && !permanent // nobody is left to wait for
			}
			if stuck {
				t.Errorf("%v: stays %v, reason %q, message %q, generation %d of %d, claim %v", l, rec.GetVm().GetStatus().GetPhase(), st.GetReason(),
					st.GetMessage(), st.GetObservedGeneration(), row.VM().GetVm().GetMeta().GetGeneration(), rec.GetClaim())
			}
			if named && !strings.Contains(st.GetMessage(), "node") && !permanent {
				t.Errorf("%v: names nobody: %q", l, st.GetMessage())
			}
		}
		for _, o := range w.cache.Find(state.Query{Kind: state.KindOperation, Owner: l.id}).Rows {
			resp, err := w.ops.GetOperation(w.ctx, connect.NewRequest(&operationv1.GetOperationRequest{Id: o.ID}))
			w.must(err)
			op := resp.Msg.GetOperation()
			switch op.GetState() {
			case operationv1.OperationState_OPERATION_STATE_RUNNING:
				if !named || op.GetMessage() == "" || nodesAnswer && row != nil && domain.AtRest(row.VM()) {
					t.Errorf("%v: operation %s stays %v: %q", l, op.GetVerb(), op.GetState(), op.GetMessage())
				}
			case operationv1.OperationState_OPERATION_STATE_UNSPECIFIED:
				t.Errorf("%v: operation %s has no state", l, op.GetVerb())
			default:
				if op.GetEndTime() == nil {
					t.Errorf("%v: operation %s ended as %v at no time", l, op.GetVerb(), op.GetState())
				}
			}
		}
	}
	for _, f := range w.step.Findings() {
		t.Errorf("audit: %v", f)
	}
}

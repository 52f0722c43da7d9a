package together_test

import (
	"cmp"
	"context"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/caller"
	"github.com/limiquantix/limiquantix/controller/internal/service/seam"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/controller/internal/store/memory"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

const (
	mib  = int64(1) << 20
	wait = 20 * time.Second
)

// rig is one controller in this process.
type rig struct {
	*services
	t     testing.TB
	store store.Store
	term  store.Leadership
	stop  func()
}

// clearBox is a Sealer that only marks what it sealed.
type clearBox struct{}

func (clearBox) Seal(plain, aad []byte) ([]byte, error) {
	return append(append([]byte("sealed:"), aad...), plain...), nil
}

func (clearBox) Open(sealed, aad []byte) ([]byte, error) {
	return sealed[len("sealed:")+len(aad):], nil
}

var timing = seam.Timing{HeartbeatInterval: 50 * time.Millisecond, HeartbeatTimeout: 600 * time.Millisecond}

func newStore(t testing.TB) store.Store {
	s := memory.Open(memory.Options{ElectionTTL: 2 * time.Second})
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// newRig starts a controller that leads.
func newRig(t testing.TB, s store.Store) *rig {
	t.Helper()
	r := &rig{t: t, store: s, services: newServices(s)}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { r.run(ctx) })
	lead, err := s.Campaign(ctx, "controller", "test")
	if err != nil {
		t.Fatal(err)
	}
	r.term = lead
	r.Leader.Set(lead)
	all.Go(func() { r.lead(ctx, lead) })
	r.stop = sync.OnceFunc(func() {
		cancel()
		all.Wait()
		r.Leader.Set(nil)
		_ = lead.Resign(context.Background())
	})
	t.Cleanup(r.stop)
	<-r.Cache.Loaded()
	r.until("pool is seeded", func() bool { return r.Cache.ByName("default", state.KindPool, "local") != "" })
	return r
}

// until waits for a state of the cache, or of an agent, which changes a little later.
func (r *rig) until(what string, is func() bool) {
	r.t.Helper()
	for end := time.Now().Add(wait); ; {
		rev := r.Cache.Revision()
		if is() {
			return
		}
		if time.Now().After(end) {
			r.t.Fatalf("never: %s", what)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		_ = r.Cache.Wait(ctx, rev+1)
		cancel()
	}
}

func spec(memory int64, disks ...string) *computev1.VMSpec {
	s := &computev1.VMSpec{MemoryBytes: memory}
	for _, d := range disks {
		s.Disks = append(s.Disks, &computev1.Disk{Name: d, Source: &computev1.Disk_Inline{Inline: &computev1.InlineVolume{SizeBytes: 1 << 20}}})
	}
	return s
}

func (r *rig) create(req *computev1.CreateVMRequest) (*computev1.CreateVMResponse, error) {
	resp, err := r.VM.CreateVM(caller.WithPrincipal(context.Background(), "admin"), connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

func (r *rig) mustCreate(name string, s *computev1.VMSpec) *computev1.CreateVMResponse {
	r.t.Helper()
	resp, err := r.create(&computev1.CreateVMRequest{Vm: &computev1.VM{Meta: &metav1.ObjectMeta{Name: name}, Spec: s}})
	if err != nil {
		r.t.Fatal(err)
	}
	return resp
}

func (r *rig) vm(id string) *computev1.VM {
	resp, err := r.VM.GetVM(context.Background(), connect.NewRequest(&computev1.GetVMRequest{Id: id}))
	if err != nil {
		return nil
	}
	return resp.Msg.GetVm()
}

func (r *rig) untilPhase(id string, p computev1.VMPhase) {
	r.t.Helper()
	r.until("VM is "+p.String(), func() bool { return r.vm(id).GetStatus().GetPhase() == p })
}

// ended waits for an operation's end.
func (r *rig) ended(id string) *operationv1.Operation {
	r.t.Helper()
	resp, err := r.Operation.WaitOperation(context.Background(), connect.NewRequest(&operationv1.WaitOperationRequest{Id: id}))
	if err != nil {
		r.t.Fatal(err)
	}
	if op := resp.Msg.GetOperation(); op.GetState() == operationv1.OperationState_OPERATION_STATE_RUNNING {
		r.t.Fatalf("operation does not end: %v; VM %v", op, r.vm(op.GetObjectId()))
	}
	return resp.Msg.GetOperation()
}

func (r *rig) done(id string) {
	r.t.Helper()
	if op := r.ended(id); op.GetState() != operationv1.OperationState_OPERATION_STATE_DONE {
		r.t.Fatalf("operation is %v", op)
	}
}

// enrol writes the record that enrolment makes.
func (r *rig) enrol(name string) string {
	r.t.Helper()
	id := domain.NewID(time.Now())
	rec, err := proto.Marshal(&statev1.NodeRecord{SchemaVersion: 1, Enrolled: true, CertificateSerial: "1", Node: &computev1.Node{
		Meta: &metav1.ObjectMeta{Id: id, Name: name, Generation: 1}, Spec: &computev1.NodeSpec{}, Status: &computev1.NodeStatus{},
	}})
	if err != nil {
		r.t.Fatal(err)
	}
	res, err := r.store.Commit(context.Background(), []store.Txn{{Ops: []store.Op{
		store.Put(state.Key(state.KindNode, id), rec), store.Put(state.NameKey("", state.KindNode, name), []byte(id)),
	}}})
	if err != nil {
		r.t.Fatal(err)
	}
	_ = r.Cache.Wait(context.Background(), res[0].Revision)
	return id
}

// fakeAgent does at once whatever its stream wants.
type fakeAgent struct {
	r       *rig
	id      string
	ctx     context.Context
	session string

	sending  sync.Mutex
	mu       sync.Mutex
	seq      int64
	vms      map[string]*agentv1.DesiredVM
	pools    map[string]*agentv1.DesiredPool
	volumes  map[string]*agentv1.DesiredVolume
	snapped  map[string]*agentv1.DesiredVolumeSnapshot
	images   map[string]*agentv1.DesiredImage
	ports    map[string]*agentv1.DesiredPort
	sent     int // upserts and removals that came
	snaps    int
	syncs    int
	revision int64
	digest   []byte
	restores []*agentv1.VolumeRestore
	moves    []*agentv1.VolumeMove
	gone     []string // kinds of what was to be removed, in order
	synced   bool     // nothing came since the last sync
	frozen   bool     // takes notice, does nothing
	mute     bool     // no heartbeats
	full     bool     // has no room for images
	link     *link    // between it and the controller; nil = messages come at once, each once
	net      netAgent
	stop     func()
}

// stream is the server's side of a desired stream.
type stream struct {
	grpc.ServerStream
	ctx  context.Context
	send func(*agentv1.WatchDesiredResponse) error
}

func (s *stream) Context() context.Context                   { return s.ctx }
func (s *stream) Send(m *agentv1.WatchDesiredResponse) error { return s.send(m) }

func (r *rig) join(name string, cpus int32, memory int64) *fakeAgent {
	r.t.Helper()
	return r.joinBy(nil, name, cpus, memory)
}

// joinBy is join of an agent whose messages take a link.
func (r *rig) joinBy(l *link, name string, cpus int32, memory int64) *fakeAgent {
	r.t.Helper()
	a := &fakeAgent{r: r, id: r.enrol(name), session: name, vms: map[string]*agentv1.DesiredVM{}, pools: map[string]*agentv1.DesiredPool{}, volumes: map[string]*agentv1.DesiredVolume{}, snapped: map[string]*agentv1.DesiredVolumeSnapshot{}, images: map[string]*agentv1.DesiredImage{}, ports: map[string]*agentv1.DesiredPort{}, link: l, net: newNetAgent()}
	a.start(cpus, memory)
	return a
}

func (a *fakeAgent) start(cpus int32, memory int64) {
	a.r.t.Helper()
	ctx, cancel := context.WithCancel(caller.WithNode(context.Background(), a.id))
	a.ctx = ctx
	_, err := a.r.NodeAgent.RegisterNode(ctx, &computev1.RegisterNodeRequest{Node: &computev1.Node{Status: &computev1.NodeStatus{
		Resources: &computev1.NodeResources{Cpus: cpus, MemoryBytes: memory},
		Drivers: []*computev1.DriverStatus{
			{Name: "fake", Kinds: []string{"compute"}, State: "healthy"}, {Name: "local", Kinds: []string{"storage"}, State: "healthy"}, networkDriver(),
		},
		TunnelAddress: cmp.Or(a.net.tunnel, "192.0.2.1"),
	}}})
	if err != nil {
		a.r.t.Fatal(err)
	}
	work := make(chan *agentv1.DesiredObject, 4096)
	var all sync.WaitGroup
	all.Go(func() { a.beat(ctx) })
	all.Go(func() { a.realise(ctx, work) })
	if a.link != nil {
		all.Go(func() { a.link.run(ctx, a) })
	}
	all.Go(func() {
		a.mu.Lock()
		req := &agentv1.WatchDesiredRequest{SessionId: a.session, KnownRevision: a.revision, KnownDigest: a.digest}
		a.mu.Unlock()
		_ = a.r.Agent.WatchDesired(req, &stream{ctx: ctx, send: func(m *agentv1.WatchDesiredResponse) error { a.take(m, work); return nil }})
	})
	a.stop = sync.OnceFunc(func() { cancel(); all.Wait() })
	a.r.t.Cleanup(a.stop)
}

func (a *fakeAgent) beat(ctx context.Context) {
	for n := int64(1); ; n++ {
		a.mu.Lock()
		mute := a.mute
		a.mu.Unlock()
		if !mute {
			beat := &computev1.HeartbeatRequest{NodeId: a.id, SessionId: a.session, Sequence: n}
			_ = a.link.call(ctx, func() error { _, err := a.r.NodeAgent.Heartbeat(ctx, beat); return err })
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(timing.HeartbeatInterval):
		}
	}
}

func (a *fakeAgent) take(m *agentv1.WatchDesiredResponse, work chan<- *agentv1.DesiredObject) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch m := m.GetMessage().(type) {
	case *agentv1.WatchDesiredResponse_Snapshot:
		a.snaps++
	case *agentv1.WatchDesiredResponse_Upsert:
		a.sent++
		a.synced = false
		if vm := m.Upsert.GetVm(); vm != nil {
			a.vms[vm.GetVmId()] = vm
			if vm.GetAbsent() {
				a.gone = append(a.gone, "vm")
			}
		}
		if p := m.Upsert.GetPool(); p != nil {
			a.pools[p.GetPool().GetMeta().GetId()] = p
		}
		if v := m.Upsert.GetVolume(); v != nil {
			if v.GetRestore() != nil {
				a.restores = append(a.restores, v.GetRestore())
			}
			if v.GetMove() != nil {
				a.moves = append(a.moves, v.GetMove())
			}
			a.volumes[v.GetVolume().GetMeta().GetId()] = v
		}
		if i := m.Upsert.GetImage(); i != nil {
			a.images[i.GetImage().GetMeta().GetId()] = i
		}
		if p := m.Upsert.GetPort(); p != nil {
			a.ports[p.GetPortId()] = p
			if p.GetAbsent() {
				a.gone = append(a.gone, "port")
			}
		}
		if s := m.Upsert.GetVolumeSnapshot(); s != nil {
			a.snapped[s.GetSnapshot().GetMeta().GetId()] = s
		}
		a.net.upsert(m.Upsert)
		if m.Upsert.GetVolume().GetAbsent() {
			a.gone = append(a.gone, "volume")
		}
		if !a.frozen {
			work <- m.Upsert
		}
	case *agentv1.WatchDesiredResponse_Remove:
		a.sent++
		a.net.remove(m.Remove)
		delete(a.vms, m.Remove.GetId())
		delete(a.pools, m.Remove.GetId())
		delete(a.volumes, m.Remove.GetId())
		delete(a.snapped, m.Remove.GetId())
		delete(a.ports, m.Remove.GetId())
	case *agentv1.WatchDesiredResponse_Sync:
		a.syncs++
		a.synced = true
		a.revision, a.digest = m.Sync.GetRevision(), m.Sync.GetDigest()
	}
}

func (a *fakeAgent) realise(ctx context.Context, work <-chan *agentv1.DesiredObject) {
	for {
		select {
		case <-ctx.Done():
			return
		case o := <-work:
			rep := answer(o)
			a.set(func(a *fakeAgent) { a.net.answer(o, rep) })
			if vm := rep.GetVms(); a.link != nil && len(vm) > 0 && !vm[0].GetAbsent() { // a word on the way, which the last one must outlast
				way := proto.CloneOf(rep)
				way.Vms[0].Status.Phase = computev1.VMPhase_VM_PHASE_STARTING
				way.Vms[0].ObservedGeneration--
				a.report(ctx, way)
				rest(ctx, time.Millisecond)
			}
			a.mu.Lock()
			full := a.full
			a.mu.Unlock()
			for _, c := range rep.GetImages() {
				if full && c.GetReady() {
					c.Ready, c.Message = false, "the disk is full"
				}
			}
			a.report(ctx, rep)
		}
	}
}

func (a *fakeAgent) report(ctx context.Context, rep *agentv1.ReportStatusRequest) {
	if a.link != nil {
		a.link.say(rep)
		return
	}
	a.sending.Lock() // one that is overtaken is no news, and not heard
	defer a.sending.Unlock()
	a.mu.Lock()
	a.seq++
	rep.SessionId, rep.Sequence = a.session, a.seq
	a.mu.Unlock()
	if _, err := a.r.Agent.ReportStatus(ctx, rep); err != nil && ctx.Err() == nil {
		a.r.t.Errorf("report: %v", err)
	}
}

// answer is what an agent reports that realised an object at once.
func answer(o *agentv1.DesiredObject) *agentv1.ReportStatusRequest {
	rep := &agentv1.ReportStatusRequest{}
	switch o := o.GetObject().(type) {
	case *agentv1.DesiredObject_Pool:
		meta := o.Pool.GetPool().GetMeta()
		rep.Pools = []*agentv1.PoolReport{{PoolId: meta.GetId(), Absent: o.Pool.GetAbsent(), Status: &storagev1.PoolNodeStatus{
			Health: storagev1.PoolHealth_POOL_HEALTH_HEALTHY, CapacityBytes: 1 << 40, ObservedGeneration: meta.GetGeneration(),
			Shared: o.Pool.GetPool().GetSpec().GetParameters()["shared"] == "true",
		}}}
	case *agentv1.DesiredObject_Volume:
		rep.Volumes = []*agentv1.VolumeReport{{
			VolumeId: o.Volume.GetVolume().GetMeta().GetId(), Epoch: o.Volume.GetEpoch(), Absent: o.Volume.GetAbsent(), ObservedGeneration: o.Volume.GetVolume().GetMeta().GetGeneration(),
			RestoredGeneration: o.Volume.GetRestore().GetRestoreGeneration(), MovedGeneration: o.Volume.GetMove().GetMoveGeneration(),
			Status: &storagev1.VolumeStatus{Phase: storagev1.VolumePhase_VOLUME_PHASE_READY, SizeBytes: o.Volume.GetVolume().GetSpec().GetSizeBytes()},
		}}
	case *agentv1.DesiredObject_VolumeSnapshot:
		s := o.VolumeSnapshot
		rep.VolumeSnapshots = []*agentv1.VolumeSnapshotReport{{
			SnapshotId: s.GetSnapshot().GetMeta().GetId(), Epoch: s.GetEpoch(), Absent: s.GetAbsent(),
			Status: &storagev1.SnapshotStatus{Phase: storagev1.SnapshotPhase_SNAPSHOT_PHASE_READY, SizeBytes: 1 << 20, ObservedGeneration: 1},
		}}
	case *agentv1.DesiredObject_Network:
		rep.Networks = []*agentv1.NetworkReport{networkReport(o.Network)}
	case *agentv1.DesiredObject_Port:
		rep.Ports = []*agentv1.PortReport{portReport(o.Port)}
	case *agentv1.DesiredObject_Vm:
		rep.Vms = []*agentv1.VMReport{vmReport(o.Vm)}
	case *agentv1.DesiredObject_Image:
		rep.Images = []*agentv1.ImageCopyReport{{
			ImageId: o.Image.GetImage().GetMeta().GetId(), PoolId: o.Image.GetPoolId(), Epoch: o.Image.GetEpoch(), Ready: !o.Image.GetAbsent(), Absent: o.Image.GetAbsent(),
		}}
	}
	return rep
}

func vmReport(d *agentv1.DesiredVM) *agentv1.VMReport {
	phase := computev1.VMPhase_VM_PHASE_RUNNING
	switch d.GetSpec().GetDesiredPower() {
	case computev1.PowerState_POWER_STATE_STOPPED:
		phase = computev1.VMPhase_VM_PHASE_STOPPED
	case computev1.PowerState_POWER_STATE_PAUSED:
		phase = computev1.VMPhase_VM_PHASE_PAUSED
	}
	return &agentv1.VMReport{
		VmId: d.GetVmId(), Epoch: d.GetEpoch(), Absent: d.GetAbsent(), ObservedGeneration: d.GetGeneration(), Step: "start",
		AttemptedGeneration: d.GetGeneration(),
		Phases:              []*operationv1.OperationPhase{{Name: "start", StartTime: timestamppb.Now(), EndTime: timestamppb.Now()}},
		Status:              &computev1.VMStatus{Phase: phase, ObservedRestartGeneration: d.GetSpec().GetRestartGeneration(), Pid: 1},
	}
}

func (a *fakeAgent) set(change func(*fakeAgent)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(a)
}

func (a *fakeAgent) known(id string) *agentv1.DesiredVM {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.vms[id]
}

// settled waits until the last version of a VM has come, with its sync.
func (a *fakeAgent) settled(id string) {
	a.r.t.Helper()
	a.r.until("the agent has it", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.vms[id].GetGeneration() == a.r.vm(id).GetMeta().GetGeneration() && a.synced
	})
}

// record is what the store holds of a node.
func (a *fakeAgent) record() *statev1.NodeRecord { return a.r.Cache.Row(state.KindNode, a.id).Node() }

package placement_test

import (
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/scheduler"
	"github.com/limiquantix/limiquantix/controller/internal/service/caller"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/service/snapshot"
	"github.com/limiquantix/limiquantix/controller/internal/service/volume"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

const (
	ready = storagev1.VolumePhase_VOLUME_PHASE_READY
	// lease is longer here than it takes until a silent node is unknown, so that the one is not taken for the other.
	lease = 3 * beatTimeout
)

// storageRig is a rig with a shared pool and the services of volumes and snapshots.
type storageRig struct {
	*rig
	volumes   *volume.Service
	snapshots *snapshot.Service
	pool      string
	seq       int64
}

func newStorageRig(t *testing.T, nodes ...string) (*storageRig, []string) {
	r := &storageRig{rig: newTestRig(t, scheduler.Config{})}
	r.cfg.Lease = lease
	r.campaign()
	runner := &request.Runner{Store: r.losing, Cache: r.cache, Now: func() time.Time { return r.now }}
	r.volumes = volume.New(volume.Config{Cache: r.cache, Runner: runner, Now: func() time.Time { return r.now }})
	r.snapshots = snapshot.New(snapshot.Config{Cache: r.cache, Runner: runner, Now: func() time.Time { return r.now }})
	r.pool = domain.NewID(r.now)
	r.put(state.KindPool, r.pool, &statev1.StoragePoolRecord{SchemaVersion: 1, Pool: &storagev1.StoragePool{
		Meta: domain.NewMeta(r.pool, "shared", domain.DefaultProject, nil, nil), Spec: &storagev1.StoragePoolSpec{Driver: "local"}, Status: &storagev1.StoragePoolStatus{},
	}})
	r.write(func(w *state.Writer) {
		w.PutText(state.NameKey(domain.DefaultProject, state.KindPool, "shared"), r.pool)
	})
	var ids []string
	for _, n := range nodes {
		id := r.join(n, 8, 8192*mib)
		ids = append(ids, id)
		r.beat(id)
		r.report(id, &agentv1.ReportStatusRequest{Pools: []*agentv1.PoolReport{{PoolId: r.pool, Status: &storagev1.PoolNodeStatus{
			Health: storagev1.PoolHealth_POOL_HEALTH_HEALTHY, CapacityBytes: 1 << 40, UsedBytes: int64(len(ids)) << 30, Shared: true, ObservedGeneration: 1,
		}}}})
	}
	return r, ids
}

func (r *storageRig) beat(node string) {
	r.t.Helper()
	r.seq++
	_, err := r.asNode.Heartbeat(caller.WithNode(r.ctx, node), &computev1.HeartbeatRequest{NodeId: node, SessionId: node, Sequence: r.seq})
	r.must(err)
}

func (r *storageRig) report(node string, req *agentv1.ReportStatusRequest) {
	r.t.Helper()
	r.seq++
	req.SessionId, req.Sequence = node, r.seq
	_, err := r.agents.ReportStatus(caller.WithNode(r.ctx, node), req)
	r.must(err)
}

// pass lets time go by while some nodes are heard.
func (r *storageRig) pass(d time.Duration, heard ...string) {
	r.t.Helper()
	for end := r.now.Add(d); r.now.Before(end); {
		r.now = r.now.Add(min(beatEvery, end.Sub(r.now)))
		for _, n := range heard {
			r.beat(n)
		}
		r.must(r.step.Monitor(r.ctx))
		r.must(r.step.TakeOver(r.ctx))
	}
}

func (r *storageRig) create(name string) string {
	r.t.Helper()
	resp, err := r.volumes.CreateVolume(r.ctx, connect.NewRequest(&storagev1.CreateVolumeRequest{Volume: &storagev1.Volume{
		Meta: &metav1.ObjectMeta{Name: name}, Spec: &storagev1.VolumeSpec{PoolId: r.pool, SizeBytes: 1 << 20},
	}}))
	r.must(err)
	r.must(r.step.Executors(r.ctx))
	return resp.Msg.GetVolume().GetMeta().GetId()
}

func (r *storageRig) volume(id string) *statev1.VolumeRecord {
	return r.cache.Row(state.KindVolume, id).Volume()
}

// say reports a volume as its executor would under an epoch.
func (r *storageRig) say(node, id string, epoch, generation int64) {
	r.t.Helper()
	r.report(node, &agentv1.ReportStatusRequest{Volumes: []*agentv1.VolumeReport{{
		VolumeId: id, Epoch: epoch, ObservedGeneration: generation, Status: &storagev1.VolumeStatus{Phase: ready, SizeBytes: 1 << 20},
	}}})
}

func (r *storageRig) resize(id string, size int64) {
	r.t.Helper()
	_, err := r.volumes.ResizeVolume(r.ctx, connect.NewRequest(&storagev1.ResizeVolumeRequest{Id: id, SizeBytes: size}))
	r.must(err)
}

// What a lost executor left undone is gone on with elsewhere only after its lease and a margin; a late word of it changes nothing.
func TestVerbGoesOnElsewhereAfterTheLease(t *testing.T) {
	t.Parallel()
	r, n := newStorageRig(t, "n1", "n2")
	id := r.create("data")
	if rec := r.volume(id); rec.GetExecutorNodeId() != n[0] || rec.GetExecutorEpoch() != 1 || rec.GetVolume().GetStatus().GetNodeId() != "" {
		t.Fatalf("%v", rec) // n1 has the most room
	}
	lost := r.now
	for r.volume(id).GetExecutorNodeId() == n[0] {
		r.pass(time.Second, n[1])
		if r.now.Sub(lost) > 10*beatTimeout {
			t.Fatalf("nobody goes on: %v", r.volume(id))
		}
		if st := r.volume(id).GetVolume().GetStatus(); st.GetReason() != "" && !strings.Contains(st.GetMessage(), "n1") {
			t.Fatalf("it says %q", st.GetMessage())
		}
	}
	if waited := r.now.Sub(lost); waited < lease+lease/3 {
		t.Errorf("it waited %s, the lease is %s", waited, lease)
	}
	if rec := r.volume(id); rec.GetExecutorNodeId() != n[1] || rec.GetExecutorEpoch() != 2 {
		t.Fatalf("%v", rec)
	}
	r.say(n[0], id, 1, 1)
	if rec := r.volume(id); rec.GetVolume().GetStatus().GetPhase() == ready {
		t.Errorf("a late word counted: %v", rec)
	}
	r.report(n[0], &agentv1.ReportStatusRequest{Volumes: []*agentv1.VolumeReport{{VolumeId: id, Epoch: 2, Absent: true}}})
	r.say(n[1], id, 2, 1)
	if rec := r.volume(id); rec.GetVolume().GetStatus().GetPhase() != ready {
		t.Errorf("%v", rec)
	}
}

// A leader that has just begun does not know what the one before it granted: it waits a full lease.
func TestNewLeaderWaitsAFullLease(t *testing.T) {
	t.Parallel()
	r, n := newStorageRig(t, "n1", "n2")
	id := r.create("data")
	r.pass(2*lease, n[1]) // n1 is silent
	rec := r.volume(id)
	if rec.GetExecutorNodeId() != n[1] {
		t.Fatalf("%v", rec)
	}
	r.say(n[1], id, rec.GetExecutorEpoch(), 1)
	// n2 falls silent in turn, n1 is back, and another controller leads.
	r.pass(2*beatEvery, n[0], n[1])
	r.resize(id, 2<<20)
	r.pass(beatTimeout-beatEvery, n[0])
	r.campaign()
	began := r.now
	for r.volume(id).GetExecutorNodeId() == n[1] {
		if r.now.Sub(began) > 10*beatTimeout {
			t.Fatalf("nobody goes on: %v", r.volume(id))
		}
		r.pass(time.Second, n[0])
	}
	if waited := r.now.Sub(began); waited < lease+lease/3 {
		t.Errorf("it waited %s, the lease is %s", waited, lease)
	}
}

// What rests needs nobody: a silent executor keeps it, until it has something new to do; then another does it at once, for nothing can be under way.
func TestWhatRestsIsHandedOver(t *testing.T) {
	t.Parallel()
	r, n := newStorageRig(t, "n1", "n2", "n3")
	id := r.create("data")
	r.say(n[0], id, 1, 1)
	r.pass(10*beatTimeout, n[1], n[2])
	if rec := r.volume(id); rec.GetExecutorNodeId() != n[0] || rec.GetVolume().GetStatus().GetPhase() != ready {
		t.Fatalf("%v", rec)
	}
	r.resize(id, 2<<20)
	r.must(r.step.Executors(r.ctx))
	rec := r.volume(id)
	if rec.GetExecutorNodeId() != n[1] || rec.GetExecutorEpoch() != 2 {
		t.Fatalf("%v", rec)
	}
	r.say(n[1], id, 2, 2)

	// A node that is cordoned gives away what rests, so that it can be removed; not to one that is cordoned too.
	_, err := r.nodes.CordonNode(r.ctx, connect.NewRequest(&computev1.CordonNodeRequest{Id: "n2"}))
	r.must(err)
	r.pass(2*beatEvery, n[1], n[2])
	if rec := r.volume(id); rec.GetExecutorNodeId() != n[2] {
		t.Fatalf("%v", rec)
	}
	_, err = r.nodes.DeleteNode(r.ctx, connect.NewRequest(&computev1.DeleteNodeRequest{Id: "n2"}))
	r.must(err)
	_, err = r.nodes.CordonNode(r.ctx, connect.NewRequest(&computev1.CordonNodeRequest{Id: "n3"}))
	r.must(err)
	epoch := r.volume(id).GetExecutorEpoch()
	r.pass(5*beatEvery, n[2])
	if rec := r.volume(id); rec.GetExecutorNodeId() != n[2] || rec.GetExecutorEpoch() != epoch {
		t.Fatalf("%v", rec)
	}
}

// Whatever is done to a volume in use is done by the node that uses it; while that is silent nobody else does it, for its guest may run.
func TestTheUserExecutes(t *testing.T) {
	t.Parallel()
	r, n := newStorageRig(t, "n1", "n2")
	id := r.create("data")
	r.say(n[0], id, 1, 1)
	vm := r.rig.create("a", &computev1.VMSpec{
		Cpu: &computev1.CPU{Vcpus: 1}, MemoryBytes: 128 * mib, Placement: &computev1.Placement{Node: "n2"},
		Disks: []*computev1.Disk{{Name: "d", Source: &computev1.Disk_Volume{Volume: "data"}}},
	})
	r.must(r.step.Schedule(r.ctx))
	rec := r.volume(id)
	if rec.GetExecutorNodeId() != n[1] || rec.GetExecutorEpoch() != 2 || domain.Attachment(rec.GetVolume(), vm).GetNodeId() != n[1] {
		t.Fatalf("%v", rec)
	}
	r.say(n[1], id, 2, 1)
	snap, err := r.snapshots.CreateSnapshot(r.ctx, connect.NewRequest(&storagev1.CreateSnapshotRequest{Snapshot: &storagev1.Snapshot{
		Meta: &metav1.ObjectMeta{Name: "s"}, Spec: &storagev1.SnapshotSpec{VolumeId: id},
	}}))
	r.must(err)
	r.must(r.step.Executors(r.ctx))
	got := func() *statev1.SnapshotRecord {
		return r.cache.Row(state.KindSnapshot, snap.Msg.GetSnapshot().GetMeta().GetId()).Snapshot()
	}
	if got().GetExecutorNodeId() != n[1] {
		t.Fatalf("%v", got())
	}
	r.resize(id, 2<<20)
	r.pass(10*beatTimeout, n[0])
	if r.volume(id).GetExecutorNodeId() != n[1] || got().GetExecutorNodeId() != n[1] {
		t.Fatalf("%v, %v", r.volume(id), got())
	}
	// An operator declares n2 off: the VM goes elsewhere, the volume with it, whole.
	_, err = r.nodes.DeleteNode(r.ctx, connect.NewRequest(&computev1.DeleteNodeRequest{Id: "n2", Force: true}))
	r.must(err)
	r.must(r.step.Finish(r.ctx))
	r.must(r.step.TakeOver(r.ctx))
	if rec := r.volume(id); rec.GetExecutorNodeId() != n[0] || rec.GetExecutorEpoch() != 3 || domain.Attachment(rec.GetVolume(), vm).GetNodeId() != "" {
		t.Fatalf("%v", rec)
	}
	if got().GetExecutorNodeId() != n[0] {
		t.Fatalf("%v", got())
	}
}

// A VM's own volume in a shared pool outlives the node that was declared off; with the VM it is removed there, by another node.
func TestOwnVolumeInASharedPool(t *testing.T) {
	t.Parallel()
	r, n := newStorageRig(t, "n1", "n2")
	vm := r.rig.create("a", &computev1.VMSpec{
		Cpu: &computev1.CPU{Vcpus: 1}, MemoryBytes: 128 * mib,
		Disks: []*computev1.Disk{{Name: "d", Source: &computev1.Disk_Inline{Inline: &computev1.InlineVolume{SizeBytes: 1 << 20, Pool: "shared"}}}},
	})
	r.must(r.step.Schedule(r.ctx))
	id := r.vm(vm).GetDiskVolumes()[0].GetVolumeId()
	first := r.volume(id).GetExecutorNodeId()
	if first == "" || r.volume(id).GetVolume().GetStatus().GetNodeId() != "" {
		t.Fatalf("%v", r.volume(id))
	}
	r.say(first, id, 1, 1)
	other := n[0]
	if first == other {
		other = n[1]
	}
	_, err := r.nodes.DeleteNode(r.ctx, connect.NewRequest(&computev1.DeleteNodeRequest{Id: first, Force: true}))
	r.must(err)
	r.must(r.step.Finish(r.ctx))
	if rec := r.volume(id); rec.GetVolume().GetStatus().GetPhase() != ready {
		t.Fatalf("its data is said to be gone: %v", rec)
	}
	_, err = r.vms.DeleteVM(r.ctx, connect.NewRequest(&computev1.DeleteVMRequest{Id: vm}))
	r.must(err)
	r.must(r.step.Finish(r.ctx))
	r.must(r.step.TakeOver(r.ctx))
	rec := r.volume(id)
	if rec.GetExecutorNodeId() != other || rec.GetExecutorEpoch() != 2 {
		t.Fatalf("nobody removes it: %v", rec)
	}
	r.report(other, &agentv1.ReportStatusRequest{Volumes: []*agentv1.VolumeReport{{VolumeId: id, Epoch: 2, Absent: true}}})
	r.must(r.step.Finish(r.ctx))
	if r.volume(id) != nil || r.vm(vm) != nil {
		t.Errorf("left: %v, %v", r.volume(id), r.vm(vm))
	}
}

// A volume in a shared pool that is being deleted when its executor is declared off is removed by another; the records stay until then.
func TestDeletionOutlivesItsExecutor(t *testing.T) {
	t.Parallel()
	r, n := newStorageRig(t, "n1", "n2")
	id := r.create("data")
	r.say(n[0], id, 1, 1)
	_, err := r.volumes.DeleteVolume(r.ctx, connect.NewRequest(&storagev1.DeleteVolumeRequest{Id: id}))
	r.must(err)
	_, err = r.nodes.DeleteNode(r.ctx, connect.NewRequest(&computev1.DeleteNodeRequest{Id: "n1", Force: true}))
	r.must(err)
	r.must(r.step.Finish(r.ctx))
	r.must(r.step.TakeOver(r.ctx))
	if rec := r.volume(id); rec.GetExecutorNodeId() != n[1] || rec.GetExecutorEpoch() != 2 {
		t.Fatalf("%v", rec)
	}
	r.report(n[1], &agentv1.ReportStatusRequest{Volumes: []*agentv1.VolumeReport{{VolumeId: id, Epoch: 2, Absent: true}}})
	if r.volume(id) != nil {
		t.Error("it is still there")
	}
}

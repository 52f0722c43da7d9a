package together_test

import (
	"slices"
	"testing"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/controller/internal/state"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// sharedPool makes a pool that is one place for all nodes, and waits until every agent has said so.
func (r *rig) sharedPool(name string, agents ...*fakeAgent) string {
	r.t.Helper()
	made, err := r.createPool(name, &storagev1.StoragePoolSpec{Driver: "local", Parameters: map[string]string{"shared": "true"}})
	if err != nil {
		r.t.Fatal(err)
	}
	id := made.GetStoragePool().GetMeta().GetId()
	r.until("all nodes reach it", func() bool {
		st := r.pool(id).GetStatus()
		return st.GetShared() && len(st.GetNodes()) == len(agents) && st.GetPhase() == storagev1.StoragePoolPhase_STORAGE_POOL_PHASE_READY
	})
	return id
}

func (a *fakeAgent) volume(id string) *agentv1.DesiredVolume {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.volumes[id]
}

// In a shared pool one node acts; the node of a VM that uses the volume becomes that one, and another user beside it only attaches.
func TestExecutorAndUser(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a, b := r.join("n1", 8, 1<<34), r.join("n2", 8, 1<<34)
	pool := r.sharedPool("net", a, b)
	if st := r.pool(pool).GetStatus(); st.GetCapacityBytes() != 1<<40 {
		t.Errorf("one place is counted twice: %v", st)
	}
	id := r.madeVolume("data", &storagev1.VolumeSpec{PoolId: "net", SizeBytes: 1 << 20, Shared: true, Qos: &storagev1.VolumeQos{Iops: 100}})
	if n := r.volume(id).GetStatus().GetNodeId(); n != "" {
		t.Errorf("it lies on node %s", n)
	}
	disk := []*computev1.Disk{{Name: "d", Source: &computev1.Disk_Volume{Volume: "data"}}}
	on := func(name, node string) string {
		id := r.mustCreate(name, &computev1.VMSpec{MemoryBytes: 1 << 30, Disks: disk, Placement: &computev1.Placement{Node: node}}).GetVm().GetMeta().GetId()
		r.untilPhase(id, computev1.VMPhase_VM_PHASE_RUNNING)
		return id
	}
	on("first", "n2")
	r.until("n2 executes", func() bool { return b.volume(id).GetRole() == agentv1.VolumeRole_VOLUME_ROLE_EXECUTOR })
	r.until("n1 has nothing to do with it", func() bool { return a.volume(id) == nil })
	on("second", "n1")
	r.until("n1 uses it", func() bool { return a.volume(id).GetRole() == agentv1.VolumeRole_VOLUME_ROLE_USER })
	d := a.volume(id)
	if !d.GetSharedPool() || d.GetVolume().GetSpec().GetQos().GetIops() != 100 || d.GetVolume().GetStatus().GetPhase() != storagev1.VolumePhase_VOLUME_PHASE_READY || d.GetEpoch() != b.volume(id).GetEpoch() {
		t.Errorf("the user has %v", d)
	}
	r.until("both are attached", func() bool {
		at := r.volume(id).GetStatus().GetAttachments()
		return len(at) == 2 && at[0].GetAttached() && at[1].GetAttached() && at[0].GetMode() == storagev1.VolumeAttachmentMode_VOLUME_ATTACHMENT_MODE_SHARED
	})
}

// Of a volume that a node had when an operator declared it off, whoever gets it next is told so; of others nobody is.
func TestFencedNodesAreNamed(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a, b := r.join("n1", 8, 1<<34), r.join("n2", 8, 1<<34)
	r.sharedPool("net", a, b)
	used, idle := r.madeVolume("used", &storagev1.VolumeSpec{PoolId: "net", SizeBytes: 1 << 20}), r.madeVolume("idle", &storagev1.VolumeSpec{PoolId: "net", SizeBytes: 1 << 20})
	vm := r.mustCreate("a", &computev1.VMSpec{MemoryBytes: 1 << 30, Disks: []*computev1.Disk{{Name: "d", Source: &computev1.Disk_Volume{Volume: "used"}}}}).GetVm().GetMeta().GetId()
	r.untilPhase(vm, computev1.VMPhase_VM_PHASE_RUNNING)
	dead, other := a, b
	if b.known(vm) != nil {
		dead, other = b, a
	}
	dead.stop()
	r.until("the node is unknown", func() bool { return r.vm(vm).GetStatus().GetPhase() == computev1.VMPhase_VM_PHASE_UNKNOWN })
	if _, err := r.Node.DeleteNode(admin(), connect.NewRequest(&computev1.DeleteNodeRequest{Id: dead.id, Force: true})); err != nil {
		t.Fatal(err)
	}
	r.until("the other node has it", func() bool { return slices.Equal(other.volume(used).GetFencedNodeIds(), []string{dead.id}) })
	r.untilPhase(vm, computev1.VMPhase_VM_PHASE_RUNNING)
	if got := r.Cache.Row(state.KindVolume, idle).Volume().GetFencedNodeIds(); len(got) != 0 {
		t.Errorf("of a volume that nobody used: %v", got)
	}
}

package together_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// sayPool reports how a pool is on an agent's node.
func (a *fakeAgent) sayPool(id string, health storagev1.PoolHealth, generation int64) {
	a.report(a.ctx, &agentv1.ReportStatusRequest{Pools: []*agentv1.PoolReport{{PoolId: id, Status: &storagev1.PoolNodeStatus{
		Health: health, Reason: "POOL_UNHEALTHY", Message: "does not answer", CapacityBytes: 1 << 40, ObservedGeneration: generation,
	}}}})
}

// A pool is as well as its nodes say, and no better than that while one of them is silent; a node that is no more is forgotten.
func TestPoolIsAsItsNodesSay(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a, b := r.join("n1", 8, 1<<34), r.join("n2", 8, 1<<34)
	made, err := r.createPool("fast", &storagev1.StoragePoolSpec{Driver: "local"})
	if err != nil {
		t.Fatal(err)
	}
	id := made.GetStoragePool().GetMeta().GetId()
	phase := func(want storagev1.StoragePoolPhase) {
		t.Helper()
		r.until("the pool is "+want.String(), func() bool { return r.pool(id).GetStatus().GetPhase() == want })
	}
	phase(storagev1.StoragePoolPhase_STORAGE_POOL_PHASE_READY)
	if st := r.pool(id).GetStatus(); st.GetCapacityBytes() != 2<<40 || len(st.GetNodes()) != 2 || st.GetShared() {
		t.Errorf("%v", st)
	}
	b.sayPool(id, storagev1.PoolHealth_POOL_HEALTH_UNHEALTHY, 1)
	phase(storagev1.StoragePoolPhase_STORAGE_POOL_PHASE_DEGRADED)
	if st := r.pool(id).GetStatus(); st.GetReason() != "POOL_UNHEALTHY" || !strings.Contains(st.GetMessage(), "on node n2: does not answer") {
		t.Errorf("%v", st)
	}
	a.sayPool(id, storagev1.PoolHealth_POOL_HEALTH_UNHEALTHY, 1)
	phase(storagev1.StoragePoolPhase_STORAGE_POOL_PHASE_FAILED)
	a.sayPool(id, storagev1.PoolHealth_POOL_HEALTH_HEALTHY, 1)
	b.sayPool(id, storagev1.PoolHealth_POOL_HEALTH_HEALTHY, 1)
	phase(storagev1.StoragePoolPhase_STORAGE_POOL_PHASE_READY)

	// n2 falls silent: it shows, and a change does not wait for it.
	b.stop()
	phase(storagev1.StoragePoolPhase_STORAGE_POOL_PHASE_DEGRADED)
	if st := r.pool(id).GetStatus(); domain.PoolOn(r.pool(id), b.id).GetHealth() != storagev1.PoolHealth_POOL_HEALTH_UNKNOWN || !strings.Contains(st.GetMessage(), "node n2 does not report") {
		t.Errorf("%v", st)
	}
	up, err := r.Pool.UpdateStoragePool(admin(), connect.NewRequest(&storagev1.UpdateStoragePoolRequest{
		StoragePool: &storagev1.StoragePool{Meta: &metav1.ObjectMeta{Id: id}, Spec: &storagev1.StoragePoolSpec{Parameters: map[string]string{"path": "/x"}}},
		UpdateMask:  &fieldmaskpb.FieldMask{Paths: []string{"spec.parameters"}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	r.done(up.Msg.GetOperation().GetId())
	if g := r.pool(id).GetStatus().GetObservedGeneration(); g != 2 {
		t.Errorf("generation %d is realised by all that report", g)
	}

	// A deletion waits for n2 by name, until n2 is no more.
	gone, err := r.Pool.DeleteStoragePool(admin(), connect.NewRequest(&storagev1.DeleteStoragePoolRequest{Id: "fast"}))
	if err != nil {
		t.Fatal(err)
	}
	r.until("it says whom it waits for", func() bool {
		st := r.pool(id).GetStatus()
		return len(st.GetNodes()) == 1 && strings.Contains(st.GetMessage(), "node n2, which does not report")
	})
	if _, err := r.Node.DeleteNode(admin(), connect.NewRequest(&computev1.DeleteNodeRequest{Id: "n2"})); err != nil {
		t.Fatal(err)
	}
	r.done(gone.Msg.GetOperation().GetId())
}

// Of volumes that are promised at the same moment no more are taken than the pool's limit lets; one whose pool is being deleted keeps the pool until it is gone itself.
func TestPromisesOfOneMoment(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a := r.join("n1", 8, 1<<34)
	made, err := r.createPool("tight", &storagev1.StoragePoolSpec{Driver: "local", Overcommit: 1})
	if err != nil {
		t.Fatal(err)
	}
	r.done(made.GetOperation().GetId())
	id := made.GetStoragePool().GetMeta().GetId()
	var all sync.WaitGroup
	for i := range 12 {
		all.Go(func() {
			_, err := r.createVolume(fmt.Sprintf("v%d", i), &storagev1.VolumeSpec{PoolId: "tight", SizeBytes: 1 << 38}) // a quarter of the pool
			if err != nil && !fault.Is(err, metav1.Reason_REASON_NO_SPACE) && !fault.Is(err, metav1.Reason_REASON_BUSY) {
				t.Error(err)
			}
		})
		all.Go(func() { // a VM's own disk counts alike
			_, err := r.create(&computev1.CreateVMRequest{Vm: &computev1.VM{Meta: &metav1.ObjectMeta{Name: fmt.Sprintf("vm%d", i)}, Spec: &computev1.VMSpec{
				MemoryBytes: 1 << 28, Disks: []*computev1.Disk{{Name: "d", Source: &computev1.Disk_Inline{Inline: &computev1.InlineVolume{SizeBytes: 1 << 38, Pool: "tight"}}}},
			}}})
			if err != nil && !fault.Is(err, metav1.Reason_REASON_NO_SPACE) && !fault.Is(err, metav1.Reason_REASON_BUSY) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if st := r.pool(id).GetStatus(); st.GetProvisionedBytes() != 1<<40 || st.GetVolumeCount() != 4 {
		t.Errorf("%d volumes of %d bytes", st.GetVolumeCount(), st.GetProvisionedBytes())
	}

	// As if a volume had come in the moment in which its pool was deleted.
	other, err := r.createPool("late", &storagev1.StoragePoolSpec{Driver: "local"})
	if err != nil {
		t.Fatal(err)
	}
	r.done(other.GetOperation().GetId())
	vol := r.madeVolume("late", &storagev1.VolumeSpec{PoolId: "late", SizeBytes: 512})
	row := r.Cache.Row(state.KindPool, other.GetStoragePool().GetMeta().GetId())
	rec := row.Pool()
	rec.Pool.Meta.DeleteTime = rec.GetPool().GetMeta().GetCreateTime()
	r.put(state.Key(state.KindPool, row.ID), rec)
	if msg := r.pool(row.ID).GetStatus().GetMessage(); !strings.Contains(msg, "volume late") {
		t.Errorf("it says %q", msg)
	}
	gone, err := r.deleteVolume(vol)
	if err != nil {
		t.Fatal(err)
	}
	r.done(gone.GetOperation().GetId())
	r.until("the pool goes after it", func() bool { return r.pool(row.ID) == nil })
	r.until("the node hears so", func() bool { return a.pool(row.ID) == nil })
}

// put writes a record as nobody would.
func (r *rig) put(key string, m proto.Message) {
	r.t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		r.t.Fatal(err)
	}
	res, err := r.store.Commit(r.t.Context(), []store.Txn{{Ops: []store.Op{store.Put(key, b)}}})
	if err != nil {
		r.t.Fatal(err)
	}
	_ = r.Cache.Wait(r.t.Context(), res[0].Revision)
}

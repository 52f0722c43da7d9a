package reconcile

import (
	"context"
	"log/slog"
	"sync"
	"testing"

	"google.golang.org/grpc"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// fakeDrivers are a compute and a storage plugin that note what they are asked, and what the controller is told.
type fakeDrivers struct {
	mu      sync.Mutex
	calls   []string
	fail    map[string]error // by method
	once    map[string]error // likewise, for one call
	agent   bool             // guests can be quiesced
	pending bool             // snapshots are taken by switching
	frozen  bool
	snaps   map[string]*driverv1.Snapshot
	told    *agentv1.VolumeSnapshotReport
}

func (f *fakeDrivers) note(method string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, method)
	if err := f.once[method]; err != nil {
		delete(f.once, method)
		return err
	}
	return f.fail[method]
}

func (f *fakeDrivers) Plugin(name string) (Plugin, bool) {
	c := &driverv1.GetCapabilitiesResponse{Compute: &driverv1.ComputeCapabilities{}, Storage: &driverv1.StorageCapabilities{}}
	if f.agent {
		c.Compute.Features = []driverv1.ComputeFeature{driverv1.ComputeFeature_COMPUTE_FEATURE_GUEST_AGENT}
	}
	return Plugin{Name: name, Running: true, Instance: 1, Capabilities: c}, true
}

func (f *fakeDrivers) Names(string) []string { return nil }

func (f *fakeDrivers) Compute(string) driverv1.ComputeDriverServiceClient { return fakeCompute{f: f} }

func (f *fakeDrivers) Storage(string) driverv1.StorageDriverServiceClient { return fakeStorage{f: f} }

func (f *fakeDrivers) Network(string) driverv1.NetworkDriverServiceClient { return nil }

// fakeReports take what the controller is told.
type fakeReports struct {
	Reporter
	f *fakeDrivers
}

func (r fakeReports) Snapshot(m *agentv1.VolumeSnapshotReport) { r.f.told = m }
func (r fakeReports) Progress(*agentv1.ObjectProgress)         {}
func (r fakeReports) Event(string, string, string, string)     {}

type fakeCompute struct {
	driverv1.ComputeDriverServiceClient
	f *fakeDrivers
}

func (c fakeCompute) QuiesceDomain(context.Context, *driverv1.QuiesceDomainRequest, ...grpc.CallOption) (*driverv1.QuiesceDomainResponse, error) {
	c.f.frozen = true // also when it fails: some file systems may be at rest already
	return &driverv1.QuiesceDomainResponse{}, c.f.note("quiesce")
}

func (c fakeCompute) ThawDomain(context.Context, *driverv1.ThawDomainRequest, ...grpc.CallOption) (*driverv1.ThawDomainResponse, error) {
	err := c.f.note("thaw")
	c.f.frozen = c.f.frozen && err != nil
	return &driverv1.ThawDomainResponse{}, err
}

func (c fakeCompute) SwitchDisk(context.Context, *driverv1.SwitchDiskRequest, ...grpc.CallOption) (*driverv1.SwitchDiskResponse, error) {
	return &driverv1.SwitchDiskResponse{}, c.f.note("switch")
}

type fakeStorage struct {
	driverv1.StorageDriverServiceClient
	f *fakeDrivers
}

func (s fakeStorage) CreateSnapshot(_ context.Context, r *driverv1.CreateSnapshotRequest, _ ...grpc.CallOption) (*driverv1.CreateSnapshotResponse, error) {
	if err := s.f.note("create"); err != nil {
		return nil, err
	}
	if s.f.snaps[r.GetSnapshotId()] == nil {
		s.f.snaps[r.GetSnapshotId()] = &driverv1.Snapshot{SnapshotId: r.GetSnapshotId(), VolumeId: r.GetVolumeId(), Mark: r.GetMark(), Pending: s.f.pending}
	}
	return &driverv1.CreateSnapshotResponse{Snapshot: s.f.snaps[r.GetSnapshotId()], Overlay: &driverv1.DiskSource{}}, nil
}

func (s fakeStorage) CommitSnapshot(_ context.Context, r *driverv1.CommitSnapshotRequest, _ ...grpc.CallOption) (*driverv1.CommitSnapshotResponse, error) {
	if err := s.f.note("commit"); err != nil {
		return nil, err
	}
	s.f.snaps[r.GetSnapshotId()].Pending = false
	return &driverv1.CommitSnapshotResponse{Snapshot: s.f.snaps[r.GetSnapshotId()]}, nil
}

func (s fakeStorage) DeleteSnapshot(_ context.Context, r *driverv1.DeleteSnapshotRequest, _ ...grpc.CallOption) (*driverv1.DeleteSnapshotResponse, error) {
	if err := s.f.note("delete"); err != nil {
		return nil, err
	}
	delete(s.f.snaps, r.GetSnapshotId())
	return &driverv1.DeleteSnapshotResponse{}, nil
}

func (s fakeStorage) ListSnapshots(context.Context, *driverv1.ListSnapshotsRequest, ...grpc.CallOption) (*driverv1.ListSnapshotsResponse, error) {
	out := &driverv1.ListSnapshotsResponse{}
	for _, snap := range s.f.snaps {
		out.Snapshots = append(out.Snapshots, snap)
	}
	return out, s.f.note("list")
}

// newFake is an engine that does nothing by itself, with a pool, a volume in it and a VM that uses the volume.
func newFake(t *testing.T) (*Engine, *fakeDrivers) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	store, _, err := realised.Open(t.TempDir(), log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	f := &fakeDrivers{fail: map[string]error{}, once: map[string]error{}, snaps: map[string]*driverv1.Snapshot{}}
	e := NewEngine(Config{ClusterID: "c", NodeID: "n", Plugins: f, Reporter: fakeReports{f: f}, Observer: nobody{}, Store: store, Logger: log})
	e.queue.close() // what is enqueued is not run
	e.want(&agentv1.DesiredObject{
		Key: &agentv1.DesiredKey{Kind: agentv1.DesiredKind_DESIRED_KIND_POOL, Id: "pool"},
		Object: &agentv1.DesiredObject_Pool{Pool: &agentv1.DesiredPool{Pool: &storagev1.StoragePool{
			Meta: &metav1.ObjectMeta{Id: "pool"}, Spec: &storagev1.StoragePoolSpec{Driver: "storage"},
		}}},
	})
	e.poolState("pool").ensured = 1
	e.want(&agentv1.DesiredObject{
		Key: &agentv1.DesiredKey{Kind: agentv1.DesiredKind_DESIRED_KIND_VOLUME, Id: "vol"},
		Object: &agentv1.DesiredObject_Volume{Volume: &agentv1.DesiredVolume{Volume: &storagev1.Volume{
			Meta: &metav1.ObjectMeta{Id: "vol"}, Spec: &storagev1.VolumeSpec{PoolId: "pool"},
		}}},
	})
	e.want(&agentv1.DesiredObject{
		Key: &agentv1.DesiredKey{Kind: agentv1.DesiredKind_DESIRED_KIND_VM, Id: "vm"},
		Object: &agentv1.DesiredObject_Vm{Vm: &agentv1.DesiredVM{
			VmId: "vm", Spec: &computev1.VMSpec{Disks: []*computev1.Disk{{Name: "root"}}}, Volumes: []*agentv1.VMVolume{{DiskName: "root", VolumeId: "vol"}},
		}},
	})
	return e, f
}

// want makes an object wanted.
func (e *Engine) want(o *agentv1.DesiredObject) *want {
	w := &want{obj: o, confirmed: true}
	e.wants[keyOf(o.GetKey())] = w
	return w
}

// vmIs says how the VM was seen last.
func (e *Engine) vmIs(s driverv1.DomainState) *vmState {
	v := e.vmState("vm")
	v.driver, v.lookedOnce, v.domain = "compute", true, &driverv1.Domain{DomainId: "vm", State: s}
	return v
}

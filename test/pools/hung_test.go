package pools

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// toldWithin is how soon a pool that does not work is told.
const toldWithin = 30 * time.Second

// load makes and removes volumes in a pool, one after the other, and notes how long each took to be ready.
type load struct {
	took   []time.Duration
	failed []error
}

func (l *load) once(r *rig, pool, name string) {
	begin := time.Now()
	id, err := r.create(name, pool)
	for err == nil {
		var v *storagev1.Volume
		if v, err = r.volume(id); err == nil && v.GetStatus().GetPhase() == storagev1.VolumePhase_VOLUME_PHASE_READY {
			break
		}
		if st := v.GetStatus(); err == nil && (st.GetPhase() == storagev1.VolumePhase_VOLUME_PHASE_FAILED || time.Since(begin) > time.Minute) {
			err = fmt.Errorf("volume %s: %v", name, st) //nolint:err113 // shown
		}
		time.Sleep(2 * time.Millisecond)
	}
	l.took = append(l.took, time.Since(begin))
	if err == nil {
		_, err = r.volumes.DeleteVolume(r.t.Context(), connect.NewRequest(&storagev1.DeleteVolumeRequest{Id: id}))
	}
	if err != nil {
		l.failed = append(l.failed, err)
	}
}

func (l *load) p99() time.Duration {
	s := slices.Sorted(slices.Values(l.took))
	return s[len(s)*99/100]
}

// during runs the load until what is done beside it is done, and so often at least.
func (r *rig) during(pool, name string, least int, beside func()) *load {
	l := &load{}
	over := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-over:
				if i >= least {
					return
				}
			default:
			}
			l.once(r, pool, fmt.Sprintf("%s-%d", name, i))
		}
	})
	func() { // also when it ends the test
		defer close(over)
		beside()
	}()
	all.Wait()
	return l
}

// baseline is the load while all is well: just before, so that what else the machine does counts on both sides.
func (r *rig) baseline(round int) *load {
	r.t.Helper()
	l := r.during("local", fmt.Sprintf("before-%d", round), 100, func() {})
	if len(l.failed) > 0 {
		r.t.Fatal(l.failed[0])
	}
	return l
}

// beats watches the heartbeats of all nodes until over is closed; it returns the longest time that one was silent.
func (r *rig) beats(over chan struct{}) (longest time.Duration) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		for _, n := range r.list() {
			longest = max(longest, time.Since(n.GetStatus().GetHeartbeatTime().AsTime()))
		}
		select {
		case <-over:
			return longest
		case <-tick.C:
		}
	}
}

// unharmed fails when a pool that works was harmed by one that does not.
func unharmed(t *testing.T, what string, before, during *load, silent time.Duration, slack int) {
	t.Helper()
	if len(during.failed) > 0 {
		t.Errorf("%d of %d calls to the other pool failed: %v", len(during.failed), len(during.took), during.failed[0])
	}
	most := min(2*before.p99(), 500*time.Millisecond) * time.Duration(slack)
	if during.p99() > most {
		t.Errorf("p99 of the other pool is %s, it was %s before", during.p99(), before.p99())
	}
	if limit := 2 * beat * time.Duration(slack); silent > limit {
		t.Errorf("a node was silent for %s", silent)
	}
	fmt.Printf("evidence: %s: volumes made in the other pool meanwhile, failed | %d, %d\n", what, len(during.took), len(during.failed))
	fmt.Printf("evidence: %s: p99 until a volume of the other pool is ready, before and meanwhile | %s, %s\n", what, before.p99().Round(time.Millisecond), during.p99().Round(time.Millisecond))
	fmt.Printf("evidence: %s: longest silence of a node (a heartbeat every %s) | %s\n", what, beat, silent.Round(time.Millisecond))
}

// A pool whose driver answers nothing any more, whatever the deadline: told in time with its reason, its VM too; nothing else notices; well by itself when it answers.
func TestHungPool(t *testing.T) {
	n, slack := count(t, 1)
	r := startRig(t, 1, heartbeat)
	dir := filepath.Join(r.dir, "hangs")
	must(t, os.Mkdir(dir, 0o700))
	pool := r.pool("hangs", "slow", map[string]string{"path": dir}, nil).GetMeta().GetId()
	vm := r.vmIn(pool)
	hang := filepath.Join(dir, ".hang")
	for i := range n {
		before := r.baseline(i)
		over := make(chan struct{})
		var silent, told, well time.Duration
		var watch sync.WaitGroup
		watch.Go(func() { silent = r.beats(over) })
		during := r.during("local", fmt.Sprintf("during-%d", i), 100, func() {
			defer close(over)
			begin := time.Now()
			must(t, os.WriteFile(hang, nil, 0o600))
			for j := range 20 { // more calls than a pool has places
				_, err := r.create(fmt.Sprintf("stuck-%d-%d", i, j), pool)
				must(t, err)
			}
			st := r.health(pool, toldWithin*time.Duration(slack), storagev1.PoolHealth_POOL_HEALTH_UNHEALTHY, 1)
			told = time.Since(begin)
			if st[0].GetReason() != "BACKEND_TIMEOUT" || !strings.Contains(st[0].GetMessage(), "did not answer") {
				t.Errorf("it says %v", st[0])
			}
			r.vmSays(vm, "POOL_UNHEALTHY", `disk "root": pool hangs does not answer`)
			if out := r.lqctl("pool", "get", "hangs"); !strings.Contains(out, "did not answer GetPool") {
				t.Errorf("lqctl pool get:\n%s", out)
			}
			if out := r.lqctl("why", "user"); !strings.Contains(out, "pool hangs does not answer") {
				t.Errorf("lqctl why:\n%s", out)
			}
			must(t, os.Remove(hang))
			begin = time.Now()
			r.health(pool, toldWithin*time.Duration(slack), storagev1.PoolHealth_POOL_HEALTH_HEALTHY, 1)
			well = time.Since(begin)
			r.vmSays(vm, "", "")
		})
		watch.Wait()
		unharmed(t, "a pool that hangs", before, during, silent, slack)
		fmt.Printf("evidence: a pool that hangs: told after, well again after | %s, %s\n", told.Round(time.Second/10), well.Round(time.Second/10))
		r.all(func(v *storagev1.Volume) bool {
			return v.GetStatus().GetPhase() == storagev1.VolumePhase_VOLUME_PHASE_READY || v.GetSpec().GetPoolId() != pool
		})
	}
}

// vmIn makes a VM with a disk in a pool, and waits until it runs.
func (r *rig) vmIn(pool string) (id string) {
	r.t.Helper()
	res, err := r.vms.CreateVM(r.t.Context(), connect.NewRequest(&computev1.CreateVMRequest{Vm: &computev1.VM{
		Meta: &metav1.ObjectMeta{Name: "user"},
		Spec: &computev1.VMSpec{MemoryBytes: 64 << 20, Disks: []*computev1.Disk{{
			Name: "root", Source: &computev1.Disk_Inline{Inline: &computev1.InlineVolume{SizeBytes: 1 << 20, Pool: pool, Format: computev1.DiskFormat_DISK_FORMAT_RAW}},
		}}},
	}}))
	must(r.t, err)
	id = res.Msg.GetVm().GetMeta().GetId()
	r.vmSays(id, "", "")
	return id
}

// vmSays waits until a VM that runs says so.
func (r *rig) vmSays(id, reason, message string) {
	r.t.Helper()
	r.until(time.Minute, fmt.Sprintf("the VM runs and says %q, %q", reason, message), func() (bool, string) {
		res, err := r.vms.GetVM(r.t.Context(), connect.NewRequest(&computev1.GetVMRequest{Id: id}))
		st := res.Msg.GetVm().GetStatus()
		return err == nil && st.GetPhase() == computev1.VMPhase_VM_PHASE_RUNNING && st.GetReason() == reason && strings.HasPrefix(st.GetMessage(), message), fmt.Sprint(st, err)
	})
}

// all waits until all volumes are so.
func (r *rig) all(so func(*storagev1.Volume) bool) {
	r.t.Helper()
	r.until(time.Minute, "all volumes are as they shall be", func() (bool, string) {
		res, err := r.volumes.ListVolumes(r.t.Context(), connect.NewRequest(&storagev1.ListVolumesRequest{PageSize: 500}))
		if err != nil {
			return false, err.Error()
		}
		for _, v := range res.Msg.GetVolumes() {
			if !so(v) {
				return false, fmt.Sprint(v)
			}
		}
		return true, ""
	})
}

package daemon

import (
	"testing"

	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// orphan is one that the controller was told of; mu is held.
func (f *fakeController) orphan(id string) *computev1.Orphan {
	for _, o := range f.orphans {
		if o.GetObjectId() == id {
			return o
		}
	}
	return nil
}

// A controller that forgot a VM is told what it was wanted as, also by the next run of the agent; wanted again as it was, the guest is left alone.
func TestForgottenVMCanBeAdopted(t *testing.T) {
	l := newLab(t)
	pid := l.running()
	l.ctrl.remove(vmKey(vmID))
	l.ctrl.remove(volKey(volID))
	adoptable := func() bool {
		o := l.ctrl.orphan(vmID)
		return o.GetAdoptable() && o.GetName() == "web" && o.GetEpoch() == 1 && l.ctrl.orphan(volID).GetPoolId() == poolID && len(l.ctrl.details) == 1 &&
			l.ctrl.details[0].GetVm().GetGeneration() == 1 && len(l.ctrl.details[0].GetVolumes()) == 1
	}
	l.ctrl.wait("what it was wanted as", adoptable)
	l.stop()
	l.ctrl.mu.Lock()
	l.ctrl.orphans, l.ctrl.details = nil, nil
	l.ctrl.mu.Unlock()
	l.start()
	l.ctrl.wait("what it was wanted as, after a restart", adoptable)
	updates := l.host.count("UpdateDomain")
	l.ctrl.mu.Lock()
	delete(l.ctrl.vms, vmID)
	l.ctrl.mu.Unlock()
	l.ctrl.set(volume(volID))
	l.ctrl.set(vm(1))
	l.ctrl.waitPhase(vmID, 1, phaseRunning)
	l.ctrl.wait("no orphans", func() bool { return len(l.ctrl.orphans) == 0 && len(l.ctrl.details) == 0 })
	l.samePID(pid)
	if l.host.count("UpdateDomain") != updates {
		t.Error("an adopted guest was defined anew")
	}
}

// An orphan goes when a controller says so, as often as it comes back; what is not ours never does.
func TestOrphanIsRemoved(t *testing.T) {
	l := newLab(t)
	l.ctrl.set(pool())
	put := func(cluster string) {
		l.host.do(func() {
			mark := &driverv1.OwnershipMark{ClusterId: cluster, NodeId: testNode, ObjectId: "ffff", Epoch: 3}
			l.host.domains["ffff"] = &domain{Domain: &driverv1.Domain{DomainId: "ffff", Mark: mark, State: driverv1.DomainState_DOMAIN_STATE_RUNNING, Pid: 7}}
			l.host.volumes["vvvv"] = &driverv1.Volume{PoolId: poolID, VolumeId: "vvvv", Mark: mark}
		})
	}
	for range 2 {
		put(testCluster)
		l.ctrl.wait("the orphans", func() bool { return l.ctrl.orphan("ffff") != nil && l.ctrl.orphan("vvvv") != nil })
		l.ctrl.mu.Lock()
		epoch, volEpoch := l.ctrl.orphan("ffff").GetEpoch()+1, l.ctrl.orphan("vvvv").GetEpoch()+1
		l.ctrl.mu.Unlock()
		gone := vm(1, func(v *agentv1.DesiredVM) {
			v.VmId, v.Epoch, v.Absent, v.Volumes, v.Spec = "ffff", epoch, true, nil, &computev1.VMSpec{}
		})
		gone.Key.Id = "ffff"
		l.ctrl.set(gone)
		l.ctrl.set(volume("vvvv", func(v *agentv1.DesiredVolume) { v.Epoch, v.Absent = volEpoch, true }))
		l.ctrl.wait("word that they are gone", func() bool {
			return l.ctrl.vms["ffff"].GetAbsent() && l.ctrl.vms["ffff"].GetEpoch() == epoch && l.ctrl.volumes["vvvv"].GetAbsent() && l.ctrl.volumes["vvvv"].GetEpoch() == volEpoch
		})
		l.host.mu.Lock()
		if l.host.domains["ffff"] != nil || l.host.volumes["vvvv"] != nil {
			t.Error("an orphan is said to be gone and is there")
		}
		l.host.mu.Unlock()
		l.ctrl.remove(vmKey("ffff"))
		l.ctrl.remove(volKey("vvvv"))
		l.ctrl.wait("no orphans", func() bool { return len(l.ctrl.orphans) == 0 })
	}
	put("another cluster")
	l.host.wait("two more surveys", surveys(l, 2))
	l.ctrl.mu.Lock()
	defer l.ctrl.mu.Unlock()
	if len(l.ctrl.orphans) != 0 || len(l.ctrl.details) != 0 {
		t.Errorf("what is foreign was reported: %v", l.ctrl.orphans)
	}
}

// Snapshots and image copies that nobody wants are listed as volumes are, and not touched.
func TestKeptOrphans(t *testing.T) {
	l := newLab(t)
	l.ctrl.set(pool())
	mine, foreign := &driverv1.OwnershipMark{ClusterId: testCluster, NodeId: testNode, Epoch: 3}, &driverv1.OwnershipMark{ClusterId: testCluster}
	l.host.do(func() {
		l.host.snaps["ssss"] = &driverv1.Snapshot{PoolId: poolID, SnapshotId: "ssss", VolumeId: "vvvv", Mark: mine}
		l.host.snaps["shared"] = &driverv1.Snapshot{PoolId: poolID, SnapshotId: "shared", VolumeId: "vvvv", Mark: foreign}
		l.host.images["iiii"] = &driverv1.Image{PoolId: poolID, ImageId: "iiii", Mark: mine}
		l.host.images["wanted"] = &driverv1.Image{PoolId: poolID, ImageId: "wanted", Mark: mine}
	})
	copyOf := func(absent bool, id string) *agentv1.DesiredObject {
		return &agentv1.DesiredObject{
			Key: &agentv1.DesiredKey{Kind: agentv1.DesiredKind_DESIRED_KIND_IMAGE, Id: id + "-here"},
			Object: &agentv1.DesiredObject_Image{Image: &agentv1.DesiredImage{
				PoolId: poolID, Epoch: 4, Absent: absent, Image: &storagev1.Image{Meta: &metav1.ObjectMeta{Id: id}},
			}},
		}
	}
	l.ctrl.set(copyOf(false, "wanted"))
	l.ctrl.wait("the orphans", func() bool {
		s, i := l.ctrl.orphan("ssss"), l.ctrl.orphan("iiii")
		return len(l.ctrl.orphans) == 2 && s.GetKind() == "snapshot" && i.GetKind() == "image" && s.GetPoolId() == poolID && i.GetEpoch() == 3
	})
	l.ctrl.set(copyOf(true, "iiii")) // wanted gone: it goes
	l.ctrl.wait("one orphan less", func() bool { return len(l.ctrl.orphans) == 1 && l.ctrl.images["iiii"].GetAbsent() })
	if l.host.count("DeleteSnapshot") != 0 {
		t.Error("an orphan was touched")
	}
}

// A volume that a VM uses no more is detached, however often that fails at first.
func TestUnusedVolumeIsDetached(t *testing.T) {
	l := newLab(t)
	l.ctrl.set(pool())
	l.ctrl.set(volume(volID))
	l.ctrl.set(volume("second"))
	two := func(v *agentv1.DesiredVM) {
		v.Spec.Disks = append(v.Spec.Disks, &computev1.Disk{Name: "data"})
		v.Volumes = append(v.Volumes, &agentv1.VMVolume{DiskName: "data", VolumeId: "second"})
	}
	l.ctrl.set(vm(1, two))
	l.ctrl.waitPhase(vmID, 1, phaseRunning)
	l.host.do(func() { l.host.fail["DetachVolume"] = fault.New(metav1.Reason_REASON_BACKEND_FAILED, "not now") })
	l.ctrl.set(vm(2))
	l.ctrl.waitPhase(vmID, 2, phaseRunning)
	l.host.wait("a try that fails", func() bool { return l.host.calls["DetachVolume"] > 0 && l.host.attached["second"] })
	l.host.do(func() { delete(l.host.fail, "DetachVolume") })
	l.host.wait("the volume detached", func() bool { return !l.host.attached["second"] && l.host.attached[volID] })
}

// surveys holds after n more lists of domains.
func surveys(l *lab, n int) func() bool {
	before := l.host.count("ListDomains")
	return func() bool { return l.host.calls["ListDomains"] >= before+n }
}

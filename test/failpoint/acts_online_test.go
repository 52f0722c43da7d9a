package failpoint_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// runningWith makes a VM that runs with a volume of its own right as a disk.
func (o *order) runningWith() (vm, volume string) {
	volume = o.volume(&storagev1.VolumeSpec{SizeBytes: diskSize})
	if o.err == nil {
		m := machine(o.r.name("vm"))
		m.Vm.Spec.Disks = []*computev1.Disk{{Name: "data", Source: &computev1.Disk_Volume{Volume: volume}}}
		vm, o.err = o.r.create(o.ctx, m)
	}
	return vm, volume
}

// ends deletes a VM, and then its volume.
func (o *order) ends(vm, volume string) error {
	if o.err == nil {
		o.err = o.r.remove(o.ctx, vm)
	}
	o.dropVolume(volume)
	return o.err
}

// connectGuest lets the agent inside a guest answer.
func (r *rig) connectGuest(vm string) error {
	return change(r, "domain", vm, &driverv1.Domain{}, func(d *driverv1.Domain) { d.GuestAgentConnected = true })
}

// opens waits until a running VM has open what its volumes are, all of that by the controller's word and nothing else, and its guest is not frozen.
func (o *order) opens(vm string, volumes ...string) {
	if o.err != nil {
		return
	}
	o.err = o.r.until(o.ctx, "vm "+vm+" has its volumes open", func() (bool, string) {
		j, err := o.r.journal()
		if err != nil {
			return false, err.Error()
		}
		spec := &driverv1.DomainSpec{}
		if err := proto.Unmarshal(j["domain-spec"][vm], spec); err != nil || len(spec.GetDisks()) != len(volumes) {
			return false, fmt.Sprint(spec, err)
		}
		for _, d := range spec.GetDisks() {
			file := d.GetSource().GetFile().GetPath()
			key := filepath.Base(filepath.Dir(file)) + "/" + d.GetDiskId()
			head := string(j["volume-head"][key])
			if head == "" {
				head = d.GetDiskId()
			}
			if got := strings.TrimSuffix(filepath.Base(file), ".raw"); got != head || len(j["volume-pending"]) > 0 {
				return false, fmt.Sprintf("disk %s has %s open, the volume is %s; pending: %s", d.GetDiskId(), got, head, j["volume-pending"])
			}
		}
		return len(j["domain-frozen"]) == 0, fmt.Sprintf("frozen: %s", j["domain-frozen"])
	})
}

// online takes a snapshot of a volume in use; one that was not taken because the guest was not quiesced is asked for again, as users do.
func (o *order) online(vm, volume string, how storagev1.SnapshotConsistency) string {
	r := o.r
	for try := 0; ; try++ {
		name := r.name("snapshot")
		if o.err != nil {
			return name
		}
		made, err := call(o.ctx, r, r.snapshots.CreateSnapshot, &storagev1.CreateSnapshotRequest{
			Snapshot: &storagev1.Snapshot{Meta: meta(name), Spec: &storagev1.SnapshotSpec{VolumeId: volume, Consistency: how}}, RequestId: name,
		})
		if err != nil {
			o.err = err
			return name
		}
		var got *storagev1.GetSnapshotResponse
		state, err := r.ended(o.ctx, made.GetOperation())
		if err == nil {
			got, err = call(o.ctx, r, r.snapshots.GetSnapshot, &storagev1.GetSnapshotRequest{Id: name})
		}
		st := got.GetSnapshot().GetStatus()
		switch {
		case err != nil:
			o.err = err
		case st.GetReason() == "QUIESCE_FAILED" && how == storagev1.SnapshotConsistency_SNAPSHOT_CONSISTENCY_QUIESCED && try == 0:
			o.opens(vm, o.id(volume)) // and goes on
			o.dropSnapshot(name)
			continue
		case state != operationv1.OperationState_OPERATION_STATE_DONE || st.GetPhase() != storagev1.SnapshotPhase_SNAPSHOT_PHASE_READY:
			o.err = fmt.Errorf("taking a snapshot ended %s: %v", state, st)
		case how == storagev1.SnapshotConsistency_SNAPSHOT_CONSISTENCY_CRASH && st.GetQuiesced(), how == storagev1.SnapshotConsistency_SNAPSHOT_CONSISTENCY_QUIESCED && !st.GetQuiesced():
			o.err = fmt.Errorf("%s was asked for: %v", how, st)
		}
		o.opens(vm, o.id(volume))
		return name
	}
}

// id is a volume's.
func (o *order) id(volume string) string {
	if o.err != nil {
		return ""
	}
	got, err := call(o.ctx, o.r, o.r.volumes.GetVolume, &storagev1.GetVolumeRequest{Id: volume})
	o.err = err
	return got.GetVolume().GetMeta().GetId()
}

// actOnlineSnapshot takes a snapshot of a volume of a VM that runs, without asking its guest, and makes a volume from it.
func actOnlineSnapshot(ctx context.Context, r *rig) error {
	o := &order{ctx: ctx, r: r}
	vm, vol := o.runningWith()
	snap := o.online(vm, vol, storagev1.SnapshotConsistency_SNAPSHOT_CONSISTENCY_CRASH)
	o.dropVolume(o.volume(&storagev1.VolumeSpec{Source: &storagev1.VolumeSource{Source: &storagev1.VolumeSource_SnapshotId{SnapshotId: snap}}}))
	o.dropSnapshot(snap)
	return o.ends(vm, vol)
}

// actQuiesced takes snapshots of a volume of a VM whose guest comes to rest for them, and of one whose guest does not answer.
func actQuiesced(ctx context.Context, r *rig) error {
	o := &order{ctx: ctx, r: r}
	vm, vol := o.runningWith()
	if o.err == nil {
		o.err = r.connectGuest(vm)
	}
	first := o.online(vm, vol, storagev1.SnapshotConsistency_SNAPSHOT_CONSISTENCY_QUIESCED)
	second := o.online(vm, vol, storagev1.SnapshotConsistency_SNAPSHOT_CONSISTENCY_QUIESCE_IF_POSSIBLE)
	o.dropSnapshot(first)
	o.dropSnapshot(second)
	return o.ends(vm, vol)
}

// actOnlineResize grows a volume while a VM runs with it.
func actOnlineResize(ctx context.Context, r *rig) error {
	o := &order{ctx: ctx, r: r}
	vm, vol := o.runningWith()
	ask(o, r.volumes.ResizeVolume, &storagev1.ResizeVolumeRequest{Id: vol, SizeBytes: 2 * diskSize, RequestId: r.name("resize")})
	if o.err == nil {
		o.err = r.until(ctx, "the volume has grown", func() (bool, string) {
			m, err := r.volumes.GetVolume(ctx, connect.NewRequest(&storagev1.GetVolumeRequest{Id: vol}))
			return err == nil && m.Msg.GetVolume().GetStatus().GetSizeBytes() == 2*diskSize, fmt.Sprint(m, err)
		})
	}
	o.opens(vm, o.id(vol))
	return o.ends(vm, vol)
}

// actHot gives a running VM a volume, takes a snapshot of it, and takes it back.
func actHot(ctx context.Context, r *rig) error {
	o := &order{ctx: ctx, r: r}
	vol := o.volume(&storagev1.VolumeSpec{SizeBytes: diskSize})
	if o.err != nil {
		return o.err
	}
	vm, err := r.create(ctx, machine(r.name("vm")))
	if err != nil {
		return err
	}
	ask(o, r.volumes.AttachVolume, &storagev1.AttachVolumeRequest{Id: vol, Vm: vm, RequestId: r.name("attach")})
	o.opens(vm, o.id(vol))
	snap := o.online(vm, vol, storagev1.SnapshotConsistency_SNAPSHOT_CONSISTENCY_CRASH)
	ask(o, r.volumes.DetachVolume, &storagev1.DetachVolumeRequest{Id: vol, RequestId: r.name("detach")})
	o.opens(vm)
	o.dropSnapshot(snap)
	return o.ends(vm, vol)
}

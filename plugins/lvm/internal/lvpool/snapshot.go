package lvpool

import (
	"context"
	"errors"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/plugins/lvm/internal/lvm"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

func (p *Pool) describeSnapshot(o object) *driverv1.Snapshot {
	return &driverv1.Snapshot{
		PoolId: p.id, SnapshotId: o.id, VolumeId: o.tags["volume"], Mark: o.mark(), SizeBytes: o.SizeBytes,
		CreateTime: timestamppb.New(time.Unix(0, o.tags.Number("time"))),
	}
}

// CreateSnapshot takes a snapshot of a volume, in use or not: LVM holds its writes up meanwhile.
func (p *Pool) CreateSnapshot(ctx context.Context, req *driverv1.CreateSnapshotRequest) (*driverv1.Snapshot, error) {
	id := req.GetSnapshotId()
	if err := checkID("snapshot_id", id); err != nil {
		return nil, err
	}
	if err := p.checkMark("mark", req.GetMark(), id); err != nil {
		return nil, err
	}
	all, err := p.all(ctx)
	if err != nil {
		return nil, err
	}
	if o, ok := all[p.name(aSnapshot, id)]; ok {
		if err := p.checkOurs(o); err != nil {
			return nil, err
		}
		if o.live() && o.tags["volume"] != req.GetVolumeId() {
			return nil, fault.New(metav1.Reason_REASON_SPEC_CONFLICT, "snapshot %s exists, of another volume", id)
		}
		if o.live() {
			return p.describeSnapshot(o), nil
		}
		if err := p.destroy(ctx, o); err != nil {
			return nil, err
		}
	}
	v, err := p.from(all, aVolume, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if c, ok := all[p.name(classic, id)]; ok { // of an earlier call that was cut short
		if err := p.dropClassic(ctx, c); err != nil {
			return nil, err
		}
	}
	tags := lvm.Tags{"volume": v.id, "time": strconv.FormatInt(time.Now().UnixNano(), 10)}
	if !p.thin() && p.attached(v) {
		err = p.copyInUse(ctx, v, id, req.GetMark(), tags)
	} else {
		err = p.copyOf(ctx, v, v.SizeBytes, p.name(aSnapshot, id), v.SizeBytes, req.GetMark(), tags, "", "r")
	}
	if err != nil {
		return nil, err
	}
	return p.describeSnapshot(p.made(aSnapshot, v.SizeBytes, req.GetMark(), tags)), nil
}

// copyInUse copies a linear volume that is in use: a classic snapshot holds its content still as long as that takes.
func (p *Pool) copyInUse(ctx context.Context, v object, id string, m *driverv1.OwnershipMark, tags lvm.Tags) error {
	vg, err := p.tool.VG(ctx, p.p.VG)
	if err != nil {
		return err
	}
	// What is overwritten meanwhile goes there: at most all of it, and a little to keep account.
	room := min(p.roundUp(v.SizeBytes+v.SizeBytes/64+1), (vg.FreeBytes-v.SizeBytes)/p.step*p.step)
	if room <= 0 {
		return fault.New(metav1.Reason_REASON_NO_SPACE, "volume group %s has %d bytes free: a snapshot of volume %s takes %d, and some more while it is made", p.p.VG, vg.FreeBytes, v.id, v.SizeBytes).
			WithRemedy("extend the volume group (vgextend), or delete volumes")
	}
	name := p.name(classic, id)
	args := append([]string{"lvcreate", "-y", "-s", "-n", name, "-L", bytesArg(room)}, p.addTags(m, lvm.Tags{})...)
	if _, err := p.tool.Run(ctx, append(args, p.path(v.Name))...); err != nil {
		return err
	}
	still := object{LV: lvm.LV{Name: name, SizeBytes: v.SizeBytes, Active: true, Classic: true, Origin: v.Name}, kind: classic, id: id}
	err = p.copyOf(ctx, still, v.SizeBytes, p.name(aSnapshot, id), v.SizeBytes, m, tags, "", "r")
	tctx, cancel := tidy(ctx)
	defer cancel()
	return errors.Join(err, p.dropClassic(tctx, still))
}

// dropClassic removes a classic snapshot. What it kept is content of the volume, so it is made a logical volume of its own again and wiped.
func (p *Pool) dropClassic(ctx context.Context, o object) error {
	if o.Classic {
		if _, err := p.tool.Run(ctx, "lvconvert", "-y", "--splitsnapshot", p.path(o.Name)); err != nil {
			return err
		}
	}
	lv, ok, err := p.tool.LV(ctx, p.p.VG, o.Name)
	if err != nil || !ok {
		return err
	}
	o, _ = p.object(lv)
	return p.destroy(ctx, o)
}

// DeleteSnapshot removes a snapshot; absent is fine. Volumes made from it share nothing that goes with it.
func (p *Pool) DeleteSnapshot(ctx context.Context, id string) error {
	return p.remove(ctx, aSnapshot, id, nil)
}

// ListSnapshots returns up to limit of our snapshots, of one volume or of all, with ids after the given one.
func (p *Pool) ListSnapshots(ctx context.Context, volume, after string, limit int) (out []*driverv1.Snapshot, next string, err error) {
	objects, next, err := p.listed(ctx, aSnapshot, after, limit, func(o object) bool { return volume == "" || o.tags["volume"] == volume })
	for _, o := range objects {
		out = append(out, p.describeSnapshot(o))
	}
	return out, next, err
}

// RestoreSnapshot sets a volume back; one that has grown since keeps its size. LVM's own merge would use the snapshot up; so a copy of it is made, whole, and then takes the volume's
// name. At every moment one of the two is the volume.
func (p *Pool) RestoreSnapshot(ctx context.Context, snapshot, volume string) (*driverv1.Volume, error) {
	all, err := p.all(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.settleRestore(ctx, volume, all); err != nil {
		return nil, err
	}
	s, err := p.from(all, aSnapshot, snapshot)
	if err != nil {
		return nil, err
	}
	v, err := p.need(ctx, aVolume, volume)
	if err != nil {
		return nil, err
	}
	if s.tags["volume"] != volume {
		return nil, fault.Invalid(fault.Violation{Field: "volume_id", Description: "the snapshot is of another volume"})
	}
	if p.attached(v) {
		return nil, fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s is attached", volume).WithRemedy("detach it first")
	}
	tags := lvm.Tags{"asked": v.tags["asked"], "source": v.tags["source"]}
	if err := p.copyOf(ctx, s, s.SizeBytes, p.name(restored, volume), max(s.SizeBytes, v.SizeBytes), v.mark(), tags, restoring, "rw"); err != nil {
		return nil, err
	}
	tctx, cancel := tidy(ctx) // from here on it is gone forward
	defer cancel()
	if all, err = p.all(tctx); err != nil {
		return nil, err
	}
	if err := p.swap(tctx, volume, all); err != nil {
		return nil, err
	}
	return p.GetVolume(tctx, volume)
}

// swap lets what a volume is restored to take its place.
func (p *Pool) swap(ctx context.Context, id string, all map[string]object) error {
	now, next, before := p.name(aVolume, id), p.name(restored, id), p.name(replaced, id)
	if _, ok := all[now]; ok {
		if _, err := p.tool.Run(ctx, "lvrename", "-y", p.p.VG, now, before); err != nil {
			return err
		}
	}
	if _, err := p.tool.Run(ctx, "lvrename", "-y", p.p.VG, next, now); err != nil {
		return err
	}
	all, err := p.all(ctx)
	if err != nil {
		return err
	}
	return p.settleRestore(ctx, id, all)
}

// settleRestore ends a restore that was cut short: forward once the volume has lost its name, else back.
func (p *Pool) settleRestore(ctx context.Context, id string, all map[string]object) error {
	now, there := all[p.name(aVolume, id)]
	next, made := all[p.name(restored, id)]
	before, kept := all[p.name(replaced, id)]
	for _, o := range []object{now, next, before} {
		if o.Name != "" && !p.ours(o) {
			return p.checkOurs(o)
		}
	}
	switch {
	case !there && made && next.tags["state"] == restoring:
		return p.swap(ctx, id, all)
	case !there && kept: // never seen: the name is given up only when there is another to take it
		_, err := p.tool.Run(ctx, "lvrename", "-y", p.p.VG, before.Name, p.name(aVolume, id))
		return err
	}
	if made {
		if err := p.destroy(ctx, next); err != nil {
			return err
		}
		delete(all, next.Name)
	}
	if there && now.tags["state"] == restoring {
		if err := p.retag(ctx, now.Name, "--deltag", lvm.Tag("state", restoring)); err != nil {
			return err
		}
	}
	if kept {
		if err := p.destroy(ctx, before); err != nil {
			return err
		}
		delete(all, before.Name)
	}
	return nil
}

package failpoint_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// done waits until an operation has ended well.
func (r *rig) done(ctx context.Context, op *operationv1.Operation) error {
	state, err := r.ended(ctx, op)
	if err == nil && state != operationv1.OperationState_OPERATION_STATE_DONE {
		err = fmt.Errorf("operation %s of %s is %s", op.GetVerb(), op.GetObjectName(), state)
	}
	return err
}

// order makes calls one after the other, each when what the last one asked for is done; the first failure ends it.
type order struct {
	ctx context.Context //nolint:containedctx // of one act
	r   *rig
	err error
}

// ask makes a call whose answer names an operation.
func ask[Req, Resp any, P interface {
	*Resp
	GetOperation() *operationv1.Operation
}](o *order, do func(context.Context, *connect.Request[Req]) (*connect.Response[Resp], error), m *Req) P {
	if o.err != nil {
		return nil
	}
	resp, err := call(o.ctx, o.r, do, m)
	if err != nil {
		o.err = fmt.Errorf("%T: %w", m, err)
		return nil
	}
	if op := P(resp).GetOperation(); op != nil {
		o.err = o.r.done(o.ctx, op)
	}
	return P(resp)
}

func (o *order) pool() string {
	name := o.r.name("pool")
	ask(o, o.r.pools.CreateStoragePool, &storagev1.CreateStoragePoolRequest{StoragePool: &storagev1.StoragePool{Meta: meta(name), Spec: &storagev1.StoragePoolSpec{Driver: "local"}}, RequestId: name})
	return name
}

func (o *order) dropPool(name string) {
	ask(o, o.r.pools.DeleteStoragePool, &storagev1.DeleteStoragePoolRequest{Id: name, RequestId: o.r.name("delete")})
}

func (o *order) volume(spec *storagev1.VolumeSpec) string {
	name := o.r.name("volume")
	ask(o, o.r.volumes.CreateVolume, &storagev1.CreateVolumeRequest{Volume: &storagev1.Volume{Meta: meta(name), Spec: spec}, RequestId: name})
	return name
}

func (o *order) dropVolume(name string) {
	ask(o, o.r.volumes.DeleteVolume, &storagev1.DeleteVolumeRequest{Id: name, RequestId: o.r.name("delete")})
}

func (o *order) snapshot(volume string) string {
	name := o.r.name("snapshot")
	ask(o, o.r.snapshots.CreateSnapshot, &storagev1.CreateSnapshotRequest{Snapshot: &storagev1.Snapshot{Meta: meta(name), Spec: &storagev1.SnapshotSpec{VolumeId: volume}}, RequestId: name})
	return name
}

func (o *order) dropSnapshot(name string) {
	ask(o, o.r.snapshots.DeleteSnapshot, &storagev1.DeleteSnapshotRequest{Id: name, RequestId: o.r.name("delete")})
}

// actVolumes makes volumes of every source, grows one, sets it back, and deletes them.
func actVolumes(ctx context.Context, r *rig) error {
	o := &order{ctx: ctx, r: r}
	blank := o.volume(&storagev1.VolumeSpec{SizeBytes: diskSize})
	ask(o, r.volumes.ResizeVolume, &storagev1.ResizeVolumeRequest{Id: blank, SizeBytes: 2 * diskSize, RequestId: r.name("resize")})
	ask(o, r.volumes.UpdateVolume, &storagev1.UpdateVolumeRequest{
		Volume:     &storagev1.Volume{Meta: meta(blank), Spec: &storagev1.VolumeSpec{Qos: &storagev1.VolumeQos{Iops: 100}}},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"spec.qos"}}, RequestId: r.name("update"),
	})
	snap := o.snapshot(blank)
	ask(o, r.snapshots.UpdateSnapshot, &storagev1.UpdateSnapshotRequest{
		Snapshot: &storagev1.Snapshot{Meta: &metav1.ObjectMeta{Name: snap, Labels: map[string]string{"a": "b"}}}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"meta.labels"}}, RequestId: r.name("update"),
	})
	ask(o, r.snapshots.RestoreSnapshot, &storagev1.RestoreSnapshotRequest{Id: snap, RequestId: r.name("restore")})
	back := o.volume(&storagev1.VolumeSpec{Source: &storagev1.VolumeSource{Source: &storagev1.VolumeSource_SnapshotId{SnapshotId: snap}}})
	clone := o.volume(&storagev1.VolumeSpec{Source: &storagev1.VolumeSource{Source: &storagev1.VolumeSource_VolumeId{VolumeId: blank}}})
	image := o.volume(&storagev1.VolumeSpec{SizeBytes: diskSize, Source: &storagev1.VolumeSource{Source: &storagev1.VolumeSource_ImageId{ImageId: stayName}}})
	for _, v := range []string{back, clone, image} {
		o.dropVolume(v)
	}
	o.dropSnapshot(snap)
	o.dropVolume(blank)
	return o.err
}

// actAttach gives a VM that is off a volume, starts it, and takes the volume back.
func actAttach(ctx context.Context, r *rig) error {
	o := &order{ctx: ctx, r: r}
	vol := o.volume(&storagev1.VolumeSpec{SizeBytes: diskSize})
	if o.err != nil {
		return o.err
	}
	m := machine(r.name("vm"))
	m.Vm.Spec.DesiredPower = computev1.PowerState_POWER_STATE_STOPPED
	made, err := call(ctx, r, r.vms.CreateVM, m)
	if err != nil {
		return err
	}
	vm := made.GetVm().GetMeta().GetId()
	o.err = r.vm(ctx, vm, computev1.VMPhase_VM_PHASE_STOPPED)
	ask(o, r.volumes.AttachVolume, &storagev1.AttachVolumeRequest{Id: vol, Vm: vm, RequestId: r.name("attach")})
	ask(o, r.vms.StartVM, &computev1.StartVMRequest{Id: vm, RequestId: r.name("start")})
	ask(o, r.vms.StopVM, &computev1.StopVMRequest{Id: vm, Force: true, RequestId: r.name("stop")})
	ask(o, r.volumes.ResizeVolume, &storagev1.ResizeVolumeRequest{Id: vol, SizeBytes: 2 * diskSize, RequestId: r.name("resize")}) // attached, and off
	snap := o.snapshot(vol)
	ask(o, r.snapshots.RestoreSnapshot, &storagev1.RestoreSnapshotRequest{Id: snap, RequestId: r.name("restore")})
	ask(o, r.volumes.DetachVolume, &storagev1.DetachVolumeRequest{Id: vol, RequestId: r.name("detach")})
	o.dropSnapshot(snap)
	o.dropVolume(vol)
	if o.err != nil {
		return o.err
	}
	return r.remove(ctx, vm)
}

// actMove moves a volume to another pool, reads it, and deletes both.
func actMove(ctx context.Context, r *rig) error {
	o := &order{ctx: ctx, r: r}
	pool, vol := o.pool(), o.volume(&storagev1.VolumeSpec{SizeBytes: diskSize})
	ask(o, r.volumes.MoveVolume, &storagev1.MoveVolumeRequest{Id: vol, Pool: pool, RequestId: r.name("move")})
	if o.err == nil {
		o.err = r.until(ctx, "the volume is read", func() (bool, string) {
			once, cancel := context.WithTimeout(ctx, oneCall)
			defer cancel()
			s, err := r.volumes.ExportVolume(once, connect.NewRequest(&storagev1.ExportVolumeRequest{Subject: &storagev1.ExportVolumeRequest_Volume{Volume: vol}}))
			if err != nil {
				return false, err.Error()
			}
			defer func() { _ = s.Close() }()
			var n int64
			for s.Receive() {
				n += s.Msg().GetHoleBytes() + int64(len(s.Msg().GetData()))
			}
			return n == diskSize && s.Err() == nil, fmt.Sprint(n, s.Err())
		})
	}
	o.dropVolume(vol)
	o.dropPool(pool)
	return o.err
}

// actMoveDeleted deletes a volume while it is on its way.
func actMoveDeleted(ctx context.Context, r *rig) error {
	o := &order{ctx: ctx, r: r}
	pool, vol := o.pool(), o.volume(&storagev1.VolumeSpec{SizeBytes: diskSize})
	if o.err != nil {
		return o.err
	}
	if _, err := call(ctx, r, r.volumes.MoveVolume, &storagev1.MoveVolumeRequest{Id: vol, Pool: pool, RequestId: r.name("move")}); err != nil {
		return err
	}
	o.dropVolume(vol)
	o.dropPool(pool)
	return o.err
}

// actFetch lets the node fetch an image, renames it, and deletes it.
func actFetch(ctx context.Context, r *rig) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content) })}
	go func() { _ = srv.Serve(l) }() // ends with Close
	defer func() { _ = srv.Close() }()
	sum := sha256.Sum256(content)
	o, name := &order{ctx: ctx, r: r}, r.name("image")
	img := ask(o, r.images.ImportImage, &storagev1.ImportImageRequest{RequestId: name, Image: &storagev1.Image{Meta: meta(name), Spec: &storagev1.ImageSpec{
		Format: storagev1.ImageFormat_IMAGE_FORMAT_RAW, Sha256: hex.EncodeToString(sum[:]), SourceUrl: "http://" + l.Addr().String() + "/x",
	}}})
	ask(o, r.images.UpdateImage, &storagev1.UpdateImageRequest{
		Image: &storagev1.Image{Meta: meta(name), Spec: &storagev1.ImageSpec{Aliases: []string{name + ":1"}}}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"spec.aliases"}}, RequestId: r.name("update"),
	})
	if o.err != nil {
		return o.err
	}
	return r.removeImage(ctx, img.GetImage().GetMeta().GetId())
}

// actPoolSet changes a pool while it is in use.
func actPoolSet(ctx context.Context, r *rig) error {
	o := &order{ctx: ctx, r: r}
	pool := o.pool()
	ask(o, r.pools.UpdateStoragePool, &storagev1.UpdateStoragePoolRequest{
		StoragePool: &storagev1.StoragePool{Meta: meta(pool), Spec: &storagev1.StoragePoolSpec{Overcommit: 2}}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"spec.overcommit"}}, RequestId: r.name("update"),
	})
	o.dropPool(pool)
	return o.err
}

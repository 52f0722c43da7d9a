package reconcile

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// volumeState is what is known of a volume. Fields are guarded by Engine.mu.
type volumeState struct {
	ready     bool
	volume    *driverv1.Volume
	problem   string // why it is not ready
	reason    string
	retry     time.Time // when it is tried next
	failures  int
	permanent *want // the wish that can never come true
}

func (e *Engine) volumeState(id string) *volumeState {
	s := e.volumes[id]
	if s == nil {
		s = &volumeState{}
		e.volumes[id] = s
	}
	return s
}

func (e *Engine) reconcileVolume(ctx context.Context, w *want) (time.Duration, string) {
	d := w.obj.GetVolume()
	id := d.GetVolume().GetMeta().GetId()
	e.mu.Lock()
	s := e.volumeState(id)
	if s.permanent == w {
		e.mu.Unlock()
		return never, resultFailed
	}
	k := realised.Key{Kind: realised.KindVolume, ID: id}
	rec, known := e.store.Record(k)
	done := s.ready && !d.GetAbsent() && s.volume.GetSizeBytes() >= d.GetVolume().GetSpec().GetSizeBytes() && rec.Restored >= d.GetRestore().GetRestoreGeneration() && rec.Moved >= d.GetMove().GetMoveGeneration()
	vol := s.volume
	if d.GetRole() == agentv1.VolumeRole_VOLUME_ROLE_USER { // another node makes it
		st := d.GetVolume().GetStatus()
		s.ready, s.problem = st.GetPhase() == storagev1.VolumePhase_VOLUME_PHASE_READY, "its volume is being made by another node"
		s.volume = &driverv1.Volume{VolumeId: id, PoolId: d.GetVolume().GetSpec().GetPoolId(), SizeBytes: st.GetSizeBytes(), Format: driverv1.VolumeFormat(st.GetFormat())}
		e.mu.Unlock()
		e.dependents(k)
		return never, resultOK
	}
	e.mu.Unlock()
	if done {
		e.volumeReady(w, vol)
		return never, resultOK
	}
	if d.GetAbsent() && known && !rec.Gone.IsZero() && rec.Epoch >= d.GetEpoch() {
		e.volumeGone(w)
		return never, resultOK
	}
	e.progress.doing(k, "making volume "+volumeName(d))
	if d.GetAbsent() {
		e.progress.doing(k, "deleting volume "+volumeName(d))
	}
	vol, err := e.realiseVolume(ctx, w, rec)
	if fault.Is(err, metav1.Reason_REASON_VOLUME_IN_USE) && e.freeOfFenced(ctx, d) {
		vol, err = e.realiseVolume(ctx, w, rec)
	}
	if err == nil && d.GetAbsent() {
		e.volumeGone(w)
		return never, resultOK
	}
	if err == nil {
		e.store.Put(realised.Record{
			Kind: k.Kind, ID: id, Driver: e.poolDriver(d.GetVolume().GetSpec().GetPoolId()), PoolID: vol.GetPoolId(), Epoch: d.GetEpoch(),
			Generation: d.GetVolume().GetMeta().GetGeneration(), Handle: vol.GetHandle(), Made: true,
			Restored: max(rec.Restored, d.GetRestore().GetRestoreGeneration()), Moved: max(rec.Moved, d.GetMove().GetMoveGeneration()),
		})
		e.volumeReady(w, vol)
		e.dependents(k)
		return never, resultOK
	}
	if ctx.Err() != nil {
		return never, resultFailed
	}
	return e.volumeFailed(w, s, err)
}

// realiseVolume makes, finds, grows or removes the volume.
func (e *Engine) realiseVolume(ctx context.Context, w *want, rec realised.Record) (*driverv1.Volume, error) {
	d := w.obj.GetVolume()
	id, pool := d.GetVolume().GetMeta().GetId(), d.GetVolume().GetSpec().GetPoolId()
	driver, err := e.poolReady(pool)
	if err != nil {
		return nil, err
	}
	c := e.plugins.Storage(driver)
	if rec.PoolID != pool { // of where it was
		rec.Handle = nil
	}
	if from := d.GetMove().GetFromPoolId(); d.GetAbsent() && from != "" { // on its way: there may be two of it
		old, err := e.poolReady(from)
		if err != nil {
			return nil, err
		}
		err = e.poolCall(ctx, old, from, "DeleteVolume", usualCall, func(ctx context.Context) error {
			_, err := e.plugins.Storage(old).DeleteVolume(ctx, &driverv1.DeleteVolumeRequest{PoolId: from, VolumeId: id})
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if d.GetAbsent() {
		return nil, e.poolCall(ctx, driver, pool, "DeleteVolume", usualCall, func(ctx context.Context) error {
			_, err := c.DeleteVolume(ctx, &driverv1.DeleteVolumeRequest{PoolId: pool, VolumeId: id, Handle: rec.Handle})
			return err
		})
	}
	var vol *driverv1.Volume
	get := func(ctx context.Context) error {
		r, err := c.GetVolume(ctx, &driverv1.GetVolumeRequest{PoolId: pool, VolumeId: id, Handle: rec.Handle})
		vol = r.GetVolume()
		return err
	}
	switch {
	case rec.Moved < d.GetMove().GetMoveGeneration():
		vol, err = e.moveVolume(ctx, w)
	case rec.Made:
		err = e.poolCall(ctx, driver, pool, "GetVolume", usualCall, get)
		if err != nil && fault.From(err).Code == codes.NotFound && !fault.Is(err, metav1.Reason_REASON_POOL_NOT_FOUND) {
			// Never made again in silence: a blank disk in place of data is worse than none.
			return nil, fault.New(metav1.Reason_REASON_VOLUME_NOT_FOUND, "volume %s was made here and is gone from pool %s", id, pool).
				WithRemedy("bring it back, or delete it")
		}
	default:
		err = e.poolCall(ctx, driver, pool, "CreateVolume", longCall, func(ctx context.Context) error {
			r, err := c.CreateVolume(ctx, e.createVolume(d))
			vol = r.GetVolume()
			return err
		})
		if err != nil && fault.From(err).Code == codes.AlreadyExists { // made before this agent's memory, and grown since perhaps
			if getErr := e.poolCall(ctx, driver, pool, "GetVolume", usualCall, get); getErr != nil || !sameVolume(vol, d) {
				return nil, err
			}
			err = nil
		}
	}
	if err == nil && rec.Restored < d.GetRestore().GetRestoreGeneration() {
		vol, err = e.restoreVolume(ctx, w, driver, vol)
	}
	if err != nil || vol.GetSizeBytes() >= d.GetVolume().GetSpec().GetSizeBytes() {
		return vol, err
	}
	return e.growVolume(ctx, w, driver, vol)
}

// restoreVolume sets a volume back. VMs that use it are off and stay so meanwhile; their attachment ends, and is made anew before they start. Done again it does no harm,
// since nothing wrote to the volume in between.
func (e *Engine) restoreVolume(ctx context.Context, w *want, driver string, vol *driverv1.Volume) (*driverv1.Volume, error) {
	pool, id, snapshot := vol.GetPoolId(), vol.GetVolumeId(), w.obj.GetVolume().GetRestore().GetSnapshotId()
	release, _, err := e.holdVolume(id, true, volumeKey(id))
	if err != nil {
		return nil, err
	}
	defer release()
	e.reportVolume(w, &storagev1.VolumeStatus{Phase: storagev1.VolumePhase_VOLUME_PHASE_RESTORING, AllocationBytes: -1, SizeBytes: vol.GetSizeBytes()}, false)
	c := e.plugins.Storage(driver)
	e.sourcesChanged(id)
	err = e.poolCall(ctx, driver, pool, "DetachVolume", usualCall, func(ctx context.Context) error {
		_, err := c.DetachVolume(ctx, &driverv1.DetachVolumeRequest{PoolId: pool, VolumeId: id})
		return err
	})
	if err != nil {
		return nil, err
	}
	err = e.poolCall(ctx, driver, pool, "RestoreSnapshot", longCall, func(ctx context.Context) error {
		r, err := c.RestoreSnapshot(ctx, &driverv1.RestoreSnapshotRequest{PoolId: pool, SnapshotId: snapshot, VolumeId: id})
		if r.GetVolume() != nil {
			vol = r.GetVolume()
		}
		return err
	})
	return vol, err
}

func (e *Engine) createVolume(d *agentv1.DesiredVolume) *driverv1.CreateVolumeRequest {
	v := d.GetVolume()
	req := &driverv1.CreateVolumeRequest{
		PoolId: v.GetSpec().GetPoolId(), VolumeId: v.GetMeta().GetId(), Mark: e.mark(v.GetMeta().GetId(), v.GetMeta().GetGeneration(), d.GetEpoch()),
		SizeBytes: v.GetSpec().GetSizeBytes(), Format: driverv1.VolumeFormat(v.GetSpec().GetFormat()),
	}
	if d.GetSharedPool() {
		req.Mark.NodeId = "" // the cluster's
	}
	switch src := v.GetSpec().GetSource().GetSource().(type) {
	case *storagev1.VolumeSource_ImageId:
		req.Source = &driverv1.VolumeSource{Source: &driverv1.VolumeSource_ImageId{ImageId: src.ImageId}}
	case *storagev1.VolumeSource_SnapshotId:
		req.Source = &driverv1.VolumeSource{Source: &driverv1.VolumeSource_SnapshotId{SnapshotId: src.SnapshotId}}
	case *storagev1.VolumeSource_VolumeId:
		req.Source = &driverv1.VolumeSource{Source: &driverv1.VolumeSource_VolumeId{VolumeId: src.VolumeId}}
	}
	return req
}

// sameVolume reports whether a volume that is there can be the one that is wanted.
func sameVolume(vol *driverv1.Volume, d *agentv1.DesiredVolume) bool {
	spec := d.GetVolume().GetSpec()
	return vol.GetMark().GetObjectId() == d.GetVolume().GetMeta().GetId() &&
		(spec.GetFormat() == 0 || int32(vol.GetFormat()) == int32(spec.GetFormat()))
}

func (e *Engine) growVolume(ctx context.Context, w *want, driver string, vol *driverv1.Volume) (*driverv1.Volume, error) {
	p, _ := e.plugins.Plugin(driver)
	if !slices.Contains(p.Capabilities.GetStorage().GetFeatures(), driverv1.StorageFeature_STORAGE_FEATURE_RESIZE) {
		return nil, fault.New(metav1.Reason_REASON_NO_CAPABILITY, "plugin %s does not resize volumes", driver)
	}
	size := w.obj.GetVolume().GetVolume().GetSpec().GetSizeBytes()
	release, user, err := e.holdVolume(vol.GetVolumeId(), false, volumeKey(vol.GetVolumeId()))
	if err != nil {
		return nil, err
	}
	defer release()
	e.reportVolume(w, &storagev1.VolumeStatus{Phase: storagev1.VolumePhase_VOLUME_PHASE_RESIZING}, false)
	online := slices.Contains(p.Capabilities.GetStorage().GetFeatures(), driverv1.StorageFeature_STORAGE_FEATURE_RESIZE_ONLINE)
	if user != nil && user.on && vol.GetAttached() && !online { // the hypervisor has it open, and grows it
		return e.growOpenVolume(ctx, driver, vol, user, size)
	}
	if user != nil && !user.on && vol.GetAttached() && !online { // attached for a VM that is off
		e.sourcesChanged(vol.GetVolumeId())
		err := e.poolCall(ctx, driver, vol.GetPoolId(), "DetachVolume", usualCall, func(ctx context.Context) error {
			_, err := e.plugins.Storage(driver).DetachVolume(ctx, &driverv1.DetachVolumeRequest{PoolId: vol.GetPoolId(), VolumeId: vol.GetVolumeId()})
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	err = e.poolCall(ctx, driver, vol.GetPoolId(), "ResizeVolume", longCall, func(ctx context.Context) error {
		r, err := e.plugins.Storage(driver).ResizeVolume(ctx, &driverv1.ResizeVolumeRequest{
			PoolId: vol.GetPoolId(), VolumeId: vol.GetVolumeId(), Handle: vol.GetHandle(), SizeBytes: size,
		})
		if r.GetVolume() != nil {
			vol = r.GetVolume()
		}
		return err
	})
	if err == nil && user != nil && user.on && e.resizesDisks(user.driver) { // and its guest is told; else it sees it at its next start
		err = e.resizeDisk(ctx, user, vol.GetVolumeId(), vol.GetSizeBytes())
	}
	return vol, err
}

// growOpenVolume has the hypervisor grow a volume that a running domain has open, and asks the storage driver what came of it.
func (e *Engine) growOpenVolume(ctx context.Context, driver string, vol *driverv1.Volume, user *diskUser, size int64) (*driverv1.Volume, error) {
	if !e.resizesDisks(user.driver) {
		return nil, fault.New(metav1.Reason_REASON_NO_CAPABILITY, "plugin %s does not resize disks of running domains", user.driver).WithRemedy("stop the VM first")
	}
	if err := e.resizeDisk(ctx, user, vol.GetVolumeId(), size); err != nil {
		return nil, err
	}
	err := e.poolCall(ctx, driver, vol.GetPoolId(), "GetVolume", usualCall, func(ctx context.Context) error {
		r, err := e.plugins.Storage(driver).GetVolume(ctx, &driverv1.GetVolumeRequest{PoolId: vol.GetPoolId(), VolumeId: vol.GetVolumeId()})
		if r.GetVolume() != nil {
			vol = r.GetVolume()
		}
		return err
	})
	if err == nil && vol.GetSizeBytes() < size {
		err = fault.New(metav1.Reason_REASON_BACKEND_FAILED, "the hypervisor grew volume %s to %d bytes, and %d were asked for", vol.GetVolumeId(), vol.GetSizeBytes(), size)
	}
	return vol, err
}

func (e *Engine) resizesDisks(driver string) bool {
	p, _ := e.plugins.Plugin(driver)
	return slices.Contains(p.Capabilities.GetCompute().GetFeatures(), driverv1.ComputeFeature_COMPUTE_FEATURE_DISK_RESIZE)
}

func (e *Engine) resizeDisk(ctx context.Context, user *diskUser, volume string, size int64) error {
	return e.call(ctx, user.driver, "", "ResizeDisk", usualCall, func(ctx context.Context) error {
		_, err := e.plugins.Compute(user.driver).ResizeDisk(ctx, &driverv1.ResizeDiskRequest{DomainId: user.vm, DiskId: volume, SizeBytes: size})
		return err
	})
}

// poolCall is a call for a pool; a pool that the driver does not know is ensured again.
func (e *Engine) poolCall(ctx context.Context, driver, pool, method string, deadline time.Duration, f func(context.Context) error) error {
	err := e.call(ctx, driver, pool, method, deadline, f)
	if fault.Is(err, metav1.Reason_REASON_POOL_NOT_FOUND) {
		e.poolLost(pool)
	}
	return err
}

func (e *Engine) volumeReady(w *want, vol *driverv1.Volume) {
	d := w.obj.GetVolume()
	e.mu.Lock()
	s := e.volumeState(d.GetVolume().GetMeta().GetId())
	s.ready, s.volume, s.problem, s.failures, s.permanent = true, vol, "", 0, nil
	e.mu.Unlock()
	e.reportVolume(w, &storagev1.VolumeStatus{
		Phase: storagev1.VolumePhase_VOLUME_PHASE_READY, AllocationBytes: vol.GetAllocationBytes(), SizeBytes: vol.GetSizeBytes(),
		Format: storagev1.VolumeFormat(vol.GetFormat()), ObservedGeneration: d.GetVolume().GetMeta().GetGeneration(),
	}, true)
}

func (e *Engine) volumeGone(w *want) {
	d := w.obj.GetVolume()
	id := d.GetVolume().GetMeta().GetId()
	k := realised.Key{Kind: realised.KindVolume, ID: id}
	r, _ := e.store.Record(k)
	if r.Gone.IsZero() {
		e.store.Put(realised.Record{Kind: k.Kind, ID: id, Epoch: d.GetEpoch(), Gone: e.now()})
	}
	e.mu.Lock()
	delete(e.volumes, id)
	e.orphans.gone("volume", id)
	e.mu.Unlock()
	e.reporter.Volume(&agentv1.VolumeReport{VolumeId: id, Epoch: d.GetEpoch(), ObservedGeneration: d.GetVolume().GetMeta().GetGeneration(), Absent: true})
}

func (e *Engine) volumeFailed(w *want, s *volumeState, err error) (time.Duration, string) {
	d := w.obj.GetVolume()
	verb, phase := "making", storagev1.VolumePhase_VOLUME_PHASE_FAILED
	if d.GetAbsent() {
		verb, phase = "deleting", storagev1.VolumePhase_VOLUME_PHASE_DELETING
	}
	e.mu.Lock()
	s.failures++
	s.ready = false
	tries, doing := s.failures, fmt.Sprintf("%s volume %s", verb, volumeName(d))
	pr := problemOf(doing, err, tries)
	if d.GetAbsent() && pr.permanent { // a deletion always goes on
		pr.permanent, pr.retry = false, slowMax
	}
	if pr.permanent {
		s.permanent = w
	}
	s.problem, s.reason, s.retry = pr.message, pr.reason, time.Time{}
	if pr.retry >= 0 {
		s.retry = e.now().Add(pr.retry)
	}
	e.mu.Unlock()
	e.progress.failed(keyOf(w.obj.GetKey()), doing, err, tries, pr.retry)
	if !d.GetAbsent() && waitsForOthers(err) {
		phase = storagev1.VolumePhase_VOLUME_PHASE_CREATING
	}
	status := &storagev1.VolumeStatus{Phase: phase, Reason: pr.reason, Message: pr.message, AllocationBytes: -1}
	if pr.retry >= 0 {
		status.NextRetryTime = timestamppb.New(e.now().Add(pr.retry))
	}
	e.reportVolume(w, status, false)
	e.log.Warn("volume is not as wanted", "volume", d.GetVolume().GetMeta().GetId(), "error", err, "retry", pr.retry)
	e.dependents(realised.Key{Kind: realised.KindVolume, ID: d.GetVolume().GetMeta().GetId()})
	return pr.retry, resultFailed
}

// waitsForOthers reports whether the error says that something else must come first, which is no failure of the object.
func waitsForOthers(err error) bool {
	switch fault.From(err).Reason {
	case metav1.Reason_REASON_IMAGE_NOT_FOUND, metav1.Reason_REASON_SNAPSHOT_NOT_FOUND, metav1.Reason_REASON_VOLUME_IN_USE, metav1.Reason_REASON_POOL_UNHEALTHY, metav1.Reason_REASON_POOL_NOT_FOUND, metav1.Reason_REASON_BACKEND_UNAVAILABLE,
		metav1.Reason_REASON_PLUGIN_UNAVAILABLE, metav1.Reason_REASON_PLUGIN_MISSING, metav1.Reason_REASON_PLUGIN_INVALID,
		metav1.Reason_REASON_PLUGIN_QUARANTINED, metav1.Reason_REASON_BUSY, metav1.Reason_REASON_CANCELLED:
		return true
	}
	return false
}

func volumeName(d *agentv1.DesiredVolume) string {
	if n := d.GetVolume().GetMeta().GetName(); n != "" {
		return n
	}
	return d.GetVolume().GetMeta().GetId()
}

func (e *Engine) reportVolume(w *want, status *storagev1.VolumeStatus, realised bool) {
	d := w.obj.GetVolume()
	rep := &agentv1.VolumeReport{VolumeId: d.GetVolume().GetMeta().GetId(), Epoch: d.GetEpoch(), Status: status}
	if realised {
		rep.ObservedGeneration = d.GetVolume().GetMeta().GetGeneration()
		rep.RestoredGeneration, rep.MovedGeneration = d.GetRestore().GetRestoreGeneration(), d.GetMove().GetMoveGeneration()
	}
	e.mu.Lock()
	if s := e.volumes[d.GetVolume().GetMeta().GetId()]; s != nil {
		rep.PermanentFailure = s.permanent == w && !d.GetAbsent()
	}
	e.mu.Unlock()
	if e.current(w) {
		e.reporter.Volume(rep)
	}
}

func (e *Engine) poolDriver(pool string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.wants[realised.Key{Kind: realised.KindPool, ID: pool}].object().GetPool().GetPool().GetSpec().GetDriver()
}

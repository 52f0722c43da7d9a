package reconcile

import (
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// quiesceLimit is how long a guest may take to come to rest for a snapshot.
const quiesceLimit = 10 * time.Second

// snapRun is one run of a snapshot's worker.
type snapRun struct {
	e      *Engine
	w      *want
	d      *agentv1.DesiredVolumeSnapshot
	key    realised.Key
	rec    realised.Record
	pool   string
	driver string
	user   *diskUser // nil = nothing on this node has the volume open
}

func (e *Engine) reconcileSnapshot(ctx context.Context, w *want) (time.Duration, string) {
	d := w.obj.GetVolumeSnapshot()
	r := &snapRun{e: e, w: w, d: d, key: keyOf(w.obj.GetKey()), pool: d.GetSnapshot().GetStatus().GetPoolId()}
	rec, known := e.store.Record(r.key)
	r.rec = rec
	r.rec.Kind, r.rec.ID = r.key.Kind, r.key.ID
	e.mu.Lock()
	hopeless := e.hopeless[r.key] == w
	e.mu.Unlock()
	if hopeless {
		return never, resultFailed
	}
	doing := "taking snapshot " + d.GetSnapshot().GetMeta().GetName()
	if d.GetAbsent() {
		doing = "deleting snapshot " + d.GetSnapshot().GetMeta().GetName()
	}
	e.progress.doing(r.key, doing)
	snap, quiesced, err := r.realise(ctx)
	if ctx.Err() != nil {
		return never, resultFailed
	}
	if err != nil {
		return r.failed(doing, err)
	}
	e.mu.Lock()
	delete(e.snapFailures, r.key)
	e.mu.Unlock()
	rep := &agentv1.VolumeSnapshotReport{SnapshotId: r.key.ID, Epoch: d.GetEpoch(), Absent: d.GetAbsent()}
	if d.GetAbsent() {
		e.store.Delete(r.key)
		e.keptGone(keptSnapshot, r.pool, r.key.ID)
	} else {
		rep.Status = &storagev1.SnapshotStatus{
			Phase: storagev1.SnapshotPhase_SNAPSHOT_PHASE_READY, ObservedGeneration: d.GetSnapshot().GetMeta().GetGeneration(),
			SizeBytes: snap.GetSizeBytes(), SnapshotTime: snap.GetCreateTime(), Quiesced: quiesced,
		}
	}
	if e.current(w) {
		e.reporter.Snapshot(rep)
	}
	if d.GetAbsent() && known || !d.GetAbsent() && !rec.Made { // it is since this run: else who is woken wakes it again, for ever
		e.dependents(r.key)
		e.dependents(r.volumeKey()) // VMs may wait
	}
	return never, resultOK
}

// realise takes the snapshot, finds it, or removes it. Whatever happens, a guest that was quiesced goes on.
func (r *snapRun) realise(ctx context.Context) (snap *driverv1.Snapshot, quiesced bool, err error) {
	if err := r.thaw(ctx); err != nil { // of a run that did not get so far
		return nil, false, err
	}
	if r.driver, err = r.e.poolReady(r.pool); err != nil {
		return nil, false, err
	}
	if r.d.GetAbsent() {
		err := r.remove(ctx)
		if fault.Is(err, metav1.Reason_REASON_WRONG_STATE) { // half taken: on to its end, then back
			if _, err := r.take(ctx); err != nil {
				return nil, false, err
			}
			err = r.remove(ctx)
		}
		return nil, false, err
	}
	if r.rec.Made {
		for snap, err := range r.e.snapshotsOf(ctx, r.driver, r.pool, r.d.GetSnapshot().GetSpec().GetVolumeId()) {
			if err != nil {
				return nil, false, err
			}
			if snap.GetSnapshotId() == r.key.ID {
				return snap, r.rec.Quiesced, nil
			}
		}
		return nil, false, fault.New(metav1.Reason_REASON_SNAPSHOT_NOT_FOUND, "snapshot %s was taken here and is gone from pool %s", r.key.ID, r.pool).WithRemedy("delete it")
	}
	release, user, err := r.e.holdVolume(r.d.GetSnapshot().GetSpec().GetVolumeId(), false, r.key)
	if err != nil {
		return nil, false, err
	}
	defer release()
	r.user = user
	if !r.rec.Begun {
		r.rec.Begun = true
		if err := r.e.store.PutNow(r.rec); err != nil {
			return nil, false, fault.New(metav1.Reason_REASON_INTERNAL, "that a snapshot is begun cannot be noted: %w", err)
		}
	}
	quiesced, err = r.quiesce(ctx)
	if err != nil {
		return nil, false, err
	}
	snap, err = r.take(ctx)
	if terr := r.thaw(context.WithoutCancel(ctx)); terr != nil && err == nil {
		err = terr
	}
	if err != nil {
		return nil, false, err
	}
	r.rec.Made, r.rec.Quiesced, r.rec.Driver, r.rec.PoolID, r.rec.Epoch, r.rec.Handle = true, quiesced, r.driver, r.pool, r.d.GetEpoch(), snap.GetHandle()
	r.e.store.Put(r.rec)
	return snap, quiesced, nil
}

func (r *snapRun) remove(ctx context.Context) error {
	return r.e.poolCall(ctx, r.driver, r.pool, "DeleteSnapshot", longCall, func(ctx context.Context) error {
		_, err := r.e.plugins.Storage(r.driver).DeleteSnapshot(ctx, &driverv1.DeleteSnapshotRequest{PoolId: r.pool, SnapshotId: r.key.ID, Handle: r.rec.Handle})
		return err
	})
}

// take has the snapshot taken: by the storage alone, or by an overlay to which the running domain is switched. Each step can be done again.
func (r *snapRun) take(ctx context.Context) (snap *driverv1.Snapshot, err error) {
	volume := r.d.GetSnapshot().GetSpec().GetVolumeId()
	c := r.e.plugins.Storage(r.driver)
	mark := r.e.mark(r.key.ID, r.d.GetSnapshot().GetMeta().GetGeneration(), r.d.GetEpoch())
	if r.d.GetSharedPool() {
		mark.NodeId = ""
	}
	var overlay *driverv1.DiskSource
	create := func() error {
		return r.e.poolCall(ctx, r.driver, r.pool, "CreateSnapshot", usualCall, func(ctx context.Context) error {
			a, err := c.CreateSnapshot(ctx, &driverv1.CreateSnapshotRequest{PoolId: r.pool, SnapshotId: r.key.ID, VolumeId: volume, Mark: mark})
			snap, overlay = a.GetSnapshot(), a.GetOverlay()
			return err
		})
	}
	err = create()
	if fault.Is(err, metav1.Reason_REASON_VOLUME_IN_USE) && r.e.endFenced(ctx, r.driver, r.e.wantedVolume(volume), r.user != nil) {
		err = create()
	}
	if err != nil || !snap.GetPending() {
		return snap, err
	}
	if u := r.user; u != nil && u.on {
		err = r.e.call(ctx, u.driver, "", "SwitchDisk", usualCall, func(ctx context.Context) error {
			_, err := r.e.plugins.Compute(u.driver).SwitchDisk(ctx, &driverv1.SwitchDiskRequest{DomainId: u.vm, DiskId: volume, Source: overlay})
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	err = r.e.poolCall(ctx, r.driver, r.pool, "CommitSnapshot", usualCall, func(ctx context.Context) error {
		a, err := c.CommitSnapshot(ctx, &driverv1.CommitSnapshotRequest{PoolId: r.pool, SnapshotId: r.key.ID, VolumeId: volume, Handle: snap.GetHandle()})
		snap = a.GetSnapshot()
		return err
	})
	if err != nil {
		return nil, err
	}
	r.e.sourcesChanged(volume)
	return snap, nil
}

// quiesce brings the guest to rest as the snapshot asks for; true also when nothing had the volume open.
func (r *snapRun) quiesce(ctx context.Context) (bool, error) {
	must := r.d.GetSnapshot().GetSpec().GetConsistency() == storagev1.SnapshotConsistency_SNAPSHOT_CONSISTENCY_QUIESCED
	if r.user == nil || !r.user.on {
		return true, nil
	}
	if r.d.GetSnapshot().GetSpec().GetConsistency() == storagev1.SnapshotConsistency_SNAPSHOT_CONSISTENCY_CRASH {
		return false, nil
	}
	p, err := r.e.pluginFor(r.user.driver)
	can := err == nil && slices.Contains(p.Capabilities.GetCompute().GetFeatures(), driverv1.ComputeFeature_COMPUTE_FEATURE_GUEST_AGENT)
	if err == nil && !can {
		err = fault.New(metav1.Reason_REASON_NO_CAPABILITY, "plugin %s cannot quiesce a guest", r.user.driver)
	}
	if can {
		r.rec.Frozen, r.rec.FrozenBy = r.user.vm, r.user.driver
		if err := r.e.store.PutNow(r.rec); err != nil { // first: whoever comes after us must know
			return false, fault.New(metav1.Reason_REASON_INTERNAL, "that a guest is to be quiesced cannot be noted: %w", err)
		}
		err = r.e.call(ctx, r.user.driver, "", "QuiesceDomain", quiesceLimit, func(ctx context.Context) error {
			_, err := r.e.plugins.Compute(r.user.driver).QuiesceDomain(ctx, &driverv1.QuiesceDomainRequest{DomainId: r.user.vm})
			return err
		})
	}
	if err == nil {
		return true, nil
	}
	if terr := r.thaw(ctx); terr != nil {
		return false, terr
	}
	if must {
		return false, fault.New(metav1.Reason_REASON_QUIESCE_FAILED, "the guest was not quiesced: %w", err).WithRemedy("run the guest agent in it, or ask for another consistency")
	}
	return false, nil
}

// thaw lets a guest go on that may have been quiesced for this snapshot.
func (r *snapRun) thaw(ctx context.Context) error {
	if r.rec.Frozen == "" {
		return nil
	}
	err := r.e.call(ctx, r.rec.FrozenBy, "", "ThawDomain", quiesceLimit, func(ctx context.Context) error {
		_, err := r.e.plugins.Compute(r.rec.FrozenBy).ThawDomain(ctx, &driverv1.ThawDomainRequest{DomainId: r.rec.Frozen})
		return err
	})
	if err != nil && !fault.Is(err, metav1.Reason_REASON_DOMAIN_NOT_FOUND) && !fault.Is(err, metav1.Reason_REASON_WRONG_STATE) && !fault.Is(err, metav1.Reason_REASON_GUEST_AGENT_UNAVAILABLE) {
		return err
	}
	r.rec.Frozen, r.rec.FrozenBy = "", ""
	r.e.store.Put(r.rec)
	return nil
}

func (r *snapRun) failed(doing string, err error) (time.Duration, string) {
	e := r.e
	e.mu.Lock()
	e.snapFailures[r.key]++
	p := problemOf(doing, err, e.snapFailures[r.key])
	if fault.Is(err, metav1.Reason_REASON_QUIESCE_FAILED) {
		p.permanent, p.retry = true, never
	}
	if r.d.GetAbsent() && p.permanent { // a deletion always goes on
		p.permanent, p.retry = false, slowMax
	}
	if p.permanent {
		e.hopeless[r.key] = r.w
	}
	tries := e.snapFailures[r.key]
	e.mu.Unlock()
	e.progress.failed(r.key, doing, err, tries, p.retry)
	st := &storagev1.SnapshotStatus{Phase: storagev1.SnapshotPhase_SNAPSHOT_PHASE_CREATING, Reason: p.reason, Message: p.message}
	if p.permanent {
		st.Phase = storagev1.SnapshotPhase_SNAPSHOT_PHASE_FAILED
	} else {
		st.NextRetryTime = timestamppb.New(e.now().Add(p.retry))
	}
	if e.current(r.w) {
		e.reporter.Snapshot(&agentv1.VolumeSnapshotReport{SnapshotId: r.key.ID, Epoch: r.d.GetEpoch(), Status: st, PermanentFailure: p.permanent})
	}
	e.log.Warn("snapshot is not as wanted", "snapshot", r.key.ID, "error", err, "retry", p.retry)
	if p.permanent {
		e.dependents(r.volumeKey()) // VMs need not wait any more
	}
	return p.retry, resultFailed
}

func (r *snapRun) volumeKey() realised.Key {
	return realised.Key{Kind: realised.KindVolume, ID: r.d.GetSnapshot().GetSpec().GetVolumeId()}
}

// snapshotsOf walks the snapshots of a volume.
func (e *Engine) snapshotsOf(ctx context.Context, driver, pool, volume string) func(yield func(*driverv1.Snapshot, error) bool) {
	return func(yield func(*driverv1.Snapshot, error) bool) {
		for token := ""; ; {
			var page *driverv1.ListSnapshotsResponse
			err := e.poolCall(ctx, driver, pool, "ListSnapshots", usualCall, func(ctx context.Context) (err error) {
				page, err = e.plugins.Storage(driver).ListSnapshots(ctx, &driverv1.ListSnapshotsRequest{PoolId: pool, VolumeId: volume, PageToken: token})
				return err
			})
			if err != nil {
				yield(nil, err)
				return
			}
			for _, s := range page.GetSnapshots() {
				if !yield(s, nil) {
					return
				}
			}
			if token = page.GetNextPageToken(); token == "" {
				return
			}
		}
	}
}

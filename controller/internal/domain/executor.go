package domain

import (
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// One node at a time acts for an object in a pool that several nodes share. An executor that has nothing left to do can be followed by another at once: no call of it is under
// way, and what it was told last is so. One that has is followed by another only when its lease is over, since it may still be at it.

// VolumeAtRest reports whether nothing is left to do for a volume.
func VolumeAtRest(rec *statev1.VolumeRecord) bool {
	vol := rec.GetVolume()
	return vol.GetMeta().GetDeleteTime() == nil && vol.GetStatus().GetPhase() == storagev1.VolumePhase_VOLUME_PHASE_READY &&
		vol.GetStatus().GetObservedGeneration() >= vol.GetMeta().GetGeneration() && !Restoring(rec) && !Moving(rec)
}

// SnapshotAtRest reports whether nothing is left to do for a snapshot.
func SnapshotAtRest(rec *statev1.SnapshotRecord) bool {
	ph := rec.GetSnapshot().GetStatus().GetPhase()
	return rec.GetSnapshot().GetMeta().GetDeleteTime() == nil && (ph == storagev1.SnapshotPhase_SNAPSHOT_PHASE_READY || ph == storagev1.SnapshotPhase_SNAPSHOT_PHASE_FAILED)
}

// Restoring reports whether a volume is on its way back to a snapshot.
func Restoring(rec *statev1.VolumeRecord) bool {
	return rec.GetRestore() != nil && !rec.GetRestore().GetDone()
}

// Moving reports whether a volume is on its way to another pool.
func Moving(rec *statev1.VolumeRecord) bool { return rec.GetMove() != nil && !rec.GetMove().GetDone() }

// UsedOn is the node on which a VM has a volume; "" = none. Whatever is done to the volume is done there, since its hypervisor may have it open.
func UsedOn(vol *storagev1.Volume) string {
	for _, a := range vol.GetStatus().GetAttachments() {
		if a.GetNodeId() != "" {
			return a.GetNodeId()
		}
	}
	return ""
}

// HandOver is called before a volume gets something new to do: if it lies in a shared pool and is at rest, it goes to the node that uses it, or, when its executor is not heard
// of, to nobody, so that the leader chooses.
func HandOver(rec *statev1.VolumeRecord, shared bool, heard func(nodeID string) bool) {
	if !shared || rec.GetExecutorNodeId() == "" || !VolumeAtRest(rec) {
		return
	}
	rec.ExecutorNodeId, rec.ExecutorEpoch = next(rec.GetExecutorNodeId(), rec.GetExecutorEpoch(), rec.GetVolume(), heard)
}

// HandOverSnapshot is HandOver for a snapshot of vol.
func HandOverSnapshot(rec *statev1.SnapshotRecord, vol *storagev1.Volume, shared bool, heard func(nodeID string) bool) {
	if !shared || rec.GetExecutorNodeId() == "" || !SnapshotAtRest(rec) {
		return
	}
	rec.ExecutorNodeId, rec.ExecutorEpoch = next(rec.GetExecutorNodeId(), rec.GetExecutorEpoch(), vol, heard)
}

func next(node string, epoch int64, vol *storagev1.Volume, heard func(nodeID string) bool) (string, int64) {
	switch to := UsedOn(vol); {
	case to != "" && to != node:
		return to, epoch + 1
	case to == "" && !heard(node):
		return "", epoch
	}
	return node, epoch
}

// CopyAtRest reports whether nothing is left to do for a copy of an image.
func CopyAtRest(c *storagev1.ImageCopy) bool {
	return c.GetPhase() == storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_READY || c.GetPhase() == storagev1.ImageCopyPhase_IMAGE_COPY_PHASE_FAILED
}

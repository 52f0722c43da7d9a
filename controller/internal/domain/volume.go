package domain

import (
	"fmt"
	"slices"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// ValidateVolume notes everything that is wrong with a volume. Whether what it refers to exists is not looked at.
func ValidateVolume(v *Violations, vol *storagev1.Volume) {
	CheckMeta(v, "volume.meta", vol.GetMeta(), true)
	spec := vol.GetSpec()
	switch size := spec.GetSizeBytes(); {
	case size == 0 && spec.GetSource().GetSource() == nil:
		v.Add("volume.spec.size_bytes", "is required for a blank volume")
	case size < 0 || size%512 != 0 || size > maxDiskSize:
		v.Add("volume.spec.size_bytes", "must be a multiple of 512, at most 64 TiB")
	}
	checkEnum(v, "volume.spec.format", spec.GetFormat())
	if q := spec.GetQos(); q.GetIops() < 0 || q.GetBytesPerSecond() < 0 {
		v.Add("volume.spec.qos", "must not be negative; 0 is no limit")
	}
}

// VolumePathAllowed says which fields of a volume UpdateVolume changes.
func VolumePathAllowed(path string) (string, bool) {
	switch {
	case path == "spec.shared", path == "spec.delete_protection", Under(path, "spec.qos"), path == "meta.labels", path == "meta.annotations":
		return "", true
	case Under(path, "spec.size_bytes"):
		return "cannot be set: call ResizeVolume", false
	case Under(path, "spec.pool_id"):
		return "cannot be set: call MoveVolume", false
	case Under(path, "meta.labels", "meta.annotations"):
		return "reaches into a map: name the whole map", false
	case Under(path, "meta", "status", "spec"):
		return "cannot change", false
	}
	return `names no field that can change: use "spec.shared", "spec.delete_protection", "spec.qos", "meta.labels", "meta.annotations"`, false
}

// SnapshotPathAllowed says which fields of a snapshot can change.
func SnapshotPathAllowed(path string) (string, bool) {
	switch {
	case path == "spec.delete_protection", path == "meta.labels", path == "meta.annotations":
		return "", true
	case Under(path, "meta.labels", "meta.annotations"):
		return "reaches into a map: name the whole map", false
	case Under(path, "meta", "status", "spec"):
		return "cannot change", false
	}
	return `names no field that can change: use "spec.delete_protection", "meta.labels", "meta.annotations"`, false
}

// VolumeOutcome decides how an operation on a volume stands; rec is nil when the volume is gone.
func VolumeOutcome(op *operationv1.Operation, rec *statev1.VolumeRecord) Outcome {
	if op.GetState() != operationv1.OperationState_OPERATION_STATE_RUNNING {
		return Outcome{op.GetState(), op.GetReason(), op.GetMessage()}
	}
	vol := rec.GetVolume()
	st := vol.GetStatus()
	going := Outcome{operationv1.OperationState_OPERATION_STATE_RUNNING, st.GetReason(), st.GetMessage()}
	deleting := op.GetVerb() == VerbDeleteVolume
	refused := Condition(st.GetConditions(), CondRealisable)
	switch {
	case rec == nil && deleting:
		return done()
	case rec == nil, !deleting && vol.GetMeta().GetDeleteTime() != nil:
		return Outcome{operationv1.OperationState_OPERATION_STATE_SUPERSEDED, fault.ReasonName(metav1.Reason_REASON_SUPERSEDED), "the volume was deleted"}
	case deleting:
		return going
	case op.GetVerb() == VerbRestoreSnapshot && rec.GetRestore().GetRestoreGeneration() > op.GetGeneration():
		return SupersededBy(VerbRestoreSnapshot)
	case refused.GetStatus() == metav1.ConditionStatus_CONDITION_STATUS_FALSE:
		return Outcome{operationv1.OperationState_OPERATION_STATE_FAILED, refused.GetReason(), refused.GetMessage()}
	case op.GetVerb() == VerbRestoreSnapshot && rec.GetRestore().GetDone():
		return done()
	case op.GetVerb() == VerbRestoreSnapshot:
		return going
	case st.GetObservedGeneration() >= op.GetGeneration() && st.GetPhase() == storagev1.VolumePhase_VOLUME_PHASE_READY:
		return done()
	}
	return going
}

// SnapshotOutcome decides how an operation on a snapshot stands; rec is nil when the snapshot is gone.
func SnapshotOutcome(op *operationv1.Operation, rec *statev1.SnapshotRecord) Outcome {
	if op.GetState() != operationv1.OperationState_OPERATION_STATE_RUNNING {
		return Outcome{op.GetState(), op.GetReason(), op.GetMessage()}
	}
	snap := rec.GetSnapshot()
	st := snap.GetStatus()
	deleting := op.GetVerb() == VerbDeleteSnapshot
	switch {
	case rec == nil && deleting:
		return done()
	case rec == nil, !deleting && snap.GetMeta().GetDeleteTime() != nil:
		return Outcome{operationv1.OperationState_OPERATION_STATE_SUPERSEDED, fault.ReasonName(metav1.Reason_REASON_SUPERSEDED), "the snapshot was deleted"}
	case !deleting && st.GetPhase() == storagev1.SnapshotPhase_SNAPSHOT_PHASE_READY:
		return done()
	case !deleting && st.GetPhase() == storagev1.SnapshotPhase_SNAPSHOT_PHASE_FAILED:
		return Outcome{operationv1.OperationState_OPERATION_STATE_FAILED, st.GetReason(), st.GetMessage()}
	}
	return Outcome{operationv1.OperationState_OPERATION_STATE_RUNNING, st.GetReason(), st.GetMessage()}
}

// Attachment is a VM's use of a volume; nil = none.
func Attachment(vol *storagev1.Volume, vmID string) *storagev1.VolumeAttachment {
	for _, a := range vol.GetStatus().GetAttachments() {
		if a.GetVmId() == vmID {
			return a
		}
	}
	return nil
}

// Attach notes that a VM uses a volume; node and epoch are empty until it is placed. A volume that is not shared has one user.
func Attach(vol *storagev1.Volume, vmID, node string, epoch int64, readOnly bool) {
	a := Attachment(vol, vmID)
	if a == nil {
		a = &storagev1.VolumeAttachment{VmId: vmID}
		vol.Status.Attachments = append(vol.Status.Attachments, a)
	}
	a.NodeId, a.Epoch, a.Mode = node, epoch, storagev1.VolumeAttachmentMode_VOLUME_ATTACHMENT_MODE_SINGLE_WRITER
	switch {
	case readOnly:
		a.Mode = storagev1.VolumeAttachmentMode_VOLUME_ATTACHMENT_MODE_READ_ONLY
	case vol.GetSpec().GetShared():
		a.Mode = storagev1.VolumeAttachmentMode_VOLUME_ATTACHMENT_MODE_SHARED
	}
}

// Detach forgets a VM's use of a volume.
func Detach(vol *storagev1.Volume, vmID string) {
	vol.Status.Attachments = slices.DeleteFunc(vol.GetStatus().GetAttachments(), func(a *storagev1.VolumeAttachment) bool { return a.GetVmId() == vmID })
}

// CanAttach says why a volume cannot be a disk of a VM; "" = it can.
func CanAttach(rec *statev1.VolumeRecord, vmID string) string {
	vol := rec.GetVolume()
	switch {
	case Attachment(vol, vmID) != nil:
	case Moving(rec):
		return "is being moved to another pool"
	case Restoring(rec):
		return "is being set back to a snapshot"
	}
	switch {
	case vol.GetMeta().GetDeleteTime() != nil:
		return "is being deleted"
	case vol.GetStatus().GetOwnerVmId() != "" && vol.GetStatus().GetOwnerVmId() != vmID:
		return "lives and dies with VM " + vol.GetStatus().GetOwnerVmId()
	}
	if !vol.GetSpec().GetShared() {
		for _, a := range vol.GetStatus().GetAttachments() {
			if a.GetVmId() != vmID {
				return fmt.Sprintf("is attached to VM %s", a.GetVmId())
			}
		}
	}
	return ""
}

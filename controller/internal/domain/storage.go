package domain

import (
	"maps"
	"math"
	"slices"

	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// Verbs of operations on pools, volumes and snapshots, and what Operation.object_kind says of them.
const (
	VerbCreatePool = "CreateStoragePool"
	VerbUpdatePool = "UpdateStoragePool"
	VerbDeletePool = "DeleteStoragePool"

	VerbCreateVolume = "CreateVolume"
	VerbUpdateVolume = "UpdateVolume"
	VerbResizeVolume = "ResizeVolume"
	VerbMoveVolume   = "MoveVolume"
	VerbAttachVolume = "AttachVolume"
	VerbDetachVolume = "DetachVolume"
	VerbDeleteVolume = "DeleteVolume"

	VerbCreateSnapshot  = "CreateSnapshot"
	VerbUpdateSnapshot  = "UpdateSnapshot"
	VerbRestoreSnapshot = "RestoreSnapshot"
	VerbDeleteSnapshot  = "DeleteSnapshot"

	KindPool     = "StoragePool"
	KindVolume   = "Volume"
	KindSnapshot = "Snapshot"
)

const (
	maxPoolParameters = 64
	maxParameterBytes = 4 << 10
	maxSecretBytes    = 64 << 10
)

// ValidatePool notes everything that is wrong with a pool.
func ValidatePool(v *Violations, p *storagev1.StoragePool) {
	CheckMeta(v, "storage_pool.meta", p.GetMeta(), true)
	spec := p.GetSpec()
	CheckName(v, "storage_pool.spec.driver", spec.GetDriver())
	if n := len(spec.GetParameters()); n > maxPoolParameters {
		v.Add("storage_pool.spec.parameters", "holds %d parameters, at most %d are allowed", n, maxPoolParameters)
	}
	for _, k := range slices.Sorted(maps.Keys(spec.GetParameters())) {
		at := "storage_pool.spec.parameters[" + quoteKey(k) + "]"
		if !ValidLabelKey(k) {
			v.Add(at, "key "+labelKeyRule)
		}
		if val := spec.GetParameters()[k]; len(val) > maxParameterBytes || !printable(val) {
			v.Add(at, "must be at most %d printable characters", maxParameterBytes)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(spec.GetSecrets())) {
		at := "storage_pool.spec.secrets[" + quoteKey(k) + "]"
		if !ValidLabelKey(k) {
			v.Add(at, "key "+labelKeyRule)
		}
		if len(spec.GetSecrets()[k]) > maxSecretBytes {
			v.Add(at, "holds more than %d bytes", maxSecretBytes)
		}
	}
	CheckLabels(v, "storage_pool.spec.node_selector", spec.GetNodeSelector())
	if o := spec.GetOvercommit(); math.IsNaN(o) || math.IsInf(o, 0) || o < 0 || o > 0 && o < 0.1 || o > 1000 {
		v.Add("storage_pool.spec.overcommit", "must be 0 for no limit, or 0.1 to 1000")
	}
}

// PoolPathAllowed says which fields of a pool can change.
func PoolPathAllowed(path string) (string, bool) {
	switch {
	case Under(path, "spec.driver"):
		return "cannot change: create another pool, and move volumes there", false
	case path == "spec.parameters", path == "spec.secrets", path == "spec.node_selector", path == "spec.overcommit", path == "spec.cordoned",
		path == "meta.labels", path == "meta.annotations":
		return "", true
	case Under(path, "spec.parameters", "spec.secrets", "spec.node_selector", "meta.labels", "meta.annotations"):
		return "reaches into a map: name the whole map", false
	case Under(path, "meta", "status"):
		return "cannot change", false
	}
	return `names no field that can change: use "spec.parameters", "spec.secrets", "spec.node_selector", "spec.overcommit", "spec.cordoned", "meta.labels", "meta.annotations"`, false
}

// PoolOutcome decides how an operation on a pool stands; rec is nil when the pool is gone. reporting are the nodes that are heard of: others are not waited for, but for a deletion.
func PoolOutcome(op *operationv1.Operation, rec *statev1.StoragePoolRecord, reporting map[string]*computev1.Node) Outcome {
	if op.GetState() != operationv1.OperationState_OPERATION_STATE_RUNNING {
		return Outcome{op.GetState(), op.GetReason(), op.GetMessage()}
	}
	p := rec.GetPool()
	st := p.GetStatus()
	going := Outcome{operationv1.OperationState_OPERATION_STATE_RUNNING, st.GetReason(), st.GetMessage()}
	deleting := op.GetVerb() == VerbDeletePool
	switch {
	case rec == nil && deleting:
		return done()
	case rec == nil, !deleting && p.GetMeta().GetDeleteTime() != nil:
		return Outcome{operationv1.OperationState_OPERATION_STATE_SUPERSEDED, fault.ReasonName(metav1.Reason_REASON_SUPERSEDED), "the pool was deleted"}
	case deleting:
		return going
	case op.GetVerb() == VerbUpdatePool && !anyConcerned(p, reporting):
		return done() // nobody is there who would have to follow
	case op.GetGeneration() > max(st.GetObservedGeneration(), PoolObserved(p, func(id string) bool { return reporting[id] != nil })):
		return going
	case st.GetPhase() == storagev1.StoragePoolPhase_STORAGE_POOL_PHASE_READY, st.GetPhase() == storagev1.StoragePoolPhase_STORAGE_POOL_PHASE_DEGRADED:
		return done()
	case st.GetPhase() == storagev1.StoragePoolPhase_STORAGE_POOL_PHASE_FAILED:
		return Outcome{operationv1.OperationState_OPERATION_STATE_FAILED, st.GetReason(), st.GetMessage()}
	}
	return going
}

func anyConcerned(p *storagev1.StoragePool, reporting map[string]*computev1.Node) bool {
	for id, n := range reporting {
		if PoolOn(p, id) != nil || PoolWanted(p, n) {
			return true
		}
	}
	return false
}

// PoolOn is how a pool is on a node, by its last word; nil = the node does not have it.
func PoolOn(p *storagev1.StoragePool, nodeID string) *storagev1.PoolNodeStatus {
	for _, n := range p.GetStatus().GetNodes() {
		if n.GetNodeId() == nodeID {
			return n
		}
	}
	return nil
}

// PoolSecretField names a secret of a pool in the store.
func PoolSecretField(name string) string { return "pool." + name }

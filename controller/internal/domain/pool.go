package domain

import (
	"fmt"
	"slices"
	"strings"

	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// SettlePool derives a pool's phase and sums from how it is on its nodes.
func SettlePool(p *storagev1.StoragePool) {
	st := p.GetStatus()
	st.CapacityBytes, st.UsedBytes, st.Shared = 0, 0, false
	for _, n := range st.GetNodes() {
		st.Shared = st.Shared || n.GetShared()
	}
	for _, n := range st.GetNodes() {
		if st.GetShared() {
			st.CapacityBytes, st.UsedBytes = max(st.CapacityBytes, n.GetCapacityBytes()), max(st.UsedBytes, n.GetUsedBytes())
		} else {
			st.CapacityBytes += n.GetCapacityBytes()
			st.UsedBytes += n.GetUsedBytes()
		}
	}
	st.ObservedGeneration = PoolObserved(p, func(string) bool { return true })
	settlePoolPhase(p)
}

// PoolObserved is the newest generation that every node which reports has realised.
func PoolObserved(p *storagev1.StoragePool, reports func(nodeID string) bool) int64 {
	seen, out := false, int64(0)
	for _, n := range p.GetStatus().GetNodes() {
		if !reports(n.GetNodeId()) {
			continue
		}
		if !seen || n.GetObservedGeneration() < out {
			out = n.GetObservedGeneration()
		}
		seen = true
	}
	return out
}

// settlePoolPhase derives the phase from how the pool is on those nodes that are listed. A node that has said nothing yet keeps it from being READY.
func settlePoolPhase(p *storagev1.StoragePool) {
	st := p.GetStatus()
	var usable, healthy, silent int
	for _, n := range st.GetNodes() {
		switch n.GetHealth() {
		case storagev1.PoolHealth_POOL_HEALTH_HEALTHY:
			usable, healthy = usable+1, healthy+1
		case storagev1.PoolHealth_POOL_HEALTH_DEGRADED:
			usable++
		case storagev1.PoolHealth_POOL_HEALTH_UNSPECIFIED:
			silent++
		}
	}
	st.Reason, st.Message = "", ""
	switch {
	case p.GetMeta().GetDeleteTime() != nil:
		st.Phase = storagev1.StoragePoolPhase_STORAGE_POOL_PHASE_DELETING
		if len(st.GetNodes()) > 0 {
			st.Reason, st.Message = "", fmt.Sprintf("waits for node %s to let go of it", st.GetNodes()[0].GetNodeName())
		}
		return
	case silent == len(st.GetNodes()):
		st.Phase, st.Message = storagev1.StoragePoolPhase_STORAGE_POOL_PHASE_PENDING, "no node has reported it usable yet"
		return
	case healthy == len(st.GetNodes()):
		st.Phase = storagev1.StoragePoolPhase_STORAGE_POOL_PHASE_READY
		return
	case usable == 0:
		st.Phase = storagev1.StoragePoolPhase_STORAGE_POOL_PHASE_FAILED
	default:
		st.Phase = storagev1.StoragePoolPhase_STORAGE_POOL_PHASE_DEGRADED
	}
	worst := slices.MaxFunc(st.GetNodes(), func(a, b *storagev1.PoolNodeStatus) int { return trouble(a) - trouble(b) })
	st.Reason, st.Message = worst.GetReason(), fmt.Sprintf("on node %s: %s", worst.GetNodeName(), worst.GetMessage())
}

// trouble orders healths by how much there is to say of them.
func trouble(n *storagev1.PoolNodeStatus) int {
	switch n.GetHealth() {
	case storagev1.PoolHealth_POOL_HEALTH_UNHEALTHY:
		return 4
	case storagev1.PoolHealth_POOL_HEALTH_UNKNOWN:
		return 3
	case storagev1.PoolHealth_POOL_HEALTH_DEGRADED:
		return 2
	case storagev1.PoolHealth_POOL_HEALTH_UNSPECIFIED:
		return 1
	}
	return 0
}

// ShowPool completes a pool's status for readers: a node that does not report is UNKNOWN, one that shall use the pool and has said nothing yet is listed. nodes are all
// nodes there are; kept is how people call something that a pool under deletion waits for, "" = nothing is kept in it.
func ShowPool(p *storagev1.StoragePool, nodes []*computev1.Node, kept string) {
	st := p.GetStatus()
	byID := make(map[string]*computev1.Node, len(nodes))
	for _, n := range nodes {
		byID[n.GetMeta().GetId()] = n
	}
	reports := func(id string) bool {
		ph := byID[id].GetStatus().GetPhase()
		return byID[id] != nil && ph != computev1.NodePhase_NODE_PHASE_UNKNOWN && ph != computev1.NodePhase_NODE_PHASE_DELETING
	}
	for _, n := range nodes {
		if p.GetMeta().GetDeleteTime() == nil && PoolWanted(p, n) && PoolOn(p, n.GetMeta().GetId()) == nil {
			st.Nodes = append(st.Nodes, &storagev1.PoolNodeStatus{NodeId: n.GetMeta().GetId(), NodeName: n.GetMeta().GetName(), Message: "has said nothing about it yet"})
		}
	}
	slices.SortFunc(st.Nodes, func(a, b *storagev1.PoolNodeStatus) int { return strings.Compare(a.GetNodeId(), b.GetNodeId()) })
	if st.GetObservedGeneration() > 0 {
		st.ObservedGeneration = max(st.GetObservedGeneration(), PoolObserved(p, func(id string) bool {
			return reports(id) && PoolOn(p, id).GetHealth() != storagev1.PoolHealth_POOL_HEALTH_UNSPECIFIED
		}))
	}
	for _, n := range st.GetNodes() {
		if !reports(n.GetNodeId()) {
			n.Health, n.Reason = storagev1.PoolHealth_POOL_HEALTH_UNKNOWN, fault.ReasonName(metav1.Reason_REASON_NODE_UNREACHABLE)
			n.Message = "node " + n.GetNodeName() + " does not report"
		}
	}
	settlePoolPhase(p)
	if p.GetMeta().GetDeleteTime() == nil {
		return
	}
	if kept != "" {
		st.Message = "waits until " + kept + " is gone"
		return
	}
	for _, n := range st.GetNodes() {
		if n.GetHealth() == storagev1.PoolHealth_POOL_HEALTH_UNKNOWN {
			st.Reason, st.Message = n.GetReason(), fmt.Sprintf("waits for node %s, which does not report, to let go of it; it ends when the node returns or is deleted", n.GetNodeName())
		}
	}
}

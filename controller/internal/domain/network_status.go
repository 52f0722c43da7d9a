package domain

import (
	"fmt"
	"slices"
	"strings"

	"github.com/limiquantix/limiquantix/proto/fault"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// NetworkOn is how a network is on a node, by its last word; nil = the node does not have it.
func NetworkOn(n *networkv1.Network, nodeID string) *networkv1.NetworkNodeStatus {
	for _, s := range n.GetStatus().GetNodes() {
		if s.GetNodeId() == nodeID {
			return s
		}
	}
	return nil
}

// SetNetworkNode notes how a network is on a node, in place of its last word; nil = nothing of it is left there.
func SetNetworkNode(n *networkv1.Network, nodeID string, is *networkv1.NetworkNodeStatus) {
	if n.Status == nil {
		n.Status = &networkv1.NetworkStatus{}
	}
	st := n.GetStatus()
	st.Nodes = slices.DeleteFunc(st.GetNodes(), func(s *networkv1.NetworkNodeStatus) bool { return s.GetNodeId() == nodeID })
	if is != nil {
		st.Nodes = append(st.Nodes, is)
		slices.SortFunc(st.Nodes, func(a, b *networkv1.NetworkNodeStatus) int { return strings.Compare(a.GetNodeId(), b.GetNodeId()) })
	}
	SettleNetwork(n)
}

// SettleNetwork derives a network's phase, generation and MTU from how it is on its nodes.
func SettleNetwork(n *networkv1.Network) {
	if n.Status == nil {
		n.Status = &networkv1.NetworkStatus{}
	}
	st := n.GetStatus()
	st.Mtu, st.ObservedGeneration = n.GetSpec().GetMtu(), 0
	for i, s := range st.GetNodes() {
		if m := s.GetMtu(); m > 0 && (st.Mtu == 0 || m < st.Mtu) {
			st.Mtu = m
		}
		if i == 0 || s.GetObservedGeneration() < st.ObservedGeneration {
			st.ObservedGeneration = s.GetObservedGeneration()
		}
	}
	settleNetworkPhase(n)
}

func settleNetworkPhase(n *networkv1.Network) {
	st := n.GetStatus()
	count := map[networkv1.NetworkHealth]int{}
	var worst *networkv1.NetworkNodeStatus
	for _, s := range st.GetNodes() {
		count[s.GetHealth()]++
		if worst == nil || networkTrouble(s) > networkTrouble(worst) {
			worst = s
		}
	}
	all := len(st.GetNodes())
	healthy, works := count[networkv1.NetworkHealth_NETWORK_HEALTH_HEALTHY], count[networkv1.NetworkHealth_NETWORK_HEALTH_HEALTHY]+count[networkv1.NetworkHealth_NETWORK_HEALTH_DEGRADED]
	st.Reason, st.Message = "", ""
	switch {
	case n.GetMeta().GetDeleteTime() != nil:
		st.Phase = networkv1.NetworkPhase_NETWORK_PHASE_DELETING
		if all > 0 {
			st.Message = fmt.Sprintf("waits for node %s to let go of it", st.GetNodes()[0].GetNodeName())
		}
		return
	case all == 0:
		st.Phase, st.Message = networkv1.NetworkPhase_NETWORK_PHASE_PENDING, "no port of it is on a node"
		return
	case count[networkv1.NetworkHealth_NETWORK_HEALTH_UNSPECIFIED] == all:
		st.Phase, st.Message = networkv1.NetworkPhase_NETWORK_PHASE_PENDING, "no node has it yet"
		return
	case healthy == all:
		st.Phase = networkv1.NetworkPhase_NETWORK_PHASE_READY
		return
	case works == 0 && count[networkv1.NetworkHealth_NETWORK_HEALTH_UNHEALTHY] > 0:
		st.Phase = networkv1.NetworkPhase_NETWORK_PHASE_FAILED
	default:
		st.Phase = networkv1.NetworkPhase_NETWORK_PHASE_DEGRADED
	}
	st.Reason, st.Message = worst.GetReason(), fmt.Sprintf("on node %s: %s", worst.GetNodeName(), worst.GetMessage())
}

// networkTrouble orders healths by how much there is to say of them.
func networkTrouble(s *networkv1.NetworkNodeStatus) int {
	switch s.GetHealth() {
	case networkv1.NetworkHealth_NETWORK_HEALTH_UNHEALTHY:
		return 4
	case networkv1.NetworkHealth_NETWORK_HEALTH_UNKNOWN:
		return 3
	case networkv1.NetworkHealth_NETWORK_HEALTH_DEGRADED:
		return 2
	case networkv1.NetworkHealth_NETWORK_HEALTH_UNSPECIFIED:
		return 1
	}
	return 0
}

// ShowNetwork completes a network's status for readers: a node that has a port of it and has said nothing yet is listed, one that does not report is UNKNOWN. needs are the
// nodes with ports of it, by id with their names; reports says whether a node is heard of.
func ShowNetwork(n *networkv1.Network, needs map[string]string, reports func(nodeID string) bool) {
	for id, name := range needs {
		if NetworkOn(n, id) == nil {
			SetNetworkNode(n, id, &networkv1.NetworkNodeStatus{NodeId: id, NodeName: name, Message: "has said nothing about it yet"})
		}
	}
	for _, s := range n.GetStatus().GetNodes() {
		if !reports(s.GetNodeId()) {
			s.Health, s.Reason = networkv1.NetworkHealth_NETWORK_HEALTH_UNKNOWN, fault.ReasonName(metav1.Reason_REASON_NODE_UNREACHABLE)
			s.Message = "node " + s.GetNodeName() + " does not report"
		}
	}
	settleNetworkPhase(n)
}

// NetworkOutcome decides how an operation on a network stands; rec is nil when the network is gone. needs are the nodes with ports of it that are heard of: others are not
// waited for, but for a deletion.
func NetworkOutcome(op *operationv1.Operation, rec *statev1.NetworkRecord, needs []string) Outcome {
	if op.GetState() != operationv1.OperationState_OPERATION_STATE_RUNNING {
		return Outcome{op.GetState(), op.GetReason(), op.GetMessage()}
	}
	n := rec.GetNetwork()
	st := n.GetStatus()
	going := Outcome{operationv1.OperationState_OPERATION_STATE_RUNNING, st.GetReason(), st.GetMessage()}
	deleting := op.GetVerb() == VerbDeleteNetwork
	switch {
	case rec == nil && deleting:
		return done()
	case rec == nil, !deleting && n.GetMeta().GetDeleteTime() != nil:
		return Outcome{operationv1.OperationState_OPERATION_STATE_SUPERSEDED, fault.ReasonName(metav1.Reason_REASON_SUPERSEDED), "the network was deleted"}
	case deleting:
		return going
	}
	for _, id := range needs {
		if s := NetworkOn(n, id); s.GetObservedGeneration() < op.GetGeneration() {
			if s.GetMessage() != "" {
				return Outcome{operationv1.OperationState_OPERATION_STATE_RUNNING, s.GetReason(), fmt.Sprintf("on node %s: %s", s.GetNodeName(), s.GetMessage())}
			}
			return Outcome{operationv1.OperationState_OPERATION_STATE_RUNNING, "", "waits for the nodes that have it"}
		}
	}
	if len(needs) > 0 && st.GetPhase() == networkv1.NetworkPhase_NETWORK_PHASE_FAILED {
		return Outcome{operationv1.OperationState_OPERATION_STATE_FAILED, st.GetReason(), st.GetMessage()}
	}
	return done()
}

package agent

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// network takes in how a network is on the node, or that nothing of it is left there. When the node looked is not written.
func (r *report) network(rep *agentv1.NetworkReport) *state.Writer {
	row, node := r.s.cfg.Cache.Row(state.KindNetwork, rep.GetNetworkId()), r.s.cfg.Cache.Row(state.KindNode, r.node)
	if row == nil || node == nil || node.Deleting {
		return nil
	}
	rec := row.Network()
	was := domain.NetworkOn(rec.GetNetwork(), r.node)
	var next *networkv1.NetworkNodeStatus
	switch {
	case rep.GetAbsent() && was == nil, !rep.GetAbsent() && rep.GetStatus() == nil:
		return nil
	case !rep.GetAbsent():
		next = proto.CloneOf(rep.GetStatus())
		next.NodeId, next.NodeName = r.node, r.name()
		next.ObservedGeneration = min(next.GetObservedGeneration(), rec.GetNetwork().GetMeta().GetGeneration())
		next.ObserveTime = was.GetObserveTime()
		if was != nil && proto.Equal(was, next) {
			return nil
		}
		next.ObserveTime = timestamppb.New(r.s.cfg.Now())
	}
	domain.SetNetworkNode(rec.GetNetwork(), r.node, next)
	var w state.Writer
	w.Same(row)
	w.Put(state.Key(state.KindNetwork, row.ID), rec)
	return &w
}

// port takes in how a port is, or that nothing of it is left on the node: its binding ends with that.
func (r *report) port(rep *agentv1.PortReport) *state.Writer {
	row := r.s.cfg.Cache.Row(state.KindPort, rep.GetPortId())
	rec := row.Port()
	b := rec.GetPort().GetStatus().GetBinding()
	if rec == nil || b.GetNodeId() != r.node || b.GetEpoch() != rep.GetEpoch() {
		return nil
	}
	var w state.Writer
	w.Same(row)
	if !rep.GetAbsent() {
		next := domain.NextPortStatus(rec, steady(rec.GetPort().GetStatus(), rep))
		if next == rec {
			return nil
		}
		w.Put(state.Key(state.KindPort, row.ID), next)
		return &w
	}
	vm := r.s.cfg.Cache.Row(state.KindVM, b.GetVmId())
	next, remove := domain.PortLeft(rec, vm.VM())
	switch {
	case next == rec:
		return nil // wanted after all
	case remove:
		state.RemovePort(&w, next)
	default:
		w.Put(state.Key(state.KindPort, row.ID), next)
	}
	if vm != nil {
		w.Same(vm)
	}
	return &w
}

// steady is a report of a port in one order, in which addresses that were seen before keep their times: that they are seen again and again is no news.
func steady(was *networkv1.PortStatus, rep *agentv1.PortReport) *agentv1.PortReport {
	out := proto.CloneOf(rep)
	if out.Status == nil {
		return out
	}
	seen := out.Status.GetObservedAddresses()
	slices.SortFunc(seen, func(a, b *networkv1.ObservedAddress) int {
		return cmp.Or(cmp.Compare(a.GetIpAddress(), b.GetIpAddress()), cmp.Compare(a.GetSource(), b.GetSource()))
	})
	same := func(a, b *networkv1.ObservedAddress) bool {
		return a.GetIpAddress() == b.GetIpAddress() && a.GetSource() == b.GetSource()
	}
	out.Status.ObservedAddresses = slices.CompactFunc(seen, same)
	if slices.EqualFunc(was.GetObservedAddresses(), out.Status.GetObservedAddresses(), same) {
		out.Status.ObservedAddresses = was.GetObservedAddresses()
	}
	slices.SortFunc(out.Status.GetSecurityGroups(), func(a, b *networkv1.AppliedSecurityGroup) int {
		return cmp.Compare(a.GetSecurityGroupId(), b.GetSecurityGroupId())
	})
	return out
}

// ruleSet takes in that the node's driver refuses a group's rules as they are now, or takes them again.
func (r *report) ruleSet(rep *agentv1.RuleSetReport) *state.Writer {
	row := r.s.cfg.Cache.Row(state.KindSecurityGroup, rep.GetRuleSetId())
	if row == nil || !r.s.hasGroup(r.node, row.ID) {
		return nil
	}
	rec := row.SecurityGroup()
	if rep.GetGeneration() != rec.GetSecurityGroup().GetMeta().GetGeneration() {
		return nil // it speaks of what was
	}
	words := cmp.Or(rep.GetMessage(), rep.GetReason())
	if rep.GetInForce() {
		words = ""
	}
	if rec.GetRefusals()[r.node] == words {
		return nil
	}
	if words == "" {
		delete(rec.GetRefusals(), r.node)
	} else {
		if rec.Refusals == nil {
			rec.Refusals = map[string]string{}
		}
		rec.Refusals[r.node] = words
	}
	var w state.Writer
	w.Same(row)
	w.PutSecurityGroup(rec)
	return &w
}

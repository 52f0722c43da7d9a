package agent

import (
	"cmp"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// renderPort is a port for the node that it is bound to: wanted, or absent until the node says that nothing of it is left.
func (s *Service) renderPort(nodeID, id string) *agentv1.DesiredPort {
	row := s.cfg.Cache.Row(state.KindPort, id)
	rec := row.Port()
	p := rec.GetPort()
	b := p.GetStatus().GetBinding()
	if rec == nil || b.GetNodeId() != nodeID || nodeID == "" {
		return nil
	}
	vm := s.cfg.Cache.Row(state.KindVM, b.GetVmId()).VM()
	spec := p.GetSpec()
	d := &agentv1.DesiredPort{
		PortId: id, Name: p.GetMeta().GetName(), Generation: p.GetMeta().GetGeneration(), Epoch: b.GetEpoch(), VmId: b.GetVmId(),
		Spec: &driverv1.InterfaceSpec{
			NetworkId: spec.GetNetworkId(), Mac: cmp.Or(p.GetStatus().GetMac(), spec.GetMac()), IpAddresses: p.GetStatus().GetIpAddresses(),
			ExtraAddresses: spec.GetExtraAddresses(), Hostname: domain.PortHostname(rec, s.vmName(row.Owner)), RuleSetIds: spec.GetSecurityGroupIds(), Queues: queuesOf(vm, b.GetNicName()),
			TrunkVlanIds: spec.GetTrunkVlanIds(), LinkDown: spec.GetLinkDown(),
		},
		Absent: !domain.PortWanted(rec, vm),
	}
	if q := spec.GetQos(); q != nil {
		d.Spec.Limits = &driverv1.InterfaceLimits{
			IngressBitsPerSecond: q.GetIngressBitsPerSecond(), EgressBitsPerSecond: q.GetEgressBitsPerSecond(), BurstBytes: q.GetBurstBytes(),
		}
	}
	return d
}

// queuesOf is how many queues a NIC of a VM has; 0 = one.
func queuesOf(vm *statev1.VMRecord, nic string) uint32 {
	for _, n := range vm.GetVm().GetSpec().GetNics() {
		if n.GetName() == nic {
			return n.GetQueues()
		}
	}
	return 0
}

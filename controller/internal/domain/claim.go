package domain

import (
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// SetClaim gives a VM another claim on a node, nil for none, and keeps the node's sums in step. It is the one place where claims change: both records
// are then written in one commit, conditional on both, so that a node's sums are those of its VMs at every revision.
func SetClaim(node *statev1.NodeRecord, vm *statev1.VMRecord, claim *statev1.Claim) {
	id := node.GetNode().GetMeta().GetId()
	count := func(c *statev1.Claim, sign int64) {
		if c.GetNodeId() == id {
			node.ClaimedVcpus += sign * int64(c.GetVcpus())
			node.ClaimedMemoryBytes += sign * c.GetMemoryBytes()
		}
	}
	count(vm.GetClaim(), -1)
	vm.Claim = claim
	count(claim, +1)
}

// Overcommitted says of which resources more is claimed of a node than may be, as happens when it shrinks; "" when of none.
func Overcommitted(node *statev1.NodeRecord, allocatable *computev1.ResourceAmount) string {
	cpu, memory := float64(node.GetClaimedVcpus()) > allocatable.GetCpus(), node.GetClaimedMemoryBytes() > allocatable.GetMemoryBytes()
	switch {
	case cpu && memory:
		return "CPU and memory"
	case cpu:
		return "CPU"
	case memory:
		return "memory"
	}
	return ""
}

// Demand is what a VM must hold of its node as things are wanted; nil when it needs to hold nothing. What a guest may still use is held until a
// smaller size is realised.
func Demand(rec *statev1.VMRecord) *statev1.Claim {
	vm := rec.GetVm()
	p := vm.GetStatus().GetVmPlacement()
	if p == nil || ReleasesClaim(rec) {
		return nil
	}
	d := &statev1.Claim{NodeId: p.GetNodeId(), Vcpus: vm.GetSpec().GetCpu().GetVcpus(), MemoryBytes: vm.GetSpec().GetMemoryBytes()}
	st := vm.GetStatus()
	realised := st.GetObservedGeneration() >= vm.GetMeta().GetGeneration() && !st.GetRestartRequired()
	if held := rec.GetClaim(); held != nil && !realised {
		d.Vcpus, d.MemoryBytes = max(d.Vcpus, held.GetVcpus()), max(d.MemoryBytes, held.GetMemoryBytes())
	}
	return d
}

// ReleasesClaim reports whether the VM is off, shall be off, and gives up its claim meanwhile.
func ReleasesClaim(rec *statev1.VMRecord) bool {
	vm := rec.GetVm()
	return vm.GetSpec().GetReleaseClaimWhenStopped() && vm.GetMeta().GetDeleteTime() == nil &&
		vm.GetSpec().GetDesiredPower() == computev1.PowerState_POWER_STATE_STOPPED &&
		vm.GetStatus().GetPhase() == computev1.VMPhase_VM_PHASE_STOPPED &&
		vm.GetStatus().GetObservedGeneration() >= vm.GetMeta().GetGeneration()
}

// ClaimGranted reports whether the VM holds at least what its spec needs to run.
func ClaimGranted(rec *statev1.VMRecord) bool {
	c, spec := rec.GetClaim(), rec.GetVm().GetSpec()
	return c != nil && c.GetVcpus() >= spec.GetCpu().GetVcpus() && c.GetMemoryBytes() >= spec.GetMemoryBytes()
}

package domain_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

func goodPort() *networkv1.Port {
	return &networkv1.Port{
		Meta: domain.NewMeta("018f0000-0000-7000-8000-000000000002", "web", "default", nil, nil),
		Spec: &networkv1.PortSpec{
			NetworkId: "front", Mac: "52:54:00:00:00:07", IpAddresses: []string{"10.4.0.7", "fd00:4::7"}, SecurityGroupIds: []string{"web", "018f0000-0000-7000-8000-000000000003"},
			ExtraAddresses: []string{"10.4.0.100", "10.8.0.0/24", "0.0.0.0/0", "fd00::/8"}, Hostname: "0web", TrunkVlanIds: []uint32{1, 4094},
			Qos: &networkv1.PortQos{IngressBitsPerSecond: 8000, EgressBitsPerSecond: 1_000_000_000_000, BurstBytes: 1 << 30},
		},
	}
}

// Every way to be wrong is refused under the name of its field, and the good port is not.
func TestValidatePort(t *testing.T) {
	t.Parallel()
	type port = networkv1.Port
	for name, c := range map[string]struct {
		field string
		spoil func(*port)
	}{
		"good":                {"", func(*port) {}},
		"nothing at all":      {"", func(p *port) { p.Spec = &networkv1.PortSpec{} }},
		"name":                {"port.meta.name", func(p *port) { p.Meta.Name = "" }},
		"multicast MAC":       {"port.spec.mac", func(p *port) { p.Spec.Mac = "01:00:5e:00:00:01" }},
		"broadcast MAC":       {"port.spec.mac", func(p *port) { p.Spec.Mac = "ff:ff:ff:ff:ff:ff" }},
		"zero MAC":            {"port.spec.mac", func(p *port) { p.Spec.Mac = "00:00:00:00:00:00" }},
		"MAC in upper case":   {"port.spec.mac", func(p *port) { p.Spec.Mac = "52:54:00:AA:00:01" }},
		"MAC of 8 bytes":      {"port.spec.mac", func(p *port) { p.Spec.Mac = "52:54:00:aa:00:01:02:03" }},
		"address of words":    {"port.spec.ip_addresses[0]", func(p *port) { p.Spec.IpAddresses[0] = "ten" }},
		"address with a zone": {"port.spec.ip_addresses[1]", func(p *port) { p.Spec.IpAddresses[1] = "fe80::1%eth0" }},
		"IPv4 in IPv6":        {"port.spec.ip_addresses[0]", func(p *port) { p.Spec.IpAddresses[0] = "::ffff:10.4.0.7" }},
		"IPv6 written long":   {"port.spec.ip_addresses[1]", func(p *port) { p.Spec.IpAddresses[1] = "fd00:4:0::7" }},
		"two of IPv4":         {"port.spec.ip_addresses[1]", func(p *port) { p.Spec.IpAddresses[1] = "10.4.0.8" }},
		"33 groups":           {"port.spec.security_group_ids", func(p *port) { p.Spec.SecurityGroupIds = make([]string, 33) }},
		"group of no name":    {"port.spec.security_group_ids[0]", func(p *port) { p.Spec.SecurityGroupIds[0] = "../x" }},
		"17 extra addresses":  {"port.spec.extra_addresses", func(p *port) { p.Spec.ExtraAddresses = make([]string, 17) }},
		"extra twice":         {"port.spec.extra_addresses[1]", func(p *port) { p.Spec.ExtraAddresses[1] = "10.4.0.100" }},
		"extra with bits":     {"port.spec.extra_addresses[1]", func(p *port) { p.Spec.ExtraAddresses[1] = "10.8.0.1/24" }},
		"extra of multicast":  {"port.spec.extra_addresses[0]", func(p *port) { p.Spec.ExtraAddresses[0] = "224.0.0.1" }},
		"newline in a name":   {"port.spec.hostname", func(p *port) { p.Spec.Hostname = "a\nb" }},
		"a name of two parts": {"port.spec.hostname", func(p *port) { p.Spec.Hostname = "a.b" }},
		"a long name":         {"port.spec.hostname", func(p *port) { p.Spec.Hostname = strings.Repeat("a", 64) }},
		"negative rate":       {"port.spec.qos.ingress_bits_per_second", func(p *port) { p.Spec.Qos.IngressBitsPerSecond = -1 }},
		"a rate of nothing":   {"port.spec.qos.egress_bits_per_second", func(p *port) { p.Spec.Qos.EgressBitsPerSecond = 7999 }},
		"a great burst":       {"port.spec.qos.burst_bytes", func(p *port) { p.Spec.Qos.BurstBytes = 1<<30 + 1 }},
		"tag 0":               {"port.spec.trunk_vlan_ids[0]", func(p *port) { p.Spec.TrunkVlanIds[0] = 0 }},
		"tag 4095":            {"port.spec.trunk_vlan_ids[1]", func(p *port) { p.Spec.TrunkVlanIds[1] = 4095 }},
		"tag twice":           {"port.spec.trunk_vlan_ids[1]", func(p *port) { p.Spec.TrunkVlanIds[1] = 1 }},
	} {
		t.Run(name, func(t *testing.T) {
			p := goodPort()
			c.spoil(p)
			var v domain.Violations
			domain.ValidatePort(&v, p)
			if c.field == "" {
				if len(v) > 0 {
					t.Fatalf("it is refused: %v", v)
				}
				return
			}
			if !slices.ContainsFunc(v, func(x fault.Violation) bool { return x.Field == c.field && x.Description != "" }) {
				t.Fatalf("violations are %v", v)
			}
		})
	}
}

const portID, vmID = "018f0000-0000-7000-8000-000000000002", "018f0000-0000-7000-8000-000000000009"

// bound is a port that is up on node n1 as NIC eth0 of a VM that is placed there; owned says that it lives and dies with it.
func bound(owned bool) (*statev1.PortRecord, *statev1.VMRecord) {
	rec := &statev1.PortRecord{Port: goodPort()}
	rec.Port.Status = &networkv1.PortStatus{IpAddresses: []string{"10.4.0.7"}, Mac: "52:54:00:00:00:07"}
	if owned {
		rec.OwnerVmId, rec.Port.Status.OwnerVmId = vmID, vmID
	}
	domain.BindPort(rec, vmID, "eth0", "n1", 4)
	vm := &statev1.VMRecord{
		Vm:       &computev1.VM{Meta: domain.NewMeta(vmID, "vm", "default", nil, nil), Status: &computev1.VMStatus{VmPlacement: &computev1.VMPlacement{NodeId: "n1", Epoch: 4}}},
		NicPorts: []*statev1.NicPort{{NicName: "eth0", PortId: portID}},
	}
	return rec, vm
}

// When a node has let go of a port: who loses it keeps nothing, who waits keeps its addresses, and who is wanted stays.
func TestPortLeft(t *testing.T) {
	t.Parallel()
	deleteVM := func(vm *statev1.VMRecord) { vm.Vm.Meta.DeleteTime = timestamppb.New(time.Unix(1, 0)) }
	for name, c := range map[string]struct {
		owned  bool
		change func(rec *statev1.PortRecord, vm *statev1.VMRecord)
		noVM   bool
		remove bool
		same   bool
		vm     string // of the binding afterwards
	}{
		"wanted":                         {owned: true, same: true},
		"own, VM is being deleted":       {owned: true, change: func(_ *statev1.PortRecord, vm *statev1.VMRecord) { deleteVM(vm) }, vm: vmID},
		"own, VM is gone":                {owned: true, noVM: true, remove: true},
		"own, NIC is taken out":          {owned: true, change: func(_ *statev1.PortRecord, vm *statev1.VMRecord) { vm.NicPorts = nil }, remove: true},
		"own, VM lies elsewhere":         {owned: true, change: func(_ *statev1.PortRecord, vm *statev1.VMRecord) { vm.Vm.Status.VmPlacement.NodeId = "n2" }, vm: vmID},
		"own, VM has another epoch":      {owned: true, change: func(_ *statev1.PortRecord, vm *statev1.VMRecord) { vm.Vm.Status.VmPlacement.Epoch = 5 }, vm: vmID},
		"another's, wanted":              {same: true},
		"another's, VM is being deleted": {change: func(_ *statev1.PortRecord, vm *statev1.VMRecord) { deleteVM(vm) }},
		"another's, VM is gone":          {noVM: true},
		"another's, NIC is taken out":    {change: func(_ *statev1.PortRecord, vm *statev1.VMRecord) { vm.NicPorts = nil }},
		"another's, is being deleted": {change: func(rec *statev1.PortRecord, vm *statev1.VMRecord) {
			vm.NicPorts = nil
			rec.Port.Meta.DeleteTime = timestamppb.New(time.Unix(1, 0))
		}, remove: true},
		"another's, on no node any more": {change: func(rec *statev1.PortRecord, _ *statev1.VMRecord) { domain.UnplacePort(rec) }, same: true},
		"another's, VM is to be placed":  {change: func(_ *statev1.PortRecord, vm *statev1.VMRecord) { vm.Vm.Status.VmPlacement = nil }, vm: vmID},
		"own, being deleted, VM is placed": {owned: true, change: func(rec *statev1.PortRecord, _ *statev1.VMRecord) {
			rec.Port.Meta.DeleteTime = timestamppb.New(time.Unix(1, 0))
		}, remove: true},
	} {
		rec, vm := bound(c.owned)
		if c.change != nil {
			c.change(rec, vm)
		}
		if c.noVM {
			vm = nil
		}
		before := proto.CloneOf(rec)
		next, remove := domain.PortLeft(rec, vm)
		b := next.GetPort().GetStatus().GetBinding()
		switch {
		case !proto.Equal(before, rec):
			t.Errorf("%s: the input was changed", name)
		case remove != c.remove || c.same != (next == rec):
			t.Errorf("%s: removed %v, same %v", name, remove, next == rec)
		case !remove && !c.same && (b.GetVmId() != c.vm || b.GetNodeId() != "" || next.GetPort().GetStatus().GetPhase() != networkv1.PortPhase_PORT_PHASE_IDLE || len(next.GetPort().GetStatus().GetIpAddresses()) != 1):
			t.Errorf("%s: %v", name, next)
		}
	}
}

// A report counts for its epoch alone, and changes what is the node's to say, not what is ours.
func TestNextPortStatus(t *testing.T) {
	t.Parallel()
	rec, _ := bound(true)
	rep := &agentv1.PortReport{PortId: portID, Epoch: 4, ObservedGeneration: 9, Status: &networkv1.PortStatus{
		Phase: networkv1.PortPhase_PORT_PHASE_UP, IpAddresses: []string{"10.9.9.9"}, Mac: "52:54:00:00:00:99", OwnerVmId: "x",
		Binding: &networkv1.PortBinding{VmId: "x", NodeId: "x", Device: "tap7"}, ObservedAddresses: []*networkv1.ObservedAddress{{IpAddress: "10.4.0.7"}},
	}}
	old := proto.CloneOf(rep)
	old.Epoch = 3
	if domain.NextPortStatus(rec, old) != rec {
		t.Error("an older epoch counts")
	}
	next := domain.NextPortStatus(rec, rep)
	st := next.GetPort().GetStatus()
	if st.GetPhase() != networkv1.PortPhase_PORT_PHASE_UP || st.GetBinding().GetDevice() != "tap7" || st.GetBinding().GetNodeId() != "n1" || st.GetBinding().GetVmId() != vmID ||
		st.GetMac() != "52:54:00:00:00:07" || st.GetIpAddresses()[0] != "10.4.0.7" || st.GetOwnerVmId() != vmID || st.GetObservedGeneration() != 1 || len(st.GetObservedAddresses()) != 1 {
		t.Errorf("status is %v", st)
	}
	leaving := proto.CloneOf(rep)
	leaving.Status.Phase = networkv1.PortPhase_PORT_PHASE_DELETING
	if domain.NextPortStatus(next, leaving) != next {
		t.Error("a port that leaves its node counts as one that is being deleted")
	}
	if domain.NextPortStatus(next, rep) != next {
		t.Error("the same again is news")
	}
}

func TestPortOutcome(t *testing.T) {
	t.Parallel()
	const running, done, superseded = operationv1.OperationState_OPERATION_STATE_RUNNING, operationv1.OperationState_OPERATION_STATE_DONE, operationv1.OperationState_OPERATION_STATE_SUPERSEDED
	up := func(rec *statev1.PortRecord) {
		rec.Port.Status.Phase, rec.Port.Status.ObservedGeneration = networkv1.PortPhase_PORT_PHASE_UP, 1
	}
	for name, c := range map[string]struct {
		verb   string
		change func(*statev1.PortRecord)
		gone   bool
		want   operationv1.OperationState
	}{
		"on its way":       {domain.VerbUpdatePort, func(*statev1.PortRecord) {}, false, running},
		"up":               {domain.VerbUpdatePort, up, false, done},
		"up, an older one": {domain.VerbSetSecurityGroups, func(rec *statev1.PortRecord) { up(rec); rec.Port.Status.ObservedGeneration = 0 }, false, running},
		"blocked":          {domain.VerbUpdatePort, func(rec *statev1.PortRecord) { up(rec); rec.Port.Status.Phase = networkv1.PortPhase_PORT_PHASE_BLOCKED }, false, running},
		"shut as asked": {domain.VerbUpdatePort, func(rec *statev1.PortRecord) {
			up(rec)
			rec.Port.Status.Phase = networkv1.PortPhase_PORT_PHASE_BLOCKED
			rec.Port.Spec.LinkDown = true
		}, false, done},
		"on no node":             {domain.VerbUpdatePort, domain.FreePort, false, done},
		"gone":                   {domain.VerbDeletePort, func(*statev1.PortRecord) {}, true, done},
		"gone while it changed":  {domain.VerbUpdatePort, func(*statev1.PortRecord) {}, true, superseded},
		"on its way to be gone":  {domain.VerbDeletePort, domain.FreePort, false, running},
		"deleted while changing": {domain.VerbUpdatePort, func(rec *statev1.PortRecord) { rec.Port.Meta.DeleteTime = timestamppb.New(time.Unix(1, 0)) }, false, superseded},
	} {
		rec, _ := bound(false)
		c.change(rec)
		if c.gone {
			rec = nil
		}
		op := &operationv1.Operation{Verb: c.verb, Generation: 1, State: running}
		if got := domain.PortOutcome(op, rec).State; got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestNetworkOutcome(t *testing.T) {
	t.Parallel()
	const running, done, failed = operationv1.OperationState_OPERATION_STATE_RUNNING, operationv1.OperationState_OPERATION_STATE_DONE, operationv1.OperationState_OPERATION_STATE_FAILED
	node := func(id string, health networkv1.NetworkHealth, generation int64) *networkv1.NetworkNodeStatus {
		return &networkv1.NetworkNodeStatus{NodeId: id, NodeName: id, Health: health, ObservedGeneration: generation, Mtu: uint32(1500 - 50*generation)}
	}
	healthy, bad := networkv1.NetworkHealth_NETWORK_HEALTH_HEALTHY, networkv1.NetworkHealth_NETWORK_HEALTH_UNHEALTHY
	for name, c := range map[string]struct {
		nodes []*networkv1.NetworkNodeStatus
		needs []string
		want  operationv1.OperationState
		phase networkv1.NetworkPhase
	}{
		"nobody has it":        {nil, nil, done, networkv1.NetworkPhase_NETWORK_PHASE_PENDING},
		"nobody has it yet":    {nil, []string{"a"}, running, networkv1.NetworkPhase_NETWORK_PHASE_PENDING},
		"all have it":          {[]*networkv1.NetworkNodeStatus{node("a", healthy, 2), node("b", healthy, 2)}, []string{"a", "b"}, done, networkv1.NetworkPhase_NETWORK_PHASE_READY},
		"one has not":          {[]*networkv1.NetworkNodeStatus{node("a", healthy, 2), node("b", healthy, 1)}, []string{"a", "b"}, running, networkv1.NetworkPhase_NETWORK_PHASE_READY},
		"one that is unheard":  {[]*networkv1.NetworkNodeStatus{node("a", healthy, 2), node("b", healthy, 1)}, []string{"a"}, done, networkv1.NetworkPhase_NETWORK_PHASE_READY},
		"right on one of them": {[]*networkv1.NetworkNodeStatus{node("a", healthy, 2), node("b", bad, 2)}, []string{"a", "b"}, done, networkv1.NetworkPhase_NETWORK_PHASE_DEGRADED},
		"right on none":        {[]*networkv1.NetworkNodeStatus{node("a", bad, 2)}, []string{"a"}, failed, networkv1.NetworkPhase_NETWORK_PHASE_FAILED},
	} {
		n := goodNetwork()
		n.Meta.Generation, n.Spec.Mtu = 2, 0
		for _, s := range c.nodes {
			domain.SetNetworkNode(n, s.GetNodeId(), s)
		}
		domain.SettleNetwork(n)
		op := &operationv1.Operation{Verb: domain.VerbUpdateNetwork, Generation: 2, State: running}
		if got := domain.NetworkOutcome(op, &statev1.NetworkRecord{Network: n}, c.needs); got.State != c.want {
			t.Errorf("%s: %v", name, got)
		}
		if n.Status.Phase != c.phase {
			t.Errorf("%s: phase %v", name, n.Status.Phase)
		}
	}
}

package together_test

import (
	"context"
	"slices"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

func (r *rig) held(network, address string) string {
	return r.Cache.Holder(state.AddressKey(network, address))
}

func wantFault(t testing.TB, err error, reason metav1.Reason, field string) {
	t.Helper()
	f := fault.From(err)
	if !fault.Is(err, reason) || field != "" && !slices.ContainsFunc(f.Violations, func(v fault.Violation) bool { return v.Field == field }) {
		t.Errorf("error is %v %v, want %v on %s", err, f.Violations, reason, field)
	}
}

// A NIC that names nothing is in the project's default network and group, which are made with the first; its port lives and dies with the VM, and its address is free when the
// node has let go of it, not before.
func TestPortsOfVMs(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a := r.join("n1", 8, 1<<34)
	made := r.mustCreate("web", &computev1.VMSpec{MemoryBytes: 1 << 30, Nics: []*computev1.NIC{in("eth0", &computev1.NetworkAttachment{})}})
	vm := made.GetVm()
	id, nic := vm.GetMeta().GetId(), vm.GetStatus().GetNics()[0]
	if nic.GetPortId() == "" || len(nic.GetIpAddresses()) != 1 || nic.GetMac() != vm.GetSpec().GetNics()[0].GetMac() || vm.GetSpec().GetNics()[0].GetNetwork().GetNetwork() != "default" {
		t.Fatalf("made with %v", vm)
	}
	r.done(made.GetOperation().GetId())
	r.until("the port is up", func() bool {
		return r.port(nic.GetPortId()).GetStatus().GetPhase() == networkv1.PortPhase_PORT_PHASE_UP && r.vm(id).GetStatus().GetNics()[0].GetDevice() == "tap0"
	})
	p := r.port(nic.GetPortId())
	at := r.vm(id).GetStatus().GetVmPlacement()
	if b := p.GetStatus().GetBinding(); b.GetVmId() != id || b.GetNicName() != "eth0" || b.GetNodeId() != a.id || b.GetEpoch() != at.GetEpoch() || b.GetMode() != networkv1.PortBindingMode_PORT_BINDING_MODE_SINGLE {
		t.Errorf("bound as %v", b)
	}
	if p.GetMeta().GetName() != "eth0" || p.GetStatus().GetOwnerVmId() != id || len(p.GetSpec().GetSecurityGroupIds()) != 1 || p.GetStatus().GetMac() != nic.GetMac() {
		t.Errorf("port is %v", p)
	}
	r.until("the network is ready", func() bool {
		return r.network("default").GetStatus().GetPhase() == networkv1.NetworkPhase_NETWORK_PHASE_READY
	})
	net := r.network("default")
	if st := net.GetStatus(); st.GetPortCount() != 1 || st.GetPhase() != networkv1.NetworkPhase_NETWORK_PHASE_READY || st.GetSubnets()[0].GetGateway() != "10.64.0.1" ||
		st.GetSubnets()[0].GetUsedAddresses() != 1 || st.GetSubnets()[0].GetFreeAddresses() != 1020 || st.GetMtu() != 1500 {
		t.Errorf("network is %v", net)
	}
	if err := r.deleteNetwork("default"); !fault.Is(err, metav1.Reason_REASON_WRONG_STATE) {
		t.Errorf("deleted with a port in it: %v", err)
	}
	if _, err := r.Port.DeletePort(context.Background(), connect.NewRequest(&networkv1.DeletePortRequest{Id: nic.GetPortId()})); !fault.Is(err, metav1.Reason_REASON_WRONG_STATE) {
		t.Errorf("deleted while a VM uses it: %v", err)
	}
	address := nic.GetIpAddresses()[0]
	a.set(func(a *fakeAgent) { a.frozen = true })
	gone, err := r.VM.DeleteVM(context.Background(), connect.NewRequest(&computev1.DeleteVMRequest{Id: id}))
	if err != nil {
		t.Fatal(err)
	}
	r.until("the agent is told of both", func() bool {
		return a.port(nic.GetPortId()).GetAbsent() && a.known(id).GetAbsent()
	})
	if r.held(net.GetMeta().GetId(), address) != nic.GetPortId() {
		t.Error("the address is free before the node let go of it")
	}
	vmGone := answer(objectOf(a.known(id)))
	a.report(a.ctx, vmGone) // first the VM, then its port
	r.until("it has left the node", func() bool { return r.vm(id).GetStatus().GetVmPlacement() == nil })
	if r.held(net.GetMeta().GetId(), address) == "" || r.vm(id) == nil {
		t.Error("VM or address are gone before the port is")
	}
	a.report(a.ctx, answer(portObject(a.port(nic.GetPortId()))))
	r.done(gone.Msg.GetOperation().GetId())
	if r.port(nic.GetPortId()) != nil || r.held(net.GetMeta().GetId(), address) != "" || r.Cache.Holder(state.MACKey(net.GetMeta().GetId(), nic.GetMac())) != "" {
		t.Error("something is left of the port")
	}
	a.set(func(a *fakeAgent) { a.frozen = false })
	if err := r.deleteNetwork("default"); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) deleteNetwork(id string) error {
	_, err := r.Network.DeleteNetwork(context.Background(), connect.NewRequest(&networkv1.DeleteNetworkRequest{Id: id}))
	return err
}

func (r *rig) updateNICs(id string, nics ...*computev1.NIC) (*computev1.UpdateVMResponse, error) {
	resp, err := r.VM.UpdateVM(context.Background(), connect.NewRequest(&computev1.UpdateVMRequest{
		Vm: &computev1.VM{Meta: &metav1.ObjectMeta{Id: id}, Spec: &computev1.VMSpec{Nics: nics}}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"spec.nics"}},
	}))
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

// NICs come and go while the VM runs: a port that stood by itself is free again afterwards, one that was made for the NIC is gone.
func TestNICsComeAndGo(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	r.join("n1", 8, 1<<34)
	r.mustNetwork("back", "10.1.0.0/24", "fd00:1::/64")
	own := r.mustPort("own", &networkv1.PortSpec{NetworkId: "back", IpAddresses: []string{"10.1.0.9"}})
	if got := own.GetStatus(); got.GetPhase() != networkv1.PortPhase_PORT_PHASE_IDLE || len(got.GetIpAddresses()) != 2 || got.GetIpAddresses()[0] != "10.1.0.9" {
		t.Fatalf("port is %v", own)
	}
	made := r.mustCreate("web", &computev1.VMSpec{MemoryBytes: 1 << 30})
	r.done(made.GetOperation().GetId())
	id := made.GetVm().GetMeta().GetId()
	eth0, eth1 := in("eth0", &computev1.NetworkAttachment{Network: "back"}), in("eth1", &computev1.NetworkAttachment{Port: "own"})
	up, err := r.updateNICs(id, eth0, eth1)
	if err != nil {
		t.Fatal(err)
	}
	nics := up.GetVm().GetStatus().GetNics()
	if len(nics) != 2 || nics[1].GetPortId() != own.GetMeta().GetId() || nics[1].GetMac() != own.GetSpec().GetMac() || len(nics[0].GetIpAddresses()) != 2 {
		t.Fatalf("NICs are %v", nics)
	}
	r.done(up.GetOperation().GetId())
	r.until("both are up", func() bool {
		return r.port(nics[0].GetPortId()).GetStatus().GetPhase() == networkv1.PortPhase_PORT_PHASE_UP && r.port(own.GetMeta().GetId()).GetStatus().GetPhase() == networkv1.PortPhase_PORT_PHASE_UP
	})
	_, err = r.create(&computev1.CreateVMRequest{Vm: &computev1.VM{Meta: &metav1.ObjectMeta{Name: "other"}, Spec: &computev1.VMSpec{MemoryBytes: 1 << 30, Nics: []*computev1.NIC{in("e", &computev1.NetworkAttachment{Port: "own"})}}}})
	wantFault(t, err, metav1.Reason_REASON_INVALID_FIELD, "vm.spec.nics[0].network.port")
	if _, err = r.updateNICs(id, in("eth0", &computev1.NetworkAttachment{})); err == nil {
		t.Error("a NIC changed its network")
	}
	// The same again is no change, whichever way the network is called.
	again, err := r.updateNICs(id, in("eth0", &computev1.NetworkAttachment{Network: r.network("back").GetMeta().GetId()}), eth1)
	if err != nil {
		t.Fatal(err)
	}
	if n := again.GetVm().GetStatus().GetNics(); n[0].GetPortId() != nics[0].GetPortId() || n[0].GetMac() != nics[0].GetMac() {
		t.Errorf("NICs are %v, were %v", n, nics)
	}
	down, err := r.updateNICs(id)
	if err != nil {
		t.Fatal(err)
	}
	r.done(down.GetOperation().GetId())
	r.until("one is free, the other gone", func() bool {
		return r.port(nics[0].GetPortId()) == nil && r.port(own.GetMeta().GetId()).GetStatus().GetBinding() == nil
	})
	if got := r.port(own.GetMeta().GetId()).GetStatus(); got.GetPhase() != networkv1.PortPhase_PORT_PHASE_IDLE || !slices.Equal(got.GetIpAddresses(), own.GetStatus().GetIpAddresses()) {
		t.Errorf("the port that stands by itself is %v", got)
	}
	if _, err := r.Port.DeletePort(context.Background(), connect.NewRequest(&networkv1.DeletePortRequest{Id: "own"})); err != nil {
		t.Fatal(err)
	}
	r.until("it is gone", func() bool { return r.port(own.GetMeta().GetId()) == nil })
	r.until("no node has the network", func() bool { return len(r.network("back").GetStatus().GetNodes()) == 0 })
}

// A fenced node loses its ports: those of VMs go where the VMs go, with the addresses that they had.
func TestPortsOfFencedNodes(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a := r.join("n1", 8, 1<<34)
	made := r.mustCreate("web", &computev1.VMSpec{MemoryBytes: 1 << 30, Nics: []*computev1.NIC{in("eth0", &computev1.NetworkAttachment{})}})
	r.done(made.GetOperation().GetId())
	port := made.GetVm().GetStatus().GetNics()[0]
	a.stop()
	if _, err := r.Node.DeleteNode(context.Background(), connect.NewRequest(&computev1.DeleteNodeRequest{Id: a.id, Force: true})); err != nil {
		t.Fatal(err)
	}
	r.until("it is on no node", func() bool {
		b := r.port(port.GetPortId()).GetStatus().GetBinding()
		return b.GetNodeId() == "" && b.GetVmId() == made.GetVm().GetMeta().GetId()
	})
	r.until("the network is on no node", func() bool { return len(r.network("default").GetStatus().GetNodes()) == 0 })
	b := r.join("n2", 8, 1<<34)
	r.until("it is up elsewhere", func() bool {
		st := r.port(port.GetPortId()).GetStatus()
		return st.GetBinding().GetNodeId() == b.id && st.GetPhase() == networkv1.PortPhase_PORT_PHASE_UP && slices.Equal(st.GetIpAddresses(), port.GetIpAddresses())
	})
}

// Groups of a NIC change while its VM runs, by the VM's spec or by the port itself; an update that does not name them leaves the port's as they are.
func TestGroupsOfNICs(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	r.join("n1", 8, 1<<34)
	web, db := r.newGroup("web").GetMeta().GetId(), r.newGroup("db").GetMeta().GetId()
	made := r.mustCreate("vm", &computev1.VMSpec{MemoryBytes: 1 << 30, Nics: []*computev1.NIC{in("e", &computev1.NetworkAttachment{SecurityGroups: []string{"web"}})}})
	r.done(made.GetOperation().GetId())
	id, port := made.GetVm().GetMeta().GetId(), made.GetVm().GetStatus().GetNics()[0].GetPortId()
	has := func(want ...string) {
		t.Helper()
		if got := r.port(port).GetSpec().GetSecurityGroupIds(); !slices.Equal(got, want) {
			t.Errorf("groups are %v, want %v", got, want)
		}
	}
	has(web)
	up, err := r.updateNICs(id, in("e", &computev1.NetworkAttachment{SecurityGroups: []string{"db", web}}))
	if err != nil {
		t.Fatal(err)
	}
	has(db, web)
	r.done(up.GetOperation().GetId())
	r.until("they are in force", func() bool {
		p := r.port(port)
		return p.GetStatus().GetObservedGeneration() == 2 && p.GetMeta().GetGeneration() == 2
	})
	set, err := r.Port.SetSecurityGroups(context.Background(), connect.NewRequest(&networkv1.SetSecurityGroupsRequest{Id: port, SecurityGroupIds: []string{"web"}}))
	if err != nil {
		t.Fatal(err)
	}
	r.done(set.Msg.GetOperation().GetId())
	has(web)
	again, err := r.Port.SetSecurityGroups(context.Background(), connect.NewRequest(&networkv1.SetSecurityGroupsRequest{Id: port, SecurityGroupIds: []string{web}}))
	if err != nil || again.Msg.GetPort().GetMeta().GetGeneration() != 3 {
		t.Errorf("the same again: %v, %v", again, err)
	}
	if _, err := r.updateNICs(id, in("e", &computev1.NetworkAttachment{SecurityGroups: []string{"db", web}})); err != nil {
		t.Fatal(err)
	}
	has(web)
	if _, err := r.updateNICs(id, in("e", &computev1.NetworkAttachment{})); err != nil {
		t.Fatal(err)
	}
	has(r.Cache.ByName("default", state.KindSecurityGroup, "default"))
	_, err = r.updateNICs(id, in("e", &computev1.NetworkAttachment{SecurityGroups: []string{"nobody"}}))
	wantFault(t, err, metav1.Reason_REASON_INVALID_FIELD, "vm.spec.nics[0].network.security_groups[0]")
	ports, err := r.Port.ListPorts(context.Background(), connect.NewRequest(&networkv1.ListPortsRequest{Vm: id, Network: "default", Node: "n1", SecurityGroup: r.Cache.ByName("default", state.KindSecurityGroup, "default")}))
	if err != nil || len(ports.Msg.GetPorts()) != 1 || ports.Msg.GetPorts()[0].GetMeta().GetId() != port {
		t.Errorf("list by everything is %v, %v", ports, err)
	}
	ports, err = r.Port.ListPorts(context.Background(), connect.NewRequest(&networkv1.ListPortsRequest{Network: "default", SecurityGroup: db}))
	if err != nil || len(ports.Msg.GetPorts()) != 0 {
		t.Errorf("list by another group is %v, %v", ports, err)
	}
}

// A request that comes again changes nothing, and a stale etag is refused.
func TestPortsOnceAndByEtag(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	req := &networkv1.CreatePortRequest{RequestId: "one", Port: &networkv1.Port{Meta: &metav1.ObjectMeta{Name: "p"}, Spec: &networkv1.PortSpec{Hostname: "web", DeleteProtection: true}}}
	first, err := r.Port.CreatePort(context.Background(), connect.NewRequest(req))
	if err != nil {
		t.Fatal(err)
	}
	second, err := r.Port.CreatePort(context.Background(), connect.NewRequest(req))
	if err != nil || second.Msg.GetPort().GetMeta().GetId() != first.Msg.GetPort().GetMeta().GetId() || second.Msg.GetPort().GetStatus().GetIpAddresses()[0] != first.Msg.GetPort().GetStatus().GetIpAddresses()[0] {
		t.Fatalf("again: %v, %v", second, err)
	}
	_, err = r.createPort("p", nil)
	wantFault(t, err, metav1.Reason_REASON_NAME_TAKEN, "")
	_, err = r.Port.DeletePort(context.Background(), connect.NewRequest(&networkv1.DeletePortRequest{Id: "p"}))
	wantFault(t, err, metav1.Reason_REASON_WRONG_STATE, "")
	up, err := r.updatePort("p", &networkv1.PortSpec{}, "spec.delete_protection")
	if err != nil || up.GetPort().GetMeta().GetGeneration() != 1 {
		t.Fatalf("%v, %v", up, err)
	}
	_, err = r.Port.SetSecurityGroups(context.Background(), connect.NewRequest(&networkv1.SetSecurityGroupsRequest{Id: "p", Etag: first.Msg.GetPort().GetMeta().GetEtag()}))
	wantFault(t, err, metav1.Reason_REASON_STALE_ETAG, "")
	if _, err = r.updatePort("p", &networkv1.PortSpec{Qos: &networkv1.PortQos{EgressBitsPerSecond: 1e6}}, "spec.qos.egress_bits_per_second"); err != nil {
		t.Error(err)
	}
	if got := r.port(first.Msg.GetPort().GetMeta().GetId()).GetSpec(); got.GetQos().GetEgressBitsPerSecond() != 1e6 || got.GetHostname() != "web" {
		t.Errorf("spec is %v", got)
	}
	gone, err := r.Port.DeletePort(context.Background(), connect.NewRequest(&networkv1.DeletePortRequest{Id: "p"}))
	if err != nil {
		t.Fatal(err)
	}
	r.mustPort("p", nil) // the name is free at once
	r.done(gone.Msg.GetOperation().GetId())
	if _, err = r.Port.DeletePort(context.Background(), connect.NewRequest(&networkv1.DeletePortRequest{Id: first.Msg.GetPort().GetMeta().GetId()})); err != nil {
		t.Errorf("gone already: %v", err)
	}
	if err := r.deleteNetwork("default"); !fault.Is(err, metav1.Reason_REASON_WRONG_STATE) {
		t.Errorf("deleted with a port in it: %v", err)
	}
}

// A VM that never had a place goes with its ports, and lets go of the one that was not its own; so does one whose node was declared off while a NIC was being taken out.
func TestPortsOfVMsWithoutPlace(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	own := r.mustPort("own", nil)
	two := []*computev1.NIC{in("a", &computev1.NetworkAttachment{}), in("b", &computev1.NetworkAttachment{Port: "own"})}
	vm := r.mustCreate("vm", &computev1.VMSpec{MemoryBytes: 1 << 30, Nics: two}).GetVm()
	gone, err := r.VM.DeleteVM(context.Background(), connect.NewRequest(&computev1.DeleteVMRequest{Id: "vm"}))
	if err != nil {
		t.Fatal(err)
	}
	r.done(gone.Msg.GetOperation().GetId())
	free := func(nics []*computev1.NICStatus) bool {
		net := r.network("default").GetMeta().GetId()
		return r.port(nics[0].GetPortId()) == nil && r.held(net, nics[0].GetIpAddresses()[0]) == "" && r.port(own.GetMeta().GetId()).GetStatus().GetBinding() == nil &&
			r.held(net, own.GetStatus().GetIpAddresses()[0]) == own.GetMeta().GetId()
	}
	if !free(vm.GetStatus().GetNics()) {
		t.Error("something is left of the ports, or too little")
	}

	a := r.join("n1", 8, 1<<34)
	made := r.mustCreate("vm", &computev1.VMSpec{MemoryBytes: 1 << 30, Nics: two})
	r.done(made.GetOperation().GetId())
	a.stop()
	if _, err := r.updateNICs(made.GetVm().GetMeta().GetId()); err != nil {
		t.Fatal(err)
	}
	if free(made.GetVm().GetStatus().GetNics()) {
		t.Error("the ports are free though no node said so")
	}
	if _, err := r.Node.DeleteNode(context.Background(), connect.NewRequest(&computev1.DeleteNodeRequest{Id: a.id, Force: true})); err != nil {
		t.Fatal(err)
	}
	r.until("the ports are free", func() bool { return free(made.GetVm().GetStatus().GetNics()) })
}

package together_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
)

func (r *rig) updateNetwork(id string, spec *networkv1.NetworkSpec, paths ...string) (*networkv1.UpdateNetworkResponse, error) {
	resp, err := r.Network.UpdateNetwork(context.Background(), connect.NewRequest(&networkv1.UpdateNetworkRequest{
		Network: &networkv1.Network{Meta: &metav1.ObjectMeta{Name: id}, Spec: spec}, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths},
	}))
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

func (r *rig) updatePort(id string, spec *networkv1.PortSpec, paths ...string) (*networkv1.UpdatePortResponse, error) {
	resp, err := r.Port.UpdatePort(context.Background(), connect.NewRequest(&networkv1.UpdatePortRequest{
		Port: &networkv1.Port{Meta: &metav1.ObjectMeta{Name: id}, Spec: spec}, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths},
	}))
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

// Addresses and MAC addresses that are asked for are given once; what is refused names its field; what a port holds an update of its network does not take.
func TestAddressesAskedFor(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	const mac = "52:54:00:00:00:01"
	sub := func() *networkv1.Subnet {
		return &networkv1.Subnet{Cidr: "10.5.0.0/24", Ranges: []*networkv1.AddressRange{{First: "10.5.0.10", Last: "10.5.0.19"}}, Reservations: []*networkv1.AddressReservation{
			{IpAddress: "10.5.0.10", Mac: mac}, {IpAddress: "10.5.0.11"},
		}}
	}
	net, err := r.createNetwork("front", &networkv1.NetworkSpec{Subnets: []*networkv1.Subnet{sub()}})
	if err != nil {
		t.Fatal(err)
	}
	if got := r.mustPort("mine", &networkv1.PortSpec{NetworkId: "front", Mac: mac}).GetStatus(); got.GetIpAddresses()[0] != "10.5.0.10" || got.GetMac() != mac {
		t.Errorf("the one with a reservation has %v", got)
	}
	for field, spec := range map[string]*networkv1.PortSpec{
		"port.spec.mac":                   {NetworkId: "front", Mac: mac},
		"port.spec.ip_addresses[0]":       {NetworkId: "front", IpAddresses: []string{"10.5.0.10"}},
		"port.spec.ip_addresses[0]:out":   {NetworkId: "front", IpAddresses: []string{"10.6.0.1"}},
		"port.spec.ip_addresses[0]:gw":    {NetworkId: "front", IpAddresses: []string{"10.5.0.1"}},
		"port.spec.network_id":            {NetworkId: "nowhere"},
		"port.spec.security_group_ids[0]": {NetworkId: "front", SecurityGroupIds: []string{"nobody"}},
	} {
		field, which, _ := strings.Cut(field, ":")
		reason := map[string]metav1.Reason{"port.spec.mac": metav1.Reason_REASON_NAME_TAKEN, "port.spec.network_id": metav1.Reason_REASON_NETWORK_NOT_FOUND}[field]
		if reason == 0 {
			reason = metav1.Reason_REASON_INVALID_FIELD
		}
		_, err := r.createPort("bad"+which, spec)
		wantFault(t, err, reason, field)
	}
	kept := r.mustPort("kept", &networkv1.PortSpec{NetworkId: "front", IpAddresses: []string{"10.5.0.11"}}) // asked for by name
	outside := r.mustPort("outside", &networkv1.PortSpec{NetworkId: "front", IpAddresses: []string{"10.5.0.200"}})
	_, err = r.createPort("again", &networkv1.PortSpec{NetworkId: "front", IpAddresses: []string{"10.5.0.200"}})
	wantFault(t, err, metav1.Reason_REASON_NAME_TAKEN, "port.spec.ip_addresses[0]")

	next := sub()
	next.Ranges, next.Reservations = []*networkv1.AddressRange{{First: "10.5.0.50", Last: "10.5.0.50"}}, []*networkv1.AddressReservation{{IpAddress: "10.5.0.200"}}
	if _, err := r.updateNetwork("front", &networkv1.NetworkSpec{Subnets: []*networkv1.Subnet{next}}, "spec.subnets"); err != nil {
		t.Fatal(err)
	}
	if got := r.port(outside.GetMeta().GetId()).GetStatus().GetIpAddresses()[0]; got != "10.5.0.200" {
		t.Errorf("a port lost its address: %s", got)
	}
	next.Gateway = "10.5.0.11"
	_, err = r.updateNetwork("front", &networkv1.NetworkSpec{Subnets: []*networkv1.Subnet{next}}, "spec.subnets")
	wantFault(t, err, metav1.Reason_REASON_INVALID_FIELD, "network.spec.subnets[0].gateway")
	next.Gateway, next.Cidr = "", "10.5.0.0/25"
	_, err = r.updateNetwork("front", &networkv1.NetworkSpec{Subnets: []*networkv1.Subnet{next}}, "spec.subnets")
	wantFault(t, err, metav1.Reason_REASON_INVALID_FIELD, "")

	// A port gets another address, and gives its old one back; without one it keeps what it has.
	moved, err := r.updatePort("kept", &networkv1.PortSpec{IpAddresses: []string{"10.5.0.77"}}, "spec.ip_addresses")
	if err != nil {
		t.Fatal(err)
	}
	if got := moved.GetPort(); got.GetStatus().GetIpAddresses()[0] != "10.5.0.77" || got.GetMeta().GetGeneration() != 2 || moved.GetOperation().GetState() != operationv1.OperationState_OPERATION_STATE_DONE {
		t.Errorf("moved to %v, %v", got, moved.GetOperation())
	}
	if id := net.GetMeta().GetId(); r.held(id, "10.5.0.11") != "" || r.held(id, "10.5.0.77") != kept.GetMeta().GetId() {
		t.Error("the keys are not those of its addresses")
	}
	if same, err := r.updatePort("kept", &networkv1.PortSpec{}, "spec.ip_addresses"); err != nil || same.GetPort().GetStatus().GetIpAddresses()[0] != "10.5.0.77" {
		t.Errorf("%v, %v", same, err)
	}
	_, err = r.updatePort("kept", &networkv1.PortSpec{IpAddresses: []string{"10.5.0.200"}}, "spec.ip_addresses")
	wantFault(t, err, metav1.Reason_REASON_NAME_TAKEN, "port.spec.ip_addresses[0]")
	_, err = r.updatePort("kept", &networkv1.PortSpec{Mac: mac}, "spec.mac")
	wantFault(t, err, metav1.Reason_REASON_INVALID_FIELD, "update_mask")
	if st := r.network("front").GetStatus().GetSubnets()[0]; st.GetUsedAddresses() != 3 || st.GetFreeAddresses() != 1 {
		t.Errorf("use is %v", st)
	}
}

// VXLAN network identifiers are one network's alone in the cluster, and free again with it.
func TestVNIs(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	vxlan := func(vni uint32) *networkv1.NetworkSpec {
		return &networkv1.NetworkSpec{Type: networkv1.NetworkType_NETWORK_TYPE_VXLAN, Vni: vni}
	}
	if n, err := r.createNetwork("a", vxlan(77)); err != nil || n.GetStatus().GetVni() != 77 {
		t.Fatal(n, err)
	}
	_, err := r.createNetwork("b", vxlan(77))
	wantFault(t, err, metav1.Reason_REASON_NAME_TAKEN, "network.spec.vni")
	if n, err := r.createNetwork("b", vxlan(0)); err != nil || n.GetStatus().GetVni() == 0 || n.GetSpec().GetVni() != 0 || n.GetStatus().GetVni() == 77 {
		t.Errorf("%v, %v", n, err)
	}
	if err := r.deleteNetwork("a"); err != nil {
		t.Fatal(err)
	}
	r.until("the number is free", func() bool { return r.Cache.Holder(state.VNIKey(77)) == "" })
	if _, err := r.createNetwork("a", vxlan(77)); err != nil {
		t.Error(err)
	}
	resp, err := r.Network.ListNetworks(context.Background(), connect.NewRequest(&networkv1.ListNetworksRequest{Types: []networkv1.NetworkType{networkv1.NetworkType_NETWORK_TYPE_BRIDGE}}))
	if err != nil || len(resp.Msg.GetNetworks()) != 0 {
		t.Errorf("bridges are %v, %v", resp, err)
	}
	resp, err = r.Network.ListNetworks(context.Background(), connect.NewRequest(&networkv1.ListNetworksRequest{Types: []networkv1.NetworkType{networkv1.NetworkType_NETWORK_TYPE_VXLAN}, PageSize: 1}))
	if err != nil || len(resp.Msg.GetNetworks()) != 1 || resp.Msg.GetNextPageToken() == "" {
		t.Errorf("a page of VXLANs is %v, %v", resp, err)
	}
}

// Each project has a default network of its own, whose range no other network of the cluster has.
func TestDefaultNetworksOfProjects(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	r.mustNetwork("first", "10.64.0.0/23")
	for i, want := range []string{"10.64.4.0/22", "10.64.8.0/22"} {
		project := fmt.Sprintf("p%d", i)
		for range 2 {
			resp, err := r.Port.CreatePort(context.Background(), connect.NewRequest(&networkv1.CreatePortRequest{Port: &networkv1.Port{Meta: &metav1.ObjectMeta{Name: fmt.Sprintf("x%d", r.Cache.Revision()), ProjectId: project}}}))
			if err != nil {
				t.Fatal(err)
			}
			n := r.network(resp.Msg.GetPort().GetSpec().GetNetworkId())
			if n.GetSpec().GetSubnets()[0].GetCidr() != want || n.GetMeta().GetProjectId() != project || n.GetMeta().GetName() != "default" {
				t.Errorf("project %s has %v", project, n)
			}
		}
	}
	other := r.network(r.Cache.ByName("p0", state.KindNetwork, "default"))
	_, err := r.createPort("foreign", &networkv1.PortSpec{NetworkId: other.GetMeta().GetId()})
	wantFault(t, err, metav1.Reason_REASON_NETWORK_NOT_FOUND, "port.spec.network_id")
}

// A VM goes where its networks can be; why says who cannot and why; a forwarded port of a node leads to one VM of it.
func TestNodesByNetwork(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a := r.join("n1", 8, 1<<34)
	if _, err := r.createNetwork("tagged", &networkv1.NetworkSpec{Type: networkv1.NetworkType_NETWORK_TYPE_VLAN, VlanId: 7, Uplink: "eth2", Subnets: []*networkv1.Subnet{{Cidr: "10.7.0.0/24"}}}); err != nil {
		t.Fatal(err)
	}
	vm := &computev1.VM{Meta: &metav1.ObjectMeta{Name: "dry"}, Spec: &computev1.VMSpec{MemoryBytes: 1 << 30, Nics: []*computev1.NIC{in("e", &computev1.NetworkAttachment{Network: "tagged"})}}}
	dry, err := r.create(&computev1.CreateVMRequest{Vm: vm, DryRun: true})
	const why = "1 network (n1 has no uplink eth2, as network tagged needs)"
	if err != nil || !strings.Contains(dry.GetVm().GetStatus().GetMessage(), why) || len(dry.GetVm().GetStatus().GetNics()[0].GetIpAddresses()) != 1 || r.network("tagged").GetStatus().GetPortCount() != 0 {
		t.Fatalf("dry run: %v, %v", dry, err)
	}
	id := r.mustCreate("web", vm.GetSpec()).GetVm().GetMeta().GetId()
	r.until("it says what it waits for", func() bool { return strings.Contains(r.vm(id).GetStatus().GetMessage(), why) })
	if _, err = r.updateNICs(r.mustCreate("plain", spec(1<<30)).GetVm().GetMeta().GetId(), in("e", &computev1.NetworkAttachment{Network: "tagged"})); err != nil && !fault.Is(err, metav1.Reason_REASON_WRONG_STATE) {
		t.Error(err) // it is refused if the VM has its place already
	}
	// The uplink comes, and the VM with it.
	_, err = r.NodeAgent.RegisterNode(a.ctx, &computev1.RegisterNodeRequest{Node: &computev1.Node{Status: &computev1.NodeStatus{
		Resources: &computev1.NodeResources{Cpus: 8, MemoryBytes: 1 << 34},
		Drivers: []*computev1.DriverStatus{
			{Name: "fake", Kinds: []string{"compute"}, State: "healthy"},
			{Name: "local", Kinds: []string{"storage"}, State: "healthy"},
			{Name: "net", Kinds: []string{"network"}, State: "healthy", NetworkUplinks: []string{"eth2"}, NetworkTypes: networkDriver().GetNetworkTypes()},
		},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	r.untilPhase(id, computev1.VMPhase_VM_PHASE_RUNNING)
}

// Forwards of a network take ports of the node on which their target is: two VMs whose forwards listen on one port are on two nodes.
func TestForwardsKeepApart(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	r.join("n1", 8, 1<<34)
	made := make([]string, 2)
	for i := range made {
		net := fmt.Sprintf("net%d", i)
		r.mustNetwork(net, fmt.Sprintf("10.8.%d.0/24", i))
		address := fmt.Sprintf("10.8.%d.9", i)
		r.mustPort(net, &networkv1.PortSpec{NetworkId: net, IpAddresses: []string{address}})
		f := &networkv1.NetworkForward{ListenPort: 8080, TargetPort: 80, Target: &networkv1.NetworkForward_IpAddress{IpAddress: address}}
		if i == 1 {
			f.Target = &networkv1.NetworkForward_PortId{PortId: net} // by name
		}
		up, err := r.updateNetwork(net, &networkv1.NetworkSpec{Forwards: []*networkv1.NetworkForward{f}}, "spec.forwards")
		if err != nil {
			t.Fatal(err)
		}
		if got := up.GetNetwork().GetSpec().GetForwards()[0]; i == 1 && got.GetPortId() != r.Cache.ByName("default", state.KindPort, net) {
			t.Errorf("forward leads to %v", got)
		}
		made[i] = r.mustCreate(net, &computev1.VMSpec{MemoryBytes: 1 << 30, Nics: []*computev1.NIC{in("e", &computev1.NetworkAttachment{Port: net})}}).GetVm().GetMeta().GetId()
	}
	waits := func(id string) bool {
		return strings.Contains(r.vm(id).GetStatus().GetMessage(), "has host port tcp :8080 taken by another VM")
	}
	r.until("one waits", func() bool { return slices.ContainsFunc(made, waits) })
	r.join("n2", 8, 1<<34)
	for _, id := range made {
		r.untilPhase(id, computev1.VMPhase_VM_PHASE_RUNNING)
	}
	if x, y := r.vm(made[0]).GetStatus().GetVmPlacement().GetNodeId(), r.vm(made[1]).GetStatus().GetVmPlacement().GetNodeId(); x == y {
		t.Error("both are on one node")
	}
	_, err := r.updateNetwork("net0", &networkv1.NetworkSpec{Forwards: []*networkv1.NetworkForward{{ListenPort: 1, Target: &networkv1.NetworkForward_PortId{PortId: "net1"}}}}, "spec.forwards")
	wantFault(t, err, metav1.Reason_REASON_INVALID_FIELD, "network.spec.forwards[0].port_id")
}

// A forward that is added while VMs run is refused when its port leads into another VM of the node already; what was there, and what is on another node, is no reason.
func TestForwardAddedMeetsAnother(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	r.join("n1", 8, 1<<34)
	to := func(i int, listen uint32, address string) *networkv1.NetworkSpec {
		return &networkv1.NetworkSpec{Forwards: []*networkv1.NetworkForward{
			{ListenPort: listen, ListenAddress: address, TargetPort: 80, Target: &networkv1.NetworkForward_IpAddress{IpAddress: fmt.Sprintf("10.8.%d.9", i)}},
		}}
	}
	for i := range 2 {
		net := fmt.Sprintf("net%d", i)
		r.mustNetwork(net, fmt.Sprintf("10.8.%d.0/24", i))
		r.mustPort(net, &networkv1.PortSpec{NetworkId: net, IpAddresses: []string{fmt.Sprintf("10.8.%d.9", i)}})
		r.untilPhase(r.mustCreate(net, &computev1.VMSpec{MemoryBytes: 1 << 30, Nics: []*computev1.NIC{in("e", &computev1.NetworkAttachment{Port: net})}}).GetVm().GetMeta().GetId(), computev1.VMPhase_VM_PHASE_RUNNING)
	}
	change := func(i int, spec *networkv1.NetworkSpec) error {
		_, err := r.updateNetwork(fmt.Sprintf("net%d", i), spec, "spec.forwards")
		return err
	}
	if err := change(0, to(0, 8080, "")); err != nil {
		t.Fatal(err)
	}
	err := change(1, to(1, 8080, "192.0.2.1"))
	wantFault(t, err, metav1.Reason_REASON_INVALID_FIELD, "network.spec.forwards[0].listen_port")
	if !strings.Contains(err.Error(), `tcp port 8080`) || !strings.Contains(err.Error(), `leads into VM "net0" already`) {
		t.Error(err)
	}
	for _, ok := range []struct {
		net  int
		spec *networkv1.NetworkSpec
	}{{0, to(0, 8080, "")}, {1, to(1, 8081, "")}, {0, to(0, 8082, "")}, {1, to(1, 8080, "")}} { // the same again; another port; the first is given up; it is free
		if err := change(ok.net, ok.spec); err != nil {
			t.Errorf("%v: %v", ok.spec, err)
		}
	}
}

// A forward whose port has gone keeps nobody from changing the rest of the network.
func TestForwardToAPortThatHasGone(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	r.mustNetwork("lan", "10.8.0.0/24")
	r.mustPort("www", &networkv1.PortSpec{NetworkId: "lan"})
	up, err := r.updateNetwork("lan", &networkv1.NetworkSpec{Forwards: []*networkv1.NetworkForward{
		{ListenPort: 8080, TargetPort: 80, Target: &networkv1.NetworkForward_PortId{PortId: "www"}},
	}}, "spec.forwards")
	if err != nil {
		t.Fatal(err)
	}
	must(t, r.Port.DeletePort, &networkv1.DeletePortRequest{Id: "www"})
	r.until("the port is gone", func() bool { return r.Cache.ByName("default", state.KindPort, "www") == "" })
	if _, err := r.updateNetwork("lan", &networkv1.NetworkSpec{Mtu: 1400}, "spec.mtu"); err != nil {
		t.Error(err)
	}
	kept := up.GetNetwork().GetSpec().GetForwards()
	other := &networkv1.NetworkForward{ListenPort: 8081, Target: &networkv1.NetworkForward_PortId{PortId: "www"}}
	_, err = r.updateNetwork("lan", &networkv1.NetworkSpec{Forwards: append(kept, other)}, "spec.forwards")
	wantFault(t, err, metav1.Reason_REASON_INVALID_FIELD, "network.spec.forwards[1].port_id")
}

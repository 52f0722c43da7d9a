package together_test

import (
	"context"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/controller/internal/service/caller"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// networkDriver is what a fake agent's node can have of networks.
func networkDriver() *computev1.DriverStatus {
	return &computev1.DriverStatus{
		Name: "net", Kinds: []string{"network"}, State: "healthy", NetworkUplinks: []string{"eth1"},
		NetworkTypes: []networkv1.NetworkType{
			networkv1.NetworkType_NETWORK_TYPE_BRIDGE, networkv1.NetworkType_NETWORK_TYPE_VLAN, networkv1.NetworkType_NETWORK_TYPE_VXLAN, networkv1.NetworkType_NETWORK_TYPE_OVS,
		},
	}
}

func networkReport(d *agentv1.DesiredNetwork) *agentv1.NetworkReport {
	return &agentv1.NetworkReport{NetworkId: d.GetNetworkId(), Absent: d.GetAbsent(), Status: &networkv1.NetworkNodeStatus{
		Health: networkv1.NetworkHealth_NETWORK_HEALTH_HEALTHY, Device: "br0", Mtu: 1500, ObservedGeneration: d.GetGeneration(),
	}}
}

func portReport(d *agentv1.DesiredPort) *agentv1.PortReport {
	return &agentv1.PortReport{PortId: d.GetPortId(), Epoch: d.GetEpoch(), Absent: d.GetAbsent(), ObservedGeneration: d.GetGeneration(), Status: &networkv1.PortStatus{
		Phase: networkv1.PortPhase_PORT_PHASE_UP, Binding: &networkv1.PortBinding{Device: "tap0"},
	}}
}

// in is a NIC in a network.
func in(name string, a *computev1.NetworkAttachment) *computev1.NIC {
	return &computev1.NIC{Name: name, Attachment: &computev1.NIC_Network{Network: a}}
}

func (r *rig) createNetwork(name string, spec *networkv1.NetworkSpec) (*networkv1.Network, error) {
	resp, err := r.Network.CreateNetwork(caller.WithPrincipal(context.Background(), "admin"), connect.NewRequest(&networkv1.CreateNetworkRequest{
		Network: &networkv1.Network{Meta: &metav1.ObjectMeta{Name: name}, Spec: spec},
	}))
	if err != nil {
		return nil, err
	}
	return resp.Msg.GetNetwork(), nil
}

func (r *rig) mustNetwork(name string, cidrs ...string) *networkv1.Network {
	r.t.Helper()
	spec := &networkv1.NetworkSpec{}
	for _, c := range cidrs {
		spec.Subnets = append(spec.Subnets, &networkv1.Subnet{Cidr: c})
	}
	n, err := r.createNetwork(name, spec)
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

func (r *rig) network(id string) *networkv1.Network {
	resp, err := r.Network.GetNetwork(context.Background(), connect.NewRequest(&networkv1.GetNetworkRequest{Id: id}))
	if err != nil {
		return nil
	}
	return resp.Msg.GetNetwork()
}

func (r *rig) createPort(name string, spec *networkv1.PortSpec) (*networkv1.CreatePortResponse, error) {
	resp, err := r.Port.CreatePort(caller.WithPrincipal(context.Background(), "admin"), connect.NewRequest(&networkv1.CreatePortRequest{
		Port: &networkv1.Port{Meta: &metav1.ObjectMeta{Name: name}, Spec: spec},
	}))
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

func (r *rig) mustPort(name string, spec *networkv1.PortSpec) *networkv1.Port {
	r.t.Helper()
	resp, err := r.createPort(name, spec)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.GetPort()
}

func (r *rig) port(id string) *networkv1.Port {
	resp, err := r.Port.GetPort(context.Background(), connect.NewRequest(&networkv1.GetPortRequest{Id: id}))
	if err != nil {
		return nil
	}
	return resp.Msg.GetPort()
}

func objectOf(d *agentv1.DesiredVM) *agentv1.DesiredObject {
	return &agentv1.DesiredObject{Object: &agentv1.DesiredObject_Vm{Vm: d}}
}

func portObject(d *agentv1.DesiredPort) *agentv1.DesiredObject {
	return &agentv1.DesiredObject{Object: &agentv1.DesiredObject_Port{Port: d}}
}

// port is what the agent was last told of a port.
func (a *fakeAgent) port(id string) *agentv1.DesiredPort {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ports[id]
}

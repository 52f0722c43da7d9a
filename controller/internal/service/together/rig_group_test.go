package together_test

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"testing"

	"connectrpc.com/connect"

	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// netAgent is what an agent knows of networks. It does at once what is wanted.
type netAgent struct {
	networks map[string]*agentv1.DesiredNetwork
	ports    map[string]*agentv1.DesiredPort
	rules    map[string]*agentv1.DesiredRuleSet
	members  map[string]*agentv1.DesiredAddressSet
	came     map[agentv1.DesiredKind][]string // ids of what came, in order
	tunnel   string
	applied  map[string]int64 // generation of each rule set in force
	refuse   string           // words with which rule sets are refused; "" = they are taken
	lazy     bool             // does not say that rule sets are in force
}

func newNetAgent() netAgent {
	return netAgent{
		networks: map[string]*agentv1.DesiredNetwork{}, ports: map[string]*agentv1.DesiredPort{}, rules: map[string]*agentv1.DesiredRuleSet{},
		members: map[string]*agentv1.DesiredAddressSet{}, came: map[agentv1.DesiredKind][]string{}, applied: map[string]int64{},
	}
}

func (n *netAgent) upsert(o *agentv1.DesiredObject) {
	id := o.GetKey().GetId()
	switch d := o.GetObject().(type) {
	case *agentv1.DesiredObject_Network:
		n.networks[id] = d.Network
	case *agentv1.DesiredObject_Port:
		n.ports[id] = d.Port
	case *agentv1.DesiredObject_RuleSet:
		n.rules[id] = d.RuleSet
	case *agentv1.DesiredObject_AddressSet:
		n.members[id] = d.AddressSet
	default:
		return
	}
	n.came[o.GetKey().GetKind()] = append(n.came[o.GetKey().GetKind()], id)
}

func (n *netAgent) remove(k *agentv1.DesiredKey) {
	switch k.GetKind() {
	case agentv1.DesiredKind_DESIRED_KIND_NETWORK:
		delete(n.networks, k.GetId())
	case agentv1.DesiredKind_DESIRED_KIND_PORT:
		delete(n.ports, k.GetId())
	case agentv1.DesiredKind_DESIRED_KIND_RULE_SET:
		delete(n.rules, k.GetId())
	case agentv1.DesiredKind_DESIRED_KIND_ADDRESS_SET:
		delete(n.members, k.GetId())
	}
}

// answer adds to a report what realising an object of networks makes true.
func (n *netAgent) answer(o *agentv1.DesiredObject, rep *agentv1.ReportStatusRequest) {
	switch d := o.GetObject().(type) {
	case *agentv1.DesiredObject_Network:
		rep.Networks = []*agentv1.NetworkReport{{NetworkId: d.Network.GetNetworkId(), Absent: d.Network.GetAbsent(), Status: &networkv1.NetworkNodeStatus{
			Health: networkv1.NetworkHealth_NETWORK_HEALTH_HEALTHY, Device: "br0", Mtu: 1500, ObservedGeneration: d.Network.GetGeneration(),
		}}}
	case *agentv1.DesiredObject_Port:
		rep.Ports = []*agentv1.PortReport{n.port(d.Port)}
	case *agentv1.DesiredObject_RuleSet:
		id, gen := o.GetKey().GetId(), d.RuleSet.GetRuleSet().GetGeneration()
		if n.lazy {
			return
		}
		if n.refuse != "" {
			rep.RuleSets = []*agentv1.RuleSetReport{{RuleSetId: id, Generation: gen, Reason: "BACKEND_FAILED", Message: n.refuse}}
			return
		}
		n.applied[id] = gen
		rep.RuleSets = []*agentv1.RuleSetReport{{RuleSetId: id, Generation: gen, InForce: true}}
		rep.Ports = n.all()
	}
}

func (n *netAgent) all() []*agentv1.PortReport {
	var out []*agentv1.PortReport
	for _, id := range slices.Sorted(maps.Keys(n.ports)) {
		out = append(out, n.port(n.ports[id]))
	}
	return out
}

func (n *netAgent) port(d *agentv1.DesiredPort) *agentv1.PortReport {
	rep := &agentv1.PortReport{PortId: d.GetPortId(), Epoch: d.GetEpoch(), ObservedGeneration: d.GetGeneration(), Absent: d.GetAbsent(), Status: &networkv1.PortStatus{
		Phase: networkv1.PortPhase_PORT_PHASE_UP, Binding: &networkv1.PortBinding{Device: "tap0"},
	}}
	for _, g := range d.GetSpec().GetRuleSetIds() {
		if gen := n.applied[g]; gen > 0 {
			rep.Status.SecurityGroups = append(rep.Status.SecurityGroups, &networkv1.AppliedSecurityGroup{SecurityGroupId: g, Generation: gen})
		} else {
			rep.Status.Phase = networkv1.PortPhase_PORT_PHASE_BINDING
		}
	}
	return rep
}

// joinTunnel is join of a node with a tunnel's end of its own.
func (r *rig) joinTunnel(name, address string) *fakeAgent {
	r.t.Helper()
	a := &fakeAgent{
		r: r, id: r.enrol(name), session: name, vms: map[string]*agentv1.DesiredVM{}, pools: map[string]*agentv1.DesiredPool{}, volumes: map[string]*agentv1.DesiredVolume{},
		snapped: map[string]*agentv1.DesiredVolumeSnapshot{}, images: map[string]*agentv1.DesiredImage{}, ports: map[string]*agentv1.DesiredPort{}, net: newNetAgent(),
	}
	a.net.tunnel = address
	a.start(16, 1<<34)
	return a
}

// know waits until what an agent knows of networks is so.
func (a *fakeAgent) know(what string, is func(n *netAgent) bool) {
	a.r.t.Helper()
	a.r.until(what, func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return is(&a.net)
	})
}

// must is the answer of a call that may not fail.
func must[Q, R any](t testing.TB, call func(context.Context, *connect.Request[Q]) (*connect.Response[R], error), req *Q) *R {
	t.Helper()
	resp, err := call(admin(), connect.NewRequest(req))
	if err != nil {
		t.Fatal(err)
	}
	return resp.Msg
}

func (r *rig) newNetwork(name string, spec *networkv1.NetworkSpec) *networkv1.Network {
	r.t.Helper()
	return must(r.t, r.Network.CreateNetwork, &networkv1.CreateNetworkRequest{Network: &networkv1.Network{Meta: &metav1.ObjectMeta{Name: name}, Spec: spec}}).GetNetwork()
}

func (r *rig) newGroup(name string, rules ...*networkv1.SecurityRule) *networkv1.SecurityGroup {
	r.t.Helper()
	return must(r.t, r.Groups.CreateSecurityGroup, &networkv1.CreateSecurityGroupRequest{SecurityGroup: &networkv1.SecurityGroup{
		Meta: &metav1.ObjectMeta{Name: name}, Spec: &networkv1.SecurityGroupSpec{Rules: rules},
	}}).GetSecurityGroup()
}

func (r *rig) group(id string) *networkv1.SecurityGroup {
	return must(r.t, r.Groups.GetSecurityGroup, &networkv1.GetSecurityGroupRequest{Id: id}).GetSecurityGroup()
}

// newPort makes a port in a network with groups.
func (r *rig) newPort(name, network string, groups ...string) *networkv1.Port {
	r.t.Helper()
	return must(r.t, r.Port.CreatePort, &networkv1.CreatePortRequest{Port: &networkv1.Port{
		Meta: &metav1.ObjectMeta{Name: name}, Spec: &networkv1.PortSpec{NetworkId: network, SecurityGroupIds: groups},
	}}).GetPort()
}

// runVM makes a VM with ports on a node.
func (r *rig) runVM(name string, on *fakeAgent, ports ...string) (id string) {
	r.t.Helper()
	s := spec(64 * mib)
	s.Placement = &computev1.Placement{Node: on.id}
	for i, p := range ports {
		s.Nics = append(s.Nics, in("eth"+strconv.Itoa(i), &computev1.NetworkAttachment{Port: p}))
	}
	made := r.mustCreate(name, s)
	r.done(made.GetOperation().GetId())
	return made.GetVm().GetMeta().GetId()
}

func (r *rig) deleteVM(id string) {
	r.t.Helper()
	r.done(must(r.t, r.VM.DeleteVM, &computev1.DeleteVMRequest{Id: id}).GetOperation().GetId())
}

func ingress(protocol string, port uint32) *networkv1.SecurityRule {
	return &networkv1.SecurityRule{Direction: networkv1.RuleDirection_RULE_DIRECTION_INGRESS, Protocol: protocol, PortFirst: port}
}

func fromGroup(group string) *networkv1.SecurityRule {
	return &networkv1.SecurityRule{Direction: networkv1.RuleDirection_RULE_DIRECTION_INGRESS, Remote: &networkv1.SecurityRule_SecurityGroupId{SecurityGroupId: group}}
}

func vxlan() *networkv1.NetworkSpec {
	return &networkv1.NetworkSpec{Type: networkv1.NetworkType_NETWORK_TYPE_VXLAN, Subnets: []*networkv1.Subnet{{Cidr: "10.4.0.0/24"}}}
}

func bridge() *networkv1.NetworkSpec {
	return &networkv1.NetworkSpec{Subnets: []*networkv1.Subnet{{Cidr: "10.4.0.0/24"}}}
}

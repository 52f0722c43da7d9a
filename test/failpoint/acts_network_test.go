package failpoint_test

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// network makes a network that the reference driver can run.
func (o *order) network() string {
	name := o.r.name("network")
	o.r.serial++
	ask(o, o.r.networks.CreateNetwork, &networkv1.CreateNetworkRequest{Network: &networkv1.Network{Meta: meta(name), Spec: &networkv1.NetworkSpec{
		Type: networkv1.NetworkType_NETWORK_TYPE_BRIDGE, Egress: networkv1.EgressMode_EGRESS_MODE_NONE,
		Subnets: []*networkv1.Subnet{{Cidr: fmt.Sprintf("10.%d.%d.0/24", 100+o.r.serial/250%100, o.r.serial%250), Dhcp: proto.Bool(false)}},
	}}, RequestId: name})
	return name
}

func (o *order) dropNetwork(name string) {
	ask(o, o.r.networks.DeleteNetwork, &networkv1.DeleteNetworkRequest{Id: name, RequestId: o.r.name("delete")})
}

func (o *order) group(rules ...*networkv1.SecurityRule) string {
	name := o.r.name("group")
	ask(o, o.r.groups.CreateSecurityGroup, &networkv1.CreateSecurityGroupRequest{
		SecurityGroup: &networkv1.SecurityGroup{Meta: meta(name), Spec: &networkv1.SecurityGroupSpec{Rules: rules}}, RequestId: name,
	})
	return name
}

func (o *order) dropGroup(name string) {
	ask(o, o.r.groups.DeleteSecurityGroup, &networkv1.DeleteSecurityGroupRequest{Id: name, RequestId: o.r.name("delete")})
}

func (o *order) port(network string, groups ...string) string {
	name := o.r.name("port")
	ask(o, o.r.ports.CreatePort, &networkv1.CreatePortRequest{
		Port: &networkv1.Port{Meta: meta(name), Spec: &networkv1.PortSpec{NetworkId: network, SecurityGroupIds: groups}}, RequestId: name,
	})
	return name
}

func (o *order) dropPort(name string) {
	ask(o, o.r.ports.DeletePort, &networkv1.DeletePortRequest{Id: name, RequestId: o.r.name("delete")})
}

func (o *order) updatePort(name, path string, spec *networkv1.PortSpec) {
	ask(o, o.r.ports.UpdatePort, &networkv1.UpdatePortRequest{
		Port: &networkv1.Port{Meta: meta(name), Spec: spec}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{path}}, RequestId: o.r.name("update"),
	})
}

func in(port uint32) *networkv1.SecurityRule {
	return &networkv1.SecurityRule{Direction: networkv1.RuleDirection_RULE_DIRECTION_INGRESS, Protocol: "tcp", PortFirst: port}
}

// from lets in what members of a group send.
func from(group string) *networkv1.SecurityRule {
	return &networkv1.SecurityRule{Direction: networkv1.RuleDirection_RULE_DIRECTION_INGRESS, Remote: &networkv1.SecurityRule_SecurityGroupId{SecurityGroupId: group}}
}

func nic(name, network string, groups ...string) *computev1.NIC {
	return &computev1.NIC{Name: name, Attachment: &computev1.NIC_Network{Network: &computev1.NetworkAttachment{Network: network, SecurityGroups: groups}}}
}

// actNetworks makes, changes and deletes networks, ports and groups that no VM uses.
func actNetworks(ctx context.Context, r *rig) error {
	o := &order{ctx: ctx, r: r}
	network := o.network()
	ask(o, r.networks.UpdateNetwork, &networkv1.UpdateNetworkRequest{
		Network: &networkv1.Network{Meta: meta(network), Spec: &networkv1.NetworkSpec{Mtu: 1400}}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"spec.mtu"}}, RequestId: r.name("update"),
	})
	group := o.group(in(80))
	added := ask(o, r.groups.AddRule, &networkv1.AddRuleRequest{Id: group, Rule: in(443), RequestId: r.name("add")})
	ask(o, r.groups.RemoveRule, &networkv1.RemoveRuleRequest{Id: group, RuleId: added.GetRule().GetId(), RequestId: r.name("remove")})
	ask(o, r.groups.UpdateSecurityGroup, &networkv1.UpdateSecurityGroupRequest{
		SecurityGroup: &networkv1.SecurityGroup{Meta: meta(group), Spec: &networkv1.SecurityGroupSpec{Description: "web"}},
		UpdateMask:    &fieldmaskpb.FieldMask{Paths: []string{"spec.description"}}, RequestId: r.name("update"),
	})
	port := o.port(network)
	o.updatePort(port, "spec.hostname", &networkv1.PortSpec{Hostname: "www"})
	ask(o, r.ports.SetSecurityGroups, &networkv1.SetSecurityGroupsRequest{Id: port, SecurityGroupIds: []string{group}, RequestId: r.name("set")})
	o.dropPort(port)
	o.dropGroup(group)
	o.dropNetwork(network)
	return o.err
}

// actNICs runs VMs with NICs in networks: groups, members, limits and links change while they run, a NIC comes and goes, everything is told again to a plugin that died.
func actNICs(ctx context.Context, r *rig) error {
	o := &order{ctx: ctx, r: r}
	network := o.network()
	friends := o.group()
	web := o.group(in(80), from(friends))
	kept := o.port(network, web)
	if o.err != nil {
		return o.err
	}
	m := machine(r.name("vm"))
	m.Vm.Spec.Nics = []*computev1.NIC{
		nic("own", network, web, friends),
		{Name: "kept", Attachment: &computev1.NIC_Network{Network: &computev1.NetworkAttachment{Port: kept}}},
	}
	first, err := r.create(ctx, m)
	if err != nil {
		return err
	}
	m = machine(r.name("vm"))
	m.Vm.Spec.Nics = []*computev1.NIC{nic("own", network, friends)}
	second, err := r.create(ctx, m) // one more member
	if err != nil {
		return err
	}
	ask(o, r.groups.AddRule, &networkv1.AddRuleRequest{Id: web, Rule: in(443), RequestId: r.name("add")})
	o.updatePort(kept, "spec.qos", &networkv1.PortSpec{Qos: &networkv1.PortQos{IngressBitsPerSecond: 1 << 20}})
	o.updatePort(kept, "spec.link_down", &networkv1.PortSpec{LinkDown: true})
	o.updatePort(kept, "spec.link_down", &networkv1.PortSpec{})
	ask(o, r.networks.UpdateNetwork, &networkv1.UpdateNetworkRequest{
		Network: &networkv1.Network{Meta: meta(network), Spec: &networkv1.NetworkSpec{Mtu: 1400}}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"spec.mtu"}}, RequestId: r.name("update"),
	})
	for _, nics := range [][]*computev1.NIC{{nic("own", network, friends), nic("more", network, web)}, {nic("own", network, friends)}} {
		ask(o, r.vms.UpdateVM, &computev1.UpdateVMRequest{
			Vm: &computev1.VM{Meta: &metav1.ObjectMeta{Id: second}, Spec: &computev1.VMSpec{Nics: nics}}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"spec.nics"}}, RequestId: r.name("nics"),
		})
	}
	if o.err == nil {
		o.err = pause(ctx, 3*time.Second) // all is compared with the host meanwhile
	}
	if o.err == nil {
		o.err = r.whileAgentIsDown(ctx, syscall.SIGKILL, func() error { return nil })
	}
	if o.err != nil {
		return o.err
	}
	for _, id := range []string{second, first} {
		if err := r.remove(ctx, id); err != nil {
			return err
		}
	}
	o.dropPort(kept)
	o.dropGroup(web)
	o.dropGroup(friends)
	o.dropNetwork(network)
	return o.err
}

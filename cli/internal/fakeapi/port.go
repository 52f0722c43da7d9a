package fakeapi

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1/networkv1connect"
)

type ports struct {
	networkv1connect.UnimplementedPortServiceHandler
	*Server
}

func (s *Server) port(id, project string) (*networkv1.Port, error) {
	if i := slices.IndexFunc(s.Ports, func(p *networkv1.Port) bool { return p.GetMeta().GetId() == id }); i >= 0 {
		return s.Ports[i], nil
	}
	return named(s.standing(), id, project, metav1.Reason_REASON_NOT_FOUND, "port")
}

// standing are the ports that stand by themselves: the name of one that lives with a VM is its NIC's, and names nothing. Called under Lock.
func (s *Server) standing() []*networkv1.Port {
	return slices.DeleteFunc(slices.Clone(s.Ports), func(p *networkv1.Port) bool { return p.GetStatus().GetOwnerVmId() != "" })
}

// addPort makes a port with addresses that nobody has. Called under Lock.
func (s *Server) addPort(in *networkv1.Port, owner string) (*networkv1.Port, error) {
	n, err := s.network(in.GetSpec().GetNetworkId(), in.GetMeta().GetProjectId())
	if err != nil {
		return nil, err
	}
	others := s.standing()
	if owner != "" {
		others = nil
	}
	meta, err := admitNew(s, others, in.GetMeta(), "port")
	if err != nil {
		return nil, err
	}
	spec := &networkv1.PortSpec{}
	proto.Merge(spec, in.GetSpec())
	spec.NetworkId = n.GetMeta().GetId()
	if spec.SecurityGroupIds, err = s.groupIDs(spec.GetSecurityGroupIds(), meta.GetProjectId()); err != nil {
		return nil, err
	}
	p := &networkv1.Port{Meta: meta, Spec: spec, Status: &networkv1.PortStatus{Phase: networkv1.PortPhase_PORT_PHASE_IDLE, Mac: spec.GetMac(), OwnerVmId: owner}}
	if p.GetStatus().GetMac() == "" {
		p.Status.Mac = fmt.Sprintf("52:54:00:00:00:%02x", s.made)
	}
	if p.Status.IpAddresses, err = s.lease(n, spec.GetIpAddresses(), ""); err != nil {
		return nil, err
	}
	s.Ports = append(s.Ports, p)
	return p, nil
}

// lease are the addresses asked for, and the first free one of each subnet that none was asked of. Called under Lock.
func (s *Server) lease(n *networkv1.Network, asked []string, self string) ([]string, error) {
	taken := map[string]bool{}
	for _, p := range s.Ports {
		if p.GetSpec().GetNetworkId() == n.GetMeta().GetId() && p.GetMeta().GetId() != self {
			for _, a := range p.GetStatus().GetIpAddresses() {
				taken[a] = true
			}
		}
	}
	for _, a := range asked {
		if taken[a] {
			return nil, fault.New(metav1.Reason_REASON_NAME_TAKEN, "port.spec.ip_addresses: %s is taken", a)
		}
	}
	var out []string
next:
	for _, sub := range n.GetSpec().GetSubnets() {
		p := netip.MustParsePrefix(sub.GetCidr())
		for _, a := range asked {
			if p.Contains(netip.MustParseAddr(a)) {
				out = append(out, a)
				continue next
			}
		}
		for a := p.Addr().Next().Next(); p.Contains(a); a = a.Next() {
			if !taken[a.String()] && a.String() != gateway(sub) {
				out = append(out, a.String())
				break
			}
		}
	}
	return out, nil
}

// plug gives the NICs of a VM their ports, takes away those of NICs that are gone, and tells the VM. Called under Lock.
func (s *Server) plug(vm *computev1.VM) error {
	id, wanted := vm.GetMeta().GetId(), map[string]bool{}
	for _, nic := range vm.GetSpec().GetNics() {
		a := nic.GetNetwork()
		if a == nil {
			continue
		}
		wanted[nic.GetName()] = true
		if p := s.portOf(id, nic.GetName()); p != nil {
			nic.Mac = p.GetStatus().GetMac()
			continue
		}
		p, err := s.port(a.GetPort(), vm.GetMeta().GetProjectId())
		if a.GetPort() == "" {
			p, err = s.addPort(&networkv1.Port{
				Meta: &metav1.ObjectMeta{Name: nic.GetName(), ProjectId: vm.GetMeta().GetProjectId()},
				Spec: &networkv1.PortSpec{NetworkId: a.GetNetwork(), Mac: nic.GetMac(), IpAddresses: a.GetIpAddresses(), SecurityGroupIds: a.GetSecurityGroups()},
			}, id)
		}
		if err != nil {
			return err
		}
		nic.Mac = p.GetStatus().GetMac()
		p.Status.Binding = &networkv1.PortBinding{VmId: id, NicName: nic.GetName(), NodeId: "node-1", Device: "tap" + p.GetMeta().GetId(), Epoch: 1}
		p.Status.Phase = networkv1.PortPhase_PORT_PHASE_UP
		for _, g := range p.GetSpec().GetSecurityGroupIds() {
			p.Status.SecurityGroups = append(p.Status.SecurityGroups, &networkv1.AppliedSecurityGroup{SecurityGroupId: g, Generation: 1})
		}
		for _, a := range p.GetStatus().GetIpAddresses() {
			p.Status.ObservedAddresses = append(p.Status.ObservedAddresses, &networkv1.ObservedAddress{
				IpAddress: a, Source: networkv1.ObservedAddressSource_OBSERVED_ADDRESS_SOURCE_LEASE, ObserveTime: timestamppb.New(Epoch),
			})
		}
	}
	s.Ports = slices.DeleteFunc(s.Ports, func(p *networkv1.Port) bool {
		b := p.GetStatus().GetBinding()
		if b.GetVmId() != id || wanted[b.GetNicName()] {
			return false
		}
		p.Status.Binding, p.Status.Phase = nil, networkv1.PortPhase_PORT_PHASE_IDLE
		return p.GetStatus().GetOwnerVmId() == id
	})
	for _, nic := range vm.GetSpec().GetNics() {
		if p := s.portOf(id, nic.GetName()); p != nil && !slices.ContainsFunc(vm.GetStatus().GetNics(), func(n *computev1.NICStatus) bool { return n.GetName() == nic.GetName() }) {
			vm.Status.Nics = append(vm.Status.Nics, &computev1.NICStatus{
				Name: nic.GetName(), Mac: p.GetStatus().GetMac(), PortId: p.GetMeta().GetId(), IpAddresses: p.GetStatus().GetIpAddresses(), Device: p.GetStatus().GetBinding().GetDevice(),
			})
		}
	}
	vm.Status.Nics = slices.DeleteFunc(vm.Status.Nics, func(n *computev1.NICStatus) bool { return n.GetPortId() != "" && !wanted[n.GetName()] })
	return nil
}

func (s *Server) portOf(vm, nic string) *networkv1.Port {
	for _, p := range s.Ports {
		if b := p.GetStatus().GetBinding(); b.GetVmId() == vm && b.GetNicName() == nic {
			return p
		}
	}
	return nil
}

func (p ports) CreatePort(_ context.Context, req *connect.Request[networkv1.CreatePortRequest]) (*connect.Response[networkv1.CreatePortResponse], error) {
	p.Lock()
	defer p.Unlock()
	made, err := p.addPort(req.Msg.GetPort(), "")
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&networkv1.CreatePortResponse{Port: proto.CloneOf(made), Operation: p.operate("CreatePort", "Port", made.GetMeta())}), nil
}

func (p ports) GetPort(_ context.Context, req *connect.Request[networkv1.GetPortRequest]) (*connect.Response[networkv1.GetPortResponse], error) {
	p.Lock()
	defer p.Unlock()
	found, err := p.port(req.Msg.GetId(), req.Msg.GetProjectId())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&networkv1.GetPortResponse{Port: proto.CloneOf(found)}), nil
}

func (p ports) ListPorts(_ context.Context, req *connect.Request[networkv1.ListPortsRequest]) (*connect.Response[networkv1.ListPortsResponse], error) {
	p.Lock()
	defer p.Unlock()
	m := req.Msg
	network := ""
	if m.GetNetwork() != "" {
		n, err := named(p.Networks, m.GetNetwork(), m.GetProjectId(), metav1.Reason_REASON_NETWORK_NOT_FOUND, "network")
		if err != nil {
			return nil, err
		}
		network = n.GetMeta().GetId()
	}
	var all []*networkv1.Port
	for _, o := range p.Ports {
		b := o.GetStatus().GetBinding()
		if matches(o.GetMeta(), m.GetProjectId(), m.GetLabelSelector(), m.GetName()) && (network == "" || o.GetSpec().GetNetworkId() == network) &&
			(m.GetNode() == "" || b.GetNodeId() == m.GetNode() || b.GetNodeId() == "node-1" && m.GetNode() == "host1") && (m.GetVm() == "" || b.GetVmId() == m.GetVm()) &&
			(m.GetSecurityGroup() == "" || slices.Contains(o.GetSpec().GetSecurityGroupIds(), m.GetSecurityGroup())) {
			all = append(all, proto.CloneOf(o))
		}
	}
	items, next := page(all, m.GetPageToken())
	return connect.NewResponse(&networkv1.ListPortsResponse{Ports: items, NextPageToken: next}), nil
}

func (p ports) UpdatePort(_ context.Context, req *connect.Request[networkv1.UpdatePortRequest]) (*connect.Response[networkv1.UpdatePortResponse], error) {
	p.Lock()
	defer p.Unlock()
	in := req.Msg.GetPort()
	have, err := p.port(either(in.GetMeta()), in.GetMeta().GetProjectId())
	if err != nil {
		return nil, err
	}
	spec, labels, addresses := proto.CloneOf(have.GetSpec()), have.GetMeta().GetLabels(), have.GetStatus().GetIpAddresses()
	qos := proto.CloneOf(spec.GetQos())
	if qos == nil {
		qos = &networkv1.PortQos{}
	}
	for _, path := range req.Msg.GetUpdateMask().GetPaths() {
		switch path {
		case "spec.ip_addresses":
			spec.IpAddresses = in.GetSpec().GetIpAddresses()
			n, err := p.network(spec.GetNetworkId(), "")
			if err != nil {
				return nil, err
			}
			if addresses, err = p.lease(n, spec.GetIpAddresses(), have.GetMeta().GetId()); err != nil {
				return nil, err
			}
		case "spec.security_group_ids":
			if spec.SecurityGroupIds, err = p.groupIDs(in.GetSpec().GetSecurityGroupIds(), have.GetMeta().GetProjectId()); err != nil {
				return nil, err
			}
		case "spec.extra_addresses":
			spec.ExtraAddresses = in.GetSpec().GetExtraAddresses()
		case "spec.hostname":
			spec.Hostname = in.GetSpec().GetHostname()
		case "spec.qos.ingress_bits_per_second":
			qos.IngressBitsPerSecond, spec.Qos = in.GetSpec().GetQos().GetIngressBitsPerSecond(), qos
		case "spec.qos.egress_bits_per_second":
			qos.EgressBitsPerSecond, spec.Qos = in.GetSpec().GetQos().GetEgressBitsPerSecond(), qos
		case "spec.qos.burst_bytes":
			qos.BurstBytes, spec.Qos = in.GetSpec().GetQos().GetBurstBytes(), qos
		case "spec.link_down":
			spec.LinkDown = in.GetSpec().GetLinkDown()
		case "spec.trunk_vlan_ids":
			spec.TrunkVlanIds = in.GetSpec().GetTrunkVlanIds()
		case "spec.delete_protection":
			spec.DeleteProtection = in.GetSpec().GetDeleteProtection()
		case "meta.labels":
			labels = in.GetMeta().GetLabels()
		default:
			return nil, fault.Invalid(fault.Violation{Field: "update_mask", Description: path + " cannot change"})
		}
	}
	if err := changed(have.GetMeta(), in.GetMeta().GetEtag(), !proto.Equal(spec, have.GetSpec())); err != nil {
		return nil, err
	}
	have.Spec, have.Meta.Labels, have.Status.IpAddresses = spec, labels, addresses
	return connect.NewResponse(&networkv1.UpdatePortResponse{Port: proto.CloneOf(have), Operation: p.operate("UpdatePort", "Port", have.GetMeta())}), nil
}

func (p ports) DeletePort(_ context.Context, req *connect.Request[networkv1.DeletePortRequest]) (*connect.Response[networkv1.DeletePortResponse], error) {
	p.Lock()
	defer p.Unlock()
	have, err := p.port(req.Msg.GetId(), req.Msg.GetProjectId())
	if err != nil {
		return nil, err
	}
	if b := have.GetStatus().GetBinding(); b.GetVmId() != "" || have.GetSpec().GetDeleteProtection() {
		return nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "port %s is NIC %s of VM %s", have.GetMeta().GetName(), b.GetNicName(), b.GetVmId()).WithRemedy("remove the NIC first")
	}
	p.Ports = without(p.Ports, have.GetMeta().GetId())
	return connect.NewResponse(&networkv1.DeletePortResponse{Port: have, Operation: p.operate("DeletePort", "Port", have.GetMeta())}), nil
}

func (p ports) GetPortStats(_ context.Context, req *connect.Request[networkv1.GetPortStatsRequest]) (*connect.Response[networkv1.GetPortStatsResponse], error) {
	p.Lock()
	defer p.Unlock()
	have, err := p.port(req.Msg.GetId(), req.Msg.GetProjectId())
	if err != nil {
		return nil, err
	}
	if have.GetStatus().GetBinding().GetVmId() == "" {
		return nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "port %s is on no node", have.GetMeta().GetName()).WithRemedy("start the VM that uses it")
	}
	stats := p.Stats[have.GetMeta().GetId()]
	if stats == nil {
		stats = &networkv1.GetPortStatsResponse{}
	}
	return connect.NewResponse(stats), nil
}

// ExplainPacket looks at rules of the port's groups as the real one does; where members of a group are concerned, at the ports' addresses.
func (p ports) ExplainPacket(_ context.Context, req *connect.Request[networkv1.ExplainPacketRequest]) (*connect.Response[networkv1.ExplainPacketResponse], error) {
	p.Lock()
	defer p.Unlock()
	m := req.Msg
	have, err := p.port(m.GetId(), m.GetProjectId())
	if err != nil {
		return nil, err
	}
	resp := &networkv1.ExplainPacketResponse{InForce: have.GetStatus().GetPhase() == networkv1.PortPhase_PORT_PHASE_UP, Reason: "NO_RULE", Message: "no rule of its groups allows it"}
	if have.GetSpec().GetLinkDown() {
		resp.Reason, resp.Message = "LINK_DOWN", "the link is down"
		return connect.NewResponse(resp), nil
	}
	if m.GetDirection() == networkv1.RuleDirection_RULE_DIRECTION_EGRESS {
		resp.Allowed, resp.Reason, resp.Message = true, "EGRESS_DEFAULT", "what goes out and no rule allows passes"
	}
	for _, id := range have.GetSpec().GetSecurityGroupIds() {
		g, err := p.group(id, "")
		if err != nil {
			return nil, err
		}
		if m.GetDirection() == networkv1.RuleDirection_RULE_DIRECTION_EGRESS && g.GetSpec().GetEgressDefault() == networkv1.EgressDefault_EGRESS_DEFAULT_DENY && len(resp.GetRules()) == 0 {
			resp.Allowed, resp.Reason, resp.Message = false, "NO_RULE", "group "+g.GetMeta().GetName()+" denies what no rule allows"
		}
		for _, r := range g.GetSpec().GetRules() {
			member, ok := p.allows(r, m)
			if ok {
				resp.Allowed, resp.Reason, resp.Message = true, "RULE", "a rule allows it"
				resp.Rules = append(resp.Rules, &networkv1.MatchingRule{SecurityGroupId: id, SecurityGroupName: g.GetMeta().GetName(), Rule: r, MemberPortId: member})
			}
		}
	}
	return connect.NewResponse(resp), nil
}

func (s *Server) allows(r *networkv1.SecurityRule, m *networkv1.ExplainPacketRequest) (member string, ok bool) {
	if r.GetDirection() != m.GetDirection() || r.GetProtocol() != "any" && !strings.EqualFold(r.GetProtocol(), m.GetProtocol()) {
		return "", false
	}
	if first := r.GetPortFirst(); first != 0 && (m.GetDestinationPort() < first || m.GetDestinationPort() > r.GetPortLast()) {
		return "", false
	}
	if r.IcmpType != nil && (m.IcmpType == nil || r.GetIcmpType() != m.GetIcmpType()) {
		return "", false
	}
	if cidr := r.GetCidr(); cidr != "" {
		return "", netip.MustParsePrefix(cidr).Contains(netip.MustParseAddr(m.GetRemoteAddress()))
	}
	if id := r.GetSecurityGroupId(); id != "" {
		for _, p := range s.Ports {
			if slices.Contains(p.GetSpec().GetSecurityGroupIds(), id) && slices.Contains(p.GetStatus().GetIpAddresses(), m.GetRemoteAddress()) {
				return p.GetMeta().GetId(), true
			}
		}
		return "", false
	}
	return "", true
}

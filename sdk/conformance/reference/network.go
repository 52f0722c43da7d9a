package reference

import (
	"context"
	"net"
	"net/netip"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// The tables of networks. Networks and interfaces are kept as the requests that made them; what is answered follows from these.
const (
	networkTable   = "network"     // EnsureNetworkRequest
	interfaceTable = "interface"   // NetworkDriverServiceAttachInterfaceRequest
	ruleTable      = "rule-set"    // RuleSet
	addressTable   = "address-set" // AddressSet
)

type networkDriver struct {
	driverv1.UnimplementedNetworkDriverServiceServer
	*driver
}

func networkCapabilities() *driverv1.NetworkCapabilities {
	return &driverv1.NetworkCapabilities{
		Types:    []driverv1.NetworkType{driverv1.NetworkType_NETWORK_TYPE_BRIDGE},
		Features: []driverv1.NetworkFeature{driverv1.NetworkFeature_NETWORK_FEATURE_SECURITY_RULES},
		Bindings: []driverv1.InterfaceBindingKind{driverv1.InterfaceBindingKind_INTERFACE_BINDING_KIND_TAP},
	}
}

// device is the name of a device made of an id: at most 15 characters.
func device(prefix, id string) string { return prefix + id[:8] }

func (n *networkDriver) network(r *driverv1.EnsureNetworkRequest) *driverv1.Network {
	mtu := r.GetSpec().GetMtu()
	if mtu == 0 {
		mtu = 1500
	}
	return &driverv1.Network{
		NetworkId: r.GetNetworkId(), Mark: r.GetMark(), Health: driverv1.HealthState_HEALTH_STATE_HEALTHY,
		Device: device("br", r.GetNetworkId()), Mtu: mtu, Handle: handleOf(r.GetNetworkId()),
	}
}

// getNetwork reads a network of ours; nil when it is absent.
func (n *networkDriver) getNetwork(x *tx, id string) (*driverv1.EnsureNetworkRequest, error) {
	r := &driverv1.EnsureNetworkRequest{}
	if !x.get(networkTable, id, r) {
		return nil, nil
	}
	if !n.ours(r.GetMark()) {
		return nil, notOurs("network", id)
	}
	return r, nil
}

// on changes one object under its key.
func (n *networkDriver) on(ctx context.Context, field, id string, f func(*tx) error) error {
	if err := checkID(field, id); err != nil {
		return err
	}
	unlock, err := n.keys.Lock(field + "/" + id)
	if err != nil {
		return err
	}
	defer unlock()
	return n.change(ctx, f)
}

func (n *networkDriver) EnsureNetwork(ctx context.Context, req *driverv1.EnsureNetworkRequest) (*driverv1.EnsureNetworkResponse, error) {
	if err := checkID("network_id", req.GetNetworkId()); err != nil {
		return nil, err
	}
	if err := n.checkMark(req.GetMark(), req.GetNetworkId()); err != nil {
		return nil, err
	}
	if v := networkViolations(req.GetSpec()); len(v) > 0 {
		return nil, fault.Invalid(v...)
	}
	want := &driverv1.EnsureNetworkRequest{NetworkId: req.GetNetworkId(), Mark: req.GetMark(), Spec: req.GetSpec()}
	err := n.on(ctx, "network_id", req.GetNetworkId(), func(x *tx) error {
		have, err := n.getNetwork(x, req.GetNetworkId())
		switch {
		case err != nil:
			return err
		case have != nil && fixed(have.GetSpec()) != fixed(req.GetSpec()):
			return conflict("network", req.GetNetworkId())
		}
		return x.put(networkTable, req.GetNetworkId(), want)
	})
	if err != nil {
		return nil, err
	}
	return &driverv1.EnsureNetworkResponse{Network: n.network(want)}, nil
}

// fixed is what of a network cannot change.
func fixed(s *driverv1.NetworkSpec) string {
	f := &driverv1.NetworkSpec{Type: s.GetType(), Uplink: s.GetUplink(), VlanId: s.GetVlanId(), Vni: s.GetVni()}
	for _, sub := range s.GetSubnets() {
		f.Subnets = append(f.Subnets, &driverv1.SubnetSpec{Cidr: sub.GetCidr()})
	}
	return hash(f)
}

func networkViolations(s *driverv1.NetworkSpec) (v []fault.Violation) {
	bad := func(wrong bool, field, description string) {
		if wrong {
			v = append(v, fault.Violation{Field: field, Description: description})
		}
	}
	bad(s.GetType() != driverv1.NetworkType_NETWORK_TYPE_BRIDGE, "spec.type", "only BRIDGE is advertised")
	bad(s.GetUplink() != "", "spec.uplink", "no uplink is advertised")
	bad(s.GetVlanId() != 0 || s.GetVni() != 0, "spec", "neither VLAN nor VXLAN is advertised")
	bad(s.GetMtu() != 0 && (s.GetMtu() < 576 || s.GetMtu() > 65535), "spec.mtu", "must be 576-65535")
	bad(s.GetEgress() > driverv1.EgressMode_EGRESS_MODE_NONE, "spec.egress", "only NONE is advertised")
	for _, sub := range s.GetSubnets() {
		p, err := netip.ParsePrefix(sub.GetCidr())
		bad(err != nil || p != p.Masked(), "spec.subnets.cidr", "must be a CIDR with host bits zero")
		bad(sub.GetDhcp(), "spec.subnets.dhcp", "DHCP is not advertised")
	}
	return v
}

func (n *networkDriver) DeleteNetwork(ctx context.Context, req *driverv1.DeleteNetworkRequest) (*driverv1.DeleteNetworkResponse, error) {
	id := req.GetNetworkId()
	return &driverv1.DeleteNetworkResponse{}, n.on(ctx, "network_id", id, func(x *tx) error {
		have, err := n.getNetwork(x, id)
		if err != nil || have == nil {
			return err
		}
		for _, key := range x.keys(interfaceTable) {
			i := &driverv1.NetworkDriverServiceAttachInterfaceRequest{}
			if x.get(interfaceTable, key, i) && i.GetSpec().GetNetworkId() == id && !n.defect("deletes-used") {
				return wrongState("interface %s is attached to network %s", key, id)
			}
		}
		x.del(networkTable, id)
		return nil
	})
}

func (n *networkDriver) ListNetworks(_ context.Context, req *driverv1.ListNetworksRequest) (*driverv1.ListNetworksResponse, error) {
	r := &driverv1.ListNetworksResponse{}
	return r, n.do(func(x *tx) error {
		byID, ids := map[string]*driverv1.Network{}, []string(nil)
		for _, id := range x.keys(networkTable) {
			if have, err := n.getNetwork(x, id); err == nil && have != nil {
				byID[id], ids = n.network(have), append(ids, id)
			}
		}
		ids, r.NextPageToken = page(ids, req.GetPageSize(), req.GetPageToken())
		for _, id := range ids {
			r.Networks = append(r.Networks, byID[id])
		}
		return nil
	})
}

type attachRequest = driverv1.NetworkDriverServiceAttachInterfaceRequest

func (n *networkDriver) iface(x *tx, r *attachRequest) *driverv1.NetworkInterface {
	i := &driverv1.NetworkInterface{
		InterfaceId: r.GetInterfaceId(), NetworkId: r.GetSpec().GetNetworkId(), Mark: r.GetMark(), State: driverv1.InterfaceState_INTERFACE_STATE_WAITING,
		Binding: &driverv1.InterfaceBinding{Binding: &driverv1.InterfaceBinding_Tap{Tap: &driverv1.TapBinding{TapName: device("t", r.GetInterfaceId())}}},
		Handle:  handleOf(r.GetInterfaceId()),
	}
	for _, id := range r.GetSpec().GetRuleSetIds() {
		rs := &driverv1.RuleSet{}
		x.get(ruleTable, id, rs)
		i.RuleSets = append(i.RuleSets, &driverv1.RuleSetRef{RuleSetId: id, Generation: rs.GetGeneration()})
	}
	return i
}

func (n *networkDriver) AttachInterface(ctx context.Context, req *attachRequest) (*driverv1.NetworkDriverServiceAttachInterfaceResponse, error) {
	id, spec := req.GetInterfaceId(), req.GetSpec()
	if err := checkIDs("interface_id", id, "spec.network_id", spec.GetNetworkId()); err != nil {
		return nil, err
	}
	if err := n.checkMark(req.GetMark(), id); err != nil {
		return nil, err
	}
	if mac, err := net.ParseMAC(spec.GetMac()); err != nil || len(mac) != 6 || mac[0]&1 != 0 || mac.String() != spec.GetMac() {
		return nil, fault.Invalid(fault.Violation{Field: "spec.mac", Description: "must be unicast, lower case with colons"})
	}
	r := &driverv1.NetworkDriverServiceAttachInterfaceResponse{}
	return r, n.on(ctx, "interface_id", id, func(x *tx) error {
		netw, err := n.getNetwork(x, spec.GetNetworkId())
		if err != nil {
			return err
		}
		if netw == nil {
			return notFound(metav1.Reason_REASON_NETWORK_NOT_FOUND, "network", spec.GetNetworkId())
		}
		for _, rs := range spec.GetRuleSetIds() {
			if !x.has(ruleTable, rs) {
				return wrongState("rule set %s was never applied", rs)
			}
		}
		have := &attachRequest{}
		if x.get(interfaceTable, id, have) {
			if !n.ours(have.GetMark()) {
				return notOurs("interface", id)
			}
			if have.GetSpec().GetNetworkId() != spec.GetNetworkId() || have.GetSpec().GetMac() != spec.GetMac() {
				return conflict("interface", id)
			}
		}
		kept := &attachRequest{InterfaceId: id, Mark: req.GetMark(), Spec: spec}
		r.Interface = n.iface(x, kept)
		return x.put(interfaceTable, id, kept)
	})
}

func (n *networkDriver) DetachInterface(ctx context.Context, req *driverv1.NetworkDriverServiceDetachInterfaceRequest) (*driverv1.NetworkDriverServiceDetachInterfaceResponse, error) {
	id := req.GetInterfaceId()
	return &driverv1.NetworkDriverServiceDetachInterfaceResponse{}, n.on(ctx, "interface_id", id, func(x *tx) error {
		have := &attachRequest{}
		if x.get(interfaceTable, id, have) && !n.ours(have.GetMark()) {
			return notOurs("interface", id)
		}
		x.del(interfaceTable, id)
		return nil
	})
}

// interfaces are our interfaces, ordered by id; of one network, or all when it is empty.
func (n *networkDriver) interfaces(x *tx, network string) (is []*driverv1.NetworkInterface) {
	for _, id := range x.keys(interfaceTable) {
		have := &attachRequest{}
		if x.get(interfaceTable, id, have) && n.ours(have.GetMark()) && (network == "" || network == have.GetSpec().GetNetworkId()) {
			is = append(is, n.iface(x, have))
		}
	}
	return is
}

func (n *networkDriver) ListInterfaces(_ context.Context, req *driverv1.ListInterfacesRequest) (*driverv1.ListInterfacesResponse, error) {
	r := &driverv1.ListInterfacesResponse{}
	return r, n.do(func(x *tx) error {
		byID, ids := map[string]*driverv1.NetworkInterface{}, []string(nil)
		for _, i := range n.interfaces(x, req.GetNetworkId()) {
			byID[i.GetInterfaceId()], ids = i, append(ids, i.GetInterfaceId())
		}
		ids, r.NextPageToken = page(ids, req.GetPageSize(), req.GetPageToken())
		for _, id := range ids {
			r.Interfaces = append(r.Interfaces, byID[id])
		}
		return nil
	})
}

func (n *networkDriver) GetNetworkStats(_ context.Context, req *driverv1.GetNetworkStatsRequest) (*driverv1.GetNetworkStatsResponse, error) {
	r := &driverv1.GetNetworkStatsResponse{ObserveTime: timestamppb.Now()}
	wanted := map[string]bool{}
	for _, id := range req.GetInterfaceIds() {
		wanted[id] = true
	}
	return r, n.do(func(x *tx) error {
		for _, i := range n.interfaces(x, "") {
			if len(wanted) == 0 || wanted[i.GetInterfaceId()] {
				r.Interfaces = append(r.Interfaces, &driverv1.NetworkInterfaceStats{InterfaceId: i.GetInterfaceId(), NetworkId: i.GetNetworkId()})
			}
		}
		return nil
	})
}

// CheckNetwork finds nothing: nobody else can change the simulated host.
func (n *networkDriver) CheckNetwork(context.Context, *driverv1.CheckNetworkRequest) (*driverv1.CheckNetworkResponse, error) {
	return &driverv1.CheckNetworkResponse{}, nil
}

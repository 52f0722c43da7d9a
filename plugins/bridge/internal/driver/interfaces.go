package driver

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/link"
	"github.com/limiquantix/limiquantix/plugins/bridge/internal/name"
	"github.com/limiquantix/limiquantix/plugins/bridge/internal/record"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// filterInactive is why an interface is blocked when frames on bridges pass iptables by.
const filterInactive = "BRIDGE_FILTER_INACTIVE"

// AttachInterface puts an interface's rules in force by the name that its device will have, so that they are there before the device is.
func (d *Driver) AttachInterface(ctx context.Context, req *driverv1.NetworkDriverServiceAttachInterfaceRequest) (*driverv1.NetworkDriverServiceAttachInterfaceResponse, error) {
	id, spec := req.GetInterfaceId(), req.GetSpec()
	if err := checkIDs("interface_id", id, "spec.network_id", spec.GetNetworkId()); err != nil {
		return nil, err
	}
	unlock, err := d.keys.Lock(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.checkMark(req.GetMark(), id); err != nil {
		return nil, err
	}
	if err := checkInterface(spec); err != nil {
		return nil, err
	}
	net := d.state.Networks[spec.GetNetworkId()]
	switch {
	case net == nil:
		return nil, fault.New(metav1.Reason_REASON_NETWORK_NOT_FOUND, "network %s is not on this node", spec.GetNetworkId()).WithRemedy("ensure the network first")
	case !d.ours(net.Request.GetMark()):
		return nil, notOurs("network", spec.GetNetworkId())
	}
	for _, rs := range spec.GetRuleSetIds() {
		if s := d.state.RuleSets[rs]; s == nil || !d.ours(s.GetMark()) {
			return nil, wrongState("rule set %s was never applied", rs).WithRemedy("apply it first")
		}
	}
	have := d.state.Interfaces[id]
	want := &record.Interface{InterfaceId: id, Mark: req.GetMark(), Spec: spec}
	switch {
	case have == nil:
	case !d.ours(have.GetMark()):
		return nil, notOurs("interface", id)
	case have.GetSpec().GetNetworkId() != spec.GetNetworkId():
		return nil, conflict("interface", id, "network")
	case have.GetSpec().GetMac() != spec.GetMac():
		return nil, conflict("interface", id, "MAC address")
	}
	if err := d.taken(id, spec); err != nil {
		return nil, err
	}
	d.look()
	next := d.state
	if have == nil || !proto.Equal(have, want) {
		next = d.state.Clone()
		next.Interfaces[id] = want
	}
	if err := d.commit(ctx, next); err != nil {
		return nil, err
	}
	if err := d.serve(ctx, next, spec.GetNetworkId()); err != nil {
		return nil, err
	}
	if err := d.shape(want); err != nil {
		return nil, failed("limits", err)
	}
	return &driverv1.NetworkDriverServiceAttachInterfaceResponse{Interface: d.iface(want)}, nil
}

// taken refuses a MAC address or an address that another interface of the network has.
func (d *Driver) taken(id string, spec *driverv1.InterfaceSpec) error {
	for _, other := range d.state.InterfacesOf(spec.GetNetworkId()) {
		o := d.state.Interfaces[other].GetSpec()
		if other == id {
			continue
		}
		if o.GetMac() == spec.GetMac() {
			return fault.Invalid(fault.Violation{Field: "spec.mac", Description: "interface " + other + " has it"})
		}
		for i, a := range spec.GetIpAddresses() {
			for _, b := range o.GetIpAddresses() {
				if a == b {
					return fault.Invalid(fault.Violation{Field: fmt.Sprintf("spec.ip_addresses[%d]", i), Description: "interface " + other + " has it"})
				}
			}
		}
	}
	return nil
}

// iface is an interface as it is. Needs mu.
func (d *Driver) iface(r *record.Interface) *driverv1.NetworkInterface {
	spec, id := r.GetSpec(), r.GetInterfaceId()
	i := &driverv1.NetworkInterface{
		InterfaceId: id, NetworkId: spec.GetNetworkId(), Mark: r.GetMark(), State: driverv1.InterfaceState_INTERFACE_STATE_WAITING, Handle: []byte(`{"v":1}`),
		Binding: &driverv1.InterfaceBinding{Binding: &driverv1.InterfaceBinding_BridgePort{BridgePort: &driverv1.BridgePortBinding{
			Bridge: name.Bridge(spec.GetNetworkId()), TapName: name.Tap(id),
		}}},
	}
	if n := d.state.Networks[spec.GetNetworkId()]; n != nil {
		i.Binding.GetBridgePort().Mtu = uint32(mtu(n.Request.GetSpec()))
	}
	for _, rs := range spec.GetRuleSetIds() {
		i.RuleSets = append(i.RuleSets, &driverv1.RuleSetRef{RuleSetId: rs, Generation: d.state.RuleSets[rs].GetGeneration()})
	}
	tap, err := link.Find(name.Tap(id))
	if tap != nil {
		i.Device, i.State = name.Tap(id), driverv1.InterfaceState_INTERFACE_STATE_UP
	}
	block := func(reason, message string) {
		i.State, i.Reason, i.Message = driverv1.InterfaceState_INTERFACE_STATE_BLOCKED, reason, message
	}
	switch {
	case d.inactive != "":
		block(filterInactive, d.inactive)
	case spec.GetLinkDown():
		block("LINK_DOWN", "the link shall be down")
	case err != nil:
		block("BACKEND_FAILED", err.Error())
	}
	i.ObservedAddresses = d.observed(r, tap)
	return i
}

// DetachInterface removes an interface's rules, lease, limits and tracked flows. Its device is the hypervisor's; while it is there without us, nothing passes it.
func (d *Driver) DetachInterface(ctx context.Context, req *driverv1.NetworkDriverServiceDetachInterfaceRequest) (*driverv1.NetworkDriverServiceDetachInterfaceResponse, error) {
	id := req.GetInterfaceId()
	if err := checkIDs("interface_id", id, "network_id", req.GetNetworkId()); err != nil {
		return nil, err
	}
	unlock, err := d.keys.Lock(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	have := d.state.Interfaces[id]
	if have == nil {
		return &driverv1.NetworkDriverServiceDetachInterfaceResponse{}, nil
	}
	if !d.ours(have.GetMark()) {
		return nil, notOurs("interface", id)
	}
	next := d.state.Clone()
	delete(next.Interfaces, id)
	if err := d.commit(ctx, next); err != nil {
		return nil, err
	}
	if err := link.Unshape(name.Tap(id), name.Shaper(id)); err != nil {
		return nil, failed("limits", err)
	}
	return &driverv1.NetworkDriverServiceDetachInterfaceResponse{}, d.serve(ctx, next, have.GetSpec().GetNetworkId())
}

// ListInterfaces pages through our interfaces.
func (d *Driver) ListInterfaces(_ context.Context, req *driverv1.ListInterfacesRequest) (*driverv1.ListInterfacesResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := &driverv1.ListInterfacesResponse{}
	ids := d.interfaceIDs(req.GetNetworkId())
	ids, r.NextPageToken = page(ids, req.GetPageSize(), req.GetPageToken())
	for _, id := range ids {
		r.Interfaces = append(r.Interfaces, d.iface(d.state.Interfaces[id]))
	}
	return r, nil
}

// interfaceIDs are our interfaces, in order; of one network, or all when it is empty. Needs mu.
func (d *Driver) interfaceIDs(network string) (ids []string) {
	for _, id := range record.IDs(d.state.Interfaces) {
		r := d.state.Interfaces[id]
		if d.ours(r.GetMark()) && (network == "" || network == r.GetSpec().GetNetworkId()) {
			ids = append(ids, id)
		}
	}
	return ids
}

// shape sets an interface's limits, if its device is there. Needs mu.
func (d *Driver) shape(r *record.Interface) error {
	l := r.GetSpec().GetLimits()
	return link.Shape(name.Tap(r.GetInterfaceId()), name.Shaper(r.GetInterfaceId()), link.Limits{
		In: l.GetIngressBitsPerSecond(), Out: l.GetEgressBitsPerSecond(), Burst: l.GetBurstBytes(),
	})
}

package driver

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/plugins/kit/netspec"
	"github.com/limiquantix/limiquantix/plugins/ovs/internal/flow"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// AttachInterface makes a place for an interface. Its port comes later: what has no flows passes nothing.
func (d *Driver) AttachInterface(ctx context.Context, req *attachRequest) (*driverv1.NetworkDriverServiceAttachInterfaceResponse, error) {
	id, spec := req.GetInterfaceId(), req.GetSpec()
	v := netspec.IDViolations("interface_id", id)
	v = append(v, netspec.MarkViolations("mark", req.GetMark(), id, d.owner())...)
	v = append(v, netspec.InterfaceViolations("spec", spec)...)
	if len(v) > 0 {
		return nil, fault.Invalid(v...)
	}
	if len(spec.GetTrunkVlanIds()) > 0 {
		return nil, fault.New(metav1.Reason_REASON_NO_CAPABILITY, "the ovs driver does not advertise trunks")
	}
	free, err := d.keys.Lock("interface/" + id)
	if err != nil {
		return nil, err
	}
	defer free()
	unlock, err := d.use(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := d.attachable(id, spec); err != nil {
		return nil, err
	}
	want, old := &attachRequest{InterfaceId: id, Mark: req.GetMark(), Spec: spec}, d.s.interfaces[id]
	if old != nil && sameText(old.req, want) && !d.s.dirty {
		return &driverv1.NetworkDriverServiceAttachInterfaceResponse{Interface: d.iface(old)}, nil
	}
	number := d.s.freeInterface()
	if old != nil {
		number = old.Index
	}
	i := newInterface(proto.CloneOf(want), number)
	if err := d.record(ctx, map[string]string{interfaceRecord + id: i.record()}, func() {
		if old != nil {
			i.Port = old.Port
		}
		d.s.interfaces[id] = i
	}); err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx)
	view, err := d.session.View()
	if err != nil {
		return nil, backend(err)
	}
	if !d.s.dirty {
		if err := d.meters(ctx, i); err != nil {
			return nil, backend(err)
		}
	}
	d.observe(ctx, view)
	d.s.drawInterface(id)
	d.s.drawNetwork(spec.GetNetworkId())
	if err := d.apply(ctx); err != nil {
		return nil, err
	}
	if old != nil {
		d.dropMeters(ctx, old, i)
		if !slices.Equal(old.req.GetSpec().GetRuleSetIds(), spec.GetRuleSetIds()) {
			d.cut(ctx, map[string]bool{spec.GetNetworkId(): true})
		}
	}
	return &driverv1.NetworkDriverServiceAttachInterfaceResponse{Interface: d.iface(i)}, nil
}

// attachable says why an interface cannot be attached now.
func (d *Driver) attachable(id string, spec *driverv1.InterfaceSpec) error {
	if old := d.s.interfaces[id]; old != nil {
		if have := old.req.GetSpec(); have.GetNetworkId() != spec.GetNetworkId() || have.GetMac() != spec.GetMac() {
			return fault.New(metav1.Reason_REASON_SPEC_CONFLICT, "interface %s is in network %s with MAC %s, which cannot change", id, have.GetNetworkId(), have.GetMac())
		}
	}
	if d.s.networks[spec.GetNetworkId()] == nil {
		return fault.New(metav1.Reason_REASON_NETWORK_NOT_FOUND, "network %s is not on this node", spec.GetNetworkId()).WithRemedy("ensure it first")
	}
	for _, rs := range spec.GetRuleSetIds() {
		if d.s.registry.Rules(rs) == nil {
			return fault.New(metav1.Reason_REASON_WRONG_STATE, "rule set %s was never applied", rs).WithRemedy("apply it first")
		}
	}
	for other, i := range d.s.interfaces {
		if other == id {
			continue
		}
		if tapName(other) == tapName(id) {
			return fault.New(metav1.Reason_REASON_WRONG_STATE, "device name %s is that of interface %s", tapName(id), other)
		}
		if i.req.GetSpec().GetNetworkId() == spec.GetNetworkId() && i.req.GetSpec().GetMac() == spec.GetMac() {
			return fault.New(metav1.Reason_REASON_WRONG_STATE, "interface %s of network %s has MAC %s", other, spec.GetNetworkId(), spec.GetMac())
		}
	}
	return nil
}

// dropMeters removes meters that nothing refers to any more.
func (d *Driver) dropMeters(ctx context.Context, old, now *iface) {
	for _, m := range []struct{ was, is uint32 }{{old.IngressMeter, now.IngressMeter}, {old.EgressMeter, now.EgressMeter}} {
		if m.was != 0 && m.is == 0 {
			if err := d.flows().DeleteMeter(ctx, m.was); err != nil {
				slog.Warn("a meter could not be removed", "meter", m.was, "error", err)
			}
		}
	}
}

// iface is what the contract says of an interface.
func (d *Driver) iface(i *iface) *driverv1.NetworkInterface {
	spec, id := i.req.GetSpec(), i.ID
	n := d.s.networks[spec.GetNetworkId()]
	root, _ := d.session.Root()
	binding := &driverv1.OvsPortBinding{Bridge: d.bridgeName(), TapName: tapName(id), InterfaceId: id, OffloadsOff: d.datapath(root) == "netdev"}
	if n != nil {
		binding.Mtu = mtuOf(n.Spec)
	}
	r := &driverv1.NetworkInterface{
		InterfaceId: id, NetworkId: spec.GetNetworkId(), Mark: i.req.GetMark(), State: driverv1.InterfaceState_INTERFACE_STATE_WAITING, Message: i.note,
		Binding: &driverv1.InterfaceBinding{Binding: &driverv1.InterfaceBinding_OvsPort{OvsPort: binding}}, Handle: []byte("1:" + id),
	}
	if i.Port > 0 {
		r.State, r.Device = driverv1.InterfaceState_INTERFACE_STATE_UP, tapName(id)
	}
	if spec.GetLinkDown() {
		r.State, r.Reason, r.Message = driverv1.InterfaceState_INTERFACE_STATE_BLOCKED, "LINK_DOWN", "the link shall be down"
	}
	for _, rs := range spec.GetRuleSetIds() {
		ref := &driverv1.RuleSetRef{RuleSetId: rs}
		if p := d.s.registry.Rules(rs); p != nil {
			ref.Generation = p.Generation
		}
		r.RuleSets = append(r.RuleSets, ref)
	}
	return r
}

// DetachInterface removes an interface with all that was made for it.
func (d *Driver) DetachInterface(ctx context.Context, req *driverv1.NetworkDriverServiceDetachInterfaceRequest) (*driverv1.NetworkDriverServiceDetachInterfaceResponse, error) {
	id := req.GetInterfaceId()
	if err := netspec.CheckID("interface_id", id); err != nil {
		return nil, err
	}
	free, err := d.keys.Lock("interface/" + id)
	if err != nil {
		return nil, err
	}
	defer free()
	unlock, err := d.use(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx)
	r := &driverv1.NetworkDriverServiceDetachInterfaceResponse{}
	i := d.s.interfaces[id]
	if i != nil {
		if err := d.record(ctx, map[string]string{interfaceRecord + id: ""}, func() {
			delete(d.s.interfaces, id)
			d.s.drawInterface(id)
			d.s.drawNetwork(i.req.GetSpec().GetNetworkId())
		}); err != nil {
			return nil, err
		}
	}
	view, err := d.session.View()
	if err != nil {
		return nil, backend(err)
	}
	if view.Bridges[d.bridgeName()] != nil {
		if err := d.unplug(ctx, view, []string{tapName(id)}); err != nil {
			return nil, err
		}
	}
	if err := d.finish(ctx); err != nil {
		return nil, err
	}
	if i != nil && !d.s.empty() {
		d.dropMeters(ctx, i, &iface{})
		d.forget(ctx, i)
	}
	return r, nil
}

// ListInterfaces lists interfaces by id.
func (d *Driver) ListInterfaces(ctx context.Context, req *driverv1.ListInterfacesRequest) (*driverv1.ListInterfacesResponse, error) {
	unlock, err := d.use(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	var ids []string
	for id, i := range d.s.interfaces {
		if req.GetNetworkId() == "" || i.req.GetSpec().GetNetworkId() == req.GetNetworkId() {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	ids, next := page(ids, req.GetPageSize(), req.GetPageToken())
	r := &driverv1.ListInterfacesResponse{NextPageToken: next}
	for _, id := range ids {
		r.Interfaces = append(r.Interfaces, d.iface(d.s.interfaces[id]))
	}
	return r, nil
}

// GetNetworkStats reads counters: the ports', and those of flows that drop.
func (d *Driver) GetNetworkStats(ctx context.Context, req *driverv1.GetNetworkStatsRequest) (*driverv1.GetNetworkStatsResponse, error) {
	unlock, err := d.use(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	r := &driverv1.GetNetworkStatsResponse{ObserveTime: timestamppb.Now()}
	if len(d.s.interfaces) == 0 {
		return r, nil
	}
	b := d.flows()
	ports, err := b.Ports(ctx)
	if err != nil {
		return nil, backend(err)
	}
	dropped := map[flow.Class]map[string]uint64{}
	for _, c := range []flow.Class{flow.Spoofed, flow.Ingress, flow.Egress} {
		if dropped[c], err = b.Counters(ctx, c); err != nil {
			return nil, backend(err)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(d.s.interfaces)) {
		if len(req.GetInterfaceIds()) > 0 && !slices.Contains(req.GetInterfaceIds(), id) {
			continue
		}
		i := d.s.interfaces[id]
		key := fmt.Sprintf("%#x", i.Index)
		x := &driverv1.NetworkInterfaceStats{
			InterfaceId: id, NetworkId: i.req.GetSpec().GetNetworkId(),
			IngressDeniedPackets: dropped[flow.Ingress][key], EgressDeniedPackets: dropped[flow.Egress][key], SpoofedPackets: dropped[flow.Spoofed][key],
		}
		if p, ok := ports[i.Port]; ok && i.Port > 0 {
			x.ReceiveBytes, x.ReceivePackets, x.ReceiveDropped = p.TxBytes, p.TxPackets, p.TxDropped
			x.TransmitBytes, x.TransmitPackets, x.TransmitDropped = p.RxBytes, p.RxPackets, p.RxDropped
		}
		r.Interfaces = append(r.Interfaces, x)
	}
	return r, nil
}

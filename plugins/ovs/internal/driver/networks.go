package driver

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/plugins/kit/netspec"
	"github.com/limiquantix/limiquantix/plugins/ovs/internal/vswitch"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// EnsureNetwork brings a network to its spec.
func (d *Driver) EnsureNetwork(ctx context.Context, req *driverv1.EnsureNetworkRequest) (*driverv1.EnsureNetworkResponse, error) {
	id, spec := req.GetNetworkId(), req.GetSpec()
	v := netspec.IDViolations("network_id", id)
	v = append(v, netspec.MarkViolations("mark", req.GetMark(), id, d.owner())...)
	v = append(v, netspec.NetworkViolations("spec", spec)...)
	v = append(v, d.unsupported(spec)...)
	if len(v) > 0 {
		return nil, fault.Invalid(v...)
	}
	if err := notOffered(spec); err != nil {
		return nil, err
	}
	free, err := d.keys.Lock("network/" + id)
	if err != nil {
		return nil, err
	}
	defer free()
	unlock, err := d.use(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	want := &driverv1.EnsureNetworkRequest{NetworkId: id, Mark: req.GetMark(), Spec: spec}
	old := d.s.networks[id]
	if old != nil {
		if field := netspec.Fixed(old.req.GetSpec(), spec); field != "" {
			return nil, fault.New(metav1.Reason_REASON_SPEC_CONFLICT, "spec.%s of network %s cannot change", field, id).WithRemedy("make another network")
		}
	}
	if z := int(spec.GetConntrackZone()); z != 0 {
		for other, n := range d.s.networks {
			if other != id && n.Zone == z {
				return nil, fault.Invalid(fault.Violation{Field: "spec.conntrack_zone", Description: fmt.Sprintf("%d is that of network %s", z, other)})
			}
		}
	}
	n := newNetwork(proto.CloneOf(want), d.s.freeNetwork(), d.s.zone(id, spec.GetConntrackZone()))
	if old != nil {
		n.Index, n.Tunnel, n.Uplink = old.Index, old.Tunnel, old.Uplink
		if spec.GetConntrackZone() == 0 {
			n.Zone = old.Zone
		}
	}
	if old != nil && sameText(old.req, want) && n.Zone == old.Zone && !d.s.dirty {
		if view, err := d.session.View(); err == nil && d.plugged(view, old) {
			return &driverv1.EnsureNetworkResponse{Network: d.network(old)}, nil
		}
	}
	if err := d.record(ctx, map[string]string{networkRecord + id: n.record()}, func() { d.s.networks[id] = n }); err != nil {
		return nil, err
	}
	view, err := d.session.View()
	if err != nil {
		return nil, backend(err)
	}
	for _, p := range d.plugs(n) {
		if view.Bridges[p.Bridge] == nil {
			return nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "uplink %s leads to bridge %s, which is absent", spec.GetUplink(), p.Bridge).WithRemedy("make the bridge, or change the driver's configuration")
		}
	}
	if err := d.session.Plug(ctx, view, d.plugs(n), nil); err != nil {
		return nil, backend(err)
	}
	if view, err = d.session.View(); err != nil {
		return nil, backend(err)
	}
	d.observe(ctx, view)
	d.s.drawNetwork(id)
	for _, i := range d.s.members(id) {
		d.s.drawInterface(i.ID)
	}
	if err := d.apply(ctx); err != nil {
		return nil, err
	}
	return &driverv1.EnsureNetworkResponse{Network: d.network(n)}, nil
}

func (d *Driver) plugged(view *vswitch.View, n *network) bool {
	b := view.Bridges[d.bridgeName()]
	return b != nil && b.Secure() && !slices.ContainsFunc(d.plugs(n), func(p vswitch.Plug) bool { return !view.Plugged(p) })
}

// unsupported says which values of a spec this driver does not take.
func (d *Driver) unsupported(s *driverv1.NetworkSpec) (v []fault.Violation) {
	if t := s.GetType(); t != 0 && t != driverv1.NetworkType_NETWORK_TYPE_OVS {
		v = append(v, fault.Violation{Field: "spec.type", Description: "only OVS is advertised"})
	}
	if u := s.GetUplink(); u != "" && d.cfg.Uplinks[u] == "" {
		v = append(v, fault.Violation{Field: "spec.uplink", Description: fmt.Sprintf("%.64q is not among the uplinks of the driver's configuration", u)})
	}
	if s.GetMtu() > maxMTU && s.GetMtu() <= netspec.MaxMTU {
		v = append(v, fault.Violation{Field: "spec.mtu", Description: fmt.Sprintf("%d is more than %d", s.GetMtu(), maxMTU)})
	}
	return v
}

// notOffered refuses what is not advertised. Names for DNS are taken and not served.
func notOffered(s *driverv1.NetworkSpec) error {
	what := ""
	switch {
	case s.GetEgress() > driverv1.EgressMode_EGRESS_MODE_NONE:
		what = "egress by way of the node"
	case len(s.GetForwards()) > 0:
		what = "port forwards"
	case slices.ContainsFunc(s.GetSubnets(), func(x *driverv1.SubnetSpec) bool { return x.GetDhcp() }):
		what = "DHCP"
	default:
		return nil
	}
	return fault.New(metav1.Reason_REASON_NO_CAPABILITY, "the ovs driver does not advertise %s", what)
}

// record writes changes of records, making the bridge when it is not there, and then lets take hold in memory. Nothing is left of it when it fails.
func (d *Driver) record(ctx context.Context, changes map[string]string, take func()) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	view, err := d.session.View()
	if err != nil {
		return backend(err)
	}
	b := view.Bridges[d.bridgeName()]
	if b != nil && !d.ours(b) && d.s.empty() {
		return notOurs("bridge", b.Name)
	}
	if b == nil {
		root, err := d.session.Root()
		if err != nil {
			return backend(err)
		}
		ids := maps.Clone(d.s.records)
		maps.Copy(ids, changes)
		maps.Copy(ids, map[string]string{"limiquantix-cluster": d.host.GetClusterId(), "limiquantix-node": d.host.GetNodeId()})
		maps.DeleteFunc(ids, func(_, v string) bool { return v == "" })
		d.s.dirty = true
		d.s.keep(changes) // before the loop sees the bridge
		take()
		return backend(d.session.AddBridge(ctx, d.bridgeName(), d.datapath(root), ids))
	}
	if err := d.session.Record(ctx, b, changes); err != nil {
		return backend(err)
	}
	d.s.keep(changes)
	take()
	return nil
}

// keep makes changes part of the records that there should be.
func (s *state) keep(changes map[string]string) {
	for k, v := range changes {
		if v == "" {
			delete(s.records, k)
		} else {
			s.records[k] = v
		}
	}
}

// network is what the contract says of a network.
func (d *Driver) network(n *network) *driverv1.Network {
	r := &driverv1.Network{
		NetworkId: n.ID, Mark: n.req.GetMark(), Health: driverv1.HealthState_HEALTH_STATE_HEALTHY,
		Device: d.bridgeName(), Mtu: mtuOf(n.Spec), Handle: []byte("1:" + n.ID),
	}
	degrade := func(message string) {
		r.Health, r.Reason, r.Message = driverv1.HealthState_HEALTH_STATE_DEGRADED, "DEVICE_MISSING", message
	}
	if n.Spec.GetVni() != 0 && n.Tunnel == 0 {
		degrade("the tunnel's port has no number yet")
	}
	if n.Spec.GetUplink() != "" && n.Uplink == 0 {
		degrade("the uplink's port has no number yet")
	}
	return r
}

// DeleteNetwork removes a network.
func (d *Driver) DeleteNetwork(ctx context.Context, req *driverv1.DeleteNetworkRequest) (*driverv1.DeleteNetworkResponse, error) {
	id := req.GetNetworkId()
	if err := netspec.CheckID("network_id", id); err != nil {
		return nil, err
	}
	free, err := d.keys.Lock("network/" + id)
	if err != nil {
		return nil, err
	}
	defer free()
	unlock, err := d.use(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	for _, i := range d.s.members(id) {
		return nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "interface %s is attached to network %s", i.ID, id).WithRemedy("detach it first")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx)
	r := &driverv1.DeleteNetworkResponse{}
	if d.s.networks[id] != nil {
		if err := d.record(ctx, map[string]string{networkRecord + id: ""}, func() { delete(d.s.networks, id); d.s.drawNetwork(id) }); err != nil {
			return nil, err
		}
	}
	view, err := d.session.View()
	if err != nil {
		return nil, backend(err)
	}
	if err := d.unplug(ctx, view, portNames(id)); err != nil {
		return nil, err
	}
	return r, d.finish(ctx)
}

// unplug removes ports of ours by name.
func (d *Driver) unplug(ctx context.Context, view *vswitch.View, names []string) error {
	var ours []string
	for _, name := range names {
		p := view.PortNamed[name]
		if p != nil && (view.BridgeOf[p.UUID] == d.bridgeName() || p.ExternalIDs["limiquantix-cluster"] == d.host.GetClusterId() && p.ExternalIDs["limiquantix-node"] == d.host.GetNodeId()) {
			ours = append(ours, name)
		}
	}
	return backend(d.session.Plug(ctx, view, nil, ours))
}

// finish applies what was removed, and removes the bridge when nothing is left.
func (d *Driver) finish(ctx context.Context) error {
	view, err := d.session.View()
	if err != nil {
		return backend(err)
	}
	b := view.Bridges[d.bridgeName()]
	if d.s.empty() {
		if b != nil && d.ours(b) {
			return backend(d.session.DeleteBridge(ctx, b))
		}
		return nil
	}
	return d.apply(ctx)
}

// ListNetworks lists networks by id.
func (d *Driver) ListNetworks(ctx context.Context, req *driverv1.ListNetworksRequest) (*driverv1.ListNetworksResponse, error) {
	unlock, err := d.use(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	ids, next := page(slices.Sorted(maps.Keys(d.s.networks)), req.GetPageSize(), req.GetPageToken())
	r := &driverv1.ListNetworksResponse{NextPageToken: next}
	for _, id := range ids {
		r.Networks = append(r.Networks, d.network(d.s.networks[id]))
	}
	return r, nil
}

// page is a page of sorted ids; a token is the last id of the page before.
func page(ids []string, size int32, token string) (part []string, next string) {
	if size <= 0 || size > 1000 {
		size = 1000
	}
	from, found := slices.BinarySearch(ids, token)
	if found {
		from++
	}
	ids = ids[from:]
	if len(ids) <= int(size) {
		return ids, ""
	}
	return ids[:size], ids[size-1]
}

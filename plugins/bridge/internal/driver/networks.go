package driver

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/name"
	"github.com/limiquantix/limiquantix/plugins/bridge/internal/record"
	"github.com/limiquantix/limiquantix/plugins/kit/netspec"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// EnsureNetwork makes a network's bridge, and what belongs to it, or changes it in place.
func (d *Driver) EnsureNetwork(ctx context.Context, req *driverv1.EnsureNetworkRequest) (*driverv1.EnsureNetworkResponse, error) {
	id := req.GetNetworkId()
	if err := checkIDs("network_id", id); err != nil {
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
	if err := d.checkNetwork(req.GetSpec()); err != nil {
		return nil, err
	}
	have := d.state.Networks[id]
	n := &record.Network{Zone: req.GetSpec().GetConntrackZone(), Request: &driverv1.EnsureNetworkRequest{NetworkId: id, Mark: req.GetMark(), Spec: req.GetSpec()}}
	switch {
	case have == nil:
		if n.Number = d.state.FreeNumber(); n.Number == 0 {
			return nil, fault.New(metav1.Reason_REASON_LIMIT_EXCEEDED, "a node has at most 4095 networks")
		}
	case !d.ours(have.Request.GetMark()):
		return nil, notOurs("network", id)
	default:
		if part := netspec.Fixed(have.Request.GetSpec(), req.GetSpec()); part != "" {
			return nil, conflict("network", id, part)
		}
		n.Number = have.Number
	}
	if n.Zone == 0 {
		n.Zone = zone(d.state, id, n.Number)
	}
	if err := clash(d.state, id, n); err != nil {
		return nil, err
	}
	next := d.state.Clone()
	next.Networks[id] = n
	if have != nil && have.Zone == n.Zone && proto.Equal(have.Request, n.Request) {
		next = d.state // already so: only what is missing is made
	}
	if err := d.commit(ctx, next); err != nil {
		return nil, err
	}
	if err := d.ensureLinks(ctx, next, id); err != nil {
		return nil, err
	}
	return &driverv1.EnsureNetworkResponse{Network: d.network(n)}, nil
}

// zone is a connection tracking zone that no network has.
func zone(s *record.State, id string, number uint32) uint32 {
	if have := s.Networks[id]; have != nil && have.Request.GetSpec().GetConntrackZone() == 0 {
		return have.Zone
	}
	for z := 0x4000 + number; ; z++ {
		free := true
		for _, n := range s.Networks {
			free = free && n.Zone != z
		}
		if free {
			return z
		}
	}
}

// clash refuses what two networks cannot both have.
func clash(s *record.State, id string, n *record.Network) error {
	spec := n.Request.GetSpec()
	for other, o := range s.Networks {
		if other == id {
			continue
		}
		os := o.Request.GetSpec()
		switch {
		case o.Zone == n.Zone:
			return fault.Invalid(fault.Violation{Field: "spec.conntrack_zone", Description: "network " + other + " has it"})
		case spec.GetUplink() != "" && spec.GetUplink() == os.GetUplink() && spec.GetVlanId() == os.GetVlanId():
			if spec.GetVlanId() != 0 {
				return wrongState("VLAN %d of uplink %s is network %s's", spec.GetVlanId(), spec.GetUplink(), other)
			}
			return wrongState("uplink %s is network %s's", spec.GetUplink(), other)
		case spec.GetVni() != 0 && spec.GetVni() == os.GetVni():
			return wrongState("vni %d is network %s's", spec.GetVni(), other)
		}
		for _, f := range spec.GetForwards() {
			for _, g := range os.GetForwards() {
				if f.GetProtocol() == g.GetProtocol() && f.GetListenPort() == g.GetListenPort() &&
					(f.GetListenAddress() == "" || g.GetListenAddress() == "" || f.GetListenAddress() == g.GetListenAddress()) {
					return wrongState("port %d of the node leads into network %s", f.GetListenPort(), other)
				}
			}
		}
	}
	return nil
}

// network is a network as it is. Needs mu.
func (d *Driver) network(n *record.Network) *driverv1.Network {
	r := &driverv1.Network{
		NetworkId: n.Request.GetNetworkId(), Mark: n.Request.GetMark(), Health: driverv1.HealthState_HEALTH_STATE_HEALTHY,
		Device: name.Bridge(n.Request.GetNetworkId()), Mtu: uint32(mtu(n.Request.GetSpec())), Handle: []byte(`{"v":1}`),
	}
	steps, err := linkNetwork(n).Steps()
	switch {
	case err != nil:
		r.Health, r.Reason, r.Message = driverv1.HealthState_HEALTH_STATE_UNHEALTHY, "BACKEND_FAILED", err.Error()
	case d.inactive != "":
		r.Health, r.Reason, r.Message = driverv1.HealthState_HEALTH_STATE_UNHEALTHY, filterInactive, d.inactive
	case len(steps) > 0:
		r.Health, r.Reason, r.Message = driverv1.HealthState_HEALTH_STATE_DEGRADED, "DRIFT", steps[0].Detail
	}
	return r
}

// DeleteNetwork removes a network's bridge, and what belongs to it.
func (d *Driver) DeleteNetwork(ctx context.Context, req *driverv1.DeleteNetworkRequest) (*driverv1.DeleteNetworkResponse, error) {
	id := req.GetNetworkId()
	if err := checkIDs("network_id", id); err != nil {
		return nil, err
	}
	unlock, err := d.keys.Lock(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	have := d.state.Networks[id]
	if have == nil {
		return &driverv1.DeleteNetworkResponse{}, nil
	}
	if !d.ours(have.Request.GetMark()) {
		return nil, notOurs("network", id)
	}
	if used := d.state.InterfacesOf(id); len(used) > 0 {
		return nil, wrongState("interface %s is attached to network %s", used[0], id).WithRemedy("detach its interfaces first")
	}
	if err := d.mine(ctx); err != nil {
		return nil, err
	}
	if err := d.unserve(ctx, have); err != nil {
		return nil, err
	}
	if err := linkNetwork(have).Delete(); err != nil {
		return nil, failed("network "+id, err)
	}
	next := d.state.Clone()
	delete(next.Networks, id)
	return &driverv1.DeleteNetworkResponse{}, d.commit(ctx, next)
}

// ListNetworks pages through our networks.
func (d *Driver) ListNetworks(_ context.Context, req *driverv1.ListNetworksRequest) (*driverv1.ListNetworksResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := &driverv1.ListNetworksResponse{}
	var ids []string
	for _, id := range record.IDs(d.state.Networks) {
		if d.ours(d.state.Networks[id].Request.GetMark()) {
			ids = append(ids, id)
		}
	}
	ids, r.NextPageToken = page(ids, req.GetPageSize(), req.GetPageToken())
	for _, id := range ids {
		r.Networks = append(r.Networks, d.network(d.state.Networks[id]))
	}
	return r, nil
}

// page is the part of ordered ids after token; the token of the next page is the last id of this one.
func page(ids []string, size int32, token string) (part []string, next string) {
	if size <= 0 || size > 1000 {
		size = 1000
	}
	for _, id := range ids {
		if id <= token {
			continue
		}
		if len(part) == int(size) {
			return part, part[size-1]
		}
		part = append(part, id)
	}
	return part, ""
}

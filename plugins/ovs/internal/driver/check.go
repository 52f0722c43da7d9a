package driver

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/limiquantix/limiquantix/plugins/kit/netspec"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// compareFlows compares the bridge's flows with those that it should have.
func (d *Driver) compareFlows(ctx context.Context, repair bool) (drifts []*driverv1.NetworkDrift, err error) {
	all := d.s.table.All()
	ds, err := d.flows().Differences(ctx, all)
	if err != nil {
		d.s.dirty = true
		return nil, backend(err)
	}
	if len(ds) == 0 {
		return nil, nil
	}
	type finding struct {
		missing, extra int
		first          string
		open           bool
	}
	found := map[string]*finding{}
	for _, x := range ds {
		owner := ""
		if o, ok := d.s.table.Wanted(x.Cookie); ok {
			owner = o.Owner
		}
		f := found[owner]
		if f == nil {
			f = &finding{first: x.Line}
			found[owner] = f
		}
		if x.Extra {
			f.extra++
			f.open = true
		} else {
			f.missing++
			// A flow that lets nothing pass by itself, and is missing, may have let pass what others allow.
			f.open = f.open || strings.Contains(x.Line, "actions=drop") || strings.Contains(x.Line, "resubmit(,19)") || strings.Contains(x.Line, "goto_table:19")
		}
	}
	if repair {
		d.s.dirty = true
		if err := d.apply(ctx); err != nil {
			return nil, err
		}
	}
	for owner, f := range found {
		kind, id := ownerObject(owner)
		if id == "" {
			id = d.host.GetNodeId()
		}
		drifts = append(drifts, &driverv1.NetworkDrift{
			ObjectId: id, Kind: kind, Open: f.open, Repaired: repair,
			Detail: fmt.Sprintf("%d flows missing, %d flows too many or changed in %s, for example %.200s", f.missing, f.extra, d.bridgeName(), f.first),
		})
	}
	slices.SortFunc(drifts, func(a, b *driverv1.NetworkDrift) int { return strings.Compare(a.GetObjectId(), b.GetObjectId()) })
	return drifts, nil
}

// ownerObject is the object of an owner of flows.
func ownerObject(owner string) (driverv1.NetworkObjectKind, string) {
	name, id, _ := strings.Cut(owner, "/")
	switch name {
	case "interface":
		return driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_INTERFACE, id
	case "rules":
		return driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_RULE_SET, id
	case "set":
		return driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_ADDRESS_SET, id
	}
	return driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_NETWORK, id
}

// CheckNetwork compares database and flows with what was asked for.
func (d *Driver) CheckNetwork(ctx context.Context, req *driverv1.CheckNetworkRequest) (*driverv1.CheckNetworkResponse, error) {
	if req.GetNetworkId() != "" {
		if err := netspec.CheckID("network_id", req.GetNetworkId()); err != nil {
			return nil, err
		}
	}
	unlock, err := d.use(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	drifts, err := d.sync(ctx, req.GetRepair())
	if err != nil {
		return nil, backend(err)
	}
	view, err := d.session.View()
	if err != nil {
		return nil, backend(err)
	}
	if !d.s.empty() && view.Bridges[d.bridgeName()] != nil {
		more, err := d.compareFlows(ctx, req.GetRepair())
		if err != nil {
			return nil, err
		}
		drifts = append(drifts, more...)
	}
	r := &driverv1.CheckNetworkResponse{}
	for _, x := range drifts {
		if d.concerns(x, req.GetNetworkId()) {
			r.Drifts = append(r.Drifts, x)
		}
	}
	return r, nil
}

// concerns reports whether a drift has to do with a network; rules and what belongs to nobody have to do with all.
func (d *Driver) concerns(x *driverv1.NetworkDrift, network string) bool {
	id := x.GetObjectId()
	switch {
	case network == "" || id == network:
		return true
	case x.GetKind() == driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_INTERFACE:
		i := d.s.interfaces[id]
		return i == nil || i.req.GetSpec().GetNetworkId() == network
	case x.GetKind() == driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_NETWORK:
		return d.s.networks[id] == nil
	}
	return true
}

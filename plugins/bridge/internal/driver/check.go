package driver

import (
	"context"
	"strings"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/filter"
	"github.com/limiquantix/limiquantix/plugins/bridge/internal/name"
	"github.com/limiquantix/limiquantix/plugins/bridge/internal/record"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

const (
	kindNetwork   = driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_NETWORK
	kindInterface = driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_INTERFACE
	kindRuleSet   = driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_RULE_SET
	kindSet       = driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_ADDRESS_SET
)

// CheckNetwork reads the host and compares it with the records.
func (d *Driver) CheckNetwork(ctx context.Context, req *driverv1.CheckNetworkRequest) (*driverv1.CheckNetworkResponse, error) {
	if req.GetNetworkId() != "" {
		if err := checkIDs("network_id", req.GetNetworkId()); err != nil {
			return nil, err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.look()
	drifts, err := d.drifts(ctx)
	if err != nil {
		return nil, err
	}
	r := &driverv1.CheckNetworkResponse{}
	for _, x := range drifts {
		if id := req.GetNetworkId(); id == "" || x.GetObjectId() == id || d.state.Interfaces[x.GetObjectId()].GetSpec().GetNetworkId() == id || x.GetKind() >= kindRuleSet {
			r.Drifts = append(r.Drifts, x)
		}
	}
	if req.GetRepair() && len(drifts) > 0 {
		if err := d.mine(ctx); err != nil {
			return nil, err
		}
		if err := d.restore(ctx); err != nil {
			return nil, err
		}
		for _, x := range r.Drifts {
			x.Repaired = true
		}
	}
	return r, nil
}

// drifts are all differences between the host and the records. Needs mu.
func (d *Driver) drifts(ctx context.Context) (all []*driverv1.NetworkDrift, err error) {
	add := func(id string, kind driverv1.NetworkObjectKind, detail string, open bool) {
		all = append(all, &driverv1.NetworkDrift{ObjectId: id, Kind: kind, Detail: detail, Open: open})
	}
	for _, id := range record.IDs(d.state.Networks) {
		n := d.state.Networks[id]
		steps, err := linkNetwork(n).Steps()
		if err != nil {
			return nil, failed("network "+id, err)
		}
		for _, s := range steps {
			add(id, kindNetwork, s.Detail, false)
		}
		if detail := d.serviceDrift(id); detail != "" {
			add(id, kindNetwork, detail, false)
		}
	}
	for _, id := range record.IDs(d.state.Members) {
		detail, err := d.sets.Differs(d.state.Members[id])
		if err != nil {
			return nil, failed("address set "+id, err)
		}
		if detail != "" {
			add(id, kindSet, detail, !strings.Contains(detail, "lacks"))
		}
	}
	have, err := d.kernel.Read(ctx)
	if err != nil {
		return nil, err
	}
	want := model(d.state, d.inactive != "").Render()
	if diffs := filter.Differences(have, want); len(diffs) > 0 {
		d.inForce = have
		open := have.FramesOpen(want)
		objects := d.objects()
		for _, f := range diffs {
			id, kind := f.Owner(objects)
			add(id, kind, f.String(), open)
		}
	}
	return all, nil
}

// objects are the ids and kinds by the keys that chains are named by. Needs mu.
func (d *Driver) objects() map[string]filter.Owner {
	m := map[string]filter.Owner{}
	for id := range d.state.Networks {
		m[name.Key(id)] = filter.Owner{ID: id, Kind: kindNetwork}
	}
	for id := range d.state.Interfaces {
		m[name.Key(id)] = filter.Owner{ID: id, Kind: kindInterface}
	}
	for id := range d.state.RuleSets {
		m[name.Key(id)] = filter.Owner{ID: id, Kind: kindRuleSet}
	}
	return m
}

package driver

import (
	"context"
	"slices"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/name"
	"github.com/limiquantix/limiquantix/plugins/bridge/internal/record"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// CollectGarbage removes rule sets and address sets that nobody names or uses, and ipsets of ours without a record.
func (d *Driver) CollectGarbage(ctx context.Context, req *driverv1.CollectGarbageRequest) (*driverv1.CollectGarbageResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := &driverv1.CollectGarbageResponse{}
	report := func(id string, kind driverv1.NetworkObjectKind, detail string, removed bool) {
		r.Objects = append(r.Objects, &driverv1.NetworkGarbage{ObjectId: id, Kind: kind, Detail: detail, Removed: removed})
	}
	next := d.state.Clone()
	var used []string
	for _, id := range record.IDs(d.state.Interfaces) {
		i := d.state.Interfaces[id]
		used = append(used, i.GetSpec().GetRuleSetIds()...)
		if d.ours(i.GetMark()) && !slices.Contains(req.GetInterfaceIds(), id) {
			report(id, kindInterface, "interface "+name.Tap(id), false)
		}
	}
	for _, id := range record.IDs(d.state.Networks) {
		if d.ours(d.state.Networks[id].Request.GetMark()) && !slices.Contains(req.GetNetworkIds(), id) {
			report(id, kindNetwork, "bridge "+name.Bridge(id), false)
		}
	}
	keepRules, keepSets := req.GetRuleSetIds(), req.GetAddressSetIds()
	for id, rs := range d.state.RuleSets {
		if !d.ours(rs.GetMark()) {
			keepRules = append(keepRules, id)
		}
	}
	for id, s := range d.state.Sets {
		if !d.ours(s.GetMark()) {
			keepSets = append(keepSets, id)
		}
	}
	u := d.registry().PlanGarbage(keepRules, keepSets, used)
	for _, p := range u.RemovedRules {
		delete(next.RuleSets, p.ID)
		delete(next.Plans, p.ID)
		report(p.ID, kindRuleSet, "chains of rule set "+name.Key(p.ID), !req.GetDryRun())
	}
	for _, s := range u.RemovedSets {
		delete(next.Sets, s.ID)
		delete(next.Members, s.ID)
		report(s.ID, kindSet, "sets "+name.Set4(s.ID)+", "+name.Set6(s.ID), !req.GetDryRun())
	}
	for _, stray := range d.sets.Strays(d.state) {
		if !req.GetDryRun() {
			if err := d.sets.Destroy(stray); err != nil {
				continue // something refers to it: the next collection finds it again
			}
		}
		report("", driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_ADDRESS_SET, "set "+stray+" without a record", !req.GetDryRun())
	}
	if req.GetDryRun() {
		return r, nil
	}
	return r, d.commit(ctx, next)
}

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
	used := map[string]bool{}
	for _, id := range record.IDs(d.state.Interfaces) {
		i := d.state.Interfaces[id]
		for _, rs := range i.GetSpec().GetRuleSetIds() {
			used[rs] = true
		}
		if d.ours(i.GetMark()) && !slices.Contains(req.GetInterfaceIds(), id) {
			report(id, driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_INTERFACE, "interface "+name.Tap(id), false)
		}
	}
	for _, id := range record.IDs(d.state.Networks) {
		if d.ours(d.state.Networks[id].Request.GetMark()) && !slices.Contains(req.GetNetworkIds(), id) {
			report(id, driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_NETWORK, "bridge "+name.Bridge(id), false)
		}
	}
	for _, id := range record.IDs(d.state.RuleSets) {
		rs := d.state.RuleSets[id]
		if d.ours(rs.GetMark()) && !used[id] && !slices.Contains(req.GetRuleSetIds(), id) {
			delete(next.RuleSets, id)
			report(id, driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_RULE_SET, "chains of rule set "+name.Key(id), !req.GetDryRun())
			continue
		}
		for _, rule := range rs.GetRules() {
			used[rule.GetAddressSetId()] = true
		}
	}
	for _, id := range record.IDs(d.state.Sets) {
		s := d.state.Sets[id]
		if d.ours(s.GetMark()) && !used[id] && !slices.Contains(req.GetAddressSetIds(), id) {
			delete(next.Sets, id)
			report(id, driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_ADDRESS_SET, "sets "+name.Set4(id)+", "+name.Set6(id), !req.GetDryRun())
		}
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

package driver

import (
	"context"

	"github.com/limiquantix/limiquantix/plugins/kit/netspec"
	"github.com/limiquantix/limiquantix/plugins/kit/ruleset"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// registry is what decides on rule sets and address sets, filled with those in force. Needs mu.
func (d *Driver) registry() *ruleset.Registry {
	r := ruleset.NewRegistry(netspec.OwnerOf(d.host), 0)
	var plans []*ruleset.Plan
	var sets []*ruleset.Set
	for _, p := range d.state.Plans {
		plans = append(plans, p)
	}
	for _, s := range d.state.Members {
		sets = append(sets, s)
	}
	r.Restore(plans, sets)
	return r
}

// ApplyRuleSet replaces a rule set: one change of the first layer, whatever number of interfaces uses it.
func (d *Driver) ApplyRuleSet(ctx context.Context, req *driverv1.ApplyRuleSetRequest) (*driverv1.ApplyRuleSetResponse, error) {
	id := req.GetRuleSet().GetRuleSetId()
	if err := checkIDs("rule_set.rule_set_id", id); err != nil {
		return nil, err
	}
	unlock, err := d.keys.Lock(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if have := d.state.RuleSets[id]; have != nil && !d.ours(have.GetMark()) {
		return nil, notOurs("rule set", id)
	}
	for _, s := range req.GetAddressSets() {
		if have := d.state.Sets[s.GetAddressSetId()]; have != nil && !d.ours(have.GetMark()) {
			return nil, notOurs("address set", s.GetAddressSetId())
		}
	}
	u, err := d.registry().PlanApply(req)
	if err != nil {
		return nil, err
	}
	next := d.state.Clone()
	if u.Rules != nil {
		next.RuleSets[id], next.Plans[id] = req.GetRuleSet(), u.Rules
	}
	for _, s := range u.Sets {
		next.PutSet(s.Set)
	}
	return &driverv1.ApplyRuleSetResponse{Generation: req.GetRuleSet().GetGeneration()}, d.commit(ctx, next)
}

// UpdateAddressSet changes an address set; rules that refer to it stay as they are.
func (d *Driver) UpdateAddressSet(ctx context.Context, req *driverv1.UpdateAddressSetRequest) (*driverv1.UpdateAddressSetResponse, error) {
	id := req.GetAddressSetId()
	if err := checkIDs("address_set_id", id); err != nil {
		return nil, err
	}
	unlock, err := d.keys.Lock(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if have := d.state.Sets[id]; have != nil && !d.ours(have.GetMark()) {
		return nil, notOurs("address set", id)
	}
	if err := d.mine(ctx); err != nil {
		return nil, err
	}
	u, err := d.registry().PlanUpdateSet(req)
	if err != nil {
		return nil, err
	}
	old, next := d.state, d.state.Clone()
	for _, s := range u.Sets {
		next.PutSet(s.Set)
	}
	// Nothing but the set changes: neither is the filter rendered, nor a device looked at.
	if err := d.sets.Add(old, next); err != nil {
		return nil, failed("address set "+id, err)
	}
	if err := d.dir.Save(old, next); err != nil {
		return nil, failed("records", err)
	}
	d.state = next
	d.cut(old, next)
	return &driverv1.UpdateAddressSetResponse{Generation: req.GetGeneration()}, nil
}

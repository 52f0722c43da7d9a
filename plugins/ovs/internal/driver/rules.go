package driver

import (
	"context"

	"github.com/limiquantix/limiquantix/plugins/kit/netspec"
	"github.com/limiquantix/limiquantix/plugins/kit/ruleset"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// ApplyRuleSet replaces a rule set and makes the address sets that come with it, in one bundle. Flows that were allowed by what is gone need not be cut: each of their packets is
// judged by the rules in force.
func (d *Driver) ApplyRuleSet(ctx context.Context, req *driverv1.ApplyRuleSetRequest) (*driverv1.ApplyRuleSetResponse, error) {
	rs := req.GetRuleSet()
	if err := netspec.CheckID("rule_set.rule_set_id", rs.GetRuleSetId()); err != nil {
		return nil, err
	}
	keys := []string{"rules/" + rs.GetRuleSetId()}
	seen := map[string]bool{}
	for _, a := range req.GetAddressSets() {
		if id := a.GetAddressSetId(); !seen[id] {
			keys, seen[id] = append(keys, "set/"+id), true
		}
	}
	free, err := d.keys.Lock(keys...)
	if err != nil {
		return nil, err
	}
	defer free()
	unlock, err := d.use(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	u, err := d.s.registry.PlanApply(req)
	if err != nil {
		return nil, err
	}
	return &driverv1.ApplyRuleSetResponse{Generation: rs.GetGeneration()}, d.enforce(ctx, u, rs)
}

// enforce records an update and puts it in force.
func (d *Driver) enforce(ctx context.Context, u *ruleset.Update, rs *driverv1.RuleSet) error {
	if u.Empty() {
		if d.s.dirty && !d.s.empty() { // without any object there is no bridge
			return d.apply(ctx)
		}
		return nil
	}
	changes := map[string]string{}
	if u.Rules != nil {
		changes[rulesRecord+u.Rules.ID] = encode(rs, 0, 0)
	}
	for _, s := range u.Sets {
		changes[setRecord+s.ID] = encodeSet(s.Set)
	}
	for _, p := range u.RemovedRules {
		changes[rulesRecord+p.ID] = ""
	}
	for _, s := range u.RemovedSets {
		changes[setRecord+s.ID] = ""
	}
	if err := d.record(ctx, changes, func() { d.take(u) }); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	if err := d.finish(ctx); err != nil {
		return err
	}
	if rules := d.narrowed(u); len(rules) > 0 {
		d.cut(ctx, d.networksOf(rules))
	}
	return nil
}

// take makes an update the state, and draws what it touches.
func (d *Driver) take(u *ruleset.Update) {
	d.s.registry.Commit(u)
	redraw := map[string]bool{}
	touch := func(p *ruleset.Plan) {
		if p != nil {
			for _, s := range p.Sets {
				redraw[s] = true
			}
		}
	}
	if u.Rules != nil {
		d.s.drawRules(u.Rules.ID)
		touch(u.Rules)
		touch(u.OldRules)
	}
	for _, p := range u.RemovedRules {
		d.s.drawRules(p.ID)
		touch(p)
	}
	for _, s := range u.Sets {
		redraw[s.ID] = true
	}
	for _, s := range u.RemovedSets {
		redraw[s.ID] = true
	}
	for id := range redraw {
		d.s.drawSet(id)
	}
}

// UpdateAddressSet changes the members of an address set.
func (d *Driver) UpdateAddressSet(ctx context.Context, req *driverv1.UpdateAddressSetRequest) (*driverv1.UpdateAddressSetResponse, error) {
	id := req.GetAddressSetId()
	if err := netspec.CheckID("address_set_id", id); err != nil {
		return nil, err
	}
	free, err := d.keys.Lock("set/" + id)
	if err != nil {
		return nil, err
	}
	defer free()
	unlock, err := d.use(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	u, err := d.s.registry.PlanUpdateSet(req)
	if err != nil {
		return nil, err
	}
	return &driverv1.UpdateAddressSetResponse{Generation: req.GetGeneration()}, d.enforce(ctx, u, nil)
}

// CollectGarbage removes rule sets and address sets that nobody names or uses, and remains of ports; networks and interfaces are only reported.
func (d *Driver) CollectGarbage(ctx context.Context, req *driverv1.CollectGarbageRequest) (*driverv1.CollectGarbageResponse, error) {
	unlock, err := d.use(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	r := &driverv1.CollectGarbageResponse{}
	found := func(kind driverv1.NetworkObjectKind, id, detail string, removed bool) {
		r.Objects = append(r.Objects, &driverv1.NetworkGarbage{ObjectId: id, Kind: kind, Detail: detail, Removed: removed})
	}
	var inUse []string
	wanted := setOf(req.GetInterfaceIds())
	for id, i := range d.s.interfaces {
		inUse = append(inUse, i.req.GetSpec().GetRuleSetIds()...)
		if !wanted[id] {
			found(driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_INTERFACE, id, "port "+tapName(id), false)
		}
	}
	wanted = setOf(req.GetNetworkIds())
	for id := range d.s.networks {
		if !wanted[id] {
			found(driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_NETWORK, id, "network in bridge "+d.bridgeName(), false)
		}
	}
	u := d.s.registry.PlanGarbage(req.GetRuleSetIds(), req.GetAddressSetIds(), inUse)
	for _, p := range u.RemovedRules {
		found(driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_RULE_SET, p.ID, "flows of a rule set", !req.GetDryRun())
	}
	for _, s := range u.RemovedSets {
		found(driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_ADDRESS_SET, s.ID, "flows of an address set", !req.GetDryRun())
	}
	view, err := d.session.View()
	if err != nil {
		return nil, backend(err)
	}
	var remains []string
	for _, p := range view.Ports {
		id := p.ExternalIDs["limiquantix-object"]
		if id == "" || p.ExternalIDs["limiquantix-cluster"] != d.host.GetClusterId() || p.ExternalIDs["limiquantix-node"] != d.host.GetNodeId() {
			continue
		}
		kind := driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_NETWORK
		if p.Name == tapName(id) {
			kind = driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_INTERFACE
		}
		if d.s.networks[id] == nil && d.s.interfaces[id] == nil {
			remains = append(remains, p.Name)
			found(kind, id, "port "+p.Name+" that was left", !req.GetDryRun())
		}
	}
	if req.GetDryRun() {
		return r, nil
	}
	if err := d.session.Plug(context.WithoutCancel(ctx), view, nil, remains); err != nil {
		return nil, backend(err)
	}
	return r, d.enforce(ctx, u, nil)
}

func setOf(ids []string) map[string]bool {
	m := make(map[string]bool, len(ids))
	for _, id := range ids {
		m[id] = true
	}
	return m
}

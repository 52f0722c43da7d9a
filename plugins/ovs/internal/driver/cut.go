package driver

import (
	"context"
	"log/slog"
	"net/netip"

	"github.com/limiquantix/limiquantix/plugins/kit/ruleset"
	"github.com/limiquantix/limiquantix/plugins/ovs/internal/flow"
)

// cut forgets the tracked connections of networks that no rule allows any more. Nothing of them passes since the rules changed; forgotten they must be, so that a rule that comes later
// does not bring their replies back to life.
func (d *Driver) cut(ctx context.Context, networks map[string]bool) {
	c, err := d.conntrack()
	if err != nil {
		return
	}
	for id := range networks {
		n := d.s.networks[id]
		if n == nil {
			continue
		}
		at := map[netip.Addr]*iface{}
		for _, i := range d.s.interfaces {
			if i.req.GetSpec().GetNetworkId() != id {
				continue
			}
			for _, s := range append(append([]string(nil), i.req.GetSpec().GetIpAddresses()...), i.req.GetSpec().GetExtraAddresses()...) {
				if a, err := netip.ParseAddr(s); err == nil {
					at[a] = i
				}
			}
		}
		if _, err := c.Cut(ctx, n.Zone, func(x flow.Connection) bool { return d.keeps(at, x) }); err != nil {
			slog.Warn("tracked connections could not be looked at; none of them passes unless a rule allows it", "network", id, "error", err)
		}
	}
}

// keeps reports whether a connection is still allowed on both of its sides, as far as they are here.
func (d *Driver) keeps(at map[netip.Addr]*iface, x flow.Connection) bool {
	p := ruleset.Packet{Protocol: x.Protocol, Port: x.DstPort, ICMPType: x.ICMPType, ICMPCode: x.ICMPCode}
	if i := at[x.Src]; i != nil {
		p.Direction, p.Remote = ruleset.Egress, x.Dst
		if ok, _ := d.policy(i).Allow(p); !ok {
			return false
		}
	}
	if i := at[x.Dst]; i != nil {
		p.Direction, p.Remote = ruleset.Ingress, x.Src
		if ok, _ := d.policy(i).Allow(p); !ok {
			return false
		}
	}
	return true
}

func (d *Driver) policy(i *iface) ruleset.Policy {
	return ruleset.Policy{Plans: d.s.plans(i), Members: d.s.registry.Members}
}

// networksOf are the networks of interfaces that use one of some rule sets.
func (d *Driver) networksOf(rules map[string]bool) map[string]bool {
	found := map[string]bool{}
	for _, i := range d.s.interfaces {
		for _, r := range i.req.GetSpec().GetRuleSetIds() {
			if rules[r] {
				found[i.req.GetSpec().GetNetworkId()] = true
			}
		}
	}
	return found
}

// narrowed are the rule sets that allow less after an update.
func (d *Driver) narrowed(u *ruleset.Update) map[string]bool {
	rules := map[string]bool{}
	if u.Rules != nil && u.OldRules != nil && len(ruleset.Gone(u.OldRules, u.Rules)) > 0 {
		rules[u.Rules.ID] = true
	}
	for _, s := range u.Sets {
		if len(s.Remove) == 0 {
			continue
		}
		for _, id := range d.s.registry.RuleIDs() {
			if d.s.registry.Rules(id).Uses(s.ID) {
				rules[id] = true
			}
		}
	}
	return rules
}

func (d *Driver) conntrack() (flow.Conntrack, error) {
	root, err := d.session.Root()
	datapath := d.datapath(root)
	return flow.Conntrack{RunDirectory: d.cfg.RunDirectory, Datapath: datapath + "@ovs-" + datapath}, err
}

// forget ends the tracked connections of an interface that is gone, so that none is there for whoever gets its addresses next.
func (d *Driver) forget(ctx context.Context, i *iface) {
	n := d.s.networks[i.req.GetSpec().GetNetworkId()]
	c, err := d.conntrack()
	if err != nil || n == nil || i.Port == 0 {
		return
	}
	gone := map[netip.Addr]bool{}
	for _, s := range i.req.GetSpec().GetIpAddresses() {
		if a, err := netip.ParseAddr(s); err == nil {
			gone[a] = true
		}
	}
	if _, err := c.Cut(ctx, n.Zone, func(x flow.Connection) bool { return !gone[x.Src] && !gone[x.Dst] }); err != nil {
		slog.Warn("tracked connections of an interface that is gone could not be ended; they expire", "interface", i.ID, "error", err)
	}
}

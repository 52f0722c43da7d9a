package link

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	tableBase   = 5120000 // a network's own routing table
	ruleFirst   = 5100    // before main
	ruleLast    = 32800   // after main and default: for what the node itself sends
	ruleIsolate = 5099
	routeOurs   = 0x6c // who made a route, as the kernel keeps it
)

// Table is a network's routing table.
func Table(number uint32) int { return tableBase + int(number) }

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// routes to the network: in its own table, so that two networks can have the same addresses; in the node's only when the network is routed.
func (n *Network) routes(br netlink.Link) (steps []Step, err error) {
	tables := []int{Table(n.Number)}
	if n.Routed {
		tables = append(tables, unix.RT_TABLE_MAIN)
	}
	type key struct {
		table int
		dst   string
	}
	want := map[key]netip.Prefix{}
	for _, g := range n.Gateways {
		for _, c := range n.CIDRs {
			if c.Contains(g.Addr()) || g.Addr().IsLinkLocalUnicast() && c.Addr().Is4() {
				for _, t := range tables {
					want[key{t, c.String()}] = c
				}
			}
		}
	}
	have, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: routeOurs, LinkIndex: br.Attrs().Index, Table: unix.RT_TABLE_UNSPEC},
		netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, err
	}
	for _, r := range have {
		k := key{r.Table, r.Dst.String()}
		if _, wanted := want[k]; wanted {
			delete(want, k)
			continue
		}
		steps = append(steps, Step{"route to " + k.dst + " is nobody's", func() error { return netlink.RouteDel(&r) }})
	}
	for k, c := range want {
		r := &netlink.Route{LinkIndex: br.Attrs().Index, Dst: ipnet(c), Table: k.table, Protocol: routeOurs, Scope: netlink.SCOPE_LINK}
		for _, g := range n.Gateways {
			if c.Addr().Is4() && g.Addr().Is4() {
				r.Src = g.Addr().AsSlice()
			}
		}
		if c.Addr().Is6() {
			r.Scope = netlink.SCOPE_UNIVERSE
		}
		steps = append(steps, Step{fmt.Sprintf("route to %s missing in table %d", k.dst, k.table), func() error { return netlink.RouteReplace(r) }})
	}
	return steps, nil
}

// rules lead to the network's table what belongs to the network: what carries its mark, what its own services send, and, last, what the node sends without either.
func (n *Network) rules(netlink.Link) (steps []Step, err error) {
	table := Table(n.Number)
	families := map[int]bool{}
	for _, g := range n.Gateways {
		families[family(g.Addr())] = true
	}
	for _, f := range []int{unix.AF_INET, unix.AF_INET6} {
		var want []*netlink.Rule
		add := func(set func(*netlink.Rule)) {
			r := netlink.NewRule()
			r.Family, r.Table = f, table
			set(r)
			want = append(want, r)
		}
		if families[f] {
			add(func(r *netlink.Rule) { mask := n.Mask; r.Priority, r.Mark, r.Mask = ruleFirst, n.Mark, &mask })
			add(func(r *netlink.Rule) { r.Priority, r.UIDRange = ruleFirst, netlink.NewRuleUIDRange(n.UID, n.UID) })
			add(func(r *netlink.Rule) { r.Priority, r.IifName = ruleLast, "lo" })
		}
		if n.Isolated && n.MAC != nil {
			add(func(r *netlink.Rule) {
				r.Priority, r.IifName, r.Table, r.Type = ruleIsolate, n.Bridge, 0, unix.RTN_UNREACHABLE
			})
		}
		have, err := netlink.RuleList(f)
		if err != nil {
			return nil, err
		}
		found := make([]bool, len(want))
	next:
		for _, h := range have {
			if h.Table != table && (h.IifName != n.Bridge || h.Priority != ruleIsolate) {
				continue
			}
			for i, w := range want {
				if !found[i] && sameRule(&h, w) {
					found[i] = true
					continue next
				}
			}
			h.Family = f
			steps = append(steps, Step{"rule " + h.String() + " is nobody's", func() error { return netlink.RuleDel(&h) }})
		}
		for i, w := range want {
			if !found[i] {
				steps = append(steps, Step{"rule missing: " + w.String(), func() error { return netlink.RuleAdd(w) }})
			}
		}
	}
	return steps, nil
}

func sameRule(a, b *netlink.Rule) bool {
	uid := func(r *netlink.Rule) (u netlink.RuleUIDRange) {
		if r.UIDRange != nil {
			u = *r.UIDRange
		}
		return u
	}
	return a.Priority == b.Priority && a.Mark == b.Mark && a.IifName == b.IifName && uid(a) == uid(b)
}

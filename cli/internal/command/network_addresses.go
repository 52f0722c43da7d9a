package command

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// none as a flag's value takes away what is set.
const none = "none"

// addressing is what flags say about addresses within subnets; each part finds its subnet by the address that it holds.
type addressing struct {
	gateways []netip.Addr
	ranges   []*networkv1.AddressRange
	reserves []*networkv1.AddressReservation
	dns      []netip.Addr
	routes   []*networkv1.Route
	// clear are the flags that were given as "none".
	clear map[string]bool
	// unreserve are addresses that are no longer kept.
	unreserve []netip.Addr
	dhcp      *bool
}

// addressing reads the flags; nothing of it depends on the network.
func (f *networkFlags) addressing() (*addressing, error) {
	a := &addressing{clear: map[string]bool{}}
	for _, flag := range []struct {
		name  string
		items []string
		read  func(string) error
	}{
		{"--gateway", f.gateways, func(t string) error { return appendAddr(&a.gateways, "--gateway", t, "10.4.0.1") }},
		{"--range", f.ranges, a.readRange},
		{"--reserve", f.reserves, a.readReserve},
		{"--dns", f.dns, func(t string) error { return appendAddr(&a.dns, "--dns", t, "192.0.2.53") }},
		{"--route", f.routes, a.readRoute},
	} {
		if len(flag.items) == 1 && flag.items[0] == none && flag.name != "--reserve" {
			a.clear[flag.name] = true
			continue
		}
		for _, text := range flag.items {
			if err := flag.read(text); err != nil {
				return nil, err
			}
		}
	}
	return a, nil
}

func appendAddr(to *[]netip.Addr, flag, text, example string) error {
	addr, err := parseAddr(text)
	if err != nil {
		return failure.Usage("%s: %w", flag, err).WithFix("write for example %s %s", flag, example)
	}
	*to = append(*to, addr)
	return nil
}

func parseAddr(text string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" || addr.Is4In6() {
		return netip.Addr{}, fmt.Errorf("%q is no IP address", text)
	}
	return addr, nil
}

func (a *addressing) readRange(text string) error {
	first, last, ok := strings.Cut(text, "-")
	from, err1 := parseAddr(strings.TrimSpace(first))
	to, err2 := parseAddr(strings.TrimSpace(last))
	fix := "write for example --range 10.4.0.100-10.4.0.200"
	switch {
	case !ok || err1 != nil || err2 != nil:
		return failure.Usage("--range %q is not FIRST-LAST", text).WithFix("%s", fix)
	case from.Is4() != to.Is4():
		return failure.Usage("--range %s begins with IPv%d and ends with IPv%d", text, version(from), version(to)).WithFix("%s", fix)
	case to.Less(from):
		return failure.Usage("--range %s ends before it begins", text).WithFix("write --range %s-%s", to, from)
	}
	a.ranges = append(a.ranges, &networkv1.AddressRange{First: from.String(), Last: to.String()})
	return nil
}

func version(a netip.Addr) int {
	if a.Is4() {
		return 4
	}
	return 6
}

func (a *addressing) readReserve(text string) error {
	address, mac, withMAC := strings.Cut(text, "=")
	addr, err := parseAddr(address)
	if err != nil {
		return failure.Usage("--reserve: %w", err).WithFix("write for example --reserve 10.4.0.10, or --reserve 10.4.0.10=52:54:00:00:00:01")
	}
	if withMAC {
		if mac, err = parseMAC(mac); err != nil {
			return failure.Usage("--reserve %s: %w", address, err).WithFix("write for example --reserve %s=52:54:00:00:00:01", addr)
		}
	}
	a.reserves = append(a.reserves, &networkv1.AddressReservation{IpAddress: addr.String(), Mac: mac})
	return nil
}

// parseMAC reads a unicast MAC address, as the API writes it.
func parseMAC(text string) (string, error) {
	hw, err := net.ParseMAC(text)
	if err != nil || len(hw) != 6 {
		return "", fmt.Errorf("%q is no MAC address", text)
	}
	if hw[0]&1 != 0 {
		return "", fmt.Errorf("%q is a group's address, not a device's", text)
	}
	return hw.String(), nil
}

func (a *addressing) readRoute(text string) error {
	to, hop, ok := strings.Cut(text, "=")
	p, err1 := netip.ParsePrefix(to)
	next, err2 := parseAddr(hop)
	fix := "write for example --route 10.9.0.0/16=10.4.0.254"
	switch {
	case !ok || err1 != nil || err2 != nil:
		return failure.Usage("--route %q is not CIDR=NEXTHOP", text).WithFix("%s", fix)
	case p.Masked() != p:
		return failure.Usage("--route %s: the destination has bits beyond its /%d", text, p.Bits()).WithFix("write --route %s=%s", p.Masked(), next)
	case p.Addr().Is4() != next.Is4():
		return failure.Usage("--route %s leads from one IP version to the other", text).WithFix("%s", fix)
	}
	a.routes = append(a.routes, &networkv1.Route{Destination: p.String(), NextHop: next.String()})
	return nil
}

// empty reports whether nothing about subnets was said.
func (a *addressing) empty() bool {
	return len(a.gateways)+len(a.ranges)+len(a.reserves)+len(a.dns)+len(a.routes)+len(a.clear)+len(a.unreserve) == 0 && a.dhcp == nil
}

// change makes subnets as the flags say: what a flag names replaces what its subnet had, reservations are added. remedy helps where an address lies in none.
func (a *addressing) change(subnets []*networkv1.Subnet, remedy string) error {
	for _, sub := range subnets {
		if a.dhcp != nil {
			sub.Dhcp = proto.Bool(*a.dhcp)
		}
		for flag, reset := range map[string]func(){
			"--gateway": func() { sub.Gateway = "" },
			"--range":   func() { sub.Ranges = nil },
			"--dns":     func() { sub.DnsServers = nil },
			"--route":   func() { sub.Routes = nil },
		} {
			if a.clear[flag] {
				reset()
			}
		}
	}
	in := func(flag string, text string) (*networkv1.Subnet, error) {
		addr := netip.MustParseAddr(text)
		var known []string
		for _, sub := range subnets {
			p, err := netip.ParsePrefix(sub.GetCidr())
			if err == nil && (p.Contains(addr) || flag == "--dns" && p.Addr().Is4() == addr.Is4()) {
				return sub, nil
			}
			known = append(known, sub.GetCidr())
		}
		if len(known) == 0 {
			return nil, failure.Usage("%s %s: the network has no subnet", flag, text).WithFix("%s", remedy)
		}
		if flag == "--dns" {
			return nil, failure.Usage("--dns %s: the network has no IPv%d subnet to announce it in", text, version(addr)).WithFix("%s", remedy)
		}
		return nil, failure.Usage("%s %s does not lie in %s", flag, text, strings.Join(known, " or ")).WithFix("%s", remedy)
	}
	fresh := map[string]bool{} // lists that the first of their items has emptied
	replace := func(sub *networkv1.Subnet, flag string, reset func()) {
		if key := flag + sub.GetCidr(); !fresh[key] {
			fresh[key] = true
			reset()
		}
	}
	for _, g := range a.gateways {
		sub, err := in("--gateway", g.String())
		if err != nil {
			return err
		}
		sub.Gateway = g.String()
	}
	for _, r := range a.ranges {
		sub, err := in("--range", r.GetFirst())
		if err != nil {
			return err
		}
		if end, err := in("--range", r.GetLast()); err != nil || end != sub {
			return failure.Usage("--range %s-%s leaves subnet %s", r.GetFirst(), r.GetLast(), sub.GetCidr()).WithFix("end it within the subnet")
		}
		replace(sub, "--range", func() { sub.Ranges = nil })
		sub.Ranges = append(sub.Ranges, r)
	}
	for _, d := range a.dns {
		sub, err := in("--dns", d.String())
		if err != nil {
			return err
		}
		replace(sub, "--dns", func() { sub.DnsServers = nil })
		sub.DnsServers = append(sub.DnsServers, d.String())
	}
	for _, r := range a.routes {
		sub, err := in("--route", r.GetNextHop())
		if err != nil {
			return err
		}
		replace(sub, "--route", func() { sub.Routes = nil })
		sub.Routes = append(sub.Routes, r)
	}
	return a.reserve(subnets, in)
}

// reserve adds and removes reservations. One that is there already gets the new MAC.
func (a *addressing) reserve(subnets []*networkv1.Subnet, in func(flag, text string) (*networkv1.Subnet, error)) error {
	at := func(sub *networkv1.Subnet, text string) int {
		return slices.IndexFunc(sub.GetReservations(), func(r *networkv1.AddressReservation) bool {
			have, err := netip.ParseAddr(r.GetIpAddress())
			return err == nil && have.String() == text
		})
	}
	for _, r := range a.reserves {
		sub, err := in("--reserve", r.GetIpAddress())
		if err != nil {
			return err
		}
		if i := at(sub, r.GetIpAddress()); i >= 0 {
			sub.Reservations[i].Mac = r.GetMac()
			continue
		}
		sub.Reservations = append(sub.Reservations, r)
	}
	for _, addr := range a.unreserve {
		found := false
		var have []string
		for _, sub := range subnets {
			if i := at(sub, addr.String()); i >= 0 {
				sub.Reservations, found = slices.Delete(sub.Reservations, i, i+1), true
			}
			for _, r := range sub.GetReservations() {
				have = append(have, r.GetIpAddress())
			}
		}
		if !found {
			return failure.New(failure.ExitNotFound, "NOT_FOUND", "--remove-reservation %s: the address is not kept", addr).WithFix("kept are: %s", listOr(have, "none"))
		}
	}
	return nil
}

func listOr(items []string, other string) string {
	if len(items) == 0 {
		return other
	}
	return strings.Join(items, ", ")
}

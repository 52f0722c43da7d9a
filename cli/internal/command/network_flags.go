package command

import (
	"github.com/spf13/cobra"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

// networkFlags are what a network is made of.
type networkFlags struct {
	kind, driver, uplink, egress, domain             string
	subnets, gateways, ranges, reserves, dns, routes []string
	forwards, selector, labels                       []string
	vlan, vni, mtu                                   uint32
	noDHCP, protect, noWait                          bool
}

// register adds the flags that create and set share.
func (f *networkFlags) register(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringArrayVar(&f.gateways, "gateway", nil, "gateway's address; default: the first of the subnet where the node leads out")
	fl.StringArrayVar(&f.ranges, "range", nil, "addresses to assign from, FIRST-LAST; repeatable; default: the whole subnet")
	fl.StringArrayVar(&f.reserves, "reserve", nil, "address to keep, ADDRESS, or ADDRESS=MAC for the port with that MAC; repeatable")
	fl.StringArrayVar(&f.dns, "dns", nil, "DNS server to announce; repeatable; default: the node's, which knows the VMs' names")
	fl.StringArrayVar(&f.routes, "route", nil, "route to announce, CIDR=NEXTHOP; repeatable")
	fl.StringVar(&f.egress, "egress", "", "how VMs reach what is outside: none, nat or routed")
	fl.Uint32Var(&f.mtu, "mtu", 0, "MTU in bytes; 0 = the greatest that every node can carry")
	fl.StringArrayVar(&f.forwards, "forward", nil, "port of the node that leads in, for example tcp:8080:10.4.0.10:80; repeatable")
	fl.StringVar(&f.domain, "domain", "", "DNS domain of the VMs' names; default: NAME.internal")
	fl.StringArrayVar(&f.selector, "node-selector", nil, "label of the nodes that have the network, key=value; repeatable; default: every node with a driver for it")
	fl.BoolVar(&f.protect, "protect", false, "refuse to delete it")
	complete(cmd, "egress", fixed("none", "nat", "routed"))
	addNoWait(cmd, &f.noWait)
}

// common makes what create and set read the same way.
func (f *networkFlags) common(cmd *cobra.Command) (*networkv1.NetworkSpec, error) {
	spec := &networkv1.NetworkSpec{Mtu: f.mtu, DomainName: f.domain, DeleteProtection: f.protect}
	if cmd.Flags().Changed("mtu") && f.mtu != 0 && (f.mtu < 576 || f.mtu > 65535) {
		return nil, failure.Usage("--mtu %d is not possible", f.mtu).WithFix("give 576-65535 (with IPv6 at least 1280), or 0 for the greatest that every node can carry")
	}
	var err error
	if spec.Egress, err = enumFlag[networkv1.EgressMode]("--egress", f.egress, networkv1.EgressMode_name, "EGRESS_MODE_"); err != nil {
		return nil, err
	}
	spec.NodeSelector, err = pairs("--node-selector", f.selector)
	return spec, err
}

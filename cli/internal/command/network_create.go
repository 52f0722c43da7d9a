package command

import (
	"net/netip"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

const networkCreateLong = `Creates a network. Nodes get it when a port on them needs it.

--type bridge  a bridge on each node of its own, or with an --uplink (default)
       vlan    a VLAN on an --uplink; needs --vlan
       vxlan   one network over all nodes, through tunnels; --vni is chosen unless given
       ovs     Open vSwitch, with a tag when --vlan, tunnels when --vni is given
--subnet gives it addresses, at most one IPv4 and one IPv6 range. --gateway, --range, --reserve, --dns and --route
  find the subnet that they lie in by themselves.
--egress nat   VMs reach what is outside with the node's address (default of a bridge without uplink)
         routed  with their own addresses
         none    not by way of the node (default otherwise)
--forward leads a port of the node to a port of the network: [tcp:|udp:][ADDRESS:]NODEPORT:TARGET[:GUESTPORT], where
  TARGET is an address; an IPv6 address stands in brackets. Once ports are there, lqctl network set takes them too. Security
  groups apply to what comes by it.`

func (s *session) networkCreate() *cobra.Command {
	var f networkFlags
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a network",
		Long:  networkCreateLong,
		Example: "  lqctl network create lan --subnet 10.4.0.0/24 --egress nat --forward tcp:8080:10.4.0.10:80\n" +
			"  lqctl network create wide --type vxlan --subnet 10.5.0.0/24 --subnet 2001:db8:5::/64\n" +
			"  lqctl network create office --type vlan --vlan 12 --uplink eth1 --subnet 192.0.2.0/24 --range 192.0.2.100-192.0.2.200",
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, labels, err := f.build(cmd)
			if err != nil {
				return err
			}
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			resp, err := c.Networks.CreateNetwork(cmd.Context(), connect.NewRequest(&networkv1.CreateNetworkRequest{Network: &networkv1.Network{
				Meta: &metav1.ObjectMeta{Name: args[0], ProjectId: project, Labels: labels}, Spec: spec,
			}}))
			if err != nil {
				return err
			}
			made := resp.Msg.GetNetwork()
			return s.settle(cmd.Context(), c, []accepted{{name: args[0], op: resp.Msg.GetOperation(), object: made, final: networkNow(c, made), done: "created"}}, f.noWait, false)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.kind, "type", "", "bridge, vlan, vxlan or ovs; default: bridge")
	fl.StringArrayVar(&f.subnets, "subnet", nil, "addresses, as CIDR; once for IPv4, once for IPv6")
	fl.BoolVar(&f.noDHCP, "no-dhcp", false, "serve no DHCP and no router advertisements")
	fl.Uint32Var(&f.vlan, "vlan", 0, "VLAN tag, 1-4094")
	fl.Uint32Var(&f.vni, "vni", 0, "VXLAN network identifier, 1-16777215; default: chosen")
	fl.StringVar(&f.uplink, "uplink", "", "device of the nodes, or physical network, by which it reaches the outside")
	fl.StringVar(&f.driver, "driver", "", "network driver, by plugin name; default: one that serves the type")
	fl.StringArrayVar(&f.labels, "label", nil, "label key=value; repeatable")
	f.register(cmd)
	complete(cmd, "type", fixed(networkTypes()...))
	complete(cmd, "driver", fixed("bridge", "ovs"))
	return cmd
}

// build makes the network that the flags describe.
func (f *networkFlags) build(cmd *cobra.Command) (*networkv1.NetworkSpec, map[string]string, error) {
	spec, err := f.common(cmd)
	if err != nil {
		return nil, nil, err
	}
	spec.Driver, spec.Uplink, spec.VlanId, spec.Vni = f.driver, f.uplink, f.vlan, f.vni
	if spec.Type, err = enumFlag[networkv1.NetworkType]("--type", f.kind, networkv1.NetworkType_name, "NETWORK_TYPE_"); err != nil {
		return nil, nil, err
	}
	if err := f.segment(cmd, spec.GetType()); err != nil {
		return nil, nil, err
	}
	if spec.Subnets, err = f.makeSubnets(); err != nil {
		return nil, nil, err
	}
	for _, sub := range spec.GetSubnets() {
		if strings.Contains(sub.GetCidr(), ":") && f.mtu != 0 && f.mtu < 1280 {
			return nil, nil, failure.Usage("--mtu %d is too small for IPv6", f.mtu).WithFix("give at least --mtu 1280, or leave it out")
		}
	}
	a, err := f.addressing()
	if err != nil {
		return nil, nil, err
	}
	if err := a.change(spec.GetSubnets(), "give the --subnet that it lies in"); err != nil {
		return nil, nil, err
	}
	if spec.Forwards, err = parseForwards(f.forwards); err != nil {
		return nil, nil, err
	}
	for i, fw := range spec.GetForwards() {
		if fw.GetPortId() != "" {
			return nil, nil, failure.Usage("--forward %q leads to port %s, and a new network has no ports", f.forwards[i], fw.GetPortId()).
				WithFix("lead it to an address, or once the port is there: lqctl network set NAME --forward %s", f.forwards[i])
		}
	}
	labels, err := pairs("--label", f.labels)
	return spec, labels, err
}

// segment checks what separates a network from others on the same wire, for its type.
func (f *networkFlags) segment(cmd *cobra.Command, kind networkv1.NetworkType) error {
	tagged, tunnelled := cmd.Flags().Changed("vlan"), cmd.Flags().Changed("vni")
	vlan, vxlan, ovs := networkv1.NetworkType_NETWORK_TYPE_VLAN, networkv1.NetworkType_NETWORK_TYPE_VXLAN, networkv1.NetworkType_NETWORK_TYPE_OVS
	switch {
	case tagged && (f.vlan < 1 || f.vlan > 4094):
		return failure.Usage("--vlan %d is no tag", f.vlan).WithFix("give one of 1-4094")
	case tunnelled && (f.vni < 1 || f.vni > 1<<24-1):
		return failure.Usage("--vni %d is no VXLAN network identifier", f.vni).WithFix("give one of 1-16777215, or leave it out: then one is chosen")
	case kind == vlan && !tagged:
		return failure.Usage("--vlan is missing: a VLAN needs its tag").WithFix("give for example --vlan 12")
	case kind == vlan && f.uplink == "":
		return failure.Usage("--uplink is missing: a VLAN needs a device to lie on").WithFix("give the nodes' device, for example --uplink eth1")
	case tagged && kind != vlan && kind != ovs:
		return failure.Usage("--vlan is for the types vlan and ovs").WithFix("add --type vlan, or leave --vlan out")
	case tunnelled && kind != vxlan && kind != ovs:
		return failure.Usage("--vni is for the types vxlan and ovs").WithFix("add --type vxlan, or leave --vni out")
	case f.uplink != "" && kind == vxlan:
		return failure.Usage("--uplink is not for the type vxlan: its tunnels go by the nodes' own addresses").WithFix("leave --uplink out")
	}
	return nil
}

func (f *networkFlags) makeSubnets() ([]*networkv1.Subnet, error) {
	var out []*networkv1.Subnet
	families := map[bool]string{}
	for _, text := range f.subnets {
		p, err := netip.ParsePrefix(text)
		if err != nil || p.Addr().Is4In6() {
			return nil, failure.Usage("--subnet %q is no CIDR", text).WithFix("write for example --subnet 10.4.0.0/24")
		}
		if p.Masked() != p {
			return nil, failure.Usage("--subnet %s has bits beyond its /%d", text, p.Bits()).WithFix("write --subnet %s", p.Masked())
		}
		if other := families[p.Addr().Is4()]; other != "" {
			return nil, failure.Usage("--subnet %s and %s are of the same IP version", other, text).WithFix("give one IPv4 and one IPv6 subnet at most; make another network for more")
		}
		families[p.Addr().Is4()] = text
		sub := &networkv1.Subnet{Cidr: p.String()}
		if f.noDHCP {
			sub.Dhcp = new(bool)
		}
		out = append(out, sub)
	}
	if len(out) == 0 && f.noDHCP {
		return nil, failure.Usage("--no-dhcp needs --subnet").WithFix("give a --subnet: without one no addresses are served anyway")
	}
	return out, nil
}

package command

import (
	"slices"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/failure"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

const networkSetLong = `Changes what the flags name and nothing else; flows that are allowed go on. Type, subnets, driver, uplink, VLAN tag and
VNI stay as they were made.

--forward leads a port of the node to a port of the network (by name, or VM/NIC) or an address: [tcp:|udp:][ADDRESS:]NODEPORT:TARGET[:GUESTPORT].
--forward and --reserve add, or replace one for the same port of the node, or the same address; --remove-forward and
--remove-reservation take away. --gateway, --range, --dns and --route replace what the subnet had that they lie in;
"none" takes away all of them. --node-selector replaces all labels that were set.`

// networkChange is what network set changes.
type networkChange struct {
	networkFlags
	dhcp                    bool
	removeForwards, unkept  []string
	spec                    *networkv1.NetworkSpec
	addresses               *addressing
	added                   []*networkv1.NetworkForward
	paths                   []string
	forwardsToo, subnetsToo bool
	labelled                bool
	name, project           string
	op                      *networkv1.UpdateNetworkResponse
}

func (s *session) networkSet() *cobra.Command {
	var f networkChange
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Change a network",
		Long:  networkSetLong,
		Example: "  lqctl network set lan --forward tcp:8080:web/nic0:80 --remove-forward tcp:2222\n" +
			"  lqctl network set lan --reserve 10.4.0.10=52:54:00:00:00:01 --mtu 1400\n  lqctl network set lan --label tier=front --label old-",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, s.networkNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.read(cmd); err != nil {
				return err
			}
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			f.name, f.project = args[0], project
			if err := unlessStale(func() error { return f.once(cmd, c) }); err != nil {
				return err
			}
			now := f.op.GetNetwork()
			return s.settle(cmd.Context(), c, []accepted{{name: args[0], op: f.op.GetOperation(), object: now, final: networkNow(c, now), done: "changed"}}, f.noWait, false)
		},
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&f.removeForwards, "remove-forward", nil, "where a forward listens that is to go, for example tcp:8080; repeatable")
	fl.StringArrayVar(&f.unkept, "remove-reservation", nil, "address that is no longer kept; repeatable")
	fl.BoolVar(&f.dhcp, "dhcp", false, "serve DHCP and router advertisements")
	fl.BoolVar(&f.noDHCP, "no-dhcp", false, "serve neither")
	fl.StringArrayVar(&f.labels, "label", nil, "label key=value to set, or key- to remove; repeatable")
	f.register(cmd)
	return cmd
}

// read reads the flags, before anything is asked of the controller.
func (f *networkChange) read(cmd *cobra.Command) error {
	var err error
	if f.spec, err = f.common(cmd); err != nil {
		return err
	}
	if f.addresses, err = f.addressing(); err != nil {
		return err
	}
	if f.dhcp && f.noDHCP {
		return failure.Usage("--dhcp and --no-dhcp exclude each other").WithFix("give one of them")
	}
	if f.dhcp || f.noDHCP {
		f.addresses.dhcp = &f.dhcp
	}
	for _, text := range f.unkept {
		if err := appendAddr(&f.addresses.unreserve, "--remove-reservation", text, "10.4.0.10"); err != nil {
			return err
		}
	}
	if f.added, err = parseForwards(f.forwards); err != nil {
		return err
	}
	for _, text := range f.removeForwards {
		if _, err := parseListen(text); err != nil {
			return err
		}
	}
	if _, err := changeLabels(nil, f.labels); err != nil {
		return err
	}
	f.paths = changedPaths(cmd, map[string]string{
		"mtu": "spec.mtu", "egress": "spec.egress", "domain": "spec.domain_name", "node-selector": "spec.node_selector", "protect": "spec.delete_protection",
	})
	f.subnetsToo, f.forwardsToo, f.labelled = !f.addresses.empty(), len(f.forwards)+len(f.removeForwards) > 0, len(f.labels) > 0
	if len(f.paths) == 0 && !f.subnetsToo && !f.forwardsToo && !f.labelled {
		return nothingToChange(cmd)
	}
	return nil
}

func nothingToChange(cmd *cobra.Command) error {
	return failure.Usage("nothing to change").WithFix("%s --help lists what can be set", cmd.CommandPath())
}

// changedPaths are the paths, in order, whose flags were given.
func changedPaths(cmd *cobra.Command, paths map[string]string) []string {
	var out []string
	for flag, path := range paths {
		if cmd.Flags().Changed(flag) {
			out = append(out, path)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// once reads the network, changes it, and writes it if nobody else has meanwhile: lists are written whole.
func (f *networkChange) once(cmd *cobra.Command, c *api.Client) error {
	n, err := getNetwork(cmd.Context(), c, f.name, f.project)
	if err != nil {
		return err
	}
	meta, paths := &metav1.ObjectMeta{Id: n.GetMeta().GetId(), Etag: n.GetMeta().GetEtag()}, slices.Clone(f.paths)
	if f.subnetsToo {
		f.spec.Subnets = n.GetSpec().GetSubnets()
		if err := f.addresses.change(f.spec.GetSubnets(), "choose an address in a subnet of the network; subnets themselves cannot change"); err != nil {
			return err
		}
		paths = append(paths, "spec.subnets")
	}
	if f.forwardsToo {
		for _, fw := range f.added {
			if fw.GetPortId() == "" {
				continue
			}
			id, err := portRef(cmd.Context(), c, fw.GetPortId(), n.GetMeta().GetProjectId())
			if err != nil {
				return err
			}
			fw.Target = &networkv1.NetworkForward_PortId{PortId: id}
		}
		if f.spec.Forwards, err = changeForwards(n.GetSpec().GetForwards(), f.added, f.removeForwards); err != nil {
			return err
		}
		paths = append(paths, "spec.forwards")
	}
	if f.labelled {
		if meta.Labels, err = changeLabels(n.GetMeta().GetLabels(), f.labels); err != nil {
			return err
		}
		paths = append(paths, "meta.labels")
	}
	resp, err := c.Networks.UpdateNetwork(cmd.Context(), connect.NewRequest(&networkv1.UpdateNetworkRequest{
		Network: &networkv1.Network{Meta: meta, Spec: f.spec}, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths},
	}))
	if err != nil {
		return err
	}
	f.op = resp.Msg
	return nil
}

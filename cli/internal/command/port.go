package command

import (
	"context"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/render"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
)

func (s *session) portCommand() *cobra.Command {
	return s.group(&cobra.Command{
		Use:   "port",
		Short: "Manage ports: the places of NICs in networks",
		Long: "Manages ports. A NIC that names a network gets a port that lives and dies with its VM, and is called VM/NIC: web/nic0. Ports made here stand\n" +
			"by themselves, keep their addresses, and are used by a NIC with port=NAME.",
		Example: "  lqctl port list --vm web\n  lqctl port why web/nic0 --in --proto tcp --port 80 --from 198.51.100.7\n" +
			"  lqctl port create vip --network lan --ip 10.4.0.10",
	}, s.portCreate(), s.portList(), s.portShow(), s.portSet(), s.portDelete(), s.portStats(), s.portWhy())
}

func (s *session) portCreate() *cobra.Command {
	var f portFlags
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a port that stands by itself, and reserve its addresses",
		Example: "  lqctl port create vip --network lan --ip 10.4.0.10 --sg web\n" +
			"  lqctl port create slow --network lan --qos-in 100M --qos-out 20M --hostname slow",
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := f.spec(cmd)
			if err != nil {
				return err
			}
			labels, err := pairs("--label", f.labels)
			if err != nil {
				return err
			}
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			resp, err := c.Ports.CreatePort(cmd.Context(), connect.NewRequest(&networkv1.CreatePortRequest{Port: &networkv1.Port{
				Meta: &metav1.ObjectMeta{Name: args[0], ProjectId: project, Labels: labels}, Spec: spec,
			}}))
			if err != nil {
				return err
			}
			made := resp.Msg.GetPort()
			return s.settle(cmd.Context(), c, []accepted{{name: args[0], op: resp.Msg.GetOperation(), object: made, final: portNow(c, made), done: "created"}}, f.noWait, false)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.network, "network", "", "network that it is in; default: default")
	fl.StringVar(&f.mac, "mac", "", "MAC address; default: made")
	fl.StringArrayVar(&f.labels, "label", nil, "label key=value; repeatable")
	f.register(s, cmd)
	complete(cmd, "network", s.networkNames)
	return cmd
}

func (s *session) portList() *cobra.Command {
	req := &networkv1.ListPortsRequest{}
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List ports, those that live with a VM included",
		Example: "  lqctl port list\n  lqctl port list --network lan --node host1 -o wide\n  lqctl port list --vm web\n  lqctl port list --sg web",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			req.ProjectId = project
			if req.GetVm() != "" { // the API takes ids here
				vm, err := getVM(cmd.Context(), c, req.GetVm(), project)
				if err != nil {
					return err
				}
				req.Vm = vm.GetMeta().GetId()
			}
			if req.GetSecurityGroup() != "" {
				g, err := getGroup(cmd.Context(), c, req.GetSecurityGroup(), project)
				if err != nil {
					return err
				}
				req.SecurityGroup = g.GetMeta().GetId()
			}
			ports, err := c.ListPorts(cmd.Context(), req)
			if err != nil {
				return err
			}
			names := newLookup(cmd.Context(), c, project)
			slices.SortStableFunc(ports, func(a, b *networkv1.Port) int { return strings.Compare(names.title(a), names.title(b)) })
			return printList(s, ports, names.title, render.PortColumns(s.Now, names.ports()))
		},
	}
	addSelector(cmd, &req.LabelSelector)
	fl := cmd.Flags()
	fl.StringVar(&req.Network, "network", "", "only those in this network")
	fl.StringVar(&req.Node, "node", "", "only those on this node")
	fl.StringVar(&req.Vm, "vm", "", "only those of this VM")
	fl.StringVar(&req.SecurityGroup, "sg", "", "only those with this security group")
	complete(cmd, "network", s.networkNames)
	complete(cmd, "node", s.nodeNames)
	complete(cmd, "vm", s.vmNames)
	complete(cmd, "sg", s.groupNames)
	return cmd
}

func (s *session) portShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show NAME",
		Aliases: []string{"get"},
		Short:   "Show one port: its addresses and how they are known, its groups and what of them is in force, why it is kept shut",
		Long: "Shows one port. \"Seen\" are addresses that it was seen with: by lease (DHCP), by neighbour (ARP, neighbour discovery) or by guest-agent,\n" +
			"which is the guest's word. Of each group it says which generation is in force on the port.",
		Example:           "  lqctl port show web/nic0\n  lqctl port show web/nic0 -o yaml",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, s.portNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			p, err := getPort(cmd.Context(), c, args[0], project)
			if err != nil {
				return err
			}
			var fields []render.Field
			if s.tabular() {
				names := newLookup(cmd.Context(), c, p.GetMeta().GetProjectId())
				names.one(p)
				fields = render.PortFields(p, names.ports(), s.Now())
			}
			return printOne(s, p, args[0], fields)
		},
	}
}

func getPort(ctx context.Context, c *api.Client, id, project string) (*networkv1.Port, error) {
	id, err := portRef(ctx, c, id, project)
	if err != nil {
		return nil, err
	}
	resp, err := c.Ports.GetPort(ctx, connect.NewRequest(&networkv1.GetPortRequest{Id: id, ProjectId: project}))
	if err != nil {
		return nil, err
	}
	return resp.Msg.GetPort(), nil
}

// portNow reads a port once a change of it is made.
func portNow(c *api.Client, p *networkv1.Port) func(context.Context) (proto.Message, string, error) {
	return func(ctx context.Context) (proto.Message, string, error) {
		now, err := getPort(ctx, c, p.GetMeta().GetId(), "")
		if err != nil {
			return nil, "", err
		}
		state := render.Enum(now.GetStatus().GetPhase(), "PORT_PHASE_")
		if a := now.GetStatus().GetIpAddresses(); len(a) > 0 {
			state += ", " + strings.Join(a, ", ")
		}
		return now, state, nil
	}
}

func (s *session) portDelete() *cobra.Command {
	return s.deleteVerb(&cobra.Command{
		Short:             "Delete ports that no VM uses, and free their addresses",
		Example:           "  lqctl port delete vip",
		ValidArgsFunction: completeArgs(0, s.portNames),
	}, deletePort)
}

func deletePort(ctx context.Context, c *api.Client, name, project string) (*operationv1.Operation, proto.Message, error) {
	name, err := portRef(ctx, c, name, project)
	if err != nil {
		return nil, nil, err
	}
	resp, err := c.Ports.DeletePort(ctx, connect.NewRequest(&networkv1.DeletePortRequest{Id: name, ProjectId: project}))
	if err != nil {
		return nil, nil, err
	}
	return resp.Msg.GetOperation(), present(resp.Msg.GetPort()), nil
}

func (s *session) portStats() *cobra.Command {
	return &cobra.Command{
		Use:               "stats NAME",
		Short:             "Show a port's counters: packets to and from the guest, denied and spoofed ones",
		Example:           "  lqctl port stats web/nic0\n  lqctl port stats web/nic0 -o json",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, s.portNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			id, err := portRef(cmd.Context(), c, args[0], project)
			if err != nil {
				return err
			}
			resp, err := c.Ports.GetPortStats(cmd.Context(), connect.NewRequest(&networkv1.GetPortStatsRequest{Id: id, ProjectId: project}))
			if err != nil {
				return err
			}
			return printOne(s, resp.Msg, args[0], render.PortStatsFields(resp.Msg, s.Now()))
		},
	}
}

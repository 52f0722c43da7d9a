package command

import (
	"context"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/render"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
)

func (s *session) networkCommand() *cobra.Command {
	return s.group(&cobra.Command{
		Use:     "network",
		Aliases: []string{"net"},
		Short:   "Manage virtual networks",
		Example: "  lqctl network create lan --subnet 10.4.0.0/24\n  lqctl network list\n  lqctl network topology",
	}, s.networkCreate(), s.networkList(), s.networkShow(), s.networkSet(), s.networkDelete(), s.networkTopology())
}

// networkTypes are the words of --type.
func networkTypes() []string { return enumWords(networkv1.NetworkType_name, "NETWORK_TYPE_") }

// enumWords are the words of an enum's values but the first.
func enumWords(names map[int32]string, prefix string) []string {
	var out []string
	for i := int32(1); i < int32(len(names)); i++ {
		out = append(out, strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(names[i], prefix)), "_", "-"))
	}
	return out
}

func (s *session) networkList() *cobra.Command {
	req := &networkv1.ListNetworksRequest{}
	var types []string
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List networks",
		Example: "  lqctl network list\n  lqctl network list --type vxlan -o wide\n  lqctl network list --node host1",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, t := range types {
				kind, err := enumFlag[networkv1.NetworkType]("--type", t, networkv1.NetworkType_name, "NETWORK_TYPE_")
				if err != nil {
					return err
				}
				req.Types = append(req.Types, kind)
			}
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			req.ProjectId = project
			networks, err := c.ListNetworks(cmd.Context(), req)
			if err != nil {
				return err
			}
			slices.SortStableFunc(networks, func(a, b *networkv1.Network) int { return strings.Compare(nameOf(a), nameOf(b)) })
			return printList(s, networks, nameOf, render.NetworkColumns(s.Now))
		},
	}
	addSelector(cmd, &req.LabelSelector)
	cmd.Flags().StringSliceVar(&types, "type", nil, "only those of these types: "+strings.Join(networkTypes(), ", "))
	cmd.Flags().StringVar(&req.Node, "node", "", "only those that this node has")
	complete(cmd, "type", fixed(networkTypes()...))
	complete(cmd, "node", s.nodeNames)
	return cmd
}

func (s *session) networkShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Aliases:           []string{"get"},
		Short:             "Show one network: its addresses, forwards, and how it is on each node",
		Example:           "  lqctl network show lan\n  lqctl network show lan -o yaml",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, s.networkNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			n, err := getNetwork(cmd.Context(), c, args[0], project)
			if err != nil {
				return err
			}
			if !s.tabular() {
				return printOne(s, n, args[0], nil)
			}
			return render.Describe(s.Out, render.NetworkFields(n, newLookup(cmd.Context(), c, n.GetMeta().GetProjectId()).port, s.Now()))
		},
	}
}

func getNetwork(ctx context.Context, c *api.Client, id, project string) (*networkv1.Network, error) {
	resp, err := c.Networks.GetNetwork(ctx, connect.NewRequest(&networkv1.GetNetworkRequest{Id: id, ProjectId: project}))
	if err != nil {
		return nil, err
	}
	return resp.Msg.GetNetwork(), nil
}

// networkNow reads a network once a change of it is made.
func networkNow(c *api.Client, n *networkv1.Network) func(context.Context) (proto.Message, string, error) {
	return func(ctx context.Context) (proto.Message, string, error) {
		now, err := getNetwork(ctx, c, n.GetMeta().GetId(), "")
		if err != nil {
			return nil, "", err
		}
		return now, render.Enum(now.GetStatus().GetPhase(), "NETWORK_PHASE_"), nil
	}
}

func (s *session) networkDelete() *cobra.Command {
	return s.deleteVerb(&cobra.Command{
		Short:             "Delete networks in which no port is left",
		Example:           "  lqctl network delete lan",
		ValidArgsFunction: completeArgs(0, s.networkNames),
	}, deleteNetwork)
}

func deleteNetwork(ctx context.Context, c *api.Client, name, project string) (*operationv1.Operation, proto.Message, error) {
	resp, err := c.Networks.DeleteNetwork(ctx, connect.NewRequest(&networkv1.DeleteNetworkRequest{Id: name, ProjectId: project}))
	if err != nil {
		return nil, nil, err
	}
	return resp.Msg.GetOperation(), present(resp.Msg.GetNetwork()), nil
}

// present is a message, or no interface at all where there is none.
func present[T any, M interface {
	*T
	proto.Message
}](m M) proto.Message {
	if m == nil {
		return nil
	}
	return m
}

// deleteVerb makes a command that deletes objects by name; ask returns no object for one that is gone already.
func (s *session) deleteVerb(cmd *cobra.Command, ask func(ctx context.Context, c *api.Client, name, project string) (*operationv1.Operation, proto.Message, error)) *cobra.Command {
	var noWait bool
	cmd.Use, cmd.Aliases, cmd.Args = "delete NAME...", []string{"rm"}, some("NAME")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, project, err := s.dial()
		if err != nil {
			return err
		}
		var items []accepted
		var errs []error
		for _, name := range args {
			op, object, err := ask(cmd.Context(), c, name, project)
			switch {
			case err != nil:
				errs = append(errs, err)
			case object == nil:
				items = append(items, accepted{name: name, object: &metav1.ObjectMeta{Name: name}, done: "is gone already"})
			default:
				items = append(items, accepted{name: name, op: op, object: object, done: "deleted"})
			}
		}
		return s.join(append(errs, nonNil(s.settle(cmd.Context(), c, items, noWait, len(args) > 1))...))
	}
	addNoWait(cmd, &noWait)
	return cmd
}

// unlessStale repeats a read-change-write that others get in between of.
func unlessStale(do func() error) error {
	for attempt := 1; ; attempt++ {
		if err := do(); attempt == setAttempts || !failure.IsReason(err, metav1.Reason_REASON_STALE_ETAG) {
			return err
		}
	}
}

package command

import (
	"context"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/render"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

func (s *session) nodeCommand() *cobra.Command {
	return s.group(&cobra.Command{
		Use:     "node",
		Short:   "Manage nodes: the hosts with an agent",
		Example: "  lqctl node list\n  lqctl node token create host2\n  lqctl node cordon host2",
	}, s.nodeList(), s.nodeShow(), s.nodeCordon(), s.nodeUncordon(), s.nodeDelete(), s.orphansCommand(), s.tokenCommand())
}

func (s *session) nodeList() *cobra.Command {
	var selector string
	var watch bool
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List nodes, with what is claimed of what may be",
		Example: "  lqctl node list\n  lqctl node list -l zone=a -o wide\n  lqctl node list -w",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := s.dial()
			if err != nil {
				return err
			}
			if watch {
				return s.watchNodes(cmd, c, selector)
			}
			nodes, err := c.ListNodes(cmd.Context(), selector)
			if err != nil {
				return err
			}
			slices.SortStableFunc(nodes, func(a, b *computev1.Node) int { return strings.Compare(nameOf(a), nameOf(b)) })
			return printList(s, nodes, nameOf, render.NodeColumns(s.Now))
		},
	}
	addSelector(cmd, &selector)
	addWatch(cmd, &watch)
	return cmd
}

func (s *session) watchNodes(cmd *cobra.Command, c *api.Client, selector string) error {
	show := streamer(s, nameOf[*computev1.Node], render.NodeColumns(s.Now))
	var present []*computev1.Node
	opening := true
	err := c.WatchNodes(cmd.Context(), &computev1.WatchNodesRequest{LabelSelector: selector}, func(e *computev1.WatchNodesResponse) error {
		switch {
		case e.GetType() == computev1.WatchEventType_WATCH_EVENT_TYPE_BOOKMARK && opening:
			opening = false
			return show(present...)
		case e.GetType() == computev1.WatchEventType_WATCH_EVENT_TYPE_BOOKMARK:
			return nil
		case opening:
			present = append(present, e.GetNode())
			return nil
		}
		return show(e.GetNode())
	})
	return endless(cmd, err)
}

func (s *session) nodeShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Aliases:           []string{"get"},
		Short:             "Show one node in full: resources, drivers and their health",
		Example:           "  lqctl node show host1\n  lqctl node show host1 -o json",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, s.nodeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := s.dial()
			if err != nil {
				return err
			}
			resp, err := c.Nodes.GetNode(cmd.Context(), connect.NewRequest(&computev1.GetNodeRequest{Id: args[0]}))
			if err != nil {
				return err
			}
			return printOne(s, resp.Msg.GetNode(), args[0], render.NodeFields(resp.Msg.GetNode(), s.Now()))
		},
	}
}

// nodeVerb makes a command that changes nodes and is done at once.
func (s *session) nodeVerb(use, short, example, done string, ask func(ctx context.Context, c *api.Client, name string) (*computev1.Node, error)) *cobra.Command {
	return &cobra.Command{
		Use:               use + " NAME...",
		Short:             short,
		Example:           example,
		Args:              some("NAME"),
		ValidArgsFunction: completeArgs(0, s.nodeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := s.dial()
			if err != nil {
				return err
			}
			var items []accepted
			var errs []error
			for _, name := range args {
				n, err := ask(cmd.Context(), c, name)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				items = append(items, accepted{name: name, object: n, done: done})
			}
			if err := s.settle(cmd.Context(), c, items, false, len(args) > 1); err != nil {
				errs = append(errs, err)
			}
			return s.join(errs)
		},
	}
}

func (s *session) nodeCordon() *cobra.Command {
	return s.nodeVerb("cordon", "Keep new VMs away from nodes", "  lqctl node cordon host1", "cordoned",
		func(ctx context.Context, c *api.Client, name string) (*computev1.Node, error) {
			resp, err := c.Nodes.CordonNode(ctx, connect.NewRequest(&computev1.CordonNodeRequest{Id: name}))
			if err != nil {
				return nil, err
			}
			return resp.Msg.GetNode(), nil
		})
}

func (s *session) nodeUncordon() *cobra.Command {
	return s.nodeVerb("uncordon", "Let new VMs come to nodes again", "  lqctl node uncordon host1", "uncordoned",
		func(ctx context.Context, c *api.Client, name string) (*computev1.Node, error) {
			resp, err := c.Nodes.UncordonNode(ctx, connect.NewRequest(&computev1.UncordonNodeRequest{Id: name}))
			if err != nil {
				return nil, err
			}
			return resp.Msg.GetNode(), nil
		})
}

func (s *session) nodeDelete() *cobra.Command {
	var force bool
	cmd := s.nodeVerb("delete", "Forget nodes and revoke their certificates", "  lqctl node delete host1\n  lqctl node delete host1 --force", "deleted",
		func(ctx context.Context, c *api.Client, name string) (*computev1.Node, error) {
			_, err := c.Nodes.DeleteNode(ctx, connect.NewRequest(&computev1.DeleteNodeRequest{Id: name, Force: force}))
			return &computev1.Node{}, err
		})
	cmd.Aliases = []string{"rm"}
	cmd.Flags().BoolVar(&force, "force", false, "the host is off and stays off: place its VMs elsewhere")
	return cmd
}

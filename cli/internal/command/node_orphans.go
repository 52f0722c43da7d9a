package command

import (
	"context"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/render"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// orphanLook is how often it is looked whether an orphan is gone: orphans cannot be watched.
const orphanLook = 300 * time.Millisecond

func orphanID(o *computev1.NodeOrphan) string { return o.GetOrphan().GetObjectId() }

func (s *session) orphansCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "orphans [NODE]",
		Short: "List what lies on nodes with our mark and is wanted by nobody",
		Long: "Orphans are domains and volumes that carry the mark of this cluster and node and that no VM knows, for example after the state was restored from " +
			"an older backup. They are never touched by themselves: adopt a domain to make it a VM again, or remove it for good.\n\nWhat does not carry our mark is never listed.",
		Example: "  lqctl node orphans\n  lqctl node orphans host1\n  lqctl node orphans adopt host1 0b8f5f1e-6c4b-4a43-9c1e-2f5b1f0e7a11",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return exactly("NODE")(cmd, args)
			}
			return nil
		},
		ValidArgsFunction: completeArgs(1, s.nodeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := s.dial()
			if err != nil {
				return err
			}
			req := &computev1.ListOrphansRequest{}
			if len(args) == 1 {
				req.NodeId = args[0]
			}
			resp, err := c.Nodes.ListOrphans(cmd.Context(), connect.NewRequest(req))
			if err != nil {
				return err
			}
			return printList(s, resp.Msg.GetOrphans(), orphanID, render.OrphanColumns(s.Now))
		},
	}
	cmd.AddCommand(s.orphanAdopt(), s.orphanRemove())
	return cmd
}

func (s *session) orphanAdopt() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:               "adopt NODE ID",
		Short:             "Make a VM of an orphan domain, where it lies; its guest is left as it is",
		Example:           "  lqctl node orphans adopt host1 0b8f5f1e-6c4b-4a43-9c1e-2f5b1f0e7a11\n  lqctl node orphans adopt host1 0b8f5f1e-6c4b-4a43-9c1e-2f5b1f0e7a11 --name web-again",
		Args:              exactly("NODE", "ID"),
		ValidArgsFunction: completeArgs(1, s.nodeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := s.dial()
			if err != nil {
				return err
			}
			resp, err := c.Nodes.AdoptOrphan(cmd.Context(), connect.NewRequest(&computev1.AdoptOrphanRequest{NodeId: args[0], ObjectId: args[1], Name: name}))
			if err != nil {
				return err
			}
			vm := resp.Msg.GetVm()
			if s.tabular() {
				s.say("%s: adopted as VM %s", args[1], vm.GetMeta().GetName())
				return nil
			}
			return printOne(s, vm, vm.GetMeta().GetName(), nil)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name of the VM; default the one that it had")
	return cmd
}

func (s *session) orphanRemove() *cobra.Command {
	var confirm, kind string
	var noWait bool
	cmd := &cobra.Command{
		Use:               "remove NODE ID",
		Aliases:           []string{"rm"},
		Short:             "Remove an orphan from its host for good, once its name is typed",
		Example:           "  lqctl node orphans remove host1 0b8f5f1e-6c4b-4a43-9c1e-2f5b1f0e7a11 --confirm web",
		Args:              exactly("NODE", "ID"),
		ValidArgsFunction: completeArgs(1, s.nodeNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			if confirm == "" {
				return failure.Usage("--confirm is missing: what is removed is gone for good").
					WithFix("type its name, as `lqctl node orphans %s` shows it, after --confirm", args[0])
			}
			c, _, err := s.dial()
			if err != nil {
				return err
			}
			resp, err := c.Nodes.RemoveOrphan(cmd.Context(), connect.NewRequest(&computev1.RemoveOrphanRequest{NodeId: args[0], ObjectId: args[1], Kind: kind, Confirm: confirm}))
			if err != nil {
				return err
			}
			o := resp.Msg.GetOrphan()
			done := "is being removed"
			if !noWait {
				if err := orphanGone(cmd.Context(), c, o); err != nil {
					return err
				}
				done = "removed"
			}
			if s.tabular() {
				s.say("%s %s on node %s: %s", o.GetOrphan().GetKind(), args[1], o.GetNodeName(), done)
				return nil
			}
			return printOne(s, o, args[1], nil)
		},
	}
	cmd.Flags().StringVar(&confirm, "confirm", "", "its name, or its id when it has none")
	cmd.Flags().StringVar(&kind, "kind", "", "domain or volume, where an id has both")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "do not wait until the node says that it is gone")
	complete(cmd, "kind", fixed("domain", "volume"))
	return cmd
}

// orphanGone waits until an orphan is listed no more.
func orphanGone(ctx context.Context, c *api.Client, o *computev1.NodeOrphan) error {
	t := time.NewTicker(orphanLook)
	defer t.Stop()
	for {
		resp, err := c.Nodes.ListOrphans(ctx, connect.NewRequest(&computev1.ListOrphansRequest{NodeId: o.GetNodeId()}))
		if err != nil {
			return err
		}
		left := false
		for _, one := range resp.Msg.GetOrphans() {
			left = left || one.GetOrphan().GetObjectId() == orphanID(o) && one.GetOrphan().GetKind() == o.GetOrphan().GetKind()
		}
		if !left {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}

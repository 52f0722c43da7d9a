package command

import (
	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/limiquantix/limiquantix/cli/internal/render"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

func (s *session) vmEvents() *cobra.Command {
	return &cobra.Command{
		Use:               "events NAME",
		Short:             "List what happened to a VM lately, newest last",
		Example:           "  lqctl vm events web\n  lqctl vm events web -o json",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, s.vmNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			resp, err := c.VMs.ListVMEvents(cmd.Context(), connect.NewRequest(&computev1.ListVMEventsRequest{Id: args[0], ProjectId: project}))
			if err != nil {
				return err
			}
			return printList(s, resp.Msg.GetEvents(), func(e *computev1.VMEvent) string { return e.GetType() }, render.EventColumns())
		},
	}
}

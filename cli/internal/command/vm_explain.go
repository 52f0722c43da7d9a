package command

import (
	"fmt"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/limiquantix/limiquantix/cli/internal/render"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

func (s *session) vmExplain() *cobra.Command {
	return &cobra.Command{
		Use:               "explain NAME",
		Short:             "Say where a VM is or could run, and why not elsewhere",
		Example:           "  lqctl vm explain web",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, s.vmNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			resp, err := c.VMs.ExplainVM(cmd.Context(), connect.NewRequest(&computev1.ExplainVMRequest{Id: args[0], ProjectId: project}))
			if err != nil {
				return err
			}
			e := resp.Msg
			if !s.tabular() {
				return printOne(s, e, args[0], nil)
			}
			fmt.Fprintf(s.Out, "%s: %s\n", args[0], e.GetSummary())
			if e.GetSuggestion() != "" {
				fmt.Fprintf(s.Out, "It would fit: %s\n", e.GetSuggestion())
			}
			fmt.Fprintf(s.Out, "Nodes that fit now: %d of %d\n", e.GetFeasibleCount(), e.GetNodeCount())
			for _, p := range e.GetPredicates() {
				if p.GetFailedCount() > 0 {
					fmt.Fprintf(s.Out, "  %s fails on %d: %s\n", p.GetPredicate(), p.GetFailedCount(), p.GetExample())
				}
			}
			if len(e.GetNodes()) == 0 {
				return nil
			}
			fmt.Fprintln(s.Out)
			return render.NewPrinter(s.Out, render.VerdictColumns(), false).Print(e.GetNodes())
		},
	}
}

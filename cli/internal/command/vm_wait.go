package command

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/follow"
	"github.com/limiquantix/limiquantix/cli/internal/render"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

func (s *session) vmWait() *cobra.Command {
	var until string
	cmd := &cobra.Command{
		Use:   "wait NAME",
		Short: "Wait until a VM is running, or something else holds",
		Long: "Waits until the VM is as --for says: " + strings.Join(follow.Conditions, ", ") + ", or condition=TYPE for a\n" +
			"condition that its status shows. It fails when the VM failed for good, is gone, or --timeout is over.",
		Example:           "  lqctl vm wait web\n  lqctl vm wait web --for guest-agent --timeout 2m\n  lqctl vm wait web --for deleted",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, s.vmNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			cond, err := follow.ParseCondition(until)
			if err != nil {
				return err
			}
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			vm, err := getVM(cmd.Context(), c, args[0], project)
			if failure.IsReason(err, metav1.Reason_REASON_NOT_FOUND) && until == "deleted" {
				s.say("%s is deleted", args[0])
				return nil
			}
			if err != nil {
				return err
			}
			rep := s.reporter()
			now, err := follow.VM(cmd.Context(), c, vm.GetMeta().GetId(), args[0], cond, rep)
			rep.Close()
			if err != nil {
				return err
			}
			if now == nil {
				now = vm
			}
			if s.tabular() {
				s.say("%s is %s", args[0], until)
				return nil
			}
			return printOne(s, now, nameOf(now), render.VMFields(now, s.Now()))
		},
	}
	cmd.Flags().StringVar(&until, "for", "running", "what to wait for")
	complete(cmd, "for", fixed(follow.Conditions...))
	return cmd
}

package command

import (
	"github.com/spf13/cobra"

	"github.com/limiquantix/limiquantix/cli/internal/render"
)

func (s *session) vmShow() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Aliases:           []string{"get"},
		Short:             "Show one VM in full",
		Example:           "  lqctl vm show web\n  lqctl vm show web -o yaml",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, s.vmNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			vm, err := getVM(cmd.Context(), c, args[0], project)
			if err != nil {
				return err
			}
			return printOne(s, vm, nameOf(vm), render.VMFields(vm, s.Now()))
		},
	}
}

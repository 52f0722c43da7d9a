package command

import (
	"context"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
)

// answer is what all changes of a VM answer.
type answer interface {
	GetVm() *computev1.VM
	GetOperation() *operationv1.Operation
}

// verb is a change of VMs that needs no more than their names.
type verb struct {
	use, short, example, done string
	ask                       func(ctx context.Context, c *api.Client, name, project string) (answer, error)
}

// vmVerb makes the command of a verb: it asks for all, then waits for each.
func (s *session) vmVerb(v verb) *cobra.Command {
	var noWait bool
	cmd := &cobra.Command{
		Use:               v.use + " NAME...",
		Short:             v.short,
		Example:           v.example,
		Args:              some("NAME"),
		ValidArgsFunction: completeArgs(0, s.vmNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			var items []accepted
			var errs []error
			for _, name := range args {
				a, err := v.ask(cmd.Context(), c, name, project)
				if err != nil {
					errs = append(errs, err)
					continue
				}
				it := accepted{name: name, op: a.GetOperation(), object: a.GetVm(), done: v.done}
				switch {
				case v.use != "delete":
					it.final = vmNow(c, a.GetVm())
				case a.GetVm() == nil:
					it.object, it.done = &computev1.VM{}, "is gone already"
				}
				items = append(items, it)
			}
			err = s.settle(cmd.Context(), c, items, noWait, len(args) > 1)
			if err != nil {
				errs = append(errs, err)
			}
			return s.join(errs)
		},
	}
	addNoWait(cmd, &noWait)
	return cmd
}

// answerOf unwraps a response.
func answerOf[T any, P interface {
	*T
	answer
}](resp *connect.Response[T], err error,
) (answer, error) {
	if err != nil {
		return nil, err
	}
	return P(resp.Msg), nil
}

func (s *session) vmStart() *cobra.Command {
	return s.vmVerb(verb{
		use: "start", short: "Start VMs", example: "  lqctl vm start web\n  lqctl vm start web db --no-wait", done: "started",
		ask: func(ctx context.Context, c *api.Client, name, project string) (answer, error) {
			return answerOf(c.VMs.StartVM(ctx, connect.NewRequest(&computev1.StartVMRequest{Id: name, ProjectId: project})))
		},
	})
}

func (s *session) vmStop() *cobra.Command {
	var force bool
	cmd := s.vmVerb(verb{
		use: "stop", short: "Stop VMs: ask their guests, and force them once the grace is over", example: "  lqctl vm stop web\n  lqctl vm stop web --force", done: "stopped",
		ask: func(ctx context.Context, c *api.Client, name, project string) (answer, error) {
			return answerOf(c.VMs.StopVM(ctx, connect.NewRequest(&computev1.StopVMRequest{Id: name, ProjectId: project, Force: force})))
		},
	})
	cmd.Flags().BoolVar(&force, "force", false, "pull the plug instead of asking the guest")
	return cmd
}

func (s *session) vmReboot() *cobra.Command {
	var force bool
	cmd := s.vmVerb(verb{
		use: "reboot", short: "Reboot running VMs", example: "  lqctl vm reboot web\n  lqctl vm reboot web --force", done: "rebooted",
		ask: func(ctx context.Context, c *api.Client, name, project string) (answer, error) {
			return answerOf(c.VMs.RebootVM(ctx, connect.NewRequest(&computev1.RebootVMRequest{Id: name, ProjectId: project, Force: force})))
		},
	})
	cmd.Flags().BoolVar(&force, "force", false, "reset instead of asking the guest")
	return cmd
}

func (s *session) vmPause() *cobra.Command {
	return s.vmVerb(verb{
		use: "pause", short: "Halt the virtual CPUs of VMs; they stay in memory", example: "  lqctl vm pause web", done: "paused",
		ask: func(ctx context.Context, c *api.Client, name, project string) (answer, error) {
			return answerOf(c.VMs.PauseVM(ctx, connect.NewRequest(&computev1.PauseVMRequest{Id: name, ProjectId: project})))
		},
	})
}

func (s *session) vmResume() *cobra.Command {
	return s.vmVerb(verb{
		use: "resume", short: "Let paused VMs run on", example: "  lqctl vm resume web", done: "resumed",
		ask: func(ctx context.Context, c *api.Client, name, project string) (answer, error) {
			return answerOf(c.VMs.ResumeVM(ctx, connect.NewRequest(&computev1.ResumeVMRequest{Id: name, ProjectId: project})))
		},
	})
}

func (s *session) vmDelete() *cobra.Command {
	cmd := s.vmVerb(verb{
		use: "delete", short: "Delete VMs and the disks that were made with them", example: "  lqctl vm delete web\n  lqctl vm delete web db --no-wait", done: "deleted",
		ask: func(ctx context.Context, c *api.Client, name, project string) (answer, error) {
			return answerOf(c.VMs.DeleteVM(ctx, connect.NewRequest(&computev1.DeleteVMRequest{Id: name, ProjectId: project})))
		},
	})
	cmd.Aliases = []string{"rm"}
	return cmd
}

package command

import (
	"context"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/render"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

func (s *session) vmCommand() *cobra.Command {
	return s.group(&cobra.Command{
		Use:     "vm",
		Short:   "Manage virtual machines",
		Example: "  lqctl vm list\n  lqctl vm create web --image debian --memory 1G\n  lqctl vm console web",
	},
		s.vmCreate(), s.vmList(), s.vmShow(), s.vmSet(),
		s.vmStart(), s.vmStop(), s.vmReboot(), s.vmPause(), s.vmResume(), s.vmDelete(),
		s.vmConsole(), s.vmLogs(), s.vmEvents(), s.vmWait(), s.vmExplain(), s.nicCommand(),
	)
}

func getVM(ctx context.Context, c *api.Client, id, project string) (*computev1.VM, error) {
	resp, err := c.VMs.GetVM(ctx, connect.NewRequest(&computev1.GetVMRequest{Id: id, ProjectId: project}))
	if err != nil {
		return nil, err
	}
	return resp.Msg.GetVm(), nil
}

// vmNow reads a VM once a change of it is made.
func vmNow(c *api.Client, vm *computev1.VM) func(context.Context) (proto.Message, string, error) {
	return func(ctx context.Context) (proto.Message, string, error) {
		now, err := getVM(ctx, c, vm.GetMeta().GetId(), "")
		if err != nil {
			return nil, "", err
		}
		state := render.Enum(now.GetStatus().GetPhase(), "VM_PHASE_")
		if n := now.GetStatus().GetVmPlacement().GetNodeName(); n != "" {
			state += " on " + n
		}
		return now, state, nil
	}
}

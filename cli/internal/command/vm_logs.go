package command

import (
	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

func (s *session) vmLogs() *cobra.Command {
	var followLog bool
	var tail int64
	cmd := &cobra.Command{
		Use:               "logs NAME",
		Aliases:           []string{"log"},
		Short:             "Print what a VM's serial console printed",
		Example:           "  lqctl vm logs web\n  lqctl vm logs web --tail-bytes 4096 -f",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, s.vmNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			if tail < 0 {
				return failure.Usage("--tail-bytes must not be negative").WithFix("leave it out to print all")
			}
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			stream, err := c.VMs.GetConsoleLog(cmd.Context(), connect.NewRequest(&computev1.GetConsoleLogRequest{
				Id: args[0], ProjectId: project, Offset: -tail, Follow: followLog,
			}))
			if err != nil {
				return err
			}
			defer stream.Close()
			for stream.Receive() {
				if _, err := s.Out.Write(stream.Msg().GetData()); err != nil {
					return err
				}
			}
			if followLog {
				return endless(cmd, stream.Err())
			}
			return stream.Err()
		},
	}
	cmd.Flags().BoolVarP(&followLog, "follow", "f", false, "go on as it grows, until Ctrl-C")
	cmd.Flags().Int64Var(&tail, "tail-bytes", 0, "only the last bytes; 0 = all")
	return cmd
}

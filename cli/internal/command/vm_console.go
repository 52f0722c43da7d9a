package command

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/limiquantix/limiquantix/cli/internal/console"
)

func (s *session) vmConsole() *cobra.Command {
	var idle time.Duration
	cmd := &cobra.Command{
		Use:   "console NAME",
		Short: "Connect to the serial console of a VM; Ctrl-] leaves",
		Long: "Connects the terminal to the VM's serial console. Ctrl-] leaves; everything else, Ctrl-C too, goes to the guest.\n" +
			"Where standard input is no terminal it is sent to the console, and the command ends when nothing was printed for\n" +
			"--idle after the input's end.",
		Example:           "  lqctl vm console web\n  printf 'uname -a\\n' | lqctl vm console web --idle 5s",
		Args:              exactly("NAME"),
		ValidArgsFunction: completeArgs(1, s.vmNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, project, err := s.dial()
			if err != nil {
				return err
			}
			session := console.Session{In: s.In, Out: s.Out, Idle: idle}
			restore := func() {}
			defer func() { restore() }()
			if s.InTTY && s.RawInput != nil {
				session.Escapes, session.Idle = true, 0
				session.Opened = func() {
					if !s.global.quiet {
						fmt.Fprintf(s.Err, "Connected to %s; Ctrl-] leaves.\n", args[0])
					}
					if undo, err := s.RawInput(); err == nil { // without it the console works, line by line
						restore = undo
					}
				}
			}
			if err := session.Run(cmd.Context(), c, args[0], project); err != nil {
				return err
			}
			if session.Escapes && !s.global.quiet {
				restore()
				restore = func() {}
				fmt.Fprintf(s.Err, "\nLeft %s.\n", args[0])
			}
			return nil
		},
	}
	cmd.Flags().DurationVar(&idle, "idle", 3*time.Second, "where input is no terminal: end after so long without output once it has ended; 0 = go on")
	return cmd
}

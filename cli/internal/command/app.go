// Package command is lqctl's commands: one file for each, or for each family of small ones.
package command

import (
	"context"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/limiquantix/limiquantix/cli/internal/api"
	"github.com/limiquantix/limiquantix/cli/internal/failure"
	"github.com/limiquantix/limiquantix/cli/internal/progress"
)

// DefaultAdminTokenFile is where a controller on the same host leaves its admin token, for those who may read it.
const DefaultAdminTokenFile = "/var/lib/limiquantix/controller/admin.token"

// App is lqctl and all that it gets from outside.
type App struct {
	In       io.Reader
	Out, Err io.Writer
	Getenv   func(string) string
	Now      func() time.Time
	// Version and Commit are of this binary.
	Version, Commit string
	// AdminTokenFile is read when the controller is on this host and no other token is given.
	AdminTokenFile string
	// InTTY, OutTTY and ErrTTY tell whether the streams are terminals.
	InTTY, OutTTY, ErrTTY bool
	// RawInput makes the terminal at In raw and returns how to undo it.
	RawInput func() (restore func(), err error)
}

// session is one run of lqctl.
type session struct {
	*App
	args   []string
	global globals
	client *api.Client
	stop   context.CancelFunc
}

// Run executes one command line, shows its failure, and returns the exit code.
func (a *App) Run(ctx context.Context, args []string) int {
	s := &session{App: a, args: args}
	root := s.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if s.stop != nil {
		s.stop()
	}
	if s.client != nil {
		s.client.Close()
	}
	if err == nil {
		return failure.ExitOK
	}
	e := failure.From(err)
	failure.Print(a.Err, e, s.wantsJSON())
	return e.Exit
}

// Root is the tree of commands, for tests and documentation.
func (a *App) Root() *cobra.Command { return (&session{App: a}).root() }

func (s *session) root() *cobra.Command {
	root := s.group(&cobra.Command{
		Use:   "lqctl",
		Short: "Control limiquantix: VMs, images, storage, networks and nodes",
		Long: "lqctl controls limiquantix: virtual machines, the images they start from, the storage they keep data in, the networks that connect and\n" +
			"protect them, and the nodes they run on.\n\n" +
			"It talks to a controller: the one that --server, LQCTL_SERVER or the current context names, else the one on this host.",
		Example: "  lqctl node list\n  lqctl image import debian --file debian.qcow2 --format qcow2\n" +
			"  lqctl vm create web --image debian --cpus 2 --memory 1G --nic user,forward=tcp:8022-22\n  lqctl vm console web",
		Version: s.versionText(),
	},
		s.vmCommand(), s.imageCommand(), s.poolCommand(), s.volumeCommand(), s.snapshotCommand(),
		s.networkCommand(), s.portCommand(), s.groupCommand(), s.nodeCommand(), s.opCommand(), s.whyCommand(), s.applyCommand(), s.deleteCommand(),
		s.contextCommand(), s.versionCommand(), exitCodesTopic(), quantitiesTopic(), environmentTopic(),
	)
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.SilenceErrors, root.SilenceUsage, root.DisableSuggestions = true, true, true
	root.SetFlagErrorFunc(s.flagError)
	root.SetVersionTemplate("{{.Version}}\n")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return s.prepare(cmd) }
	s.global.register(s, root)
	addCompletionExamples(root)
	return root
}

// prepare checks the flags that every command has, and sets its deadline.
func (s *session) prepare(cmd *cobra.Command) error {
	if known := formatsOf(cmd); !slices.Contains(known, s.global.output) && cmd.Flags().Changed("output") {
		return unknownValue("-o", s.global.output, known)
	}
	if s.global.timeout < 0 {
		return failure.Usage("--timeout must not be negative").WithFix("leave it out to wait without an end")
	}
	if s.global.timeout > 0 {
		ctx, cancel := context.WithTimeout(cmd.Context(), s.global.timeout)
		s.stop = cancel
		cmd.SetContext(ctx)
	}
	return nil
}

// progressMode is how waits show how far they are.
func (s *session) progressMode() progress.Mode {
	switch {
	case s.global.quiet:
		return progress.Quiet
	case s.ErrTTY:
		return progress.TTY
	}
	return progress.Lines
}

func (s *session) reporter() progress.Reporter { return progress.New(s.Err, s.progressMode()) }

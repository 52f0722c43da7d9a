// lqctl controls limiquantix from the command line.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/limiquantix/limiquantix/cli/internal/command"
)

// Set by the build.
var (
	version = "0.1.0"
	commit  = ""
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second Ctrl-C ends at once.
	context.AfterFunc(ctx, stop)
	in := int(os.Stdin.Fd())
	app := &command.App{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv, Now: time.Now,
		Version: version, Commit: commit, AdminTokenFile: command.DefaultAdminTokenFile,
		InTTY: term.IsTerminal(in), OutTTY: term.IsTerminal(int(os.Stdout.Fd())), ErrTTY: term.IsTerminal(int(os.Stderr.Fd())),
		RawInput: func() (func(), error) {
			state, err := term.MakeRaw(in)
			if err != nil {
				return nil, err
			}
			return func() { _ = term.Restore(in, state) }, nil // what cannot be restored is gone
		},
	}
	return app.Run(ctx, os.Args[1:])
}

// Command lab starts the test lab's backends by hand: see the README of
// test/lab for what they are.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"syscall"

	"github.com/limiquantix/limiquantix/test/lab"
	"github.com/limiquantix/limiquantix/test/lab/guest"
)

const usage = `usage:
  lab packages                                      install all that the lab needs
  lab guest busybox|debian|lab                      build or find a guest, print its files as JSON
  lab node start --dir DIR --name NAME [--detach]   start a node; without --detach until interrupted
  lab node stop  --dir DIR
  lab node virsh --dir DIR -- ARGS...
  lab node exec  --dir DIR -- COMMAND [ARGS...]
  lab vm [--disk MIB]... [--share DIR] -- COMMAND [ARGS...]   run one command in a fresh lab guest
`

var errUsage = errors.New("wrong usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	var exit *exec.ExitError
	var inside *guest.ExitError
	switch {
	case err == nil:
	case errors.Is(err, errUsage):
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		os.Exit(exit.ExitCode())
	case errors.As(err, &inside) && inside.Code > 0:
		os.Exit(inside.Code)
	default:
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case slices.Equal(args, []string{"packages"}):
		return lab.EnsurePackages(ctx, slices.Concat(lab.NodePackages, lab.BusyboxPackages, lab.DebianPackages, lab.CheckPackages, lab.CephPackages, lab.GuestPackages, lab.NetworkPackages)...)
	case len(args) == 2 && args[0] == "guest":
		return guestFiles(ctx, args[1])
	case len(args) >= 2 && args[0] == "node":
		return node(ctx, args[1], args[2:])
	case len(args) >= 2 && args[0] == "vm":
		return vm(ctx, args[1:])
	}
	return errUsage
}

// guestFiles prints where a guest's files are.
func guestFiles(ctx context.Context, kind string) error {
	var found any
	switch kind {
	case "busybox":
		g, err := lab.BusyboxGuest(ctx)
		if err != nil {
			return err
		}
		found = g
	case "debian":
		disk, err := lab.DebianGuest(ctx)
		if err != nil {
			return err
		}
		found = map[string]string{"disk": disk}
	case "lab":
		g, err := lab.NewGuestOS(ctx)
		if err != nil {
			return err
		}
		found = g
	default:
		return errUsage
	}
	return json.NewEncoder(os.Stdout).Encode(found)
}

func node(ctx context.Context, verb string, args []string) error {
	flags := flag.NewFlagSet("node "+verb, flag.ContinueOnError)
	dir := flags.String("dir", "", "the node's `folder`; keep its path short")
	name := flags.String("name", "", "the node's host name")
	detach := flags.Bool("detach", false, "leave the node running")
	if flags.Parse(args) != nil || *dir == "" {
		return errUsage
	}
	if verb == "start" {
		if *name == "" {
			return errUsage
		}
		return startNode(ctx, *dir, *name, *detach)
	}
	n, err := lab.OpenNode(*dir)
	if err != nil {
		return err
	}
	switch rest := flags.Args(); {
	case verb == "stop":
		return n.Stop()
	case verb == "virsh":
		return inNode(ctx, n, "virsh", append([]string{"-c", "qemu:///system"}, rest...)...)
	case verb == "exec" && len(rest) > 0:
		return inNode(ctx, n, rest[0], rest[1:]...)
	}
	return errUsage
}

// startNode prints the node's socket once it answers.
func startNode(ctx context.Context, dir, name string, detach bool) error {
	var opts []lab.NodeOption
	if detach {
		opts = append(opts, lab.Detached())
	}
	n, err := lab.StartNode(ctx, dir, name, opts...)
	if err != nil {
		return err
	}
	fmt.Println(n.Socket())
	if detach {
		return nil
	}
	<-ctx.Done()
	return n.Stop()
}

// inNode runs a command inside the node on this terminal.
func inNode(ctx context.Context, n *lab.Node, name string, args ...string) error {
	cmd := n.Command(ctx, name, args...)
	cmd.SysProcAttr.Setpgid = false // stay in the terminal's foreground
	cmd.Cancel = func() error { return cmd.Process.Kill() }
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

// vm runs a command in a lab guest of its own.
func vm(ctx context.Context, args []string) error {
	var o guest.Options
	flags := flag.NewFlagSet("vm", flag.ContinueOnError)
	flags.StringVar(&o.Share, "share", "", "`folder` that is /host in the guest")
	flags.Func("disk", "size of a blank disk in `MiB`; repeat it for more", func(v string) error {
		n, err := strconv.ParseInt(v, 10, 40)
		o.Disks = append(o.Disks, n<<20)
		return err
	})
	if flags.Parse(args) != nil || flags.NArg() == 0 {
		return errUsage
	}
	g, err := guest.Boot(ctx, o)
	if err != nil {
		return err
	}
	err = g.Exec(ctx, guest.Cmd{Argv: flags.Args(), Stdout: os.Stdout, Stderr: os.Stderr})
	return errors.Join(err, g.Stop())
}

// Command limiquantix-controller holds the state of a cluster, schedules its VMs and serves its API.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/limiquantix/limiquantix/controller/internal/config"
)

// Set by the linker.
var (
	version = "dev"
	commit  = "unknown"
)

func main() {
	os.Exit(run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

const usage = `Usage: limiquantix-controller [FLAGS]
       limiquantix-controller admin-token --reset [FLAGS]

Holds the state of a limiquantix cluster, schedules its VMs and serves its API. Runs with no configuration at all.
admin-token --reset writes a new admin token to DATA_DIR/admin.token; the old one is worth nothing then. With the store
inside the controller, stop the controller first.

Flags:
`

type options struct {
	config                             string
	dataDir, listen, agentListen       string
	store                              string
	checkConfig, showVersion, resetKey bool
}

// run is the program; its result is the exit code: 0, 1 on failure, 2 on a wrong command line.
func run(args, environ []string, stdout, stderr io.Writer) int {
	command := ""
	if len(args) > 0 && args[0] == "admin-token" {
		command, args = args[0], args[1:]
	}
	var o options
	flags := flag.NewFlagSet("limiquantix-controller", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, usage)
		flags.PrintDefaults()
	}
	flags.StringVar(&o.config, "config", envOf(environ, config.EnvFile), "configuration `file`, YAML")
	flags.StringVar(&o.dataDir, "data-dir", "", "`directory` of store, key file and admin token")
	flags.StringVar(&o.listen, "listen", "", "`address` of the public API")
	flags.StringVar(&o.agentListen, "agent-listen", "", "`address` of the agent API")
	flags.StringVar(&o.store, "store", "", "`kind` of store: etcd or memory")
	flags.BoolVar(&o.checkConfig, "check-config", false, "say whether the configuration is good, and end")
	flags.BoolVar(&o.showVersion, "version", false, "print the version, and end")
	if command == "admin-token" {
		flags.BoolVar(&o.resetKey, "reset", false, "make a new admin token")
	}
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "limiquantix-controller: unknown argument %q; see --help\n", flags.Arg(0))
		return 2
	}
	if o.showVersion {
		fmt.Fprintf(stdout, "limiquantix-controller %s (%s)\n", version, commit)
		return 0
	}
	cfg, err := load(o, environ)
	if err != nil {
		fmt.Fprintf(stderr, "limiquantix-controller: the configuration is not good:\n%v\n", err)
		return 1
	}
	if o.checkConfig {
		fmt.Fprintln(stdout, "the configuration is good")
		return 0
	}
	if command == "admin-token" {
		err = adminToken(o, cfg, stdout, stderr)
	} else {
		err = serve(cfg, stderr)
	}
	if err != nil {
		fmt.Fprintf(stderr, "limiquantix-controller: %v\n", err)
		return 1
	}
	return 0
}

// load reads the configuration: file, environment, flags, each over the one before.
func load(o options, environ []string) (config.Config, error) {
	cfg, err := config.Load(o.config, environ)
	if err != nil {
		return cfg, err
	}
	for _, f := range []struct {
		flag string
		key  *string
	}{{o.dataDir, &cfg.DataDir}, {o.listen, &cfg.Listen}, {o.agentListen, &cfg.AgentListen}, {o.store, &cfg.Store.Kind}} {
		if f.flag != "" {
			*f.key = f.flag
		}
	}
	return cfg, cfg.Validate()
}

func envOf(environ []string, name string) string {
	for _, e := range environ {
		if len(e) > len(name) && e[:len(name)] == name && e[len(name)] == '=' {
			return e[len(name)+1:]
		}
	}
	return ""
}

// serve runs the controller until a signal; a second signal ends the process at once.
func serve(cfg config.Config, stderr io.Writer) error {
	log := newLogger(cfg, stderr)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case s := <-signals:
			log.Info("stopping", "signal", s.String(), "drain_time", drainTime)
			stop()
		case <-done:
			return
		}
		select {
		case s := <-signals:
			log.Warn("stopping at once", "signal", s.String())
			os.Exit(1)
		case <-done:
		}
	}()
	return newController(cfg, log).run(ctx)
}

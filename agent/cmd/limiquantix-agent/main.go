// Command limiquantix-agent runs on every hypervisor: it makes the node what the controller wants it to be, through driver plugins.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/limiquantix/limiquantix/agent/internal/config"
	"github.com/limiquantix/limiquantix/agent/internal/daemon"
	"github.com/limiquantix/limiquantix/agent/internal/enrol"
	"github.com/limiquantix/limiquantix/agent/internal/link"
	"github.com/limiquantix/limiquantix/proto/fault"
)

// Set by the linker.
var (
	version = "0.0.0-dev"
	commit  = "unknown"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

const usage = `usage: limiquantix-agent [run] [--config FILE] [--check-config]
       limiquantix-agent enrol --controller HOST:PORT --token-file FILE|- [--config FILE]
       limiquantix-agent --version
`

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	verb := "run"
	if len(args) > 0 && (args[0] == "run" || args[0] == "enrol" || args[0] == "version") {
		verb, args = args[0], args[1:]
	}
	fs := flag.NewFlagSet("limiquantix-agent "+verb, flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() { _, _ = io.WriteString(stderr, usage); fs.PrintDefaults() }
	file := fs.String("config", os.Getenv(config.EnvPrefix+"CONFIG"), "configuration file; none = defaults")
	check := fs.Bool("check-config", false, "check the configuration and exit")
	showVersion := fs.Bool("version", false, "print the version and exit")
	controller := fs.String("controller", "", "with enrol: the controller's agent port, host:port")
	tokenFile := fs.String("token-file", "", "with enrol: file with the join token, - for standard input")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	if fs.NArg() > 0 {
		_, _ = fmt.Fprintf(stderr, "limiquantix-agent: unexpected argument %q\n%s", fs.Arg(0), usage)
		return 2
	}
	if *showVersion || verb == "version" {
		_, _ = fmt.Fprintf(stdout, "limiquantix-agent %s (%s)\n", version, commit)
		return 0
	}
	c, err := config.Load(*file, os.Environ())
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "limiquantix-agent: %v\n", err)
		return 2
	}
	if *check {
		_, _ = fmt.Fprintln(stdout, "the configuration is right")
		return 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	log := newLogger(c.Log, stderr)
	slog.SetDefault(log)
	if verb == "enrol" {
		err = enrolOnce(ctx, c, *controller, *tokenFile, stdin, stdout)
	} else {
		err = serve(ctx, c, log)
	}
	if err != nil && (ctx.Err() == nil || verb == "enrol") {
		_, _ = fmt.Fprintf(stderr, "limiquantix-agent: %v\n", err)
		return 1
	}
	return 0
}

func newLogger(c config.Log, w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Level)) // checked with the configuration
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "text" {
		return slog.New(slog.NewTextHandler(w, o))
	}
	return slog.New(slog.NewJSONHandler(w, o))
}

func enrolOnce(ctx context.Context, c config.Config, controller, tokenFile string, stdin io.Reader, stdout io.Writer) error {
	if tokenFile == "" {
		return errors.New("--token-file is needed: a file with the token that lqctl node token create printed, or - for standard input")
	}
	if controller == "" {
		controller = c.Controllers[0]
	}
	if id, err := enrol.Load(c.DataDir); err == nil {
		return fmt.Errorf("this node has enrolled already: it is %s (%s) of cluster %s; remove %s to enrol it anew", id.NodeName, id.NodeID, id.ClusterID, c.DataDir)
	}
	token, err := enrol.ReadToken(tokenFile, stdin)
	if err != nil {
		return err
	}
	id, err := enrol.Enrol(ctx, c.DataDir, controller, token)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(stdout, "enrolled as node %s (%s) of cluster %s\n", id.NodeName, id.NodeID, id.ClusterID)
	return nil
}

// identity loads the node's identity, or enrols with the configured token, trying every controller until one answers.
func identity(ctx context.Context, c config.Config, log *slog.Logger) (*enrol.Identity, error) {
	id, err := enrol.Load(c.DataDir)
	if !errors.Is(err, enrol.ErrNone) {
		return id, err
	}
	if c.JoinTokenFile == "" {
		return nil, fmt.Errorf("%w: run limiquantix-agent enrol, or set join_token_file", err)
	}
	token, err := enrol.ReadToken(c.JoinTokenFile, nil)
	if err != nil {
		return nil, err
	}
	for n := 1; ; n++ {
		endpoint := c.Controllers[(n-1)%len(c.Controllers)]
		id, err := enrol.Enrol(ctx, c.DataDir, endpoint, token)
		if err == nil {
			log.Info("enrolled", "node", id.NodeID, "name", id.NodeName, "cluster", id.ClusterID)
			return id, nil
		}
		switch fault.From(err).Code {
		case codes.PermissionDenied, codes.InvalidArgument, codes.NotFound:
			return nil, err // a token that is refused now is refused for ever
		}
		log.Warn("enrolment failed; it is tried again", "controller", endpoint, "error", err)
		if !link.Sleep(ctx, link.Backoff(n, 10*time.Second, rand.Float64())) {
			return nil, ctx.Err()
		}
	}
}

func serve(ctx context.Context, c config.Config, log *slog.Logger) error {
	limitMemory()
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return err
	}
	id, err := identity(ctx, c, log)
	if err != nil {
		return err
	}
	d, err := daemon.New(daemon.Options{Config: c, Version: version, Commit: commit, Identity: id, Logger: log})
	if err != nil {
		return err
	}
	stopSignals := onHangup(func() { d.Rescan(ctx) })
	defer stopSignals()
	defer notifySystemd(ctx, d)()
	log.Info("limiquantix-agent is ready", "version", version, "node", id.NodeID, "name", id.NodeName, "cluster", id.ClusterID,
		"controllers", c.Controllers, "metrics", c.Listen)
	return d.Run(ctx)
}

// limitMemory keeps a daemon that does little small; the environment's GOGC and GOMEMLIMIT count more.
func limitMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(256 << 20)
	}
}

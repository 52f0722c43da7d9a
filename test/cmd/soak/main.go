// Command soak runs one suite at its full counts and writes what came of it to docs/evidence/SUITE.md: commit, counts, duration, versions.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/limiquantix/limiquantix/test/stack"
)

// suites are what can be soaked: a test of test/e2e and how often it counts.
var suites = map[string]struct {
	run   string
	count string // of stack.CountEnv
	what  string
}{
	"kills": {"TestGuestsOutliveEverything", "100", "kill -9 of agent, plugin, controller and libvirtd, and restarts of the agent, each so often, in an order drawn from the seed, with two real guests; before each, calls are acknowledged that must hold after it"},
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 2 || suites[os.Args[1]].run == "" {
		return fmt.Errorf("usage: make soak SUITE=kills")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	name, suite := os.Args[1], suites[os.Args[1]]
	root, err := stack.Root()
	if err != nil {
		return err
	}
	began := time.Now()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", "test", "./e2e", "-count=1", "-v", "-timeout", "2h", "-run", "^"+suite.run+"$")
	cmd.Dir = filepath.Join(root, "test")
	seed := os.Getenv(stack.SeedEnv)
	if seed == "" {
		seed = strconv.FormatInt(began.UnixNano(), 10)
	}
	cmd.Env = append(os.Environ(), stack.CountEnv+"="+suite.count, stack.SeedEnv+"="+seed)
	cmd.Stdout, cmd.Stderr = io.MultiWriter(os.Stdout, &out), os.Stderr
	runErr := cmd.Run()
	verdict := "passed"
	if runErr != nil {
		verdict = "FAILED"
	}
	version := func(args ...string) string {
		b, _ := exec.CommandContext(ctx, args[0], args[1:]...).Output()
		line, _, _ := strings.Cut(string(b), "\n")
		return line
	}
	text := fmt.Sprintf(`# %s

%s.

| | |
|---|---|
| result | %s |
| count | %s |
| seed | %s |
| duration | %s |
| date | %s |
| commit | %s |
| libvirt | %s |
| QEMU | %s |
| Go | %s |

Made by: make soak SUITE=%s
`, name, suite.what, verdict, suite.count, seed, time.Since(began).Round(time.Second), began.UTC().Format("2006-01-02"), version("git", "-C", root, "rev-parse", "HEAD"),
		version("libvirtd", "--version"), version("qemu-system-x86_64", "--version"), version("go", "version"), name)
	if err := os.WriteFile(filepath.Join(root, "docs", "evidence", name+".md"), []byte(text), 0o644); err != nil { //nolint:gosec // a document
		return err
	}
	return runErr
}

// Command mutate breaks, one line at a time, code that holds an invariant, and requires that a named test notices. The tree is never touched: the broken
// file is given to Go as an overlay. A break that no test notices, that does not build, or that no longer fits the code is an error. The table goes to
// docs/evidence/mutate.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/limiquantix/limiquantix/test/stack"
)

func main() {
	only := flag.String("only", "", "only breaks whose name contains this")
	check := flag.Bool("check", false, "only check that each break fits the code and builds")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *only, *check); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only string, check bool) error {
	root, err := stack.Root()
	if err != nil {
		return err
	}
	breaks, err := load(filepath.Join(root, "test", "mutations.yaml"))
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "lqmutate")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work) //nolint:errcheck // a temporary folder
	began := time.Now()
	var rows []row
	failed := 0
	green := map[string]error{} // by test: how it went without any break
	for _, b := range breaks {
		if !strings.Contains(b.Name, only) {
			continue
		}
		start := time.Now()
		err := try(ctx, root, work, b, check, green)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r := row{b: b, took: time.Since(start), err: err}
		rows = append(rows, r)
		fmt.Printf("%-44s invariant %-3s %6.1fs  %s\n", b.Name, b.Invariant, r.took.Seconds(), r.verdict())
		if err != nil {
			failed++
		}
	}
	if !check && only == "" {
		if err := report(ctx, root, rows, began); err != nil {
			return err
		}
	}
	fmt.Printf("%d breaks, %d noticed, %d not\n", len(rows), len(rows)-failed, failed)
	if failed > 0 {
		return errors.New("some breaks went unnoticed")
	}
	return nil
}

// try makes one break and reports why it went unnoticed; nil is noticed.
func try(ctx context.Context, root, work string, b mutation, check bool, green map[string]error) error {
	overlay, err := b.overlay(root, work)
	if err != nil {
		return err
	}
	if err := goTool(ctx, root, b.Package, "vet", "-overlay", overlay, "."); err != nil {
		return fmt.Errorf("does not build: %w", err)
	}
	if check {
		return nil
	}
	args := []string{"-count=1", "-timeout", "5m", "-run", "^" + strings.ReplaceAll(b.Test, "/", "$/^") + "$"}
	key := b.Package + " " + b.Test
	if _, known := green[key]; !known {
		green[key] = goTool(ctx, root, b.Package, append(append([]string{"test"}, args...), "-v", ".")...)
		if err := green[key]; err == nil {
			out := lastOutput
			if !strings.Contains(out, "--- PASS: "+b.Test+" ") {
				green[key] = errors.New("there is no such test")
			}
		}
	}
	if err := green[key]; err != nil {
		return fmt.Errorf("%s without any break: %w", b.Test, err)
	}
	if err := goTool(ctx, root, b.Package, append(append([]string{"test", "-overlay", overlay}, args...), ".")...); err == nil {
		return fmt.Errorf("%s did not notice", b.Test)
	}
	return nil
}

// lastOutput is what the last tool printed.
var lastOutput string

// goTool runs the go command in a package's folder.
func goTool(ctx context.Context, root, pkg string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join(root, filepath.FromSlash(pkg))
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	out, err := cmd.CombinedOutput()
	lastOutput = string(out)
	if err != nil {
		lines := strings.Split(strings.TrimSpace(lastOutput), "\n")
		return fmt.Errorf("%w: %s", err, strings.Join(lines[max(0, len(lines)-3):], " | "))
	}
	return nil
}

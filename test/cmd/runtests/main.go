// Command runtests runs the tests of every module of the workspace (go test at the root of a go.work sees none), prints per module how many
// passed, failed and were skipped, and ends with the line "N passed, N failed". It fails when a test fails or is skipped, when a package does
// not build, and when a module has no test.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	timeout := flag.Duration("timeout", 30*time.Minute, "limit per module")
	only := flag.String("module", "", "run only modules whose folder contains this")
	run := flag.String("run", "", "pattern passed to go test -run")
	verbose := flag.Bool("v", false, "print every test as it ends")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	modules, root, err := workspace(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "runtests:", err)
		os.Exit(1)
	}
	var total tally
	bad := false
	for _, dir := range modules {
		name, _ := filepath.Rel(root, dir)
		if *only != "" && !strings.Contains(name, *only) {
			continue
		}
		start := time.Now()
		t := runModule(ctx, dir, *run, *timeout, *verbose)
		total.add(t)
		note := ""
		switch {
		case t.passed+t.failed == 0:
			note, bad = "  NO TESTS", true
		case t.skipped > 0:
			note, bad = "  SKIPS ARE FAILURES", true
		case t.failed > 0 || t.broken:
			note, bad = "  FAILED", true
		}
		fmt.Printf("%-18s %4d passed, %d failed, %d skipped  %5.1fs%s\n", name, t.passed, t.failed, t.skipped, time.Since(start).Seconds(), note)
	}
	printVersions(ctx)
	if total.skipped > 0 {
		fmt.Printf("skipped tests count as failures: %d\n", total.skipped)
	}
	failed := total.failed + total.skipped
	if bad && failed == 0 {
		failed = 1
	}
	fmt.Printf("%d passed, %d failed\n", total.passed, failed)
	if bad {
		os.Exit(1)
	}
}

// workspace returns the modules' folders, in go.work's order.
func workspace(ctx context.Context) (dirs []string, root string, err error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOWORK").Output()
	if err != nil {
		return nil, "", fmt.Errorf("go env GOWORK: %w", err)
	}
	root = filepath.Dir(strings.TrimSpace(string(out)))
	out, err = exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return nil, "", fmt.Errorf("go list -m: %w", err)
	}
	return strings.Fields(string(out)), root, nil
}

// tally counts tests; subtests count, a test with subtests does too.
type tally struct {
	passed, failed, skipped int
	broken                  bool // a package did not build or ended without a test's failure
}

func (t *tally) add(o tally) {
	t.passed += o.passed
	t.failed += o.failed
	t.skipped += o.skipped
	t.broken = t.broken || o.broken
}

// event is a line of go test -json, see `go doc test2json`.
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

// buildEnv is what building some modules needs, by their folder; all others are built without cgo.
var buildEnv = map[string][]string{"ceph": {"CGO_ENABLED=1", "GOFLAGS=-tags=pacific"}}

func runModule(ctx context.Context, dir, run string, timeout time.Duration, verbose bool) tally {
	args := []string{"test", "-json", "-count=1", "-shuffle=on", "-timeout", timeout.String()}
	if run != "" {
		args = append(args, "-run", run)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "./...")...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), buildEnv[filepath.Base(dir)]...)
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 30 * time.Second
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "runtests:", dir, err)
		return tally{broken: true}
	}
	t := read(out, verbose)
	if err := cmd.Wait(); err != nil && t.failed == 0 {
		t.broken = true
	}
	return t
}

// read counts events and prints the output of what failed.
func read(r io.Reader, verbose bool) (t tally) {
	output := map[string][]string{}
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		var e event
		if json.Unmarshal(sc.Bytes(), &e) != nil {
			fmt.Println(sc.Text())
			continue
		}
		key := e.Package + " " + e.Test
		switch e.Action {
		case "output", "build-output":
			if len(output[key]) < 2000 {
				output[key] = append(output[key], e.Output)
			}
			continue
		case "pass", "fail", "skip":
		default:
			continue
		}
		if e.Test == "" && e.Action == "skip" { // a package without test files
			continue
		}
		if e.Action == "fail" || e.Action == "skip" && e.Test != "" {
			fmt.Printf("--- %s: %s\n%s", strings.ToUpper(e.Action), key, strings.Join(output[key], ""))
		} else if verbose && e.Test != "" {
			fmt.Printf("%s %s (%.2fs)\n", e.Action, key, e.Elapsed)
		}
		delete(output, key)
		switch {
		case e.Test == "":
			t.broken = t.broken || e.Action == "fail"
		case e.Action == "pass":
			t.passed++
		case e.Action == "fail":
			t.failed++
		default:
			t.skipped++
		}
	}
	return t
}

// printVersions names the real backends that the suites ran against.
func printVersions(ctx context.Context) {
	for _, c := range [][]string{
		{"libvirtd", "--version"}, {"qemu-system-x86_64", "--version"}, {"qemu-img", "--version"}, {"ceph-osd", "--version"},
		{"iptables", "--version"}, {"nft", "--version"}, {"ipset", "--version"}, {"dnsmasq", "--version"}, {"ovs-vswitchd", "--version"},
	} {
		out, err := exec.CommandContext(ctx, c[0], c[1:]...).Output()
		line, _, _ := strings.Cut(string(out), "\n")
		if err != nil {
			line = "missing: " + err.Error()
		}
		fmt.Printf("backend %-20s %s\n", c[0], line)
	}
	fmt.Printf("backend %-20s %s\n", "etcd", "embedded, see controller/go.mod")
}

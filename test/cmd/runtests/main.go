// Command runtests runs the tests of every module of the workspace (go test at the root of a go.work sees none), two packages at a time, prints per module how
// many passed, failed and were skipped, then what failed once more, and ends with the line "N passed, N failed". It fails when a test fails or is skipped, when a
// package does not build, and when a module has no test.
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
	"sync"
	"syscall"
	"time"
)

func main() {
	var o options
	flag.DurationVar(&o.timeout, "timeout", 45*time.Minute, "limit per package")
	flag.StringVar(&o.only, "module", "", "run only modules whose folder contains this")
	flag.StringVar(&o.run, "run", "", "pattern passed to go test -run")
	flag.BoolVar(&o.verbose, "v", false, "print every test as it ends")
	flag.IntVar(&o.workers, "p", 2, "how many units run at once")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := runAll(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "runtests:", err)
	}
	if !ok || err != nil {
		os.Exit(1)
	}
}

type options struct {
	timeout   time.Duration
	only, run string
	verbose   bool
	workers   int
}

// module is one of the workspace and what came of its units.
type module struct {
	name, dir string
	units     int // not yet done
	tally
	took time.Duration // of all its units, one after the other
}

// unit is what one go test runs: a module's packages, or one that takes long.
type unit struct {
	*module
	packages []string
}

// long are packages that take minutes: each is a unit of its own, and they come first, the longest before the others.
var long = []string{
	"test/e2e", "plugins/lvm", "test/failpoint", "sdk/conformance", "plugins/nfs", "test/network", "plugins/kvm", "plugins/bridge", "plugins/ceph", "test/fault",
	"plugins/ovs", "test/pools", "test/leader", "test/lab", "test/lab/guest",
}

func runAll(ctx context.Context, o options) (ok bool, err error) {
	modules, units, err := plan(ctx, o.only)
	if err != nil {
		return false, err
	}
	var (
		mu    sync.Mutex
		all   sync.WaitGroup
		total tally
	)
	queue := make(chan unit)
	ok = true
	for range o.workers {
		all.Go(func() {
			for u := range queue {
				began := time.Now()
				t := u.test(ctx, o)
				mu.Lock()
				total.add(t)
				u.add(t)
				u.took += time.Since(began)
				if u.units--; u.units == 0 {
					ok = u.report() && ok
				}
				mu.Unlock()
			}
		})
	}
	for _, u := range units {
		queue <- u
	}
	close(queue)
	all.Wait()
	printVersions(ctx)
	for _, line := range total.failures {
		fmt.Println(line)
	}
	if total.skipped > 0 {
		fmt.Printf("skipped tests count as failures: %d\n", total.skipped)
	}
	failed := total.failed + total.skipped
	if len(modules) == 0 {
		err = errors.New("there is no such module")
	}
	if (!ok || err != nil) && failed == 0 {
		failed = 1
	}
	fmt.Printf("%d passed, %d failed\n", total.passed, failed)
	return ok, err
}

// report prints a module's line.
func (m *module) report() (ok bool) {
	note := ""
	switch {
	case m.passed+m.failed == 0:
		note = "  NO TESTS"
	case m.skipped > 0:
		note = "  SKIPS ARE FAILURES"
	case m.failed > 0 || m.broken:
		note = "  FAILED"
	}
	fmt.Printf("%-18s %4d passed, %d failed, %d skipped  %5.1fs%s\n", m.name, m.passed, m.failed, m.skipped, m.took.Seconds(), note)
	return note == ""
}

// plan finds modules and packages with tests.
func plan(ctx context.Context, only string) (modules []*module, units []unit, err error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOWORK").Output()
	if err != nil {
		return nil, nil, fmt.Errorf("go env GOWORK: %w", err)
	}
	root := filepath.Dir(strings.TrimSpace(string(out)))
	out, err = exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return nil, nil, fmt.Errorf("go list -m: %w", err)
	}
	alone := make([]unit, len(long))
	var rest []unit
	for dir := range strings.FieldsSeq(string(out)) {
		name, err := filepath.Rel(root, dir)
		if err != nil {
			return nil, nil, err
		}
		if !strings.Contains(name, only) {
			continue
		}
		m := &module{name: name, dir: dir}
		modules = append(modules, m)
		packages, err := m.packages(ctx)
		if err != nil {
			return nil, nil, err
		}
		others := unit{module: m}
		for _, p := range packages {
			if i := slot(root, p); i >= 0 {
				alone[i] = unit{m, []string{p}}
				m.units++
			} else {
				others.packages = append(others.packages, p)
			}
		}
		if len(others.packages) > 0 || m.units == 0 {
			rest = append(rest, others)
			m.units++
		}
	}
	for _, u := range append(alone, rest...) {
		if u.module != nil {
			units = append(units, u)
		}
	}
	return modules, units, nil
}

// slot is a package's place among the long ones, by its folder; -1 when it is none.
func slot(root, dir string) int {
	rel, err := filepath.Rel(root, dir)
	for i, name := range long {
		if err == nil && rel == name {
			return i
		}
	}
	return -1
}

// packages are the folders of those with tests.
func (m *module) packages(ctx context.Context) ([]string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-e", "-f", "{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}", "./...")
	cmd.Dir, cmd.Env, cmd.Stderr = m.dir, m.env(), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("packages of %s: %w", m.name, err)
	}
	return strings.Fields(string(out)), nil
}

// buildEnv is what building some modules needs, by their folder; all others are built without cgo.
var buildEnv = map[string][]string{"ceph": {"CGO_ENABLED=1", "GOFLAGS=-tags=pacific"}}

func (m *module) env() []string { return append(os.Environ(), buildEnv[filepath.Base(m.dir)]...) }

func (u unit) test(ctx context.Context, o options) tally {
	if len(u.packages) == 0 {
		return tally{}
	}
	args := []string{"test", "-json", "-count=1", "-p=1", "-shuffle=on", "-timeout", o.timeout.String()}
	if o.run != "" {
		args = append(args, "-run", o.run)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, u.packages...)...)
	cmd.Dir, cmd.Env, cmd.Stderr = u.dir, u.env(), os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = 30 * time.Second
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "runtests:", u.dir, err)
		return tally{broken: true}
	}
	t := read(out, o.verbose)
	if err := cmd.Wait(); err != nil && t.failed == 0 {
		t.broken = true
	}
	return t
}

// printVersions names the real backends that the suites ran against.
func printVersions(ctx context.Context) {
	for _, c := range [][]string{
		{"libvirtd", "--version"},
		{"qemu-system-x86_64", "--version"},
		{"qemu-img", "--version"},
		{"ceph-osd", "--version"},
		{"iptables", "--version"},
		{"nft", "--version"},
		{"ipset", "--version"},
		{"dnsmasq", "--version"},
		{"ovs-vswitchd", "--version"},
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

// Command bench measures the built binaries against the goals in bench.yaml: fsync on, over sockets, median and spread of several runs. It prints
// goal and measured value side by side and exits 1 when a goal is missed by more than the tolerance. Arguments name parts to run alone.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"go.yaml.in/yaml/v3"

	"github.com/limiquantix/limiquantix/test/stack"
)

// goal is one line of bench.yaml.
type goal struct {
	Min, Max *float64
	Unit     string
	What     string
}

type goals struct {
	Tolerance float64         `yaml:"tolerance_percent"`
	Workloads map[string]goal `yaml:"workloads"`
}

// samples are what was measured of each workload.
type samples map[string][]float64

func (s samples) add(name string, v float64) { s[name] = append(s[name], v) }

type part struct {
	name string
	run  func(context.Context, string, samples) error
	owns func(workload string) bool
}

// parts are what can be run alone, by name.
var parts = []part{
	{"vms", vms, func(w string) bool { return !strings.HasPrefix(w, "storage_") && !strings.HasPrefix(w, "network_") }},
	{"local", storageLocal, func(w string) bool { return strings.HasPrefix(w, "storage_local_") }},
	{"ceph", storageCeph, func(w string) bool { return strings.HasPrefix(w, "storage_ceph_") }},
	{"nfs", storageLab("nfs", prepareNFS), func(w string) bool { return strings.HasPrefix(w, "storage_nfs_") }},
	{"lvm", storageLab("lvm", prepareLVM), func(w string) bool { return strings.HasPrefix(w, "storage_lvm_") }},
	{"compile", compile, func(w string) bool { return w == "network_compile_s" }},
	// In no PID namespace: the plugin knows its own changes by process numbers, which the kernel tells in those of the first one.
	{"bridge", network("bridge", ""), func(w string) bool { return strings.HasPrefix(w, "network_bridge_") }},
	{"ovs", network("ovs", prepareOVS, "-p", "--mount-proc"), func(w string) bool { return strings.HasPrefix(w, "network_ovs_") }},
}

// vms measures the controller and the whole path of a VM.
func vms(ctx context.Context, bin string, got samples) error {
	for _, w := range []func(context.Context, string, samples) error{controllerAlone, wholePath, pluginStart} {
		if err := w(ctx, bin, got); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	if len(os.Args) > 1 && os.Args[1] == "inside" {
		return inside(ctx, os.Args[2:])
	}
	for _, a := range os.Args[1:] {
		if !slices.ContainsFunc(parts, func(p part) bool { return p.name == a }) {
			return fmt.Errorf("no part %q", a)
		}
	}
	root, err := stack.Root()
	if err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(root, "bench.yaml"))
	if err != nil {
		return err
	}
	var g goals
	if err := yaml.Unmarshal(b, &g); err != nil {
		return fmt.Errorf("bench.yaml: %w", err)
	}
	if g.Tolerance > 20 {
		return fmt.Errorf("bench.yaml: tolerance of %g %% is more than 20 %%", g.Tolerance)
	}
	bin, err := stack.Build(ctx)
	if err != nil {
		return err
	}
	got := samples{}
	for _, p := range parts {
		if len(os.Args) > 1 && !slices.Contains(os.Args[1:], p.name) {
			for w := range g.Workloads {
				if p.owns(w) {
					delete(g.Workloads, w)
				}
			}
			continue
		}
		if err := p.run(ctx, bin, got); err != nil {
			return err
		}
	}
	return report(g, got)
}

func report(g goals, got samples) error {
	missed := 0
	fmt.Printf("%-26s %10s %10s %10s %10s  %s\n", "workload", "goal", "median", "min", "max", "")
	names := make([]string, 0, len(g.Workloads))
	for n := range g.Workloads {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		w, vs := g.Workloads[n], got[n]
		if len(vs) == 0 {
			fmt.Printf("%-26s NOT MEASURED\n", n)
			missed++
			continue
		}
		slices.Sort(vs)
		median := vs[len(vs)/2]
		verdict, bound := "ok", ""
		switch {
		case w.Min != nil:
			bound = fmt.Sprintf(">=%g", *w.Min)
			if median < *w.Min*(1-g.Tolerance/100) {
				verdict = "MISSED"
			}
		case w.Max != nil:
			bound = fmt.Sprintf("<=%g", *w.Max)
			if median > *w.Max*(1+g.Tolerance/100) {
				verdict = "MISSED"
			}
		}
		if verdict != "ok" {
			missed++
		}
		fmt.Printf("%-26s %10s %10.2f %10.2f %10.2f  %-5s %-6s %s\n", n, bound, median, vs[0], vs[len(vs)-1], w.Unit, verdict, w.What)
	}
	for n := range got {
		if _, ok := g.Workloads[n]; !ok {
			return fmt.Errorf("workload %s has no goal", n)
		}
	}
	if missed > 0 {
		return fmt.Errorf("%d goals missed", missed)
	}
	return nil
}

// rss is a process's resident memory in MiB.
func rss(pid int) (float64, error) { return statusMiB(pid, "VmRSS") }

// statusMiB is a figure of memory that the kernel keeps of a process.
func statusMiB(pid int, key string) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for _, line := range strings.Split(string(b), "\n") {
		var kib float64
		if _, err := fmt.Sscanf(line, key+": %f kB", &kib); err == nil {
			return kib / 1024, nil
		}
	}
	return 0, fmt.Errorf("process %d tells no %s", pid, key)
}

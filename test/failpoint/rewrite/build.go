package rewrite

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// Built are binaries with failpoints.
type Built struct {
	Bin    string  // folder: limiquantix-controller, limiquantix-agent, lqctl; plugins/local is the reference plugin
	Points []Point // those that are in a binary
}

// edits are what a suite cannot wait for, or what nothing asks for yet though the code for it is there. What decides how soon things converge stays.
var edits = []Edit{
	// Renewed at two thirds of its life and of the five minutes before it: every five seconds.
	{"controller/internal/pki/ca.go", "NodeLife = 24 * time.Hour", "NodeLife = 157500 * time.Millisecond"},
	{"controller/internal/placement/expire.go", "keepFor = 24 * time.Hour", "keepFor = 20 * time.Second"},
	{"controller/internal/placement/expire.go", "expireEvery = 10 * time.Minute", "expireEvery = 2 * time.Second"},
	{"agent/internal/metrics/metrics.go", "Interval = 15 * time.Second", "Interval = 3 * time.Second"},
	{"agent/internal/reconcile/pool.go", "poolLook   = 10 * time.Second", "poolLook   = 3 * time.Second"},
	{"agent/internal/reconcile/netwatch.go", "netCheck = 5 * time.Minute", "netCheck = 2 * time.Second"},

	// Disks that are full, and that know no fallocate. Where the disk is really full is tested elsewhere.
	{"controller/internal/store/etcd/space.go", "	return int64(st.Bavail)", `	if lqfp.Asked("full-disk") {
		return 1 << 20, nil
	}
	return int64(st.Bavail)`},
	{"controller/internal/store/etcd/space.go", "	if errors.Join(err, f.Close()) != nil {", `	if lqfp.Asked("no-fallocate") {
		err = syscall.EOPNOTSUPP
	}
	if errors.Join(err, f.Close()) != nil {`},

	// The pool that every cluster has is of a driver of this name. The driver also boots kernels, as the kvm plugin does.
	{"sdk/conformance/reference/plugin.go", `Name: "reference"`, `Name: "local"`},
	{"sdk/conformance/reference/compute.go", `bad(s.GetBoot().GetKernelPath() != "",`, `bad(false,`},

	// No call deletes a pool in which something lies.
	{"controller/internal/service/agent/render.go", "package agent\n", "package agent; import lqfp \"" + module + "controller/internal/failpoint\"\n"},
	{"controller/internal/service/agent/render.go", "Absent: row.Deleting && !s.poolKept(id)}", `Absent: row.Deleting && !s.poolKept(id) || lqfp.Asked("pool-absent")}`},
	// No signal makes the agent configure a plugin anew that runs.
	{"agent/internal/plugins/manager.go", "case man.SHA256 != p.sum:", `case lqfp.Asked("reconfigure"):
			if err := p.sup.Reconfigure(ctx, spec.Host, spec.ConfigJSON, spec.Secrets); err != nil {
				m.c.Logger.Error("plugin was not configured anew", "error", err)
			}
		case man.SHA256 != p.sum:`},
}

// pluginEdits make a pool of the local driver whose folder is named so one that is shared, as the NFS driver's are: both drive the same files.
var pluginEdits = []Edit{
	{"plugins/local/internal/driver/driver.go", "NodeID: host.GetNodeId()}", `NodeID: host.GetNodeId(), Shared: filepath.Base(path) == "shared"}`},
}

// BuildPlugin finds the points of a plugin and builds it.
func BuildPlugin(ctx context.Context, root, dir string, plugin Process) (Built, error) {
	processes := []Process{plugin}
	points, overlay, err := prepare(root, dir, processes, pluginEdits)
	if err != nil {
		return Built{}, err
	}
	b := Built{Bin: filepath.Join(dir, "bin")}
	name := filepath.Base(plugin.Main)
	if err := run(ctx, root, [][]string{
		{"build", "-overlay", overlay, "-o", b.Bin + "/", plugin.Main},
		{"run", "./sdk/cmd/plugin-manifest", filepath.Join(b.Bin, name)},
	}); err != nil {
		return b, err
	}
	b.Points, err = linked(b.Bin, processes, points)
	return b, err
}

// prepare finds the points and writes the sources.
func prepare(root, dir string, processes []Process, edits []Edit) ([]Point, string, error) {
	points, err := Find(root, processes)
	if err != nil {
		return nil, "", err
	}
	overlay, err := Overlay(root, filepath.Join(dir, "src"), processes, points, edits)
	return points, overlay, err
}

// Build finds the points and builds everything that the suite runs.
func Build(ctx context.Context, root, dir string) (Built, error) {
	points, overlay, err := prepare(root, dir, Processes, edits)
	if err != nil {
		return Built{}, err
	}
	b := Built{Bin: filepath.Join(dir, "bin")}
	plugin := filepath.Join(b.Bin, "plugins", "local")
	if err := os.MkdirAll(plugin, 0o755); err != nil { //nolint:gosec // binaries
		return b, err
	}
	err = run(ctx, root, [][]string{
		{"build", "-overlay", overlay, "-o", b.Bin + "/", Processes[0].Main, Processes[1].Main},
		{"build", "-o", b.Bin + "/", "./cli/cmd/lqctl"},
		{"build", "-overlay", overlay, "-o", plugin + "/", "./sdk/conformance/cmd/limiquantix-plugin-reference"},
		{"run", "./sdk/cmd/plugin-manifest", filepath.Join(plugin, "limiquantix-plugin-reference")},
	})
	if err != nil {
		return b, err
	}
	b.Points, err = linked(b.Bin, Processes, points)
	return b, err
}

func run(ctx context.Context, root string, commands [][]string) error {
	for _, c := range commands {
		cmd := exec.CommandContext(ctx, "go", c...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go %v: %w\n%s", c, err, out)
		}
	}
	return nil
}

// linked drops the points in functions that the linker has dropped: no process can come there.
func linked(bin string, processes []Process, points []Point) ([]Point, error) {
	var code []byte
	for _, p := range processes {
		b, err := os.ReadFile(filepath.Join(bin, filepath.Base(p.Main)))
		if err != nil {
			return nil, err
		}
		code = append(code, b...)
	}
	return slices.DeleteFunc(slices.Clone(points), func(p Point) bool { return !bytes.Contains(code, []byte(p.ID)) }), nil
}

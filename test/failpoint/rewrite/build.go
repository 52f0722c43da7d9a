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

// edits are what a test cannot wait for or configure.
var edits = []Edit{
	// Renewed at two thirds of life and of the five minutes before it: every five seconds.
	{"controller/internal/pki/ca.go", "NodeLife = 24 * time.Hour", "NodeLife = 157500 * time.Millisecond"},
	// The pool that every cluster has is of a driver of this name.
	{"sdk/conformance/reference/plugin.go", `Name: "reference"`, `Name: "local"`},
}

// Build finds the points and builds everything that the suite runs.
func Build(ctx context.Context, root, dir string) (Built, error) {
	points, err := Find(root)
	if err != nil {
		return Built{}, err
	}
	overlay, err := Overlay(root, filepath.Join(dir, "src"), points, edits)
	if err != nil {
		return Built{}, err
	}
	b := Built{Bin: filepath.Join(dir, "bin")}
	plugin := filepath.Join(b.Bin, "plugins", "local")
	if err := os.MkdirAll(plugin, 0o755); err != nil { //nolint:gosec // binaries
		return b, err
	}
	for _, c := range [][]string{
		{"build", "-overlay", overlay, "-o", b.Bin + "/", Processes[0].Main, Processes[1].Main},
		{"build", "-o", b.Bin + "/", "./cli/cmd/lqctl"},
		{"build", "-overlay", overlay, "-o", plugin + "/", "./sdk/conformance/cmd/limiquantix-plugin-reference"},
		{"run", "./sdk/cmd/plugin-manifest", filepath.Join(plugin, "limiquantix-plugin-reference")},
	} {
		cmd := exec.CommandContext(ctx, "go", c...)
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return b, fmt.Errorf("go %v: %w\n%s", c, err, out)
		}
	}
	b.Points, err = linked(b.Bin, points)
	return b, err
}

// linked drops the points in functions that the linker has dropped: no process can come there.
func linked(bin string, points []Point) ([]Point, error) {
	var code []byte
	for _, p := range Processes {
		b, err := os.ReadFile(filepath.Join(bin, filepath.Base(p.Main)))
		if err != nil {
			return nil, err
		}
		code = append(code, b...)
	}
	return slices.DeleteFunc(slices.Clone(points), func(p Point) bool { return !bytes.Contains(code, []byte(p.ID)) }), nil
}

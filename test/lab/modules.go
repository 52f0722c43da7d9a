package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// kernelTree is an unpacked kernel package that is not installed.
type kernelTree struct {
	root    string            // holds boot/ and lib/modules/
	version string            // such as 6.1.0-1-amd64
	deps    map[string]string // path in the version's folder to its dependencies, as in modules.dep
}

// openKernel indexes the modules of the one kernel unpacked in root.
func openKernel(ctx context.Context, root string) (*kernelTree, error) {
	dirs, err := filepath.Glob(filepath.Join(root, "lib/modules/*"))
	if err != nil || len(dirs) != 1 {
		return nil, fmt.Errorf("%s holds %d kernels, want one", root, len(dirs))
	}
	k := &kernelTree{root: root, version: filepath.Base(dirs[0])}
	return k, k.index(ctx)
}

func (k *kernelTree) image() string { return filepath.Join(k.root, "boot/vmlinuz-"+k.version) }

func (k *kernelTree) modules() string { return filepath.Join(k.root, "lib/modules", k.version) }

// index runs depmod and reads what it found.
func (k *kernelTree) index(ctx context.Context) error {
	if err := run(exec.CommandContext(ctx, "depmod", "-b", k.root, k.version)); err != nil {
		return fmt.Errorf("index kernel modules: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(k.modules(), "modules.dep"))
	if err != nil {
		return fmt.Errorf("index kernel modules: %w", err)
	}
	k.deps = parseDeps(string(text))
	return nil
}

func parseDeps(text string) map[string]string {
	deps := map[string]string{}
	for line := range strings.Lines(text) {
		if mod, needs, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			deps[mod] = strings.TrimSpace(needs)
		}
	}
	return deps
}

// order returns the paths of the named modules and of all they need, each
// after what it needs, so that insmod can load them one by one. Names that the
// kernel has no module for are left out: they may be built in.
func (k *kernelTree) order(names ...string) []string {
	byName := map[string]string{}
	for path := range k.deps {
		byName[moduleName(path)] = path
	}
	var list []string
	seen := map[string]bool{}
	var add func(path string)
	add = func(path string) {
		if path == "" || seen[path] {
			return
		}
		seen[path] = true
		needs := strings.Fields(k.deps[path])
		for i := len(needs) - 1; i >= 0; i-- { // modules.dep names the deepest last
			add(needs[i])
		}
		list = append(list, path)
	}
	for _, n := range names {
		add(byName[moduleName(n)])
	}
	return list
}

// moduleName is a module's name as the kernel spells it.
func moduleName(path string) string {
	base := filepath.Base(path)
	base, _, _ = strings.Cut(base, ".ko")
	return strings.ReplaceAll(base, "-", "_")
}

// addModules puts modules into a ram disk, with lib/modules/order listing the
// file names in the order of loading.
func (k *kernelTree) addModules(r *ramdisk, names ...string) error {
	var order strings.Builder
	for _, path := range k.order(names...) {
		body, err := os.ReadFile(filepath.Join(k.modules(), path))
		if err != nil {
			return err
		}
		r.file("lib/modules/"+filepath.Base(path), body)
		fmt.Fprintln(&order, filepath.Base(path))
	}
	r.file("lib/modules/order", []byte(order.String()))
	return nil
}

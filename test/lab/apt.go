package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// candidates returns "name=version" of what apt would install for each name,
// in the order given.
func candidates(ctx context.Context, names ...string) ([]string, error) {
	var found []string
	ask := func() error {
		found = nil
		out, err := aptShow(ctx, names...)
		if err != nil {
			return err
		}
		versions := map[string]string{}
		for stanza := range strings.SplitSeq(out, "\n\n") {
			versions[field(stanza, "Package")] = field(stanza, "Version")
		}
		for _, name := range names {
			v := versions[name]
			if v == "" {
				return fmt.Errorf("apt knows no version of %s", name)
			}
			found = append(found, name+"="+v)
		}
		return nil
	}
	if err := withFreshLists(ctx, ask); err != nil {
		return nil, fmt.Errorf("ask apt for package versions: %w", err)
	}
	return found, nil
}

// kernelPackage resolves a kernel metapackage (linux-image-amd64) to the
// package that it stands for, as "name=version".
func kernelPackage(ctx context.Context, meta string) (string, error) {
	var out string
	if err := withFreshLists(ctx, func() (err error) {
		out, err = aptShow(ctx, meta)
		return err
	}); err != nil {
		return "", fmt.Errorf("ask apt for %s: %w", meta, err)
	}
	name, version, ok := kernelDependency(field(out, "Depends"))
	if !ok {
		return "", fmt.Errorf("%s depends on no kernel: %q", meta, field(out, "Depends"))
	}
	return name + "=" + version, nil
}

var kernelDep = regexp.MustCompile(`(linux-image-[^ ,|]+) \(= ([^)]+)\)`)

func kernelDependency(depends string) (name, version string, ok bool) {
	m := kernelDep.FindStringSubmatch(depends)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}

// field returns a one-line field of a Debian control stanza.
func field(stanza, name string) string {
	for line := range strings.Lines(stanza) {
		if v, ok := strings.CutPrefix(line, name+": "); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// unpackPackage downloads "name=version" and unpacks its files into dir; it
// is not installed and none of its scripts run.
func unpackPackage(ctx context.Context, pkg, dir string) error {
	tmp, err := os.MkdirTemp("", "lab-deb-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o777); err != nil { // apt downloads as user _apt
		return err
	}
	if err := withFreshLists(ctx, func() error {
		cmd := exec.CommandContext(ctx, "apt-get", "-qq", "-o", "Acquire::Retries=3", "download", pkg)
		cmd.Dir = tmp
		return run(cmd)
	}); err != nil {
		return fmt.Errorf("download %s: %w", pkg, err)
	}
	debs, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("download %s: got %d files, want one", pkg, len(debs))
	}
	if err := run(exec.CommandContext(ctx, "dpkg", "-x", debs[0], dir)); err != nil {
		return fmt.Errorf("unpack %s: %w", pkg, err)
	}
	return nil
}

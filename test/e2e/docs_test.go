package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/test/stack"
)

// read reads a file of the repository.
func read(t *testing.T, name string) string {
	t.Helper()
	root, err := stack.Root()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Every binary tells its version, which is the one of VERSION and leads the changelog.
func TestVersions(t *testing.T) {
	version := strings.TrimSpace(read(t, "VERSION"))
	for _, binary := range []string{
		"limiquantix-controller", "limiquantix-agent", "lqctl", "plugins/kvm/limiquantix-plugin-kvm", "plugins/local/limiquantix-plugin-local",
	} {
		out, err := exec.CommandContext(t.Context(), filepath.Join(binaries, binary), "--version").CombinedOutput()
		if want := filepath.Base(binary) + " " + version + " ("; err != nil || !strings.HasPrefix(string(out), want) {
			t.Errorf("%s --version: %v, %q; want %s...", binary, err, out, want)
		}
	}
	if m := regexp.MustCompile(`(?m)^## (\d\S*)`).FindStringSubmatch(read(t, "CHANGELOG.md")); m == nil || m[1] != version {
		t.Errorf("the changelog begins with %v, the version is %s", m, version)
	}
}

// The architecture's map names places that are there.
func TestArchitectureNamesPlaces(t *testing.T) {
	root, err := stack.Root()
	if err != nil {
		t.Fatal(err)
	}
	places := regexp.MustCompile("`((?:agent|cli|controller|deploy|docs|plugins|proto|sdk|test)/[a-z0-9/._-]+)`").FindAllStringSubmatch(read(t, "docs/architecture.md"), -1)
	if len(places) < 30 {
		t.Errorf("only %d places", len(places))
	}
	for _, p := range places {
		if _, err := os.Stat(filepath.Join(root, p[1])); err != nil {
			t.Error(err)
		}
	}
}

// The operator's guide explains every key of both configurations.
func TestOperationsExplainsEveryKey(t *testing.T) {
	guide := read(t, "docs/operations.md")
	for _, source := range []string{"controller/internal/config/config.go", "agent/internal/config/config.go"} {
		for _, key := range regexp.MustCompile(`yaml:"([a-z_]+)"`).FindAllStringSubmatch(read(t, source), -1) {
			if !regexp.MustCompile("`(?:[a-z_]+\\.)*" + key[1] + "(?:\\.[a-z_]+)?`").MatchString(guide) {
				t.Errorf("docs/operations.md does not explain %s of %s", key[1], source)
			}
		}
	}
}

// The template of the guide for driver authors builds as it stands.
func TestDriverTemplateBuilds(t *testing.T) {
	m := regexp.MustCompile("(?ms)^```go\n(package main\n.*?)^```$").FindStringSubmatch(read(t, "docs/drivers.md"))
	if m == nil {
		t.Fatal("docs/drivers.md has no template")
	}
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte(m[1]), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(t.TempDir(), "mine"), file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), "gofmt", "-l", file).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("gofmt: %v %s", err, out)
	}
}

package lab

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestMissing(t *testing.T) {
	t.Parallel()
	got := missing(t.Context(), []string{"dpkg", "no-such-package-of-ours", "bash"})
	if !slices.Equal(got, []string{"no-such-package-of-ours"}) {
		t.Errorf("got %q", got)
	}
}

func TestForbidServices(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ before, during, after string }{
		"none":        {"", policyText, ""},
		"left behind": {policyText, policyText, ""},
		"foreign":     {"#!/bin/sh\nexit 0\n", "#!/bin/sh\nexit 0\n", "#!/bin/sh\nexit 0\n"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "policy")
			if c.before != "" {
				if err := os.WriteFile(path, []byte(c.before), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			release, err := forbidServices(path)
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := os.ReadFile(path); string(got) != c.during {
				t.Errorf("during: %q", got)
			}
			release()
			if got, _ := os.ReadFile(path); string(got) != c.after {
				t.Errorf("after: %q", got)
			}
		})
	}
}

func TestAptSources(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"sources.list":                  "# deb http://mirror.example bookworm main\n",
		"sources.list.d/debian.sources": "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n",
		"sources.list.d/security.list":  "deb [signed-by=/k.gpg] http://mirror.example/sec bookworm-security main\n",
		"sources.list.d/cloud.list":     "deb http://other.example/apt cloud-sdk-bookworm main\n",
		"sources.list.d/other.sources":  "Types: deb\nURIs: http://other.example\nSuites: nodistro\n",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := aptSources(dir)
	want := []string{filepath.Join(dir, "sources.list.d/security.list"), filepath.Join(dir, "sources.list.d/debian.sources")}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if _, err := aptSources(t.TempDir()); err == nil {
		t.Error("no error for a machine without sources")
	}
}

func TestKernelDependency(t *testing.T) {
	t.Parallel()
	name, version, ok := kernelDependency("libc6, linux-image-6.1.0-9-amd64 (= 6.1.27-1)")
	if !ok || name != "linux-image-6.1.0-9-amd64" || version != "6.1.27-1" {
		t.Errorf("got %q %q %v", name, version, ok)
	}
	if _, _, ok := kernelDependency("libc6"); ok {
		t.Error("found a kernel where none is")
	}
}

// Package structure holds the tree to its rules: which module may import which, and how large a file may grow.
package structure

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const root = "github.com/limiquantix/limiquantix/"

// allowed lists for each module the modules of ours that its non-test code may import. sdk is restricted further below.
var allowed = map[string][]string{
	"proto":           {},
	"sdk":             {"proto"},
	"sdk/conformance": {"proto", "sdk"},
	"plugins/kit":     {"proto", "sdk"},
	"plugins/bridge":  {"proto", "sdk", "plugins/kit"},
	"plugins/ceph":    {"proto", "sdk", "plugins/kit"},
	"plugins/kvm":     {"proto", "sdk", "plugins/kit"},
	"plugins/local":   {"proto", "sdk", "plugins/kit"},
	"plugins/lvm":     {"proto", "sdk", "plugins/kit"},
	"plugins/nfs":     {"proto", "sdk", "plugins/kit"},
	"plugins/ovs":     {"proto", "sdk", "plugins/kit"},
	"agent":           {"proto", "sdk"},
	"controller":      {"proto"},
	"cli":             {"proto"},
	"test":            {"proto", "sdk"},
}

// sdkForeign is all that sdk may import from outside, besides the standard library.
var sdkForeign = []string{
	"google.golang.org/grpc", "google.golang.org/protobuf", "google.golang.org/genproto/googleapis/rpc",
	"github.com/hashicorp/go-plugin", "github.com/hashicorp/go-hclog",
}

// layers of the controller, top to bottom: a package imports only from layers under its own, or its own folder.
var layers = [][]string{
	{"cmd/"},
	{"internal/server", "internal/tunnel"},
	{"internal/service/", "internal/placement"},
	{"internal/scheduler", "internal/state", "internal/pki", "internal/seal", "internal/config"},
	{"internal/store"},
	{"internal/domain"},
}

type pkg struct {
	ImportPath, Dir string
	Imports         []string
	Standard        bool
	Module          *struct{ Path string }
}

func workspaceRoot(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOWORK").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(strings.TrimSpace(string(out)))
}

func packages(t *testing.T, module string) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Imports,Standard,Module", "./...")
	cmd.Dir = filepath.Join(workspaceRoot(t), module)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list in %s: %v\n%s", module, err, stderr.String())
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// moduleOf is the longest module of ours that a package path lies in; "" for foreign ones.
func moduleOf(path string) string {
	rest, ok := strings.CutPrefix(path, root)
	if !ok {
		return ""
	}
	best := ""
	for m := range allowed {
		if (rest == m || strings.HasPrefix(rest, m+"/")) && len(m) > len(best) {
			best = m
		}
	}
	return best
}

func TestImportsPointOneWay(t *testing.T) {
	for module, may := range allowed {
		for _, p := range packages(t, module) {
			for _, imp := range p.Imports {
				if !strings.HasPrefix(imp, root) {
					if module == "sdk" && strings.Contains(strings.SplitN(imp, "/", 2)[0], ".") && !hasPrefixOf(imp, sdkForeign) {
						t.Errorf("%s imports %s: sdk stays light, see sdkForeign", p.ImportPath, imp)
					}
					continue
				}
				if to := moduleOf(imp); to != module && !contains(may, to) {
					t.Errorf("%s imports %s: module %s may import only %v of ours", p.ImportPath, imp, module, may)
				}
			}
		}
	}
}

func TestControllerLayers(t *testing.T) {
	layer := func(path string) int {
		rest := strings.TrimPrefix(path, root+"controller/")
		for i, l := range layers {
			if hasPrefixOf(rest, l) {
				return i
			}
		}
		return -1
	}
	for _, p := range packages(t, "controller") {
		from := layer(p.ImportPath)
		if from < 0 {
			t.Errorf("%s stands in no layer", p.ImportPath)
			continue
		}
		for _, imp := range p.Imports {
			if moduleOf(imp) != "controller" {
				continue
			}
			if to := layer(imp); to < from {
				t.Errorf("%s imports %s, a layer above it", p.ImportPath, imp)
			}
		}
	}
}

// Every module of the workspace is under the rules, and every module on disk is in the workspace.
func TestEveryModuleIsKnown(t *testing.T) {
	top := workspaceRoot(t)
	work, err := os.ReadFile(filepath.Join(top, "go.work"))
	if err != nil {
		t.Fatal(err)
	}
	files, err := exec.Command("git", "-C", top, "ls-files", "*go.mod").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range strings.Fields(string(files)) {
		m := filepath.Dir(f)
		if strings.HasPrefix(m, "tools") {
			continue
		}
		if _, ok := allowed[m]; !ok {
			t.Errorf("module %s has no import rule", m)
		}
		if !strings.Contains(string(work), "./"+m+"\n") {
			t.Errorf("module %s is not in go.work", m)
		}
	}
}

func TestNoFileHoldsTwoIdeas(t *testing.T) {
	top := workspaceRoot(t)
	files, err := exec.Command("git", "-C", top, "ls-files", "*.go").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range strings.Fields(string(files)) {
		if strings.HasPrefix(f, "proto/gen/") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(top, f))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(b, []byte("\n")); n > 800 {
			t.Errorf("%s has %d lines, more than 800: probably two ideas", f, n)
		}
	}
}

func hasPrefixOf(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

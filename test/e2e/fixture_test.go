package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/test/stack"
)

// The state that each released version wrote is opened by this one, its VM and admin token included.
func TestStateOfEarlierVersionsOpens(t *testing.T) {
	fixtures, err := filepath.Glob("../testdata/state-*.tar.gz")
	if err != nil || len(fixtures) == 0 {
		t.Fatal("no fixtures", err)
	}
	for _, f := range fixtures {
		t.Run(filepath.Base(f), func(t *testing.T) {
			dir, err := os.MkdirTemp("", "lqf")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = os.RemoveAll(dir) }()
			if out, err := exec.Command("tar", "-xzf", f, "-C", dir).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			s, err := stack.StartControllerOnly(t.Context(), stack.Options{Dir: dir, Bin: binaries})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Stop() }()
			out := lq(t, s, "vm", "list", "-l", "fixture=yes", "-o", "json")
			for _, want := range []string{`"kept"`, "268435456", "VM_PHASE_PENDING"} {
				if !strings.Contains(out, want) {
					t.Errorf("lacks %s: %s", want, out)
				}
			}
		})
	}
}

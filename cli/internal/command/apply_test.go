package command

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestApply(t *testing.T) {
	b := newBench(t)
	web := `kind: VM
meta: {name: web, labels: {app: web}}
spec:
  cpu: {vcpus: 2}
  memory_bytes: 1G
  run_policy: always
  disks:
  - {name: root, inline: {image: debian}}
`
	for _, step := range []struct{ file, out string }{
		{web, "web created (running on host1, 0s)\n"},
		{web, "web unchanged\n"},
		{strings.Replace(web, "1G", "2G", 1), "web updated (running on host1, 0s)\n  spec.memory_bytes: 1073741824 -> 2147483648\n"},
		{strings.Replace(strings.Replace(web, "1G", "2G", 1), "app: web", "app: front", 1), "web updated (running on host1, 0s)\n  meta.labels: {app=web} -> {app=front}\n"},
		// What the document does not name stays.
		{"kind: VM\nmeta: {name: web}\nspec: {cpu: {vcpus: 2}}\n", "web unchanged\n"},
		// What differs as written, but not in effect, is not called a change.
		{"kind: VM\nmeta: {name: web}\nspec: {disks: [{name: root, bus: virtio, inline: {image: debian}}]}\n", "web unchanged\n"},
		{"kind: VM\nmeta: {name: a}\nspec: {memory_bytes: 64M}\n---\n{kind: VM, meta: {name: web}}\n", "a created (running on host1, 0s)\nweb unchanged\n"},
	} {
		if got := b.ok("apply", "-f", write(t, step.file)); got != step.out {
			t.Errorf("%s\n got %q\nwant %q", step.file, got, step.out)
		}
	}
	b.in = strings.NewReader("kind: VM\n" + b.ok("vm", "show", "web", "-o", "yaml"))
	if got := b.ok("apply", "-f", "-"); got != "web unchanged\n" {
		t.Errorf("what show prints, applied: %q", got)
	}
	if got := b.ok("apply", "-f", write(t, web), "-o", "json"); !strings.Contains(got, `"items"`) {
		t.Error(got)
	}
	if got := b.ok("delete", "-f", write(t, web)); got != "web deleted (0s)\n" {
		t.Errorf("%q", got)
	}
	if got := b.ok("delete", "-f", write(t, web)); got != "web is gone already\n" {
		t.Errorf("%q", got)
	}
}

// A file with a mistake changes nothing, not even what its other documents say.
func TestApplyIsStrict(t *testing.T) {
	b := newBench(t)
	path := write(t, "kind: VM\nmeta: {name: a}\nspec: {memory_bytes: 64M}\n---\nkind: VM\nmeta: {name: b}\nspec:\n  memroy_bytes: 64M\n")
	b.fails(failure.ExitUsage, []string{"apply", "-f", path}, `f.yaml:8: unknown key "spec.memroy_bytes"; did you mean "spec.memory_bytes"?`, "reason: MANIFEST")
	if len(b.server.VMs) != 0 {
		t.Error("something was created")
	}
	b.fails(failure.ExitUsage, []string{"delete", "-f", path}, "f.yaml:8")
}

// What could be applied before a refusal is said, and the refusal decides on the exit code.
func TestApplyStopsAtARefusal(t *testing.T) {
	b := newBench(t)
	path := write(t, "kind: VM\nmeta: {name: a}\nspec: {memory_bytes: 64M}\n---\nkind: VM\nmeta: {name: b}\nspec: {memory_bytes: 1M}\n")
	if r := b.fails(failure.ExitUsage, []string{"apply", "-f", path}, "vm.spec.memory_bytes"); r.out != "a created (running on host1, 0s)\n" {
		t.Errorf("%q", r.out)
	}
}

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// A volume moves to another pool and back, whatever is killed on the way, and its content is what it was; nothing is left where it lay. Exports hold the same, of a snapshot too.
func TestMoveAndExport(t *testing.T) {
	s := common(t)
	before := poolFiles(t, s.Dir)
	content := make([]byte, 24<<20)
	_, _ = rand.Read(content[4<<20 : 20<<20]) // a hole at both ends
	src := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(src, content, 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := s.Command(t.Context(), args...).CombinedOutput()
		if err != nil {
			t.Fatalf("lqctl %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	refused := func(reason string, args ...string) {
		t.Helper()
		if out, err := s.Command(t.Context(), args...).CombinedOutput(); err == nil || !strings.Contains(string(out), reason) {
			t.Errorf("lqctl %v: %v: %s, want %s", args, err, out, reason)
		}
	}
	holds := func(kind, name string) {
		t.Helper()
		to := filepath.Join(t.TempDir(), "export")
		run(kind, "export", name, "--file", to)
		if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s %s: %d bytes that are not its content: %v", kind, name, len(got), err)
		}
		if left, _ := filepath.Glob(filepath.Join(filepath.Dir(to), ".*")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
	files := func(id string) (n int) {
		for _, f := range poolFiles(t, s.Dir) {
			if strings.Contains(filepath.Base(f), id) && strings.HasSuffix(f, ".json") {
				n++
			}
		}
		return n
	}

	run("pool", "create", "m1", "--driver", "local")
	run("pool", "create", "m2", "--driver", "local")
	run("image", "import", "content", "--file", src, "--format", "raw", "--pool", "m1")
	run("volume", "create", "mv", "--from", "image/content", "--pool", "m1")
	var vol struct{ Meta struct{ ID string } }
	if err := json.Unmarshal([]byte(run("volume", "show", "mv", "-o", "json")), &vol); err != nil {
		t.Fatal(err)
	}
	holds("volume", "mv")
	refused("INVALID_FIELD", "volume", "move", "mv", "nowhere")
	refused("VOLUME_NOT_FOUND", "volume", "export", "absent", "--file", filepath.Join(t.TempDir(), "x"))

	run("snapshot", "create", "mv-snap", "--volume", "mv")
	holds("snapshot", "mv-snap")
	refused("VOLUME_IN_USE", "volume", "move", "mv", "m2")
	run("snapshot", "delete", "mv-snap")

	run("volume", "move", "mv", "m2")
	if n := files(vol.Meta.ID); n != 1 {
		t.Errorf("it lies in %d pools", n)
	}
	holds("volume", "mv")
	for i, what := range []string{"agent", "plugin"} { // in the middle
		to := []string{"m1", "m2"}[i%2]
		run("volume", "move", "mv", to, "--no-wait")
		if what == "agent" {
			if err := errors.Join(s.Kill("agent"), s.StartAgent(context.Background())); err != nil {
				t.Fatal(err)
			}
		} else if pid, err := s.Plugin("local"); err != nil || syscall.Kill(pid, syscall.SIGKILL) != nil {
			t.Fatal(pid, err)
		}
		run("volume", "move", "mv", to) // joins the one that is under way, or finds it done
		if n := files(vol.Meta.ID); n != 1 {
			t.Errorf("after a kill of %s it lies in %d pools", what, n)
		}
		holds("volume", "mv")
	}
	run("volume", "delete", "mv")
	run("image", "delete", "content")
	run("pool", "delete", "m1", "m2")
	if after := poolFiles(t, s.Dir); !slices.Equal(after, before) {
		t.Errorf("left behind: %v, there were %v", after, before)
	}
}

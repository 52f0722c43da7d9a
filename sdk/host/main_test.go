package host

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// TestMain runs the tests, or, in a child process that a test started, the plugin (or host) that the test asked for.
func TestMain(m *testing.M) {
	if mode := os.Getenv(modeEnv); mode != "" {
		os.Exit(runChild(mode))
	}
	goleak.VerifyTestMain(m)
}

// install makes a plugin directory whose binary is this test binary, and a Spec that makes it behave as mode says.
func install(t *testing.T, mode string, change ...func(*Manifest)) Spec {
	t.Helper()
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "plugin")
	if err := os.Link(exe, bin); err != nil {
		copyFile(t, exe, bin)
	}
	m := &Manifest{Name: "fake", Version: "1.2.3", Kinds: []string{"compute"}, Executable: "plugin"}
	for _, c := range change {
		c(m)
	}
	if err := WriteManifest(dir, m); err != nil {
		t.Fatal(err)
	}
	return Spec{
		Dir: dir, RuntimeDir: shortDir(t), Env: []string{modeEnv + "=" + mode}, StartTimeout: 20 * time.Second, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Host: &driverv1.HostFacts{ClusterId: "c", NodeId: "n", StateDirectory: "/nonexistent/state", RuntimeDirectory: "/nonexistent/run"},
	}
}

// shortDir is a directory whose path leaves room for sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	d, err := os.MkdirTemp("", "lq")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(d); err != nil {
			t.Error(err)
		}
	})
	return d
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// launch launches a plugin and stops it at the end of the test.
func launch(t *testing.T, spec Spec) *Process {
	t.Helper()
	p, err := Launch(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(context.Background(), time.Second); err != nil {
			t.Error(err)
		}
		assertEmpty(t, spec.RuntimeDir)
	})
	return p
}

// assertEmpty fails the test when a launch left something behind.
func assertEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		t.Errorf("left in the runtime directory: %v (%v)", entries, err)
	}
}

// do asks the fake driver to do something, and returns what it answered.
func do(ctx context.Context, c driverv1.ComputeDriverServiceClient, what string) (string, error) {
	r, err := c.GetDomain(ctx, &driverv1.GetDomainRequest{DomainId: what})
	return r.GetDomain().GetStateDetail(), err
}

// alive reports whether a process exists and has not ended.
func alive(pid int) bool {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	rest := string(data[strings.LastIndexByte(string(data), ')')+1:])
	return !strings.HasPrefix(rest, " Z") && !strings.HasPrefix(rest, " X")
}

// eventually waits until ok, looking again every few milliseconds.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(within)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %s: %s", within, what)
		}
	}
}

package plugins

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/limiquantix/limiquantix/agent/internal/config"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk/host"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type changes chan struct{}

func (c changes) PluginUp(string)                             {}
func (c changes) Event(string, *driverv1.WatchEventsResponse) {}
func (c changes) PluginsChanged() {
	select {
	case c <- struct{}{}:
	default:
	}
}

// A plugin that is not there, or is not what its manifest says, is reported with its reason and takes nobody with it.
func TestWhatCannotRunIsReported(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	broken := filepath.Join(dir, "plugins", "broken")
	if err := os.MkdirAll(broken, 0o755); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(broken, "limiquantix-plugin-broken")
	if err := os.WriteFile(bin, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	man := &host.Manifest{Name: "broken", Version: "1", Kinds: []string{"storage"}, Executable: filepath.Base(bin)}
	if err := host.WriteManifest(broken, man); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bin, []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil { // no longer what the manifest says
		t.Fatal(err)
	}
	run, err := os.MkdirTemp("", "lq") // short, for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	c := config.Default()
	c.PluginDir, c.StateDir, c.RunDir = filepath.Join(dir, "plugins"), filepath.Join(dir, "state"), run
	c.Plugins = []config.Plugin{{Name: "broken"}, {Name: "kvm"}}
	sink := make(changes, 1)
	m := New(Config{Agent: c, Facts: &driverv1.HostFacts{ClusterId: "c", NodeId: "n"}, Logger: slog.New(slog.DiscardHandler)}, sink)
	m.Start()
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := m.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	want := map[string]struct{ state, reason, says string }{
		"broken": {"quarantined", "PLUGIN_INVALID", "sha256"},
		"kvm":    {"missing", "PLUGIN_MISSING", "plugin.json"},
	}
	deadline := time.After(10 * time.Second)
	for {
		right := 0
		var got []*computev1.DriverStatus
		for _, s := range m.Status() {
			got = append(got, s)
			w := want[s.GetName()]
			if s.GetState() == w.state && s.GetReason() == w.reason && strings.Contains(s.GetMessage(), w.says) {
				right++
			}
		}
		if right == len(want) {
			break
		}
		select {
		case <-sink:
		case <-deadline:
			t.Fatalf("status %v", got)
		}
	}
	if p, ok := m.Plugin("kvm"); !ok || p.Running {
		t.Errorf("%+v, %v", p, ok)
	}
	if names := m.Names("storage"); len(names) != 1 || names[0] != "broken" {
		t.Errorf("kinds are known from the manifest alone: %v", names)
	}
}

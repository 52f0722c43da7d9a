package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/sdk"
	"github.com/limiquantix/limiquantix/sdk/conformance/reference"
	"github.com/limiquantix/limiquantix/sdk/host"
)

// TestMain runs the tests, or the reference plugin when the tool started this binary as one.
func TestMain(m *testing.M) {
	if hs := sdk.Handshake(); os.Getenv(hs.MagicCookieKey) != "" {
		sdk.Serve(reference.New("1.0.0"))
		return
	}
	os.Exit(m.Run())
}

func TestTool(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "plugin"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := host.WriteManifest(dir, &host.Manifest{Name: "reference", Version: "1.0.0", Kinds: []string{"compute", "storage", "network"}, Executable: "plugin"}); err != nil {
		t.Fatal(err)
	}
	write := func(content string) string {
		f := filepath.Join(t.TempDir(), "config.json")
		if err := os.WriteFile(f, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	good := write(`{"config":{"delay_ms":1},"compute":{"spec":{"cpu":{"vcpus":2},"memoryBytes":"268435456"},"guest_reboots":true},"storage":{"volume_bytes":1048576},
		"network":{"specs":[{"type":"NETWORK_TYPE_BRIDGE"},{"type":"NETWORK_TYPE_BRIDGE","mtu":1400}]}}`)
	broken := write(`{"config":{"defects":["start-twice"]}}`)
	for _, tc := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"-config", good, "-only", "compute/start/runs,network/list/pages,storage/volume/create", dir}, 0, "3 passed, 0 failed, 0 skipped"},
		{[]string{"-config", broken, "-only", "compute/start/runs", dir}, 1, "contract: StartDomain starts"},
		{[]string{"-config", broken, "-only", "compute/start/runs", "-json", dir}, 1, `"outcome":"FAIL"`},
		{[]string{"-config", write(`{"unknown":1}`), dir}, 2, "unknown field"},
		{[]string{"-config", write(`{"config":{"unknown":1}}`), dir}, 2, "does not start"},
		{[]string{t.TempDir()}, 2, "no plugin manifest"},
		{[]string{}, 2, "usage"},
		{[]string{"-list"}, 0, "compute/create/same-spec-is-ok"},
	} {
		var out bytes.Buffer
		if code := run(t.Context(), tc.args, &out, &out); code != tc.code || !strings.Contains(out.String(), tc.says) {
			t.Errorf("%q: exit status %d, want %d with %q:\n%s", tc.args, code, tc.code, tc.says, out.String())
		}
	}
}

func TestPacketsAreTurnedOnByTheFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "driver.json")
	if err := os.WriteFile(file, []byte(`{"network":{"packets":{"policies":7,"ovs_database":"unix:/x"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := options("dir", file)
	if err != nil || o.Network.Packets == nil || o.Network.Packets.Policies != 7 || o.Network.Packets.OVS.Database != "unix:/x" {
		t.Errorf("%+v, %v", o.Network.Packets, err)
	}
	if err := os.WriteFile(file, []byte(`{"network":{}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if o, err := options("dir", file); err != nil || o.Network.Packets != nil {
		t.Errorf("%+v, %v", o.Network.Packets, err)
	}
}

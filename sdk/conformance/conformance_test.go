package conformance_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk"
	"github.com/limiquantix/limiquantix/sdk/conformance"
	"github.com/limiquantix/limiquantix/sdk/conformance/internal/enforcer"
	"github.com/limiquantix/limiquantix/sdk/conformance/reference"
	"github.com/limiquantix/limiquantix/sdk/host"
)

// TestMain runs the tests, or the reference plugin when a host started this binary as one.
func TestMain(m *testing.M) {
	if hs := sdk.Handshake(); os.Getenv(hs.MagicCookieKey) != "" {
		if os.Getenv(enforcer.StateEnv) != "" {
			sdk.Serve(enforcer.New())
			return
		}
		sdk.Serve(reference.New("1.0.0"))
		return
	}
	os.Exit(m.Run())
}

// options makes a plugin directory whose binary is this test binary.
func options(t *testing.T, config map[string]any) conformance.Options {
	t.Helper()
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "plugin")
	if err := os.Link(exe, bin); err != nil {
		data, err := os.ReadFile(exe)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(bin, data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := host.WriteManifest(dir, &host.Manifest{Name: "reference", Version: "1.0.0", Kinds: []string{"compute", "storage", "network"}, Executable: "plugin"}); err != nil {
		t.Fatal(err)
	}
	journal := filepath.Join(t.TempDir(), "journal")
	config["journal"] = journal
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	return conformance.Options{
		Plugin:  host.Spec{Dir: dir, ConfigJSON: string(data)},
		Compute: conformance.ComputeOptions{GuestReboots: true, GuestSpeaks: true},
		Storage: conformance.StorageOptions{Write: func(_ context.Context, src *driverv1.DiskSource, pattern byte, offset, n int64) error {
			return reference.WriteVolume(journal, src, pattern, offset, n)
		}},
	}
}

func TestReferencePasses(t *testing.T) {
	t.Parallel()
	conformance.Test(t, options(t, map[string]any{"delay_ms": 10}))
}

// Snapshots of volumes in use are taken in three ways; the suite knows all of them.
func TestReferencePassesOnline(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"storage", "compute_switch"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			o := options(t, map[string]any{"online_snapshots": mode})
			o.Only = []string{"storage/snapshot/*", "storage/*-snapshot/*", "storage/attach/*", "storage/leaks/*", "storage/capabilities/*"}
			conformance.Test(t, o)
		})
	}
}

// Disks of a running domain come, go, grow and are switched.
func TestReferencePassesOnlineDisks(t *testing.T) {
	t.Parallel()
	o := options(t, map[string]any{"online_disks": true, "online_snapshots": "compute_switch"})
	o.Only = []string{"compute/disk/*", "compute/switch/*", "compute/*-disk/*", "compute/capabilities/*"}
	conformance.Test(t, o)
}

// Interfaces of a running domain come and go.
func TestReferencePassesOnlineInterfaces(t *testing.T) {
	t.Parallel()
	o := options(t, map[string]any{"online_interfaces": true})
	o.Only = []string{"compute/interface/*", "compute/attach-interface/*", "compute/capabilities/*"}
	conformance.Test(t, o)
}

// Pools that are one for several nodes.
func TestReferencePassesShared(t *testing.T) {
	t.Parallel()
	o := options(t, map[string]any{"shared_pools": true, "online_snapshots": "compute_switch"})
	o.Only = []string{
		"storage/pool/*", "storage/volume/*", "storage/attach/*", "storage/snapshot/life", "storage/snapshot/forgotten-commit", "storage/attach-volume/*", "storage/detach-volume/*", "storage/leaks/*",
	}
	conformance.Test(t, o)
}

func TestNamesAreUniqueAndChecksHaveContracts(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, c := range conformance.Checks() {
		if seen[c.Name] || c.Contract == "" {
			t.Errorf("%s: twice, or without a contract", c.Name)
		}
		if kind := strings.Split(c.Name, "/")[0]; kind != "plugin" && "DRIVER_KIND_"+strings.ToUpper(kind) != c.Kind.String() {
			t.Errorf("%s: of kind %s", c.Name, c.Kind)
		}
		seen[c.Name] = true
	}
}

// Each defect must be noticed by the check that is there for it: a suite that a broken driver passes is worth nothing.
func TestDefectsAreNoticed(t *testing.T) {
	t.Parallel()
	for name, check := range map[string]string{
		"create-once":          "compute/create/same-spec-is-ok",
		"create-ignores-spec":  "compute/create/other-spec-conflicts",
		"any-id":               "compute/ids/wrong-ones-are-refused",
		"no-mark":              "compute/create/defines-stopped",
		"lists-foreign":        "compute/list/only-ours",
		"touches-foreign":      "compute/list/only-ours",
		"delete-unknown-fails": "compute/delete/absent-is-ok",
		"start-twice":          "compute/start/runs",
		"no-events":            "compute/events/arrive",

		"interface-ignores-spec": "compute/interface/other-spec-conflicts",
		"link-stays":             "compute/interface/link",

		"create-ignores-spec of volumes":  "storage/volume/other-spec-conflicts",
		"delete-unknown-fails of volumes": "storage/volume/absent",
		"deletes-attached":                "storage/attach/protects",
		"one-page":                        "storage/volume/pages",
		"no-checksum":                     "storage/image/wrong-checksum",
		"logs-secrets":                    "storage/secrets/kept",
		"resizes-attached":                "storage/resize/attached",
		"restore-shrinks":                 "storage/snapshot/size",
		"snapshots-follow":                "storage/snapshot/keeps-content",
		"deletes-used":                    "network/delete/in-use",
		"takes-older-rules":               "network/rules/generations",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := options(t, map[string]any{"defects": []string{strings.Split(name, " ")[0]}, "online_interfaces": true})
			o.Only = []string{check}
			ran := 0
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			err := conformance.Run(ctx, o, func(r conformance.Result) {
				ran++
				if r.Outcome != conformance.Failed {
					t.Errorf("%s: %s %s", r.Check.Name, r.Outcome, r.Detail)
				}
			})
			if err != nil || ran != 1 {
				t.Errorf("%d checks ran: %v", ran, err)
			}
		})
	}
}

// What is in the backend after the last check and was not before the first is a leak; what was there before is not.
func TestLeaksAreNoticed(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]conformance.Outcome{"": conformance.Passed, "left": conformance.Failed} {
		o := options(t, map[string]any{})
		o.Only = []string{"storage/leaks/none"}
		calls := 0
		o.Storage.Objects = func(context.Context) ([]string, error) {
			calls++
			if calls > 1 && name != "" {
				return []string{"before", name}, nil
			}
			return []string{"before"}, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if name != "" {
			o.Storage.LeakTimeout = time.Second
		}
		if err := conformance.Run(ctx, o, func(r conformance.Result) {
			if r.Outcome != want {
				t.Errorf("%q: %s %s", name, r.Outcome, r.Detail)
			}
		}); err != nil || calls < 2 {
			t.Errorf("%d calls: %v", calls, err)
		}
	}
}

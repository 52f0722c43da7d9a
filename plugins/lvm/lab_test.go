// Package lvm_test runs the built plugin inside the lab guest, launched from here as an agent does, against Debian's own LVM and kernel.
package lvm_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/sdk/conformance"
	"github.com/limiquantix/limiquantix/sdk/host"
	"github.com/limiquantix/limiquantix/test/lab/guest"
	"github.com/limiquantix/limiquantix/test/stack"
)

// brief leaves repetitions of faults to soak: each of LVM's commands takes a third of a second in the lab guest.
var brief = os.Getenv(stack.CountEnv) == ""

// rig is a lab guest with the plugin in it.
type rig struct {
	*guest.Guest
	ctx   context.Context
	dir   string // the plugin directory on the host
	share string // /host in the guest
}

// newRig starts a guest with disks of so many MiB, prepares them by lines of shell ($0, $1... are the disks), and puts the plugin in.
func newRig(t *testing.T, prepare string, mib ...int64) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	t.Cleanup(cancel)
	o := guest.Options{Share: t.TempDir()}
	for _, m := range mib {
		o.Disks = append(o.Disks, m<<20)
	}
	r := &rig{Guest: guest.Start(t, o), ctx: ctx, dir: t.TempDir(), share: o.Share}
	argv := []string{"/bin/sh", "-ec", prepare}
	for i := range mib {
		argv = append(argv, r.Disk(i))
	}
	if out, err := r.Run(ctx, argv...); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	binary := filepath.Join(t.TempDir(), "limiquantix-plugin-lvm")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/limiquantix-plugin-lvm")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := r.Plugin(ctx, r.dir, binary, host.Manifest{Name: "lvm", Version: "0.0.0-dev", Kinds: []string{"storage"}}); err != nil {
		t.Fatal(err)
	}
	return r
}

// sh runs a line of shell in the guest and returns what it printed.
func (r *rig) sh(t *testing.T, line string) string {
	t.Helper()
	out, err := r.Sh(r.ctx, line)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

func (r *rig) spec() host.Spec {
	return host.Spec{Dir: r.dir, ConfigJSON: "{}", StartTimeout: 2 * time.Minute}
}

var (
	uuidLine    = regexp.MustCompile(`id = "[^"]+"`)
	stripeLines = regexp.MustCompile(`(?s)type = "striped".*?stripes = \[.*?\]`)
)

const (
	// quiet is what LVM needs to be told where no udevd runs.
	quiet    = "export LVM_SUPPRESS_FD_WARNINGS=1; C='activation{udev_sync=0 udev_rules=0 monitoring=0}'; "
	makeVG   = quiet + `vgcreate -q --config "$C" lab "$0" >/dev/null; `
	makeThin = makeVG + `lvcreate -q -y --config "$C" --type thin-pool -L 128M --poolmetadatasize 4M -n tp lab >/dev/null; lvchange --config "$C" --errorwhenfull y lab/tp >/dev/null; `
)

func versions(t *testing.T, r *rig) {
	t.Helper()
	t.Log(strings.ReplaceAll(r.sh(t, "lvm version | head -3 | sed 's/  */ /g'; echo kernel; uname -r"), "\n", "; "))
}

// The contract, in a thin pool, through the launcher; in two guests, since each of LVM's commands takes long there. A foreign group and a foreign volume in the same group
// stay byte for byte what they were.
func TestConformanceThin(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]conformance.Options{
		"verbs":   {Only: []string{"storage/*-*/*", "storage/leaks/*"}},
		"objects": {Skip: []string{"storage/*-*/*"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, makeThin+foreign, 300, 64)
			versions(t, r)
			before := r.sh(t, foreignSum)
			o.Plugin, o.Brief = r.spec(), brief
			o.Storage = conformance.StorageOptions{Parameters: map[string]string{"vg": "lab", "thin_pool": "tp", "devices": r.Disk(0)}, Write: r.writePattern}
			conformance.Test(t, o)
			r.wantClean(t, before)
		})
	}
}

// The same in a linear pool; the devices are not named but found.
func TestConformanceLinear(t *testing.T) {
	t.Parallel()
	r := newRig(t, makeVG+foreign, 300, 64)
	before, only := r.sh(t, foreignSum), linearOnly
	if brief {
		only = linearBrief
	}
	conformance.Test(t, conformance.Options{
		Plugin: r.spec(), Brief: brief, Storage: conformance.StorageOptions{Parameters: map[string]string{"vg": "lab"}, Write: r.writePattern}, Only: only,
	})
	r.wantClean(t, before)
}

// linearOnly are the checks that meet other code in a linear pool than in a thin one: what has content, and what is removed.
var (
	linearBrief = []string{
		"storage/pool/*", "storage/volume/create", "storage/attach/*", "storage/resize/*", "storage/snapshot/keeps-content", "storage/snapshot/online", "storage/snapshot/restore", "storage/content/*",
		"storage/image/volume-from-it", "storage/create-volume/killed", "storage/delete-volume/killed", "storage/import-image/killed", "storage/leaks/*",
	}
	linearOnly = []string{
		"storage/pool/*", "storage/volume/create", "storage/volume/sizes", "storage/volume/survives-kill", "storage/attach/*", "storage/resize/*", "storage/snapshot/*",
		"storage/image/*", "storage/create-volume/killed", "storage/delete-volume/*", "storage/import-image/*",
	}
)

const (
	foreign = `lvcreate -q -y --config "$C" -n theirs -L 8M lab >/dev/null; dd if=/dev/urandom of=/dev/lab/theirs bs=1M count=8 2>/dev/null
vgcreate -q other "$1" >/dev/null; lvcreate -q -y --config "$C" -n theirs -L 8M other >/dev/null; dd if=/dev/urandom of=/dev/other/theirs bs=1M count=8 2>/dev/null; sync`
	// foreignSum sums up all that is not ours: the whole disk of the other group, and a volume beside ours with its metadata.
	foreignSum = `sync; sha256sum /dev/vdc /dev/lab/theirs; lvs --noheadings -o lv_uuid,lv_size,lv_tags,lv_attr,seg_pe_ranges lab/theirs 2>/dev/null`
)

// wantClean fails the test when something of ours is left, or something of others was touched.
func (r *rig) wantClean(t *testing.T, before string) {
	t.Helper()
	if after := r.sh(t, foreignSum); after != before {
		t.Errorf("what is not ours was\n%s\nand is\n%s", before, after)
	}
	if left := r.sh(t, "lvs --noheadings -o lv_name,lv_tags 2>/dev/null | grep lq_ || true"); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}

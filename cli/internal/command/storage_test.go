package command

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/cli/internal/failure"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

// A pool is made with a secret that comes from a file, never from the command line; what is wrong is said before anything is sent.
func TestPools(t *testing.T) {
	b := newBench(t)
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("canary\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := b.ok("pool", "create", "rbd", "--driver", "ceph", "-p", "pool=vms", "--secret-file", "key="+key, "--overcommit", "2", "--node-selector", "disk=ssd"); got != "rbd created (0s)\n" {
		t.Errorf("%q", got)
	}
	p := b.server.Pools[0]
	if string(b.server.Secrets["key"]) != "canary" || p.GetSpec().GetParameters()["pool"] != "vms" || p.GetSpec().GetOvercommit() != 2 || p.GetSpec().GetNodeSelector()["disk"] != "ssd" {
		t.Errorf("%v, %q", p, b.server.Secrets)
	}
	b.in = strings.NewReader("piped")
	b.ok("pool", "create", "other", "--driver", "ceph", "--secret-file", "key=-")
	if string(b.server.Secrets["key"]) != "piped" {
		t.Errorf("%q", b.server.Secrets)
	}
	golden(t, "pool-list.txt", b.ok("pool", "list"))
	golden(t, "pool-show.txt", b.ok("pool", "show", "rbd"))
	b.ok("pool", "set", "rbd", "--cordon", "--overcommit", "3")
	if !p.GetSpec().GetCordoned() || !slices.Equal(b.server.Masks[0], []string{"spec.cordoned", "spec.overcommit"}) {
		t.Errorf("%v, %v", p.GetSpec(), b.server.Masks)
	}
	for _, wrong := range [][]string{
		{"pool", "create", "x"},
		{"pool", "create", "x", "--driver", "ceph", "-p", "nonsense"},
		{"pool", "create", "x", "--driver", "ceph", "--secret-file", "key"},
		{"pool", "create", "x", "--driver", "ceph", "--secret-file", "key=/does/not/exist"},
		{"pool", "set", "rbd"},
		{"pool", "set", "rbd", "--cordon", "--uncordon"},
	} {
		b.fails(failure.ExitUsage, wrong, "fix: ")
	}
	if got := b.ok("pool", "delete", "rbd", "other"); got != "rbd deleted (0s)\nother deleted (0s)\n" {
		t.Errorf("%q", got)
	}
	b.fails(failure.ExitNotFound, []string{"pool", "show", "rbd"}, "POOL_NOT_FOUND")
}

func TestVolumes(t *testing.T) {
	b := newBench(t)
	b.ok("volume", "create", "data", "--size", "20G", "--pool", "fast", "--format", "raw", "--iops", "100", "--bandwidth", "50M", "--label", "a=b")
	v := b.server.Volumes[0]
	if s := v.GetSpec(); s.GetSizeBytes() != 20<<30 || s.GetPoolId() != "fast" || s.GetFormat() != storagev1.VolumeFormat_VOLUME_FORMAT_RAW || s.GetQos().GetIops() != 100 || s.GetQos().GetBytesPerSecond() != 50<<20 {
		t.Errorf("%v", s)
	}
	b.ok("volume", "create", "copy", "--from", "snapshot/monday")
	b.ok("volume", "create", "root", "--from", "image/debian", "--size", "1G")
	if b.server.Volumes[1].GetSpec().GetSource().GetSnapshotId() != "monday" || b.server.Volumes[2].GetSpec().GetSource().GetImageId() != "debian" {
		t.Errorf("%v", b.server.Volumes)
	}
	if got := b.ok("volume", "resize", "data", "40G"); got != "data has 40G (0s)\n" || v.GetSpec().GetSizeBytes() != 40<<30 {
		t.Errorf("%q, %v", got, v.GetSpec())
	}
	if got := b.ok("volume", "set", "data", "--iops", "none", "--bandwidth", "10M", "--protect"); got != "data changed (0s)\n" {
		t.Errorf("%q", got)
	}
	if s := v.GetSpec(); s.GetQos().GetIops() != 0 || s.GetQos().GetBytesPerSecond() != 10<<20 || !s.GetDeleteProtection() {
		t.Errorf("%v", s)
	}
	b.ok("volume", "set", "data", "--iops", "100", "--bandwidth", "50M", "--protect=false")
	if got := b.ok("volume", "attach", "data", "web", "--read-only"); got != "data attached to web (0s)\n" {
		t.Errorf("%q", got)
	}
	golden(t, "volume-list.txt", b.ok("volume", "list"))
	golden(t, "volume-show.txt", b.ok("volume", "show", "data"))
	b.fails(failure.ExitState, []string{"volume", "delete", "data"}, "VOLUME_IN_USE")
	for _, want := range []string{"data detached (0s)\n", "data is not attached\n"} {
		if got := b.ok("volume", "detach", "data"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for _, wrong := range [][]string{
		{"volume", "create", "x"},
		{"volume", "create", "x", "--size", "much"},
		{"volume", "create", "x", "--from", "debian"},
		{"volume", "create", "x", "--size", "1G", "--format", "vmdk"},
		{"volume", "create", "x", "--size", "1G", "--iops", "1.5"},
		{"volume", "resize", "data"},
		{"volume", "set", "data"},
		{"volume", "set", "data", "--bandwidth", "quick"},
		{"volume", "attach", "data"},
	} {
		b.fails(failure.ExitUsage, wrong, "fix: ")
	}
	b.ok("volume", "delete", "data", "copy", "root")
	if len(b.server.Volumes) > 0 {
		t.Errorf("%v", b.server.Volumes)
	}
}

func TestSnapshots(t *testing.T) {
	b := newBench(t)
	if got := b.ok("snapshot", "create", "monday", "--volume", "data", "--consistency", "quiesced"); got != "monday taken (0s)\n" {
		t.Errorf("%q", got)
	}
	if s := b.server.Snapshots[0].GetSpec(); s.GetVolumeId() != "data" || s.GetConsistency() != storagev1.SnapshotConsistency_SNAPSHOT_CONSISTENCY_QUIESCED {
		t.Errorf("%v", s)
	}
	golden(t, "snapshot-list.txt", b.ok("snapshot", "list"))
	golden(t, "snapshot-show.txt", b.ok("snapshot", "show", "monday"))
	if got := b.ok("snapshot", "restore", "monday"); got != "monday restored (0s)\n" {
		t.Errorf("%q", got)
	}
	b.fails(failure.ExitUsage, []string{"snapshot", "create", "x", "--volume", "data", "--consistency", "perfect"}, "fix: ")
	b.ok("snapshot", "delete", "monday")
	b.fails(failure.ExitNotFound, []string{"snapshot", "restore", "monday"}, "SNAPSHOT_NOT_FOUND")
}

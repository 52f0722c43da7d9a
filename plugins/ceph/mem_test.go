package ceph_test

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// An import takes no more memory than its blocks on the way, whatever its size.
func TestImportIsBounded(t *testing.T) {
	p := newPool(t, shared.ceph)
	l := ready(t, nodeID, p)
	content := make([]byte, 256<<20)
	if _, err := rand.Read(content); err != nil {
		t.Fatal(err)
	}
	base := l.peak(t)
	began := time.Now()
	if err := l.upload(t.Context(), &driverv1.ImportImageHeader{Format: driverv1.VolumeFormat_VOLUME_FORMAT_RAW, ContentBytes: int64(len(content))}, content); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	peak := l.peak(t)
	if peak-base > 64<<20 {
		t.Errorf("the import took %d MiB of memory", (peak-base)>>20)
	}
	file := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	if _, err := p.RBD(t.Context(), "import", "--no-progress", file, p.name+"/bare"); err != nil {
		t.Fatal(err)
	}
	t.Logf("256 MiB in %s, by rbd import in %s; peak of the plugin's memory %d MiB, %d before", took, time.Since(began), peak>>20, base>>20)
	if _, err := p.RBD(t.Context(), "rm", "--no-progress", p.name+"/bare"); err != nil {
		t.Fatal(err)
	}
}

// peak is the most memory that the plugin had, bytes.
func (l launched) peak(t *testing.T) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", l.PID()))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		t.Fatalf("no peak in %s", status)
	}
	n, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}

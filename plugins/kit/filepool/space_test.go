package filepool

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// mounted mounts a file system for one test. It needs root, as the tests of this project do.
func mounted(t *testing.T, source, fstype, options string) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", fstype, "-o", options, "--", source, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// noise is content that no file system makes smaller.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func parted(content []byte) func() (*driverv1.ExportVolumeResponse, error) {
	at := 0
	return func() (*driverv1.ExportVolumeResponse, error) {
		if at == len(content) {
			return nil, io.EOF
		}
		n := min(len(content)-at, partBytes)
		p := &driverv1.ExportVolumeResponse{Offset: int64(at), Data: content[at : at+n]}
		at += n
		return p, nil
	}
}

// A pool that is full says so, whatever fills it, keeps what it has, and nothing half-made; with room again all works again.
func TestPoolFull(t *testing.T) {
	ctx := context.Background()
	p, err := Open(pool1, mounted(t, "none", "tmpfs", "size=8m"), owner, Options{Preallocation: "full"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	content := noise(2 << 20)
	if _, err := p.ImportVolume(ctx, create(volA, int64(len(content)), raw, ""), parted(content)); err != nil {
		t.Fatal(err)
	}
	before, big := leftovers(t, p), noise(16<<20)
	for name, fill := range map[string]func() error{
		"image": func() error { _, err := p.ImportImage(ctx, header(imgA, raw, big), bytes.NewReader(big)); return err },
		"raw volume": func() error {
			_, err := p.ImportVolume(ctx, create(volB, int64(len(big)), raw, ""), parted(big))
			return err
		},
		"qcow2 volume": func() error {
			_, err := p.ImportVolume(ctx, create(volB, int64(len(big)), qcow, ""), parted(big))
			return err
		},
		"allocated raw":   func() error { _, err := p.CreateVolume(ctx, create(volB, 16<<20, raw, "")); return err },
		"allocated qcow2": func() error { _, err := p.CreateVolume(ctx, create(volB, 16<<20, qcow, "")); return err },
	} {
		want(t, fill(), metav1.Reason_REASON_NO_SPACE)
		if now := leftovers(t, p); len(now) != len(before) {
			t.Errorf("%s: left behind: %v", name, now)
		}
	}
	var got []byte
	err = p.Export(ctx, &driverv1.ExportVolumeRequest{Subject: &driverv1.ExportVolumeRequest_VolumeId{VolumeId: volA}}, func(r *driverv1.ExportVolumeResponse) error {
		got = append(append(got, r.GetData()...), make([]byte, r.GetHoleBytes())...)
		return nil
	})
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("the volume that was there: %d bytes, %v", len(got), err)
	}
	if _, err := p.CreateVolume(ctx, create(volB, 1<<20, raw, "")); err != nil {
		t.Errorf("with room enough: %v", err)
	}
	if err := os.WriteFile(filepath.Join(p.Path(), "filler"), noise(int(p.State().GetCapacityBytes()-p.State().GetUsedBytes())-128<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	if s := p.State(); s.GetHealth() != driverv1.HealthState_HEALTH_STATE_DEGRADED || s.GetReason() != "NO_SPACE" {
		t.Errorf("full: %v", s)
	}
	if err := p.DeleteVolume(volB); err != nil {
		t.Errorf("delete in a full pool: %v", err)
	}
}

// Where the file system can share blocks, copies take no room, and are copies all the same.
func TestCopiesShareBlocks(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 512<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.xfs", "-q", "-m", "reflink=1", disk).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ctx, p := context.Background(), open(t, filepath.Join(mounted(t, disk, "xfs", "loop"), "pool"))
	content := noise(32 << 20)
	if _, err := p.ImportVolume(ctx, create(volA, int64(len(content)), raw, ""), parted(content)); err != nil {
		t.Fatal(err)
	}
	used := func() int64 {
		fd, err := os.Open(p.Path())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = fd.Close() }()
		if err := unix.Syncfs(int(fd.Fd())); err != nil {
			t.Fatal(err)
		}
		return p.State().GetUsedBytes()
	}
	before := used()
	r := create(volB, 0, raw, "")
	r.Source = &driverv1.VolumeSource{Source: &driverv1.VolumeSource_VolumeId{VolumeId: volA}}
	if _, err := p.CreateVolume(ctx, r); err != nil {
		t.Fatal(err)
	}
	if took := used() - before; took > 8<<20 {
		t.Errorf("a copy of %d bytes took %d", len(content), took)
	}
	src, err := p.AttachVolume(&driverv1.AttachVolumeRequest{VolumeId: volB})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(src.GetFile().GetPath(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.WriteAt([]byte("changed"), 1<<20); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(p.Path(), "volumes", volA+".raw"))
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("what was written to the copy is in the source: %v", err)
	}
}

// children is a count that changes with every process that was started and has ended.
func children(t *testing.T) int64 {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &u); err != nil {
		t.Fatal(err)
	}
	return u.Minflt
}

// A thousand volumes are listed without starting a process.
func TestThousandVolumesAreListed(t *testing.T) {
	const many = 1000
	for _, shared := range []bool{false, true} {
		p, err := Open(pool1, t.TempDir(), Owner{ClusterID: "c", NodeID: "n", Shared: shared}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		before := children(t)
		for i := range many {
			id := fmt.Sprintf("00000000-0000-4000-8000-%012d", i)
			rec := volumeRecord{SchemaVersion: 1, Mark: mark{ClusterID: "c", NodeID: "n", ObjectID: id}, Format: qcow, SizeBytes: 1 << 20, AskedBytes: 1 << 20}
			if err := os.WriteFile(filepath.Join(p.Path(), volumesDir, id+".qcow2"), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := p.writeRecord(volumesDir, id, rec); err != nil {
				t.Fatal(err)
			}
		}
		vs, next, err := p.ListVolumes("", many)
		if err != nil || len(vs) != many || next != "" || vs[7].GetAllocationBytes() <= 0 {
			t.Fatal(len(vs), next, err)
		}
		if after := children(t); after != before {
			t.Error("processes were started")
		}
		_ = p.Close()
	}
	if _, err := exec.Command("true").CombinedOutput(); err != nil {
		t.Fatal(err)
	}
	if children(t) == 0 {
		t.Error("the count does not count")
	}
}

// Imports take no more memory for more content.
func TestImportsTakeLittleMemory(t *testing.T) {
	const size, limit = 128 << 20, 8 << 20
	ctx, p := context.Background(), open(t, t.TempDir())
	allocated := func(f func() error) uint64 {
		var a, b runtime.MemStats
		runtime.ReadMemStats(&a)
		if err := f(); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&b)
		return b.TotalAlloc - a.TotalAlloc
	}
	block := noise(1 << 20)
	h := header(imgA, raw, block)
	h.Sha256, h.ContentBytes = "", size
	readers := make([]io.Reader, 0, size>>20)
	for range size >> 20 {
		readers = append(readers, bytes.NewReader(block))
	}
	if n := allocated(func() error { _, err := p.ImportImage(ctx, h, io.MultiReader(readers...)); return err }); n > limit {
		t.Errorf("an image of %d bytes: %d were allocated", size, n)
	}
	at, part := int64(0), &driverv1.ExportVolumeResponse{Data: block}
	if n := allocated(func() error {
		_, err := p.ImportVolume(ctx, create(volA, size, raw, ""), func() (*driverv1.ExportVolumeResponse, error) {
			if at == size {
				return nil, io.EOF
			}
			part.Offset = at
			at += int64(len(block))
			return part, nil
		})
		return err
	}); n > limit {
		t.Errorf("a volume of %d bytes: %d were allocated", size, n)
	}
}

// An image that claims an absurd disk is refused, and so is a pool parameter that is none; a full preallocation takes its room at once.
func TestAbsurdSizesAndPreallocation(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	for _, size := range []string{"65T", "100T"} {
		file := filepath.Join(dir, size)
		if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", file, size).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		p := open(t, filepath.Join(dir, "pool"+strings.ToLower(size)))
		_, err = p.ImportImage(ctx, header(imgA, qcow, b), bytes.NewReader(b))
		want(t, err, metav1.Reason_REASON_IMAGE_REFUSED)
		if l := leftovers(t, p); len(l) > 0 {
			t.Error("left behind:", l)
		}
	}
	_, err := Open(pool1, filepath.Join(dir, "bad"), owner, Options{Preallocation: "most"})
	want(t, err, metav1.Reason_REASON_INVALID_FIELD)
	if _, err := os.Lstat(filepath.Join(dir, "bad")); err == nil {
		t.Error("a refused pool was made")
	}
	for how, least := range map[string]int64{"off": 0, "metadata": 0, "full": 4 << 20} {
		p, err := Open(pool1, filepath.Join(dir, how), owner, Options{Preallocation: how})
		if err != nil {
			t.Fatal(err)
		}
		for id, f := range map[string]driverv1.VolumeFormat{volA: raw, volB: qcow} {
			v, err := p.CreateVolume(ctx, create(id, 4<<20, f, ""))
			if err != nil || v.GetAllocationBytes() < least || least == 0 && v.GetAllocationBytes() >= 4<<20 {
				t.Errorf("%s %s: %v, %v", how, f, v, err)
			}
		}
		_ = p.Close()
	}
}

package lab

import (
	"bytes"
	"encoding/binary"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs"
)

func TestModuleOrder(t *testing.T) {
	t.Parallel()
	k := &kernelTree{deps: parseDeps(strings.Join([]string{
		"kernel/net.ko: kernel/failover.ko kernel/virtio.ko kernel/ring.ko",
		"kernel/failover.ko:",
		"kernel/virtio.ko: kernel/ring.ko",
		"kernel/ring.ko:",
		"kernel/a/rng-dev.ko: kernel/virtio.ko kernel/ring.ko",
		"kernel/unused.ko:",
	}, "\n"))}
	got := k.order("net", "rng_dev", "built-in")
	want := []string{"kernel/ring.ko", "kernel/virtio.ko", "kernel/failover.ko", "kernel/net.ko", "kernel/a/rng-dev.ko"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := k.expand([]string{"x", "a/"}); !slices.Equal(got, []string{"x", "kernel/a/rng-dev.ko"}) {
		t.Errorf("expand: %q", got)
	}
}

// busybox's cpio, not ours, judges the archive.
func TestRamdiskUnpacks(t *testing.T) {
	t.Parallel()
	if err := EnsurePackages(t.Context(), "busybox-static"); err != nil {
		t.Fatal(err)
	}
	r := newRamdisk()
	r.program("bin/run", []byte("#!/bin/sh\necho odd length"))
	r.file("etc/empty", nil)
	r.dir("proc")
	var archive bytes.Buffer
	if err := r.write(&archive); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	unpack := exec.CommandContext(t.Context(), "busybox", "cpio", "-i")
	unpack.Dir, unpack.Stdin = dir, &archive
	if err := run(unpack); err != nil {
		t.Fatal(err)
	}
	out, err := output(exec.CommandContext(t.Context(), filepath.Join(dir, "bin/run")))
	if err != nil || out != "odd length\n" {
		t.Errorf("program in the archive: %q, %v", out, err)
	}
	if !exists(filepath.Join(dir, "etc/empty")) || !exists(filepath.Join(dir, "proc")) {
		t.Error("an empty file or folder is missing")
	}
}

func TestBootRecord(t *testing.T) {
	t.Parallel()
	grub := bytes.Repeat([]byte{0xaa}, sector)
	const diskBytes = 64 << 20
	mbr := bootRecord(grub, diskBytes)
	if len(mbr) != sector || mbr[510] != 0x55 || mbr[511] != 0xaa || !bytes.Equal(mbr[:440], grub[:440]) {
		t.Errorf("no boot sector: % x", mbr)
	}
	from, count := binary.LittleEndian.Uint32(mbr[454:]), binary.LittleEndian.Uint32(mbr[458:])
	if from*sector != partitionFrom || int64(from+count)*sector != diskBytes {
		t.Errorf("partition of %d sectors from %d", count, from)
	}
}

func TestWriteSeed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "seed.iso")
	seed := Seed{MetaData: "instance-id: i-9\n", UserData: "#cloud-config\n" + strings.Repeat("# long\n", 2000)}
	if err := WriteSeed(path, seed); err != nil {
		t.Fatal(err)
	}
	d, err := diskfs.Open(path, diskfs.WithOpenMode(diskfs.ReadOnly))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	fs, err := d.GetFilesystem(0)
	if err != nil {
		t.Fatal(err)
	}
	if label := strings.TrimSpace(fs.Label()); label != "cidata" {
		t.Errorf("label %q", label)
	}
	for name, want := range map[string]string{"meta-data": seed.MetaData, "user-data": seed.UserData} {
		if got, err := fs.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(want))
		}
	}
	if err := WriteSeed(path, seed); err == nil {
		t.Error("an existing file was overwritten")
	}
}

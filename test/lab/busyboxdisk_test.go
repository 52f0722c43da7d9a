package lab

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// The image boots without a kernel given, and without touching the image itself.
func TestBusyboxDiskBoots(t *testing.T) {
	t.Parallel()
	disk, err := BusyboxDisk(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	overlay, console := filepath.Join(dir, "overlay"), filepath.Join(dir, "console")
	if err := run(exec.CommandContext(t.Context(), "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", disk, overlay, "100M")); err != nil {
		t.Fatal(err)
	}
	qemu := exec.CommandContext(t.Context(), "qemu-system-x86_64", "-accel", "tcg", "-m", "128", "-display", "none", "-nodefaults",
		"-serial", "file:"+console, "-drive", "file="+overlay+",if=virtio,format=qcow2")
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = qemu.Process.Kill(); _ = qemu.Wait() }()
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		said, _ := os.ReadFile(console)
		if bytes.Contains(said, []byte("GUEST-READY name=disk")) && bytes.Contains(said, []byte("disks=vda")) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("it says:\n%s", said)
		}
	}
}

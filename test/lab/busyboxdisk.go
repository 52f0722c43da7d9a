package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// busyboxDiskBytes is small, because whole copies of it are made, and large enough for kernel and ram disk.
const busyboxDiskBytes = 48 << 20

// busyboxGrub starts the guest without asking; what comes from a command line elsewhere is fixed here.
const busyboxGrub = `set timeout=0
menuentry "busybox" {
	linux /boot/vmlinuz console=ttyS0,115200 quiet panic=1 labname=disk
	initrd /boot/initrd.gz
}
`

// BusyboxDisk returns a qcow2 image of 48 MiB that boots the guest of [BusyboxGuest] by itself on a BIOS machine: everything runs from memory, so that all of
// the disk behind the first 48 MiB, and any other disk, is free for a test to write. The file is shared and must not be written. It is cached.
func BusyboxDisk(ctx context.Context) (string, error) {
	guest, err := BusyboxGuest(ctx)
	if err != nil {
		return "", err
	}
	if err := EnsurePackages(ctx, DebianPackages...); err != nil { // grub
		return "", err
	}
	versions, err := candidates(ctx, "grub-pc-bin")
	if err != nil {
		return "", err
	}
	cache, err := OpenCache()
	if err != nil {
		return "", err
	}
	key := Key("1", filepath.Base(filepath.Dir(guest.Kernel)), versions[0], busyboxGrub, fmt.Sprint(busyboxDiskBytes))
	dir, err := cache.Folder(ctx, "busyboxdisk", key, func(ctx context.Context, dir string) error {
		return buildBusyboxDisk(ctx, guest, dir)
	})
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "disk.qcow2"), nil
}

func buildBusyboxDisk(ctx context.Context, guest Guest, dir string) error {
	tree, raw := filepath.Join(dir, "tree"), filepath.Join(dir, "disk.raw")
	if err := os.MkdirAll(filepath.Join(tree, "boot", "grub"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tree, "boot", "grub", "grub.cfg"), []byte(busyboxGrub), 0o644); err != nil {
		return err
	}
	for from, to := range map[string]string{guest.Kernel: "vmlinuz", guest.Initrd: "initrd.gz"} {
		body, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(tree, "boot", to), body, 0o644); err != nil {
			return err
		}
	}
	if err := writeBootDisk(ctx, raw, tree, busyboxDiskBytes); err != nil {
		return err
	}
	convert := exec.CommandContext(ctx, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, filepath.Join(dir, "disk.qcow2"))
	if err := run(convert); err != nil {
		return fmt.Errorf("make the image: %w", err)
	}
	if err := os.RemoveAll(tree); err != nil {
		return err
	}
	return os.Remove(raw)
}

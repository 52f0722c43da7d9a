package lab

import (
	"context"
	"embed"
	"fmt"
	"os"
	"path/filepath"
)

//go:embed busybox
var busyboxFiles embed.FS

// busyboxModules are the drivers of the busybox guest.
var busyboxModules = []string{
	"virtio_pci", "virtio_net", "virtio_blk", "virtio_balloon", "virtio_mem",
	"virtio_console", "virtio_scsi", "sd_mod", "virtio_rng", "evdev", "button",
}

// Guest is a kernel and an initial ram disk to boot directly.
type Guest struct {
	Kernel string `json:"kernel"`
	Initrd string `json:"initrd"`
}

// BusyboxGuest returns a guest that is ready a few CPU seconds after its start
// without KVM. It needs 96 MiB of memory and no disk, and says on its first
// serial port what it does; the README of this folder describes its command
// line. It is made from Debian's cloud kernel and busybox-static, and cached.
func BusyboxGuest(ctx context.Context) (Guest, error) {
	if err := EnsurePackages(ctx, BusyboxPackages...); err != nil {
		return Guest{}, err
	}
	cache, err := OpenCache()
	if err != nil {
		return Guest{}, err
	}
	kernel, err := kernelPackage(ctx, "linux-image-cloud-amd64")
	if err != nil {
		return Guest{}, err
	}
	versions, err := candidates(ctx, "busybox-static")
	if err != nil {
		return Guest{}, err
	}
	recipe, err := readAll(busyboxFiles, "busybox")
	if err != nil {
		return Guest{}, err
	}
	key := Key(append([]string{"1", kernel, versions[0], fmt.Sprint(busyboxModules)}, recipe...)...)
	dir, err := cache.Folder(ctx, "busybox", key, func(ctx context.Context, dir string) error {
		return buildBusybox(ctx, kernel, dir)
	})
	if err != nil {
		return Guest{}, err
	}
	return Guest{Kernel: filepath.Join(dir, "vmlinuz"), Initrd: filepath.Join(dir, "initrd.gz")}, nil
}

func buildBusybox(ctx context.Context, kernel, dir string) error {
	tree := filepath.Join(dir, "tree")
	if err := unpackPackage(ctx, kernel, tree); err != nil {
		return err
	}
	k, err := openKernel(ctx, tree)
	if err != nil {
		return err
	}
	r := newRamdisk()
	for _, d := range []string{"dev", "proc", "sys", "tmp", "root", "mnt", "www"} {
		r.dir(d)
	}
	if err := addBusybox(r); err != nil {
		return err
	}
	for from, to := range map[string]string{
		"init": "init", "rcS": "etc/rcS", "udhcpc": "etc/udhcpc",
		"hotplug": "etc/hotplug", "power": "etc/acpi/PWRF/00000080",
	} {
		body, err := busyboxFiles.ReadFile("busybox/" + from)
		if err != nil {
			return err
		}
		r.program(to, body)
	}
	inittab, err := busyboxFiles.ReadFile("busybox/inittab")
	if err != nil {
		return err
	}
	r.file("etc/inittab", inittab)
	if err := k.addModules(r, busyboxModules...); err != nil {
		return err
	}
	if err := r.writeFile(filepath.Join(dir, "initrd.gz")); err != nil {
		return err
	}
	if err := os.Rename(k.image(), filepath.Join(dir, "vmlinuz")); err != nil {
		return err
	}
	return os.RemoveAll(tree)
}

func addBusybox(r *ramdisk) error {
	body, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	r.program("bin/busybox", body)
	return nil
}

// readAll returns the contents of the files in an embedded folder, in the
// order of their names.
func readAll(files embed.FS, dir string) ([]string, error) {
	entries, err := files.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, e := range entries {
		body, err := files.ReadFile(dir + "/" + e.Name())
		if err != nil {
			return nil, err
		}
		all = append(all, e.Name(), string(body))
	}
	return all, nil
}

// WithPrograms writes a copy of the guest's initial ram disk to file in which further programs stand in /bin, by name, and returns the guest with it. They must be
// linked statically.
func (g Guest) WithPrograms(file string, programs map[string]string) (Guest, error) {
	r := newRamdisk()
	for name, from := range programs {
		body, err := os.ReadFile(from)
		if err != nil {
			return g, err
		}
		r.program("bin/"+name, body)
	}
	more := file + ".more"
	if err := r.writeFile(more); err != nil {
		return g, err
	}
	defer func() { _ = os.Remove(more) }()
	out, err := os.Create(file)
	if err != nil {
		return g, err
	}
	defer out.Close()
	for _, part := range []string{g.Initrd, more} { // the kernel unpacks one archive after the other
		body, err := os.ReadFile(part)
		if err != nil {
			return g, err
		}
		if _, err := out.Write(body); err != nil {
			return g, err
		}
	}
	g.Initrd = file
	return g, out.Close()
}

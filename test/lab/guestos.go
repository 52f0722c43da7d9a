package lab

import (
	"context"
	"embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed guestos
var guestOSFiles embed.FS

// guestOSInclude are the packages of the lab guest: block storage, NFS both ways, and networks of the kernel.
var guestOSInclude = []string{
	"lvm2", "thin-provisioning-tools", "nfs-kernel-server", "nfs-common", "rpcbind", "qemu-utils", "kmod", "iproute2", "iputils-ping", "procps",
	"e2fsprogs", "xfsprogs", "openvswitch-switch", "nftables", "iptables", "ipset", "dnsmasq-base",
}

// guestOSModules are in its initial ram disk.
var guestOSModules = []string{"virtio_pci", "virtio_blk", "virtio_console", "virtio_rng", "crc32c_generic", "ext4", "overlay"}

// guestOSTrim is what the image does without.
var guestOSTrim = []string{"usr/share/perl/*/unicore/*", "usr/lib/python3/dist-packages/*/tests/*", "usr/share/bash-completion/*"}

// guestOSBytes has room for the tree; nothing is ever written to it.
const guestOSBytes = 640 << 20

// GuestOS is what the guest of package guest boots: Debian's own kernel and packages, and an init that waits to be told to go on.
type GuestOS struct {
	Kernel string `json:"kernel"`
	Initrd string `json:"initrd"`
	Disk   string `json:"disk"` // ext4, read-only and shared
}

// NewGuestOS builds or finds it. It is made from the packages of the machine's own apt sources; the first build takes minutes.
func NewGuestOS(ctx context.Context) (GuestOS, error) {
	if err := EnsurePackages(ctx, GuestPackages...); err != nil {
		return GuestOS{}, err
	}
	cache, err := OpenCache()
	if err != nil {
		return GuestOS{}, err
	}
	kernel, err := kernelPackage(ctx, "linux-image-amd64")
	if err != nil {
		return GuestOS{}, err
	}
	versions, err := candidates(ctx, append([]string{"busybox-static"}, guestOSInclude...)...)
	if err != nil {
		return GuestOS{}, err
	}
	recipe, err := readAll(guestOSFiles, "guestos")
	if err != nil {
		return GuestOS{}, err
	}
	parts := append([]string{"1", kernel, fmt.Sprint(versions, guestOSModules, guestOSTrim, guestOSBytes, debianModules, debianTrim)}, recipe...)
	dir, err := cache.Folder(ctx, "guestos", Key(parts...), func(ctx context.Context, dir string) error {
		return buildGuestOS(ctx, kernel, dir)
	})
	if err != nil {
		return GuestOS{}, err
	}
	return GuestOS{Kernel: filepath.Join(dir, "vmlinuz"), Initrd: filepath.Join(dir, "initrd.gz"), Disk: filepath.Join(dir, "disk.ext4")}, nil
}

func buildGuestOS(ctx context.Context, kernel, dir string) error {
	fmt.Fprintln(os.Stderr, "lab: building the lab guest's system, this takes a few minutes")
	root, tree := filepath.Join(dir, "root"), filepath.Join(dir, "kernel")
	if err := bootstrapGuestOS(ctx, root); err != nil {
		return err
	}
	if err := unpackPackage(ctx, kernel, tree); err != nil {
		return err
	}
	k, err := openKernel(ctx, tree)
	if err != nil {
		return err
	}
	if err := k.prune(ctx, debianModules); err != nil {
		return err
	}
	if err := writeGuestOSInitrd(k, filepath.Join(dir, "initrd.gz")); err != nil {
		return err
	}
	if err := os.Rename(k.image(), filepath.Join(dir, "vmlinuz")); err != nil {
		return err
	}
	to := filepath.Join(root, "usr/lib/modules")
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if err := os.Rename(k.modules(), filepath.Join(to, k.version)); err != nil {
		return err
	}
	script, err := guestOSFiles.ReadFile("guestos/init")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(root, "lab"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "lab/init"), script, 0o755); err != nil { //nolint:gosec // a program
		return err
	}
	mkfs := exec.CommandContext(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal,^metadata_csum", "-m", "0", "-d", root,
		filepath.Join(dir, "disk.ext4"), fmt.Sprintf("%dk", guestOSBytes/1024))
	if err := run(mkfs); err != nil {
		return fmt.Errorf("make the file system: %w", err)
	}
	for _, name := range []string{root, tree} {
		if err := os.RemoveAll(name); err != nil {
			return err
		}
	}
	return nil
}

// bootstrapGuestOS makes its file system. There is no systemd in it: nothing runs but what a test starts.
func bootstrapGuestOS(ctx context.Context, root string) error {
	sources, err := aptSources("/etc/apt")
	if err != nil {
		return err
	}
	args := []string{
		"--quiet", "--mode=root", "--variant=minbase",
		`--aptopt=APT::Install-Recommends "false"`, `--aptopt=Acquire::Retries "3"`,
		"--include=" + strings.Join(guestOSInclude, ","),
		`--customize-hook=mkdir -p "$1/host" "$1/lab" && rm -rf "$1"/boot/* "$1"/etc/resolv.conf "$1"/var/log/*.log "$1"/var/log/apt "$1"/var/lib/apt/lists/*`,
	}
	for _, glob := range append(append([]string{}, debianTrim...), guestOSTrim...) {
		args = append(args, "--dpkgopt=path-exclude=/"+glob)
	}
	args = append(append(args, "bookworm", root), sources...)
	if err := run(exec.CommandContext(ctx, "mmdebstrap", args...)); err != nil {
		return fmt.Errorf("make a Debian file system: %w", err)
	}
	return nil
}

func writeGuestOSInitrd(k *kernelTree, to string) error {
	r := newRamdisk()
	for _, d := range []string{"dev", "proc", "sys", "ro", "rw", "new"} {
		r.dir(d)
	}
	if err := addBusybox(r); err != nil {
		return err
	}
	script, err := guestOSFiles.ReadFile("guestos/initrd")
	if err != nil {
		return err
	}
	r.program("init", script)
	if err := k.addModules(r, guestOSModules...); err != nil {
		return err
	}
	return r.writeFile(to)
}

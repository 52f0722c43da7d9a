package lab

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// debianTrim is what the image does without, as paths in it.
var debianTrim = []string{
	"usr/share/doc/*", "usr/share/man/*", "usr/share/info/*", "usr/share/locale/*", "usr/share/i18n/*", "usr/share/lintian/*",
	"usr/lib/udev/hwdb.d/*",
}

// bootstrap makes a Debian 12 file system in root from the machine's apt sources.
func bootstrap(ctx context.Context, root string) error {
	sources, err := aptSources("/etc/apt")
	if err != nil {
		return err
	}
	args := []string{
		"--quiet", "--mode=root", "--variant=minbase",
		`--aptopt=APT::Install-Recommends "false"`, `--aptopt=Acquire::Retries "3"`,
		"--include=" + strings.Join(debianInclude, ","),
		`--customize-hook=chroot "$1" systemctl disable ssh.service`,
		`--customize-hook=chroot "$1" systemctl enable systemd-networkd.service ssh.socket`,
		`--customize-hook=chroot "$1" systemctl mask ` + strings.Join(debianMask, " "),
		// cloud-init makes the host key of each guest; its generator only looks for seeds that the lab does not use.
		`--customize-hook=rm -f "$1"/etc/ssh/ssh_host_* && mkdir -p "$1/etc/systemd/system-generators" && ln -s /dev/null "$1/etc/systemd/system-generators/cloud-init-generator"`,
		`--customize-hook=mkdir -p "$1/etc/systemd/system/multi-user.target.wants" && ln -s /lib/systemd/system/cloud-init.target "$1/etc/systemd/system/multi-user.target.wants/"`,
		// Rules for hardware that no guest has cost time at each of its devices.
		`--customize-hook=cd "$1/usr/lib/udev/rules.d" && rm -f 60-drm* 60-infiniband* 60-persistent-alsa* 60-persistent-v4l* 60-sensor* 66-azure* 70-camera* 70-joystick* 70-mouse* 70-touchpad* 78-sound*`,
		`--customize-hook=rm -rf "$1"/usr/lib/udev/hwdb.bin "$1"/etc/resolv.conf "$1"/var/log/*.log "$1"/var/log/apt && : >"$1/etc/machine-id" && echo lab >"$1/etc/hostname"`,
	}
	for _, glob := range debianTrim {
		args = append(args, "--dpkgopt=path-exclude=/"+glob)
	}
	args = append(append(args, "bookworm", root), sources...)
	if err := run(exec.CommandContext(ctx, "mmdebstrap", args...)); err != nil {
		return fmt.Errorf("make a Debian file system: %w", err)
	}
	return nil
}

// suite finds sources of Debian 12 itself, in both of apt's formats; other
// repositories that the machine may use have other suites.
var suite = regexp.MustCompile(`(?m)^(?:deb\s.*\s|Suites:.*\s)bookworm(?:-updates|-security)?(?:\s|$)`)

// aptSources returns the files under dir that list Debian 12.
func aptSources(dir string) ([]string, error) {
	var found []string
	for _, glob := range []string{"sources.list", "sources.list.d/*.list", "sources.list.d/*.sources"} {
		names, err := filepath.Glob(filepath.Join(dir, glob))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				return nil, err
			}
			if suite.Match(text) {
				found = append(found, name)
			}
		}
	}
	if found == nil {
		return nil, fmt.Errorf("%s lists no source of Debian 12 (bookworm)", dir)
	}
	return found, nil
}

// debianModules are the kernel modules that stay, with what they need: a name,
// or a folder with a slash at its end. A guest serves as a hypervisor of its
// own too, hence device-mapper, network and file server modules.
var debianModules = []string{
	"drivers/virtio/", "drivers/md/", "drivers/block/loop", "virtio_blk", "virtio_net", "virtio_scsi", "virtio_console", "virtio_rng",
	"sd_mod", "sr_mod", "sg", "ata_piix", "ata_generic", "ahci", "nvme", "e1000", "e1000e", "nbd", "loop", "brd",
	"ext4", "xfs", "vfat", "isofs", "overlay", "squashfs", "fuse", "virtiofs", "9p", "9pnet_virtio", "autofs4",
	"fs/nfs/", "fs/nfsd/", "fs/nfs_common/", "fs/nls/nls_cp437", "nls_cp437", "nls_iso8859_1", "nls_utf8", "nls_ascii",
	"iscsi_tcp", "vmw_vsock_virtio_transport", "evdev", "button", "qemu_fw_cfg", "psmouse", "configfs",
	"dummy", "bonding", "vxlan", "geneve", "veth", "tun", "tap", "macvlan", "ipvlan", "ifb", "8021q",
	"net/bridge/", "net/openvswitch/", "net/sched/", "net/netfilter/", "net/ipv4/netfilter/", "net/ipv6/netfilter/",
	"crc32c_generic", "crc32c_intel", "crct10dif_generic", "xts", "aes_generic", "aesni_intel", "cbc", "ecb", "sha256_generic", "sha512_generic",
}

// debianBootModules are in the initial ram disk: buses, disks, the root file system.
var debianBootModules = []string{
	"virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "ata_piix", "ahci", "crc32c_generic", "ext4",
}

// addKernel puts the kernel of a package, the modules that stay, and an
// initial ram disk into root. The package is not installed: its scripts would
// build a general ram disk, which takes a minute here and boots slowly.
func addKernel(ctx context.Context, pkg, tmp, root string) error {
	if err := unpackPackage(ctx, pkg, tmp); err != nil {
		return err
	}
	k, err := openKernel(ctx, tmp)
	if err != nil {
		return err
	}
	if err := k.prune(ctx, debianModules); err != nil {
		return err
	}
	r := newRamdisk()
	for _, d := range []string{"dev", "proc", "sys", "new"} {
		r.dir(d)
	}
	if err := addBusybox(r); err != nil {
		return err
	}
	script, err := debianFiles.ReadFile("debian/initrd-init")
	if err != nil {
		return err
	}
	r.program("init", script)
	if err := k.addModules(r, debianBootModules...); err != nil {
		return err
	}
	boot := filepath.Join(root, "boot")
	if err := r.writeFile(filepath.Join(boot, "initrd.img")); err != nil {
		return err
	}
	if err := os.Rename(k.image(), filepath.Join(boot, "vmlinuz")); err != nil {
		return err
	}
	to := filepath.Join(root, "usr/lib/modules")
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	return os.Rename(k.modules(), filepath.Join(to, k.version))
}

// prune deletes the modules that neither keep nor what it needs names.
func (k *kernelTree) prune(ctx context.Context, keep []string) error {
	stays := map[string]bool{}
	for _, path := range k.order(k.expand(keep)...) {
		stays[path] = true
	}
	err := filepath.WalkDir(k.modules(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".ko") {
			return err
		}
		if rel, err := filepath.Rel(k.modules(), path); err != nil || stays[rel] {
			return err
		}
		return os.Remove(path)
	})
	if err != nil {
		return err
	}
	return k.index(ctx)
}

// expand replaces folders by the modules in them.
func (k *kernelTree) expand(names []string) []string {
	var all []string
	for _, n := range names {
		if !strings.HasSuffix(n, "/") {
			all = append(all, n)
			continue
		}
		for path := range k.deps {
			if strings.HasPrefix(path, "kernel/"+n) {
				all = append(all, path)
			}
		}
	}
	return all
}

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

//go:embed debian
var debianFiles embed.FS

// debianTargets says where the embedded files go in the image's file system.
var debianTargets = map[string]string{
	"grub.cfg":       "boot/grub/grub.cfg",
	"cloud.cfg":      "etc/cloud/cloud.cfg",
	"logging.cfg":    "etc/cloud/cloud.cfg.d/05_logging.cfg",
	"sshd.conf":      "etc/ssh/sshd_config.d/lab.conf",
	"trigger.conf":   "etc/systemd/system/systemd-udev-trigger.service.d/lab.conf",
	"stages.service": "etc/systemd/system/lab-stages.service",
	"stages.py":      "usr/lib/lab/stages.py",
	"stage.sh":       "usr/lib/lab/lab-stage",
}

// debianStages are cloud-init's units and what each asks the stage server for.
var debianStages = map[string]string{
	"cloud-init-local": "init-local", "cloud-init": "init", "cloud-config": "config", "cloud-final": "final",
}

// debianDiskBytes leaves room for what a test writes.
const debianDiskBytes = 1536 << 20

const stageConf = `[Unit]
Requires=lab-stages.service
After=lab-stages.service

[Service]
ExecStart=
ExecStart=/usr/lib/lab/lab-stage %s
`

// debianInclude are the packages in the image, besides the essential ones.
var debianInclude = []string{
	"systemd", "systemd-sysv", "udev", "dbus", "kmod", "iproute2", "iputils-ping", "procps", "sudo",
	"e2fsprogs", "cloud-init", "qemu-guest-agent", "openssh-server", "ca-certificates",
}

// debianMask are units that a guest of minutes' life does not need.
var debianMask = []string{
	"apt-daily-upgrade.timer", "apt-daily.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
	"fstrim.timer", "systemd-tmpfiles-clean.timer",
	"systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount", "systemd-firstboot.service", "systemd-hwdb-update.service",
	"systemd-journal-flush.service", "systemd-machine-id-commit.service", "systemd-modules-load.service",
	"systemd-network-generator.service", "systemd-networkd-wait-online.service", "systemd-pcrphase-sysinit.service",
	"systemd-pcrphase.service", "systemd-pstore.service", "systemd-random-seed.service", "systemd-remount-fs.service",
	"systemd-repart.service", "systemd-rfkill.socket", "systemd-sysusers.service", "systemd-timesyncd.service",
	"systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "kmod-static-nodes.service", "systemd-tmpfiles-setup-dev.service",
	"dev-hugepages.mount", "dev-mqueue.mount", "sys-fs-fuse-connections.mount", "sys-kernel-config.mount",
	"sys-kernel-debug.mount", "sys-kernel-tracing.mount",
	"modprobe@configfs.service", "modprobe@dm_mod.service", "modprobe@drm.service", "modprobe@efi_pstore.service",
	"modprobe@fuse.service", "modprobe@loop.service",
	"cloud-init-hotplugd.socket", "getty@tty1.service", "remote-fs.target",
}

// DebianGuest returns a qcow2 disk image of Debian 12 that boots by itself on
// a BIOS machine: grub, Debian's stock kernel, systemd, cloud-init with a
// NoCloud seed (see [WriteSeed]), the QEMU guest agent and an SSH server, with
// its console on the first serial port. The disk may be virtio, SCSI or SATA;
// 512 MiB of memory are enough. The file is shared and must not be written:
// use it as the backing file of an overlay, or copy it.
//
// It is made from the packages of the machine's own apt sources, and cached;
// the first build takes minutes.
func DebianGuest(ctx context.Context) (string, error) {
	if err := EnsurePackages(ctx, DebianPackages...); err != nil {
		return "", err
	}
	cache, err := OpenCache()
	if err != nil {
		return "", err
	}
	kernel, err := kernelPackage(ctx, "linux-image-amd64")
	if err != nil {
		return "", err
	}
	versions, err := candidates(ctx, "busybox-static", "grub-pc-bin", "systemd", "cloud-init", "qemu-guest-agent", "openssh-server")
	if err != nil {
		return "", err
	}
	recipe, err := readAll(debianFiles, "debian")
	if err != nil {
		return "", err
	}
	parts := append([]string{"1", kernel, fmt.Sprint(versions, debianInclude, debianMask, debianModules, debianBootModules, debianTrim, debianStages, stageConf)}, recipe...)
	dir, err := cache.Folder(ctx, "debian", Key(parts...), func(ctx context.Context, dir string) error {
		return buildDebian(ctx, kernel, dir)
	})
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "disk.qcow2"), nil
}

func buildDebian(ctx context.Context, kernel, dir string) error {
	fmt.Fprintln(os.Stderr, "lab: building the Debian image, this takes a few minutes")
	root := filepath.Join(dir, "root")
	if err := bootstrap(ctx, root); err != nil {
		return err
	}
	if err := configure(root); err != nil {
		return err
	}
	if err := addKernel(ctx, kernel, filepath.Join(dir, "kernel"), root); err != nil {
		return err
	}
	raw := filepath.Join(dir, "disk.raw")
	if err := writeBootDisk(ctx, raw, root, debianDiskBytes); err != nil {
		return err
	}
	// Without compression: guests read it through overlays, and without KVM
	// the two cores have better things to do.
	if err := run(exec.CommandContext(ctx, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, filepath.Join(dir, "disk.qcow2"))); err != nil {
		return err
	}
	for _, name := range []string{"root", "kernel", "disk.raw"} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// configure writes the lab's own files into the tree.
func configure(root string) error {
	files := map[string]string{}
	for from, to := range debianTargets {
		body, err := debianFiles.ReadFile("debian/" + from)
		if err != nil {
			return err
		}
		files[to] = string(body)
	}
	for unit, stage := range debianStages {
		files["etc/systemd/system/"+unit+".service.d/lab.conf"] = fmt.Sprintf(stageConf, stage)
	}
	for to, text := range files {
		mode := os.FileMode(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		to = filepath.Join(root, to)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(to, []byte(text), mode); err != nil {
			return err
		}
	}
	return nil
}

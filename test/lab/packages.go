package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// What each part of the lab needs of Debian. The functions of this package
// ensure their own set; the lists are public so that a machine can be prepared
// beforehand with one call of [EnsurePackages].
var (
	// NodePackages runs a node: libvirtd, virsh, QEMU for x86 and qemu-img.
	NodePackages = []string{
		"libvirt-daemon-system", "libvirt-clients", "qemu-system-x86", "qemu-system-common",
		"qemu-utils", "iproute2", "mount", "util-linux",
	}
	// CheckPackages is what tests check with: libvirt's schemas, HTTP from within a node.
	CheckPackages = []string{"libxml2-utils", "curl"}
	// CephPackages runs a Ceph cluster, builds what is linked with its libraries, and lets QEMU open its images.
	CephPackages = []string{"ceph-mon", "ceph-mgr", "ceph-osd", "ceph-common", "librados-dev", "librbd-dev", "gcc", "libc6-dev", "qemu-block-extra"}
	// BusyboxPackages builds the busybox guest.
	BusyboxPackages = []string{"busybox-static", "kmod", "xz-utils"}
	// DebianPackages builds the Debian image.
	DebianPackages = []string{
		"mmdebstrap", "debian-archive-keyring", "e2fsprogs", "grub-common", "grub-pc-bin",
		"busybox-static", "kmod", "qemu-utils", "xz-utils",
	}
	// NetworkPackages runs the network plugins and looks at what they made: bridges, packet filters, DHCP, Open vSwitch with its userspace datapath.
	NetworkPackages = []string{
		"iproute2", "iptables", "ipset", "nftables", "dnsmasq-base", "openvswitch-switch", "conntrack", "ethtool", "tcpdump", "socat",
	}
	// GuestPackages builds and runs the lab guest.
	GuestPackages = []string{
		"mmdebstrap", "debian-archive-keyring", "e2fsprogs", "busybox-static", "kmod", "xz-utils", "qemu-system-x86",
	}
)

// EnsurePackages installs those Debian packages that are missing and returns
// when all are there. It prints one line with their names before it starts and
// nothing else; no service is started by the installation. Calling it again is
// cheap. It needs root only if something is missing.
func EnsurePackages(ctx context.Context, names ...string) error {
	if missing(ctx, names) == nil {
		return nil
	}
	cache, err := OpenCache()
	if err != nil {
		return err
	}
	unlock, err := lockFile(ctx, filepath.Join(cache.Dir, "packages.lock"))
	if err != nil {
		return fmt.Errorf("lock the package installer: %w", err)
	}
	defer unlock()
	want := missing(ctx, names) // another process may have installed them meanwhile
	if want == nil {
		return nil
	}
	list := strings.Join(want, " ")
	if os.Geteuid() != 0 {
		return fmt.Errorf("packages are missing, install them as root: apt-get install %s", list)
	}
	fmt.Fprintln(os.Stderr, "lab: installing packages:", list)
	release, err := forbidServices(policyPath)
	if err != nil {
		return err
	}
	defer release()
	if err := withFreshLists(ctx, func() error {
		return aptGet(ctx, append([]string{"install", "-y", "--no-install-recommends"}, want...)...)
	}); err != nil {
		return fmt.Errorf("install %s: %w", list, err)
	}
	return nil
}

// missing returns the names that dpkg does not report as installed, nil for none.
func missing(ctx context.Context, names []string) []string {
	args := append([]string{"-W", "-f", "${db:Status-Status} ${Package}\n"}, names...)
	out, _ := exec.CommandContext(ctx, "dpkg-query", args...).Output() // unknown names only make it exit 1
	have := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "installed "); ok {
			have[name] = true
		}
	}
	var gone []string
	for _, n := range names {
		if !have[n] {
			gone = append(gone, n)
		}
	}
	return gone
}

// withFreshLists runs an apt action, and once more after "apt-get update" if
// it fails: the lists of a fresh or old machine are empty or out of date.
func withFreshLists(ctx context.Context, action func() error) error {
	if action() == nil {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := aptGet(ctx, "update"); err != nil {
		return err
	}
	return action()
}

func aptGet(ctx context.Context, args ...string) error {
	args = append([]string{"-qq", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"}, args...)
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	return run(cmd)
}

// run executes a command and returns what it printed as part of the error.
func run(cmd *exec.Cmd) error {
	_, err := output(cmd)
	return err
}

// output is run that returns standard output.
func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		said := lastLines(stdout.String()+"\n"+stderr.String(), 15)
		return stdout.String(), fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, said)
	}
	return stdout.String(), nil
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}

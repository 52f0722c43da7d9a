package e2e

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/sdk/host"
	"github.com/limiquantix/limiquantix/test/lab"
	"github.com/limiquantix/limiquantix/test/lab/guest"
	"github.com/limiquantix/limiquantix/test/stack"
)

// insideEnv is set in a test process that runs in the lab guest, where backend, agent, plugins, libvirt and QEMU are on one machine as on a node of an operator's.
const insideEnv = "LIMIQUANTIX_TEST_INSIDE"

// labStorage runs a stack whose storage plugin, of the given name, runs in a lab guest, as does the backend that prepare makes there on the guest's first
// disk. Guests of the stack's own hypervisor open what the plugin attaches by way of a mirror. sh runs a line of shell beside the backend.
//
// In a soak all of it runs in the lab guest once more: a guest boots in a guest, which takes minutes.
func labStorage(t *testing.T, name, prepare string, block bool) (s *stack.Stack, sh func(string) []string) {
	t.Helper()
	if os.Getenv(insideEnv) != "" {
		return insideStorage(t, name)
	}
	if os.Getenv(stack.CountEnv) != "" {
		inside(t, prepare)
	}
	g := guest.Start(t, guest.Options{Disks: []int64{1 << 30}})
	backendOn(t, g, prepare)
	var unmount func() error
	t.Cleanup(func() { // before the guest goes, after the stack
		if unmount != nil {
			if err := unmount(); err != nil {
				t.Error(err)
			}
		}
	})
	s = start(t, func(o *stack.Options) {
		o.Storage = []string{name}
		o.Prepare = func(s *stack.Stack) error {
			var err error
			s.Plugins, err = labPlugins(s, name)
			if err != nil {
				return err
			}
			dir, built := filepath.Join(s.Plugins, name), filepath.Join(s.Bin, "plugins", name)
			m, err := host.ReadManifest(built)
			if err != nil {
				return err
			}
			binary := filepath.Join(built, m.Executable)
			if block {
				mirror := filepath.Join(s.Dir, "dev")
				if err := os.Mkdir(mirror, 0o755); err != nil { //nolint:gosec // devices
					return err
				}
				if unmount, err = g.Mirror("/dev", mirror); err != nil {
					return err
				}
				return g.BlockPlugin(t.Context(), dir, binary, mirror, *m)
			}
			// What the plugin keeps is in the guest, and seen under the same path here.
			state := filepath.Join(s.Dir, "state", name)
			if err := os.MkdirAll(state, 0o755); err != nil { //nolint:gosec // guests' files
				return err
			}
			if _, err := g.Run(t.Context(), "mkdir", "-p", state); err != nil {
				return err
			}
			if unmount, err = g.Mirror(state, state); err != nil {
				return err
			}
			return g.Plugin(t.Context(), dir, binary, *m)
		}
	})
	if err := s.AwaitNode(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s, func(line string) []string {
		out, err := g.Sh(t.Context(), labPath+line)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(out)
	}
}

const labPath = "export PATH=/usr/sbin:/usr/bin:/sbin:/bin; "

// backendOn makes the backend on the guest's first disk.
func backendOn(t *testing.T, g *guest.Guest, prepare string) {
	t.Helper()
	if out, err := g.Run(t.Context(), "/bin/sh", "-ec", labPath+prepare, g.Disk(0)); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
}

// enterBoth makes /both: the file system of the machine that tests, with what only the lab guest has below it, and nothing of it written.
const enterBoth = `modprobe tun; umount /host; mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /host
mkdir -p /guest /over /both; mount -o ro /dev/vda /guest; mount -t tmpfs -o size=60% tmpfs /over; mkdir /over/u /over/w
mount -t overlay -o lowerdir=/host:/guest,upperdir=/over/u,workdir=/over/w overlay /both
for d in proc sys dev; do mount --rbind /$d /both/$d; done; mount -t tmpfs tmpfs /both/run; mkdir -p /both/run/lq /both/run/lock; mount --make-rshared /both`

// inside runs the test that calls it in the lab guest, with the backend beside it.
func inside(t *testing.T, prepare string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lab.BusyboxDisk(t.Context()); err != nil { // into the cache, which is read from there
		t.Fatal(err)
	}
	g := guest.Start(t, guest.Options{Disks: []int64{1 << 30}, Share: "/", MemoryMiB: 4096})
	if out, err := g.Sh(t.Context(), labPath+enterBoth); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	backendOn(t, g, prepare)
	var out strings.Builder
	err = g.Exec(t.Context(), guest.Cmd{
		Argv: []string{"chroot", "/both", self, "-test.v", "-test.timeout=90m", "-test.run", "^" + t.Name() + "$"}, Dir: "/", Stdout: io.MultiWriter(&out, os.Stderr), Stderr: &out, // it takes so long that one wants to see
		Env: []string{
			"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "HOME=" + os.Getenv("HOME"), "TMPDIR=/run/lq", insideEnv + "=1", stack.BinEnv + "=" + binaries, lab.CacheEnv + "=" + os.Getenv(lab.CacheEnv),
		},
	})
	text := out.String()
	if err != nil || !strings.Contains(text, "--- PASS: "+t.Name()) {
		t.Fatalf("in the lab guest: %v: %s", err, text[max(0, len(text)-20000):])
	}
	for line := range strings.Lines(text) {
		if _, row, ok := strings.Cut(line, "evidence: "); ok {
			t.Logf("evidence: in the lab guest, %s", strings.TrimSpace(row))
		}
	}
}

// insideStorage runs the stack on the machine that has the backend: the lab guest.
func insideStorage(t *testing.T, name string) (*stack.Stack, func(string) []string) {
	t.Helper()
	s := start(t, func(o *stack.Options) { o.Storage, o.HostNetwork = []string{name}, true })
	if err := s.AwaitNode(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s, func(line string) []string {
		out, err := exec.CommandContext(t.Context(), "nsenter", "-t", "1", "-m", "-r", "--", "/bin/sh", "-ec", labPath+line).CombinedOutput()
		if err != nil {
			t.Fatal(err, string(out))
		}
		return strings.Fields(string(out))
	}
}

// labPlugins makes a folder of plugins that are those built, without one.
func labPlugins(s *stack.Stack, without string) (string, error) {
	dir := filepath.Join(s.Dir, "plugins")
	err := os.MkdirAll(filepath.Join(dir, without), 0o755) //nolint:gosec // programs
	for _, name := range []string{"kvm", "local"} {
		err = errors.Join(err, os.CopyFS(filepath.Join(dir, name), os.DirFS(filepath.Join(s.Bin, "plugins", name))))
	}
	return dir, err
}

// A pool on an NFS server: Debian's kernel serves and mounts it in the lab guest, where the plugin runs.
func TestStorageNFS(t *testing.T) {
	s, sh := labStorage(t, "nfs", `ln -sf /proc/self/mounts /etc/mtab; mkfs.ext4 -q "$0"; mkdir -p /srv; mount "$0" /srv; mkdir -p /srv/a
mount -t nfsd nfsd /proc/fs/nfsd; rpcbind -w
printf '%s\n' '/srv 127.0.0.1(rw,sync,no_subtree_check,no_root_squash,fsid=0,insecure)' '/srv/a 127.0.0.1(rw,sync,no_subtree_check,no_root_squash,fsid=1,insecure)' > /etc/exports
exportfs -ra; rpc.nfsd -G 10 -L 10 8; rpc.mountd`, false)
	wholePath(t, s, backend{
		driver: "nfs", parameters: map[string]string{"server": "127.0.0.1", "export": "/a"},
		left: func(*testing.T) []string { return sh(`find /srv/a -type f ! -name .limiquantix-pool`) },
	})
}

// A thin pool of LVM, in the lab guest's kernel.
func TestStorageLVM(t *testing.T) {
	s, sh := labStorage(t, "lvm", `export LVM_SUPPRESS_FD_WARNINGS=1; C='activation{udev_sync=0 udev_rules=0 monitoring=0}'
vgcreate -q --config "$C" lab "$0" >/dev/null; lvcreate -q -y --config "$C" --type thin-pool -L 900M --poolmetadatasize 4M -n tp lab >/dev/null; lvchange --config "$C" --errorwhenfull y lab/tp >/dev/null`, true)
	wholePath(t, s, backend{
		driver: "lvm", parameters: map[string]string{"vg": "lab", "thin_pool": "tp"},
		left: func(*testing.T) []string { return sh(`lvs --noheadings -o lv_name 2>/dev/null`) },
	})
}

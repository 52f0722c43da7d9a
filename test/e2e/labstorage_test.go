package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/sdk/host"
	"github.com/limiquantix/limiquantix/test/lab/guest"
	"github.com/limiquantix/limiquantix/test/stack"
)

// labStorage runs a stack whose storage plugin, of the given name, runs in a lab guest, as does the backend that prepare makes there on the guest's first
// disk. Guests of the stack's own hypervisor open what the plugin attaches by way of a mirror.
func labStorage(t *testing.T, name, prepare string, block bool) (*stack.Stack, *guest.Guest) {
	t.Helper()
	g := guest.Start(t, guest.Options{Disks: []int64{1 << 30}})
	if out, err := g.Run(t.Context(), "/bin/sh", "-ec", "export PATH=/usr/sbin:/usr/bin:/sbin:/bin\n"+prepare, g.Disk(0)); err != nil {
		t.Fatalf("%s: %v", out, err)
	}
	var unmount func() error
	t.Cleanup(func() { // before the guest goes, after the stack
		if unmount != nil {
			if err := unmount(); err != nil {
				t.Error(err)
			}
		}
	})
	s := start(t, func(o *stack.Options) {
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
	return s, g
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
	s, g := labStorage(t, "nfs", `ln -sf /proc/self/mounts /etc/mtab; mkfs.ext4 -q "$0"; mkdir -p /srv; mount "$0" /srv; mkdir -p /srv/a
mount -t nfsd nfsd /proc/fs/nfsd; rpcbind -w
printf '%s\n' '/srv 127.0.0.1(rw,sync,no_subtree_check,no_root_squash,fsid=0,insecure)' '/srv/a 127.0.0.1(rw,sync,no_subtree_check,no_root_squash,fsid=1,insecure)' > /etc/exports
exportfs -ra; rpc.nfsd -G 10 -L 10 8; rpc.mountd`, false)
	wholePath(t, s, backend{
		driver: "nfs", parameters: map[string]string{"server": "127.0.0.1", "export": "/a"},
		left: func(t *testing.T) []string { return inLab(t, g, `find /srv/a -type f ! -name .limiquantix-pool`) },
	})
}

// A thin pool of LVM, in the lab guest's kernel.
func TestStorageLVM(t *testing.T) {
	s, g := labStorage(t, "lvm", `export LVM_SUPPRESS_FD_WARNINGS=1; C='activation{udev_sync=0 udev_rules=0 monitoring=0}'
vgcreate -q --config "$C" lab "$0" >/dev/null; lvcreate -q -y --config "$C" --type thin-pool -L 900M --poolmetadatasize 4M -n tp lab >/dev/null; lvchange --config "$C" --errorwhenfull y lab/tp >/dev/null`, true)
	wholePath(t, s, backend{
		driver: "lvm", parameters: map[string]string{"vg": "lab", "thin_pool": "tp"},
		left: func(t *testing.T) []string { return inLab(t, g, `lvs --noheadings -o lv_name 2>/dev/null`) },
	})
}

func inLab(t *testing.T, g *guest.Guest, line string) []string {
	t.Helper()
	out, err := g.Sh(t.Context(), "export PATH=/usr/sbin:/usr/bin:/sbin:/bin; "+line)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(out)
}

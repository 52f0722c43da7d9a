package main

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/limiquantix/limiquantix/test/lab"
	"github.com/limiquantix/limiquantix/test/lab/guest"
)

// storageLocal measures the local plugin beside qemu-img on the same file system.
func storageLocal(ctx context.Context, bin string, got samples) (err error) {
	dir, err := os.MkdirTemp("", "lqs")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return measurePool(ctx, filePool("local", nil, dir, 20, 512, 1000), filepath.Join(bin, "plugins", "local"), got)
}

// filePool is a pool of files; the raw tools work in a folder beside it.
func filePool(driver string, parameters map[string]string, rawDir string, rounds, importMiB, volumes int) pool {
	lines := map[string]string{ // made durable as the plugin must
		"create":   `qemu-img create -q -f qcow2 "$1/v$2" 64M; sync "$1/v$2" "$1"`,
		"snapshot": `qemu-img create -q -f qcow2 -b "$1/v$2" -F qcow2 "$1/s$2"; sync "$1/s$2" "$1"`,
		"clone":    `qemu-img create -q -f qcow2 -b "$1/v$2" -F qcow2 "$1/c$2"; sync "$1/c$2" "$1"`,
		"delete":   `rm "$1/c$2"; sync "$1"`,
		"forget":   `rm "$1/v$2" "$1/s$2"`,
	}
	return pool{
		Driver: driver, Parameters: parameters, Rounds: rounds, ImportMiB: importMiB, Volumes: volumes,
		raw: func(ctx context.Context, verb string, i int) (time.Duration, error) {
			return timed(ctx, lines[verb], rawDir, fmt.Sprint(i))
		},
		convert: func(ctx context.Context, file, format string, i int) (time.Duration, error) {
			took, err := timed(ctx, `qemu-img convert -f "$3" -O "$3" "$4" "$1/i$2"; sync "$1/i$2" "$1"`, rawDir, fmt.Sprint(i), format, file)
			return took, errors.Join(err, os.Remove(filepath.Join(rawDir, fmt.Sprintf("i%d", i))))
		},
	}
}

//go:embed librbd.py
var rbdScript []byte

// storageCeph measures the ceph plugin beside calls of librbd, and qemu-img's own driver for it.
func storageCeph(ctx context.Context, bin string, got samples) (err error) {
	if err := lab.EnsurePackages(ctx, "python3-rados", "python3-rbd"); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "lqs")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c, err := lab.StartCeph(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	if err := c.CreatePool(ctx, "raw"); err != nil {
		return err
	}
	key, err := c.CreateUser(ctx, "lq", "rbd")
	if err != nil {
		return err
	}
	script := filepath.Join(dir, "librbd.py")
	if err := os.WriteFile(script, rbdScript, 0o600); err != nil {
		return err
	}
	raw := exec.CommandContext(ctx, "/usr/bin/python3", script, c.Conf(), "raw") //nolint:gosec // ours
	raw.Stderr = os.Stderr
	in, err := raw.StdinPipe()
	if err != nil {
		return err
	}
	out, err := raw.StdoutPipe()
	if err != nil {
		return err
	}
	if err := raw.Start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close(), raw.Wait()) }()
	answers := bufio.NewReader(out)
	return measurePool(ctx, pool{
		Driver: "ceph", Parameters: map[string]string{"monitors": c.Monitor(), "pool": "rbd", "user": "lq"}, Secrets: map[string][]byte{"key": []byte(key)},
		Rounds: 20, ImportMiB: 256, Volumes: 1000,
		raw: func(_ context.Context, verb string, i int) (time.Duration, error) {
			if _, err := fmt.Fprintln(in, verb, i); err != nil {
				return 0, err
			}
			var seconds float64
			_, err := fmt.Fscanln(answers, &seconds)
			return time.Duration(seconds * float64(time.Second)), err
		},
		convert: func(ctx context.Context, file, format string, i int) (time.Duration, error) {
			took, err := timed(ctx, `qemu-img convert -f "$3" -O raw "$4" "rbd:raw/i$2:conf=$1"`, c.Conf(), fmt.Sprint(i), format, file)
			_, rerr := c.RBD(ctx, "rm", "--no-progress", fmt.Sprintf("raw/i%d", i))
			return took, errors.Join(err, rerr)
		},
	}, filepath.Join(bin, "plugins", "ceph"), got)
}

const (
	prepareNFS = `ln -sf /proc/self/mounts /etc/mtab; mkfs.ext4 -q "$0"; mkdir -p /srv; mount "$0" /srv; mkdir -p /srv/a /srv/b
mount -t nfsd nfsd /proc/fs/nfsd; rpcbind -w
printf '%s\n' '/srv 127.0.0.1(rw,sync,no_subtree_check,no_root_squash,fsid=0,insecure)' '/srv/a 127.0.0.1(rw,sync,no_subtree_check,no_root_squash,fsid=1,insecure)' '/srv/b 127.0.0.1(rw,sync,no_subtree_check,no_root_squash,fsid=2,insecure)' > /etc/exports
exportfs -ra; rpc.nfsd -G 10 -L 10 8; rpc.mountd; mkdir -p /run/raw; mount -t nfs4 -o vers=4.2 127.0.0.1:/b /run/raw`
	prepareLVM = `export LVM_SUPPRESS_FD_WARNINGS=1; C='activation{udev_sync=0 udev_rules=0 monitoring=0}'
vgcreate -q --config "$C" lab "$0" >/dev/null; lvcreate -q -y --config "$C" --type thin-pool -L 800M --poolmetadatasize 8M -n tp lab >/dev/null; lvchange --config "$C" --errorwhenfull y lab/tp >/dev/null`
)

// nfsPool is what is measured in the lab guest that prepareNFS has prepared.
func nfsPool() pool {
	p := filePool("nfs", map[string]string{"server": "127.0.0.1", "export": "/a"}, "/run/raw", 10, 64, 300)
	p.convert = nil
	return p
}

// lvmPool is what is measured in the lab guest that prepareLVM has prepared. Each of LVM's commands takes long there: fewer volumes.
func lvmPool() pool {
	const how = `export LVM_SUPPRESS_FD_WARNINGS=1; C='devices{scan=["/dev"] obtain_device_list_from_udev=0 use_devicesfile=0} activation{udev_sync=0 udev_rules=0 monitoring=0} backup{backup=0 archive=0} global{use_lvmpolld=0}'; `
	lines := map[string]string{
		"create":   `lvm lvcreate -q -y --config "$C" -an -ky -V 64M --thinpool tp -n rv$1 lab`,
		"snapshot": `lvm lvcreate -q -y --config "$C" -s -an -ky -p r -n rs$1 lab/rv$1`,
		"clone":    `lvm lvcreate -q -y --config "$C" -s -an -ky -n rc$1 lab/rs$1`,
		"delete":   `lvm lvremove -q -y --config "$C" lab/rc$1`,
		"forget":   `lvm lvremove -q -y --config "$C" lab/rs$1 lab/rv$1`,
	}
	return pool{
		Driver: "lvm", Parameters: map[string]string{"vg": "lab", "thin_pool": "tp"}, Rounds: 8, ImportMiB: 64, Volumes: 100,
		raw: func(ctx context.Context, verb string, i int) (time.Duration, error) {
			return timed(ctx, how+lines[verb]+" >/dev/null", fmt.Sprint(i))
		},
	}
}

// storageLab measures a plugin in the lab guest: this program runs there, so that no way between host and guest counts.
func storageLab(driver, prepare string) func(context.Context, string, samples) error {
	return func(ctx context.Context, bin string, got samples) (err error) {
		share, err := os.MkdirTemp("", "lqs")
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(share)) }()
		g, err := guest.Boot(ctx, guest.Options{Disks: []int64{1 << 30}, Share: share})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, g.Stop()) }()
		if out, err := g.Run(ctx, "/bin/sh", "-ec", "export PATH=/usr/sbin:/usr/bin:/sbin:/bin\n"+prepare, g.Disk(0)); err != nil {
			return fmt.Errorf("%s: %w", out, err)
		}
		build := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(share, "bench"), "github.com/limiquantix/limiquantix/test/bench") //nolint:gosec // fixed
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		if err := os.CopyFS(filepath.Join(share, "plugin"), os.DirFS(filepath.Join(bin, "plugins", driver))); err != nil {
			return err
		}
		if _, err := g.Sh(ctx, "mkdir -p /run/bench; cp -r /host/bench /host/plugin /run/bench/; chmod -R go-w /run/bench"); err != nil {
			return err
		}
		var out bytes.Buffer
		err = g.Exec(ctx, guest.Cmd{
			Argv: []string{"/run/bench/bench", "inside", driver, "/run/bench/plugin"}, Stdout: &out, Stderr: os.Stderr, Dir: "/",
			Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=/run", "HOME=/run"},
		})
		if err != nil {
			return fmt.Errorf("%s in the lab guest: %w", driver, err)
		}
		part := samples{}
		if err := json.Unmarshal(out.Bytes(), &part); err != nil {
			return err
		}
		for name, vs := range part {
			got[name] = append(got[name], vs...)
		}
		return nil
	}
}

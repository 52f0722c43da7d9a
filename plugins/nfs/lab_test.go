package nfs_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/sdk/conformance"
	"github.com/limiquantix/limiquantix/sdk/host"
	"github.com/limiquantix/limiquantix/test/lab/guest"
	"github.com/limiquantix/limiquantix/test/stack"
)

// brief leaves repetitions of faults, and version 3's share of what is alike in both, to soak: processes start slowly in the lab guest.
var brief = os.Getenv(stack.CountEnv) == ""

// rig is a lab guest that is NFS server and client at once: Debian's kernel, nfs-utils and QEMU, with the plugin in it.
type rig struct {
	*guest.Guest
	ctx context.Context
	dir string // the plugin directory on the host
}

// serve exports /srv/a and /srv/b, of a disk of their own, by NFS 3 and 4.2. The grace after a start is as short as the kernel allows.
const serve = `export PATH=/usr/sbin:/usr/bin:/sbin:/bin
ln -sf /proc/self/mounts /etc/mtab; mkfs.ext4 -q "$0"; mkdir -p /srv; mount "$0" /srv; mkdir -p /srv/a /srv/b
mount -t nfsd nfsd /proc/fs/nfsd; rpcbind -w
printf '%s\n' '/srv 127.0.0.1(rw,sync,no_subtree_check,no_root_squash,fsid=0,insecure)' '/srv/a 127.0.0.1(rw,sync,no_subtree_check,no_root_squash,fsid=1,insecure)' '/srv/b 127.0.0.1(rw,sync,no_subtree_check,no_root_squash,fsid=2,insecure)' > /etc/exports
exportfs -ra; rpc.statd --no-notify; rpc.nfsd -G 10 -L 10 8; rpc.mountd; exportfs -v; mount.nfs -V; uname -r`

func newRig(t *testing.T) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	t.Cleanup(cancel)
	r := &rig{Guest: guest.Start(t, guest.Options{Disks: []int64{1 << 30}}), ctx: ctx, dir: t.TempDir()}
	out, err := r.Run(ctx, "/bin/sh", "-ec", serve, r.Disk(0))
	if err != nil {
		t.Fatal(err)
	}
	t.Log(strings.ReplaceAll(strings.TrimSpace(out), "\n", "; "))
	binary := filepath.Join(t.TempDir(), "limiquantix-plugin-nfs")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/limiquantix-plugin-nfs")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := r.Plugin(ctx, r.dir, binary, host.Manifest{Name: "nfs", Version: "0.0.0-dev", Kinds: []string{"storage"}}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) sh(t *testing.T, line string) string {
	t.Helper()
	out, err := r.Sh(r.ctx, "export PATH=/usr/sbin:/usr/bin:/sbin:/bin; "+line)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// write writes to a volume's file as QEMU does, in the guest.
func (r *rig) write(ctx context.Context, src *driverv1.DiskSource, pattern byte, offset, n int64) error {
	f := map[driverv1.VolumeFormat]string{driverv1.VolumeFormat_VOLUME_FORMAT_RAW: "raw", driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2: "qcow2"}[src.GetFile().GetFormat()]
	_, err := r.Run(ctx, "qemu-io", "-f", f, "-c", fmt.Sprintf("write -P %d %d %d", pattern, offset, n), "-c", "flush", src.GetFile().GetPath())
	return err
}

// objects are the server's files.
func (r *rig) objects(dir string) func(context.Context) ([]string, error) {
	return func(ctx context.Context) ([]string, error) {
		out, err := r.Run(ctx, "/bin/sh", "-ec", `find "$0" -type f ! -name .limiquantix-pool`, dir)
		return strings.Fields(out), err
	}
}

// The contract, by NFS 4.2 and by NFS 3, against the kernel's server.
func TestLabConformance(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]map[string]string{
		"4.2": {"server": "127.0.0.1", "export": "/a"},
		"3":   {"server": "127.0.0.1", "export": "/srv/b", "version": "3", "options": "nolock"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			dir := map[string]string{"4.2": "/srv/a", "3": "/srv/b"}[name]
			o := conformance.Options{
				Plugin:  host.Spec{Dir: r.dir, ConfigJSON: `{}`, StartTimeout: 2 * time.Minute},
				Brief:   brief,
				Storage: conformance.StorageOptions{Parameters: p, Write: r.write, Objects: r.objects(dir)},
			}
			switch { // version 3 meets other code of the kernel in these
			case name == "3" && brief:
				o.Only = []string{"storage/pool/*", "storage/attach/*", "storage/content/*", "storage/create-volume/killed", "storage/leaks/*"}
			case name == "3":
				o.Only = []string{"storage/pool/*", "storage/volume/*", "storage/attach/*", "storage/content/*", "storage/snapshot/*", "storage/create-volume/*", "storage/leaks/*"}
			}
			conformance.Test(t, o)
		})
	}
}

func (r *rig) launch(t *testing.T) launched {
	t.Helper()
	run, err := os.MkdirTemp("", "lq")
	if err != nil {
		t.Fatal(err)
	}
	p, err := host.Launch(r.ctx, host.Spec{
		Dir: r.dir, RuntimeDir: run, ConfigJSON: `{"probe_seconds":1,"probe_timeout_seconds":5,"mount_timeout_seconds":20}`, StartTimeout: 2 * time.Minute,
		Host: &driverv1.HostFacts{ClusterId: cluster, NodeId: nodeID, NodeName: "n", BootId: "b", StateDirectory: "/var/lib/lq", RuntimeDirectory: "/run/lq"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = p.Stop(ctx, 10*time.Second)
		_ = os.RemoveAll(run)
	})
	return launched{Process: p, StorageDriverServiceClient: driverv1.NewStorageDriverServiceClient(p.Conn())}
}

// The server stops under load: within seconds the pool is unhealthy, calls are refused at once, no process is left waiting, and when the server is back so is
// the pool. An export that is withdrawn is another failure than a server that is dead.
func TestLabServerStops(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l := r.launch(t)
	mount := func(id, export string) {
		if _, err := l.EnsurePool(r.ctx, &driverv1.EnsurePoolRequest{PoolId: id, Parameters: map[string]string{"server": "127.0.0.1", "export": export}}); err != nil {
			t.Fatal(err)
		}
	}
	mount(poolID, "/a")
	if err := l.create(r.ctx, poolID, volumeID); err != nil {
		t.Fatal(err)
	}
	load, stop := context.WithCancel(r.ctx)
	defer stop()
	done := make(chan error, 1)
	go func() {
		for load.Err() == nil {
			_ = l.create(load, poolID, secondID)
			_, _ = l.DeleteVolume(load, &driverv1.DeleteVolumeRequest{PoolId: poolID, VolumeId: secondID})
		}
		done <- nil
	}()
	rounds, bound := 3, 30*time.Second
	if brief {
		rounds, bound = 1, 300*time.Second
	}
	for round := range rounds {
		began := time.Now()
		r.sh(t, "rpc.nfsd 0")
		l.wantHealth(t, poolID, driverv1.HealthState_HEALTH_STATE_UNHEALTHY, "BACKEND_TIMEOUT")
		t.Logf("round %d: unhealthy after %s", round, time.Since(began).Round(100*time.Millisecond))
		if d := time.Since(began); d > bound {
			t.Errorf("unhealthy only after %s", d)
		}
		for range 5 {
			if err := l.get(r.ctx, poolID, volumeID); !fault.Is(err, metav1.Reason_REASON_POOL_UNHEALTHY) {
				t.Errorf("while the server is dead: %v", err)
			}
		}
		soon(t, "nothing is left waiting for the server", func() error {
			if left := r.sh(t, `pgrep -af '^/proc/self/exe worker|^qemu-img' || true`); left != "" {
				return fmt.Errorf("%s", left)
			}
			return nil
		})
		began = time.Now()
		r.sh(t, "rpc.nfsd -G 10 -L 10 8")
		l.wantHealth(t, poolID, driverv1.HealthState_HEALTH_STATE_HEALTHY, "")
		soon(t, "volumes are read again", func() error { return l.get(r.ctx, poolID, volumeID) })
		t.Logf("round %d: healthy after %s", round, time.Since(began).Round(100*time.Millisecond))
	}
	stop()
	<-done
	if _, err := l.EnsurePool(r.ctx, &driverv1.EnsurePoolRequest{PoolId: otherID, Parameters: map[string]string{"server": "127.0.0.1", "export": "/absent"}}); !fault.Is(err, metav1.Reason_REASON_INVALID_FIELD) {
		t.Errorf("an export that is none: %v", err)
	}
	r.sh(t, "exportfs -ua; exportfs -f")
	soon(t, "an export that is withdrawn is told apart", func() error {
		p, err := l.GetPool(r.ctx, &driverv1.GetPoolRequest{PoolId: poolID})
		if err == nil && (p.GetPool().GetReason() != "ACCESS_DENIED" && p.GetPool().GetReason() != "STALE_FILE") {
			err = fmt.Errorf("%v", p)
		}
		return err
	})
	p, err := l.GetPool(r.ctx, &driverv1.GetPoolRequest{PoolId: poolID})
	t.Log(p, err)
	r.sh(t, "exportfs -ra")
	l.wantHealth(t, poolID, driverv1.HealthState_HEALTH_STATE_HEALTHY, "")
}

package nfs_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/sdk/conformance"
	"github.com/limiquantix/limiquantix/sdk/host"
)

const (
	poolID   = "11111111-1111-4111-8111-111111111111"
	otherID  = "12111111-1111-4111-8111-111111111111"
	volumeID = "22222222-2222-4222-8222-222222222222"
	secondID = "23222222-2222-4222-8222-222222222222"
	nodeID   = "66666666-6666-4666-8666-666666666666"
	cluster  = "88888888-8888-4888-8888-888888888888"
)

// pluginDir makes a plugin directory whose binary is this one.
func pluginDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "plugin"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := host.WriteManifest(dir, &host.Manifest{Name: "nfs", Version: "0.0.0-dev", Kinds: []string{"storage"}, Executable: "plugin"}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// mountRoot is where pools are mounted; all is unmounted before the directory is removed.
func mountRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	t.Cleanup(func() {
		targets, _ := filepath.Glob(root + "/*")
		for _, target := range targets {
			for unix.Unmount(target, unix.MNT_DETACH) == nil { //nolint:revive // until nothing is mounted there
			}
		}
	})
	return root
}

func params(export string) map[string]string {
	return map[string]string{"server": "server", "export": export}
}

// files are all files of a pool but its marker.
func files(path string) (names []string, err error) {
	err = filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && !d.IsDir() && d.Name() != ".limiquantix-pool" {
			names = append(names, name)
		}
		return err
	})
	return names, err
}

// The contract of the SDK, through workers; of all that the suite made no file is left.
func TestConformance(t *testing.T) {
	dir := export(t)
	conformance.Test(t, conformance.Options{
		Plugin: host.Spec{Dir: pluginDir(t), ConfigJSON: `{"mount_root":"` + mountRoot(t) + `"}`},
		Storage: conformance.StorageOptions{Parameters: params(dir), Objects: func(context.Context) ([]string, error) {
			return files(dir)
		}},
	})
}

// launched is a running plugin.
type launched struct {
	*host.Process
	driverv1.StorageDriverServiceClient
	root string
}

// quick are limits for servers that are made to hang.
func quick(root string) string {
	return `{"mount_root":"` + root + `","probe_seconds":1,"probe_timeout_seconds":2}`
}

func launch(t *testing.T, dir, state, root string) launched {
	t.Helper()
	run, err := os.MkdirTemp("", "lq")
	if err != nil {
		t.Fatal(err)
	}
	p, err := host.Launch(t.Context(), host.Spec{
		Dir: dir, RuntimeDir: run, ConfigJSON: quick(root),
		Host: &driverv1.HostFacts{ClusterId: cluster, NodeId: nodeID, NodeName: "n", BootId: "b", StateDirectory: state, RuntimeDirectory: run},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_ = p.Stop(ctx, 5*time.Second)
		_ = os.RemoveAll(run)
	})
	return launched{p, driverv1.NewStorageDriverServiceClient(p.Conn()), root}
}

func (l launched) ensure(t *testing.T, id, export string) {
	t.Helper()
	if r, err := l.EnsurePool(t.Context(), &driverv1.EnsurePoolRequest{PoolId: id, Parameters: params(export)}); err != nil || r.GetPool().GetHealth() != driverv1.HealthState_HEALTH_STATE_HEALTHY {
		t.Fatal(r, err)
	}
}

func (l launched) create(ctx context.Context, pool, id string) error {
	_, err := l.CreateVolume(ctx, &driverv1.CreateVolumeRequest{PoolId: pool, VolumeId: id, Mark: &driverv1.OwnershipMark{ClusterId: cluster, ObjectId: id, Generation: 1, Epoch: 1}, SizeBytes: 1 << 20})
	return err
}

func (l launched) get(ctx context.Context, pool, id string) error {
	_, err := l.GetVolume(ctx, &driverv1.GetVolumeRequest{PoolId: pool, VolumeId: id})
	return err
}

// soon waits until f is content.
func soon(t *testing.T, what string, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}

func (l launched) wantHealth(t *testing.T, pool string, want driverv1.HealthState, reason string) {
	t.Helper()
	soon(t, "health", func() error {
		r, err := l.GetPool(t.Context(), &driverv1.GetPoolRequest{PoolId: pool})
		if err == nil && (r.GetPool().GetHealth() != want || r.GetPool().GetReason() != reason || r.GetPool().GetCapacityBytes() == 0) {
			err = errors.New(r.GetPool().String())
		}
		return err
	})
}

// hang makes whoever opens a file wait, as a dead server does, and returns what ends that.
func hang(t *testing.T, file string) (end func()) {
	t.Helper()
	if err := os.Rename(file, file+".away"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Rename(file+".away", file); err != nil {
			t.Fatal(err)
		}
	}
}

// workers are the processes that the plugin has started and that live.
func (l launched) workers(t *testing.T) (pids []int) {
	t.Helper()
	tasks, err := filepath.Glob("/proc/" + strconv.Itoa(l.PID()) + "/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		b, _ := os.ReadFile(task) // a thread may have ended
		for _, f := range strings.Fields(string(b)) {
			pid, _ := strconv.Atoi(f)
			if cmd, _ := os.ReadFile("/proc/" + f + "/cmdline"); strings.Contains(string(cmd), "\x00worker") {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// A server that hangs makes its own pool unhealthy: calls to it are refused at once, another pool's go on, nothing is left hanging, and it recovers by itself.
func TestHungServer(t *testing.T) {
	ctx, a, b := t.Context(), export(t), export(t)
	l := launch(t, pluginDir(t), t.TempDir(), mountRoot(t))
	l.ensure(t, poolID, a)
	l.ensure(t, otherID, b)
	for _, pool := range []string{poolID, otherID} {
		if err := l.create(ctx, pool, volumeID); err != nil {
			t.Fatal(err)
		}
	}
	before := l.workers(t)
	endRecord := hang(t, filepath.Join(a, "volumes", volumeID+".json"))
	endMarker := hang(t, filepath.Join(a, ".limiquantix-pool"))
	hung := make(chan error, 1)
	go func() { hung <- l.get(ctx, poolID, volumeID) }() // no deadline: the health of its pool ends it
	l.wantHealth(t, poolID, driverv1.HealthState_HEALTH_STATE_UNHEALTHY, "BACKEND_TIMEOUT")
	if err := <-hung; !fault.Is(err, metav1.Reason_REASON_POOL_UNHEALTHY) && !fault.Is(err, metav1.Reason_REASON_BACKEND_UNAVAILABLE) {
		t.Errorf("the call that hung: %v", err)
	}
	for range 20 {
		if err := l.get(ctx, poolID, volumeID); !fault.Is(err, metav1.Reason_REASON_POOL_UNHEALTHY) {
			t.Errorf("the pool that hangs: %v", err)
		}
		if err := l.get(ctx, otherID, volumeID); err != nil {
			t.Errorf("the other pool: %v", err)
		}
	}
	l.wantHealth(t, otherID, driverv1.HealthState_HEALTH_STATE_HEALTHY, "")
	soon(t, "the hung worker ends", func() error {
		if now := l.workers(t); len(now) != 1 {
			return errors.New("workers are left")
		}
		return nil
	})
	endMarker()
	endRecord()
	l.wantHealth(t, poolID, driverv1.HealthState_HEALTH_STATE_HEALTHY, "")
	if err := l.get(ctx, poolID, volumeID); err != nil {
		t.Errorf("once the server answers again: %v", err)
	}
	if len(before) != 2 || len(l.workers(t)) != 2 {
		t.Errorf("workers were %v and are %v", before, l.workers(t))
	}
}

// A call that hangs while the pool answers otherwise ends with its deadline; its worker ends itself, and later calls have a new one.
func TestHungCall(t *testing.T) {
	ctx, dir := t.Context(), export(t)
	l := launch(t, pluginDir(t), t.TempDir(), mountRoot(t))
	l.ensure(t, poolID, dir)
	for _, id := range []string{volumeID, secondID} {
		if err := l.create(ctx, poolID, id); err != nil {
			t.Fatal(err)
		}
	}
	before := l.workers(t)
	end := hang(t, filepath.Join(dir, "volumes", volumeID+".json"))
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err := l.DetachVolume(short, &driverv1.DetachVolumeRequest{PoolId: poolID, VolumeId: volumeID})
	if err == nil || short.Err() == nil {
		t.Errorf("the call that hangs: %v", err)
	}
	if err := l.get(ctx, poolID, secondID); err != nil {
		t.Errorf("another volume meanwhile: %v", err)
	}
	soon(t, "the worker with the call that hangs ends", func() error {
		if now := l.workers(t); slices.Contains(now, before[0]) {
			return fmt.Errorf("it was %v and is %v", before, now)
		}
		return nil
	})
	end()
	for _, id := range []string{volumeID, secondID} {
		soon(t, "once the file answers again", func() error { return l.get(ctx, poolID, id) })
	}
}

// A plugin that is killed leaves no worker behind; the mount stays, and the next plugin goes on with it.
func TestKilledPlugin(t *testing.T) {
	ctx, dir, state, root, plugin := t.Context(), export(t), t.TempDir(), mountRoot(t), pluginDir(t)
	l := launch(t, plugin, state, root)
	l.ensure(t, poolID, dir)
	if err := l.create(ctx, poolID, volumeID); err != nil {
		t.Fatal(err)
	}
	end := hang(t, filepath.Join(dir, "volumes", volumeID+".json"))
	hung := make(chan error, 1)
	go func() { hung <- l.get(ctx, poolID, volumeID) }()
	pids := l.workers(t)
	if len(pids) != 1 {
		t.Fatal(pids)
	}
	if err := syscall.Kill(l.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-l.Done()
	if err := <-hung; err == nil {
		t.Error("a call on a record that cannot be read succeeded")
	}
	soon(t, "the worker ends with its plugin", func() error {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(pids[0]) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return nil
		}
		return errors.New(string(stat))
	})
	end()
	if _, ok, err := (binder{}).Mounted(filepath.Join(root, poolID)); err != nil || !ok {
		t.Error("the mount did not stay:", err)
	}
	l = launch(t, plugin, state, root)
	l.ensure(t, poolID, dir)
	if err := l.get(ctx, poolID, volumeID); err != nil {
		t.Error(err)
	}
	if _, err := l.ReleasePool(ctx, &driverv1.ReleasePoolRequest{PoolId: poolID}); err != nil {
		t.Error(err)
	}
	if _, ok, err := (binder{}).Mounted(filepath.Join(root, poolID)); err != nil || ok {
		t.Error("a released pool is mounted:", err)
	}
}

// What was unmounted behind the plugin's back is unhealthy, and nothing is made on the node's own disk; EnsurePool mounts it again.
func TestUnmounted(t *testing.T) {
	ctx, dir, root := t.Context(), export(t), mountRoot(t)
	l := launch(t, pluginDir(t), t.TempDir(), root)
	l.ensure(t, poolID, dir)
	if err := l.create(ctx, poolID, volumeID); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(root, poolID)
	if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	l.wantHealth(t, poolID, driverv1.HealthState_HEALTH_STATE_UNHEALTHY, "BACKEND_UNAVAILABLE")
	if err := l.create(ctx, poolID, secondID); !fault.Is(err, metav1.Reason_REASON_POOL_UNHEALTHY) {
		t.Error(err)
	}
	if names, err := os.ReadDir(target); err != nil || len(names) > 0 {
		t.Error("on the node's own disk:", names, err)
	}
	if _, err := l.EnsurePool(ctx, &driverv1.EnsurePoolRequest{PoolId: poolID, Parameters: params(dir)}); err != nil {
		t.Fatal(err)
	}
	l.wantHealth(t, poolID, driverv1.HealthState_HEALTH_STATE_HEALTHY, "")
	if err := l.get(ctx, poolID, volumeID); err != nil {
		t.Error(err)
	}
}

// Wrong parameters are named, without effect; a directory of another pool is not taken.
func TestBadInput(t *testing.T) {
	ctx, dir, root := t.Context(), export(t), mountRoot(t)
	l := launch(t, pluginDir(t), t.TempDir(), root)
	for _, p := range []map[string]string{
		{"server": "server"},
		{"server": "-o", "export": dir},
		{"server": "server", "export": dir, "options": "suid"},
		{"server": "server", "export": dir, "path": "/"},
		{"server": "server", "export": dir + "/absent"},
	} {
		_, err := l.EnsurePool(ctx, &driverv1.EnsurePoolRequest{PoolId: poolID, Parameters: p})
		if f := fault.From(err); err == nil || f.Reason != metav1.Reason_REASON_INVALID_FIELD || len(f.Violations) != 1 {
			t.Errorf("%v: %v", p, err)
		}
	}
	l.ensure(t, poolID, dir)
	if _, err := l.EnsurePool(ctx, &driverv1.EnsurePoolRequest{PoolId: poolID, Parameters: params(export(t))}); !fault.Is(err, metav1.Reason_REASON_WRONG_STATE) {
		t.Error("another export for a known pool:", err)
	}
	if _, err := l.EnsurePool(ctx, &driverv1.EnsurePoolRequest{PoolId: otherID, Parameters: params(dir)}); !fault.Is(err, metav1.Reason_REASON_NOT_OURS) {
		t.Error("another pool's directory:", err)
	}
	facts := &driverv1.HostFacts{ClusterId: cluster, NodeId: nodeID, StateDirectory: "/tmp/x", RuntimeDirectory: "/tmp/y"}
	for _, cfg := range []string{`{"mount_root":"/"}`, `{"mount_root":"x"}`, `{"probe_seconds":61}`, `{"call_timeout_seconds":-1}`, `{"x":1}`} {
		if err := l.Configure(ctx, facts, cfg, nil); !fault.Is(err, metav1.Reason_REASON_INVALID_FIELD) {
			t.Errorf("%s: %v", cfg, err)
		}
	}
}

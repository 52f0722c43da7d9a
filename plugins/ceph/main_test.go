// Package ceph_test runs the built plugin in a process of its own, as an agent does, against a real Ceph cluster.
package ceph_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk/conformance"
	"github.com/limiquantix/limiquantix/sdk/host"
	"github.com/limiquantix/limiquantix/test/lab"
)

const (
	poolID   = "11111111-1111-4111-8111-111111111111"
	volumeID = "22222222-2222-4222-8222-222222222222"
	imageID  = "33333333-3333-4333-8333-333333333333"
	cloneID  = "44444444-4444-4444-8444-444444444444"
	snapID   = "55555555-5555-4555-8555-555555555555"
	nodeID   = "66666666-6666-4666-8666-666666666666"
	otherID  = "77777777-7777-4777-8777-777777777777"
	cluster  = "88888888-8888-4888-8888-888888888888"
)

// shared is what all tests use: the plugin is built and the cluster started once.
var shared struct {
	dir    string
	plugin string
	ceph   *lab.Ceph
	pools  sync.Mutex
	n      int
}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctx := context.Background()
	if shared.dir, err = os.MkdirTemp("", "lqceph"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(shared.dir)
	if shared.ceph, err = lab.StartCeph(ctx, filepath.Join(shared.dir, "ceph"), lab.WithManager()); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, shared.ceph.Stop()) }()
	version, err := shared.ceph.Version(ctx)
	if err != nil {
		return 1, err
	}
	fmt.Println("backend", version)
	shared.plugin = filepath.Join(shared.dir, "plugin")
	cmd := exec.CommandContext(ctx, "go", "build", "-tags", "pacific", "-o", shared.plugin+"/", "./cmd/limiquantix-plugin-ceph")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if err := os.Mkdir(shared.plugin, 0o755); err != nil {
		return 1, err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("%w: %s", err, out)
	}
	if err := host.WriteManifest(shared.plugin, &host.Manifest{Name: "ceph", Version: "0.0.0-dev", Kinds: []string{"storage"}, Executable: "limiquantix-plugin-ceph"}); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// cephPool is a pool of the cluster's with a user of its own.
type cephPool struct {
	*lab.Ceph
	name, user, key string
}

// newPool makes a Ceph pool for one test.
func newPool(t *testing.T, c *lab.Ceph) cephPool {
	t.Helper()
	shared.pools.Lock()
	defer shared.pools.Unlock()
	shared.n++
	p := cephPool{Ceph: c, name: fmt.Sprintf("p%d", shared.n), user: fmt.Sprintf("u%d", shared.n)}
	if err := c.CreatePool(t.Context(), p.name); err != nil {
		t.Fatal(err)
	}
	var err error
	if p.key, err = c.CreateUser(t.Context(), p.user, p.name); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p cephPool) params() map[string]string {
	return map[string]string{"monitors": p.Monitor(), "pool": p.name, "user": p.user, "fsid": p.FSID}
}

func (p cephPool) secrets() map[string][]byte { return map[string][]byte{"key": []byte(p.key)} }

func (p cephPool) ensureRequest() *driverv1.EnsurePoolRequest {
	return &driverv1.EnsurePoolRequest{PoolId: poolID, Parameters: p.params(), Secrets: p.secrets()}
}

// quick are limits for clusters that are made to fail.
const quick = `{"connect_timeout_seconds":2,"operation_timeout_seconds":4,"probe_seconds":1}`

func mark(id string) *driverv1.OwnershipMark {
	return &driverv1.OwnershipMark{ClusterId: cluster, ObjectId: id, Generation: 1, Epoch: 1}
}

// launched is a running plugin.
type launched struct {
	*host.Process
	driverv1.StorageDriverServiceClient
}

// launch runs the plugin for a node.
func launch(t *testing.T, node, state, config string) launched {
	t.Helper()
	return launchWith(t, node, state, host.Spec{ConfigJSON: config})
}

// launchWith runs the plugin for a node, with what spec says besides.
func launchWith(t *testing.T, node, state string, spec host.Spec) launched {
	t.Helper()
	run, err := os.MkdirTemp("", "lq")
	if err != nil {
		t.Fatal(err)
	}
	spec.Dir, spec.RuntimeDir = shared.plugin, run
	spec.Host = &driverv1.HostFacts{ClusterId: cluster, NodeId: node, NodeName: "n", BootId: "b", StateDirectory: state, RuntimeDirectory: run}
	p, err := host.Launch(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	l := launched{p, driverv1.NewStorageDriverServiceClient(p.Conn())}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_ = p.Stop(ctx, time.Second)
		_ = os.RemoveAll(run)
	})
	return l
}

// ready runs the plugin with a pool ensured.
func ready(t *testing.T, node string, p cephPool) launched {
	t.Helper()
	l := launch(t, node, t.TempDir(), "{}")
	l.ensure(t, p)
	return l
}

func (l launched) ensure(t *testing.T, p cephPool) *driverv1.Pool {
	t.Helper()
	r, err := l.EnsurePool(t.Context(), p.ensureRequest())
	if err != nil {
		t.Fatal(err)
	}
	return r.GetPool()
}

func (l launched) kill(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(l.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-l.Done()
}

// eventually waits until f is content.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	soonIn(t, time.Minute, what, f)
}

func soonIn(t *testing.T, limit time.Duration, what string, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// The contract of the SDK, against a real pool.
func TestConformance(t *testing.T) {
	p := newPool(t, shared.ceph)
	conformance.Test(t, conformance.Options{
		Plugin:  host.Spec{Dir: shared.plugin, ConfigJSON: "{}"},
		Storage: conformance.StorageOptions{Parameters: p.params(), Secrets: p.secrets(), Write: p.writePattern},
	})
	p.wantEmpty(t)
}

// wantEmpty fails the test unless nothing of ours is left in the Ceph pool.
func (p cephPool) wantEmpty(t *testing.T) {
	t.Helper()
	p.emptyWithin(t, time.Minute)
}

func (p cephPool) emptyWithin(t *testing.T, limit time.Duration) {
	t.Helper()
	soonIn(t, limit, "leftovers in "+p.name, func() error {
		out, err := p.RBD(t.Context(), "ls", p.name)
		if err == nil && out != "" {
			err = errors.New(out)
		}
		return err
	})
}

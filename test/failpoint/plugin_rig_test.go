package failpoint_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/sdk/host"
)

const (
	pluginPool = "11111111-1111-4111-8111-111111111111"
	markerName = ".limiquantix-pool"
)

// pluginRig is a storage plugin with failpoints, one process for each node that an act names, and the folder of a pool.
type pluginRig struct {
	rig    // the directory of the failpoints
	shared bool
	nodes  map[string]*host.Process
	ready  map[string]bool // nodes on which the pool is ensured
	serial int

	spare  int   // failures that the calls of the act may still have
	failed error // the last of them
}

func newPluginRig(dir string, from *suite, shared bool) (*pluginRig, error) {
	r := &pluginRig{rig: rig{dir: dir, fp: filepath.Join(dir, "fp"), built: from.built, bound: from.bound}, shared: shared, nodes: map[string]*host.Process{}, ready: map[string]bool{}}
	for _, d := range []string{"fp/armed", "fp/fired", "fp/ask"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o750); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// path is the pool's folder.
func (r *pluginRig) path() string {
	if r.shared {
		return filepath.Join(r.dir, "shared")
	}
	return filepath.Join(r.dir, "pool")
}

func (r *pluginRig) down() error {
	var err error
	for node := range r.nodes {
		err = errors.Join(err, r.kill(node))
	}
	return err
}

// kill ends the plugin of a node at once.
func (r *pluginRig) kill(node string) error {
	p := r.nodes[node]
	if p == nil {
		return nil
	}
	delete(r.nodes, node)
	delete(r.ready, node)
	if err := syscall.Kill(p.PID(), syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	<-p.Done()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_ = p.Stop(ctx, time.Second) // what is left of it
	return nil
}

// client is that of a node's plugin, which is started if it does not run, and has the pool ensured.
func (r *pluginRig) client(ctx context.Context, node string) (driverv1.StorageDriverServiceClient, error) {
	if r.nodes[node] == nil {
		if err := r.launch(ctx, node); err != nil {
			return nil, err
		}
	}
	c := driverv1.NewStorageDriverServiceClient(r.nodes[node].Conn())
	if r.ready[node] {
		return c, nil
	}
	_, err := c.EnsurePool(ctx, &driverv1.EnsurePoolRequest{PoolId: pluginPool, Parameters: map[string]string{"path": r.path()}})
	r.ready[node] = err == nil
	return c, err
}

func (r *pluginRig) launch(ctx context.Context, node string) error {
	state, run := filepath.Join(r.dir, "state-"+node), filepath.Join(r.dir, "run-"+node)
	if err := errors.Join(os.MkdirAll(state, 0o750), os.MkdirAll(run, 0o750)); err != nil {
		return err
	}
	p, err := host.Launch(ctx, host.Spec{
		Dir: r.built.Bin, RuntimeDir: run, ConfigJSON: fmt.Sprintf(`{"roots":[%q]}`, r.dir), Env: []string{"LIMIQUANTIX_FAILPOINTS=" + r.fp},
		Host: &driverv1.HostFacts{ClusterId: "c", NodeId: node, NodeName: node, BootId: "b", StateDirectory: state, RuntimeDirectory: run},
	})
	if err == nil {
		r.nodes[node] = p
	}
	return err
}

// do makes a call on a node until it succeeds. It may fail once for each fault that was armed: a call that is issued again converges.
func (r *pluginRig) do(ctx context.Context, node string, f func(context.Context, driverv1.StorageDriverServiceClient) error) error {
	for end := time.Now().Add(r.bound); ; {
		err := r.once(ctx, node, f)
		if err == nil {
			return nil
		}
		// A program that has outlived the plugin which started it may have a file open: that is said, and over soon.
		busy := fault.Is(err, metav1.Reason_REASON_VOLUME_IN_USE) && r.failed != nil
		if r.failed = err; !busy {
			r.spare--
		}
		if r.spare < 0 || time.Now().After(end) || ctx.Err() != nil {
			return err
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

func (r *pluginRig) once(ctx context.Context, node string, f func(context.Context, driverv1.StorageDriverServiceClient) error) error {
	ctx, cancel := context.WithTimeout(ctx, r.bound)
	defer cancel()
	c, err := r.client(ctx, node)
	if err == nil {
		err = f(ctx, c)
	}
	p := r.nodes[node]
	switch e := fault.From(err); {
	case err == nil || p == nil:
	case e.Reason == metav1.Reason_REASON_PLUGIN_UNAVAILABLE || e.Reason == metav1.Reason_REASON_INTERNAL || e.Reason == metav1.Reason_REASON_UNSPECIFIED:
		select { // its end is seen a moment after its connection's
		case <-p.Done():
			return errors.Join(err, r.kill(node))
		case <-time.After(time.Second):
		}
	}
	return err
}

// leftovers are the files in the pool's folder, but its marker.
func (r *pluginRig) leftovers() (names []string, err error) {
	err = filepath.WalkDir(r.path(), func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && !d.IsDir() && d.Name() != markerName {
			names = append(names, strings.TrimPrefix(name, r.path()+"/"))
		}
		return err
	})
	return names, err
}

// clean fails when something is left: what is written beside its place only until the plugin starts again, the rest not at all.
func (r *pluginRig) clean(ctx context.Context) error {
	left, err := r.leftovers()
	if err != nil || len(left) == 0 {
		return err
	}
	for _, name := range left {
		if !strings.HasPrefix(name, "tmp/") && !strings.HasPrefix(name, ".new-") {
			return fmt.Errorf("left behind: %v", left)
		}
	}
	nodes := make([]string, 0, len(r.nodes))
	for node := range r.nodes {
		nodes = append(nodes, node)
	}
	for _, node := range nodes {
		if err := r.kill(node); err != nil {
			return err
		}
		if _, err := r.client(ctx, node); err != nil {
			return err
		}
	}
	left, err = r.leftovers()
	if r.shared { // another node may be at it: it is removed when it is a day old
		left = slices.DeleteFunc(left, func(name string) bool { return strings.HasPrefix(name, ".new-") })
	}
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("left behind even when the plugin starts again: %v", left)
	}
	return err
}

package driver

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/limiquantix/limiquantix/plugins/kit/filepool"
	"github.com/limiquantix/limiquantix/plugins/nfs/internal/mount"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Mounter mounts exports. What it does it does in processes that end with ctx, and it never touches a mounted file system itself.
type Mounter interface {
	Mounted(target string) (source string, ok bool, err error)
	Mount(ctx context.Context, p mount.Params, target string) error
	Unmount(ctx context.Context, target string) error
}

// EnsurePool mounts a pool's export, unless it is mounted, and starts the pool's worker.
func (d *Driver) EnsurePool(ctx context.Context, req *driverv1.EnsurePoolRequest) (*driverv1.EnsurePoolResponse, error) {
	id := req.GetPoolId()
	if err := filepool.CheckID("pool_id", id); err != nil {
		return nil, err
	}
	unlock, err := d.keys.Lock("pool/" + id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	params, err := mount.Parse(req.GetParameters(), "preallocation")
	if err != nil {
		return nil, err
	}
	preallocation := req.GetParameters()["preallocation"]
	d.mu.Lock()
	host, root, limits, open := d.host, d.root, d.limits, d.pools[id]
	d.mu.Unlock()
	if open != nil {
		if !open.params.Equal(params) || open.preallocation != preallocation {
			return nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "pool %s is mounted from %s with other parameters", id, open.params.Source()).WithRemedy("release it before changing it")
		}
		if err := d.mount(ctx, params, open.path, limits); err != nil { // it may have been unmounted
			return nil, err
		}
		return &driverv1.EnsurePoolResponse{Pool: open.health()}, nil
	}
	p := &pool{
		id: id, path: filepath.Join(root, id), lock: lockPath(host, id), params: params, preallocation: preallocation, limits: limits, mounter: d.mounter,
		owner: filepool.Owner{ClusterID: host.GetClusterId(), NodeID: host.GetNodeId(), Shared: true},
	}
	if err := d.mount(ctx, params, p.path, limits); err != nil {
		return nil, err
	}
	if err := p.open(ctx); err != nil {
		p.close()
		return nil, err
	}
	d.mu.Lock()
	d.pools[id] = p
	d.mu.Unlock()
	return &driverv1.EnsurePoolResponse{Pool: p.health()}, nil
}

// mount mounts an export unless it is mounted. The mount outlives the plugin: guests have files open there.
func (d *Driver) mount(ctx context.Context, params mount.Params, target string, l limits) error {
	source, ok, err := d.mounter.Mounted(target)
	if err != nil {
		return err
	}
	if ok {
		if source != params.Source() {
			return fault.New(metav1.Reason_REASON_WRONG_STATE, "at %s another export is mounted: %s, not %s", target, source, params.Source()).WithRemedy("unmount it")
		}
		return nil
	}
	if err := filepool.CheckPath(target, []string{filepath.Dir(target)}); err != nil { // nothing is mounted there: the node's own disk answers
		return err
	}
	if err := os.MkdirAll(target, 0o711); err != nil {
		return fault.New(metav1.Reason_REASON_BACKEND_FAILED, "make the directory to mount at: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, l.mount)
	defer cancel()
	return d.mounter.Mount(ctx, params, target)
}

// ReleasePool ends a pool's worker and unmounts its export.
func (d *Driver) ReleasePool(ctx context.Context, req *driverv1.ReleasePoolRequest) (*driverv1.ReleasePoolResponse, error) {
	id := req.GetPoolId()
	unlock, err := d.keys.Lock("pool/" + id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	p, err := d.pool(id)
	if err != nil {
		return &driverv1.ReleasePoolResponse{}, nil //nolint:nilerr // unknown is fine
	}
	ctx, cancel := context.WithTimeout(ctx, p.limits.call)
	defer cancel()
	w, err := p.client(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := w.ReleasePool(ctx, req); err != nil { // it refuses while a volume is attached here
		return nil, p.answered(ctx, w, err)
	}
	d.mu.Lock()
	delete(d.pools, id)
	d.mu.Unlock()
	p.close()
	select {
	case <-w.Gone():
	case <-ctx.Done():
		return nil, fault.From(ctx.Err())
	}
	if err := d.mounter.Unmount(ctx, p.path); err != nil {
		return nil, err
	}
	if err := os.Remove(p.path); err != nil && !os.IsNotExist(err) {
		return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "remove the directory that was mounted at: %w", err)
	}
	return &driverv1.ReleasePoolResponse{}, nil
}

// GetPool reads health and capacity as they were seen last; it never waits for the server.
func (d *Driver) GetPool(_ context.Context, req *driverv1.GetPoolRequest) (*driverv1.GetPoolResponse, error) {
	p, err := d.pool(req.GetPoolId())
	if err != nil {
		return nil, err
	}
	return &driverv1.GetPoolResponse{Pool: p.health()}, nil
}

// Close lets go of all pools when the plugin ends; what is mounted stays mounted.
func (d *Driver) Close(grace time.Duration) {
	d.mu.Lock()
	pools := slices.Collect(maps.Values(d.pools))
	d.mu.Unlock()
	end := time.NewTimer(grace)
	defer end.Stop()
	done := make(chan struct{})
	var closing sync.WaitGroup
	for _, p := range pools {
		closing.Go(p.close)
	}
	go func() { // the process ends after grace whatever this waits for
		closing.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-end.C:
	}
}

package driver

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/limiquantix/limiquantix/plugins/ceph/internal/rbdpool"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// EnsurePool connects to a pool.
func (d *Driver) EnsurePool(ctx context.Context, req *driverv1.EnsurePoolRequest) (*driverv1.EnsurePoolResponse, error) {
	id := req.GetPoolId()
	if err := rbdpool.CheckID("pool_id", id); err != nil {
		return nil, err
	}
	unlock, err := d.keys.Lock("pool/" + id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	d.mu.Lock()
	host, confs, limits, open := d.host, d.confs, d.limits, d.pools[id]
	d.mu.Unlock()
	params, err := rbdpool.ParseParams(req.GetParameters(), req.GetSecrets(), confs)
	if err != nil {
		return nil, err
	}
	if open != nil {
		if err := open.Adopt(ctx, params); err != nil {
			return nil, err
		}
		return &driverv1.EnsurePoolResponse{Pool: open.State()}, nil
	}
	owner := rbdpool.Owner{ClusterID: host.GetClusterId(), NodeID: host.GetNodeId()}
	if open, err = rbdpool.Open(ctx, id, params, owner, limits, filepath.Join(spool(host), id)); err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.pools[id] = open
	d.mu.Unlock()
	return &driverv1.EnsurePoolResponse{Pool: open.State()}, nil
}

// ReleasePool disconnects from a pool.
func (d *Driver) ReleasePool(ctx context.Context, req *driverv1.ReleasePoolRequest) (*driverv1.ReleasePoolResponse, error) {
	id := req.GetPoolId()
	unlock, err := d.keys.Lock("pool/" + id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	d.mu.Lock()
	p := d.pools[id]
	d.mu.Unlock()
	if p == nil {
		return &driverv1.ReleasePoolResponse{}, nil
	}
	if err := p.Do(ctx, func() {}, (*rbdpool.Session).WantDetached); err != nil {
		return nil, err
	}
	d.mu.Lock()
	delete(d.pools, id)
	d.mu.Unlock()
	return &driverv1.ReleasePoolResponse{}, p.Close(ctx)
}

// GetPool reads health and capacity as they were seen last; it never waits for the cluster.
func (d *Driver) GetPool(_ context.Context, req *driverv1.GetPoolRequest) (*driverv1.GetPoolResponse, error) {
	p, err := d.pool(req.GetPoolId())
	if err != nil {
		return nil, err
	}
	return &driverv1.GetPoolResponse{Pool: p.State()}, nil
}

// Close lets go of all pools when the plugin ends. A pool that does not answer is left after the grace.
func (d *Driver) Close(grace time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	d.mu.Lock()
	pools := slices.Collect(maps.Values(d.pools))
	d.mu.Unlock()
	var wg sync.WaitGroup
	for _, p := range pools {
		wg.Go(func() { _ = p.Close(ctx) }) // it says itself what it could not do
	}
	wg.Wait()
}

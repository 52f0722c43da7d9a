// Package driver is the storage driver for LVM: the contract's calls, checked and handed to lvpool.
package driver

import (
	"context"
	"os/exec"
	"strings"
	"sync"

	"github.com/limiquantix/limiquantix/plugins/kit/filepool"
	"github.com/limiquantix/limiquantix/plugins/lvm/internal/lvpool"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/sdk"
)

// Schema describes the configuration: there is none. What a pool is, its parameters say.
const Schema = `{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","additionalProperties":false,"properties":{}}`

// Driver serves StorageDriverService. Its pools are those that EnsurePool opened since it started.
type Driver struct {
	driverv1.UnimplementedStorageDriverServiceServer
	*sdk.BasePlugin

	keys sdk.KeyLock

	mu    sync.Mutex
	host  *driverv1.HostFacts
	pools map[string]*lvpool.Pool
}

// New makes a driver; set BasePlugin before it is served.
func New() *Driver { return &Driver{pools: map[string]*lvpool.Pool{}} }

// ConfigureDriver takes the configuration; see sdk.ConfigureFunc.
func (d *Driver) ConfigureDriver(_ context.Context, c *sdk.Config) (*driverv1.GetCapabilitiesResponse, error) {
	if err := c.Decode(&struct{}{}); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.host = c.Host
	if _, err := exec.LookPath("lvm"); err != nil {
		d.Health.Set(sdk.Report{State: driverv1.HealthState_HEALTH_STATE_UNHEALTHY, Reason: "BACKEND_UNAVAILABLE", Message: "lvm is not installed: install lvm2"})
	} else {
		d.Health.Healthy(nil)
	}
	return &driverv1.GetCapabilitiesResponse{Storage: &driverv1.StorageCapabilities{
		Features: []driverv1.StorageFeature{
			driverv1.StorageFeature_STORAGE_FEATURE_RESIZE, driverv1.StorageFeature_STORAGE_FEATURE_RESIZE_ONLINE, driverv1.StorageFeature_STORAGE_FEATURE_THIN,
			driverv1.StorageFeature_STORAGE_FEATURE_SNAPSHOT, driverv1.StorageFeature_STORAGE_FEATURE_SNAPSHOT_RESTORE,
			driverv1.StorageFeature_STORAGE_FEATURE_VOLUME_FROM_SNAPSHOT, driverv1.StorageFeature_STORAGE_FEATURE_CLONE,
			driverv1.StorageFeature_STORAGE_FEATURE_EXPORT, driverv1.StorageFeature_STORAGE_FEATURE_IMPORT,
		},
		OnlineSnapshots:      driverv1.OnlineSnapshotMode_ONLINE_SNAPSHOT_MODE_STORAGE,
		Formats:              []driverv1.VolumeFormat{driverv1.VolumeFormat_VOLUME_FORMAT_RAW},
		SizeGranularityBytes: lvpool.Granularity,
		DiskSources:          []driverv1.DiskSourceKind{driverv1.DiskSourceKind_DISK_SOURCE_KIND_BLOCK_DEVICE},
	}}, nil
}

// EnsurePool opens the volume group that parameter "vg" names, or its thin pool that "thin_pool" names. "devices" are the only ones that LVM looks at.
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
	params, err := lvpool.ReadParameters(req.GetParameters())
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	host, open := d.host, d.pools[id]
	d.mu.Unlock()
	if open != nil && !open.Asked().Equal(params) {
		return nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "pool %s is open with other parameters", id).WithRemedy("release it before changing them")
	}
	if open == nil {
		owner := lvpool.Owner{ClusterID: host.GetClusterId(), NodeID: host.GetNodeId()}
		if open, err = lvpool.Open(ctx, id, params, owner, lvpool.Dirs{State: host.GetStateDirectory(), Runtime: host.GetRuntimeDirectory()}); err != nil {
			return nil, err
		}
		d.mu.Lock()
		d.pools[id] = open
		d.mu.Unlock()
	}
	return &driverv1.EnsurePoolResponse{Pool: open.State(ctx)}, nil
}

// ReleasePool closes a pool.
func (d *Driver) ReleasePool(ctx context.Context, req *driverv1.ReleasePoolRequest) (*driverv1.ReleasePoolResponse, error) {
	unlock, err := d.keys.Lock("pool/" + req.GetPoolId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	d.mu.Lock()
	p := d.pools[req.GetPoolId()]
	d.mu.Unlock()
	if p == nil {
		return &driverv1.ReleasePoolResponse{}, nil
	}
	if err := p.Close(ctx); err != nil {
		return nil, err
	}
	d.mu.Lock()
	delete(d.pools, req.GetPoolId())
	d.mu.Unlock()
	return &driverv1.ReleasePoolResponse{}, nil
}

// GetPool reads health and capacity.
func (d *Driver) GetPool(ctx context.Context, req *driverv1.GetPoolRequest) (*driverv1.GetPoolResponse, error) {
	p, err := d.pool(req.GetPoolId())
	if err != nil {
		return nil, err
	}
	return &driverv1.GetPoolResponse{Pool: p.State(ctx)}, nil
}

// pool finds an ensured pool.
func (d *Driver) pool(id string) (*lvpool.Pool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.pools[id]; p != nil {
		return p, nil
	}
	return nil, fault.New(metav1.Reason_REASON_POOL_NOT_FOUND, "pool %q is not ensured on this node", id).WithRemedy("call EnsurePool first")
}

// locked finds a pool and takes the keys of objects in it.
func (d *Driver) locked(poolID string, keys ...string) (*lvpool.Pool, func(), error) {
	p, err := d.pool(poolID)
	if err != nil {
		return nil, nil, err
	}
	for i := range keys {
		keys[i] = strings.Join([]string{poolID, keys[i]}, "/")
	}
	unlock, err := d.keys.Lock(keys...)
	return p, unlock, err
}

// pageSize is the default and upper bound of list pages.
const pageSize = 1000

func limit(n int32) int {
	if n <= 0 || n > pageSize {
		return pageSize
	}
	return int(n)
}

// Package filedriver is the part of the storage contract that is the same for all pools of files: the calls on volumes, snapshots and image copies, checked,
// locked by key and handed to filepool. How a pool comes to be there (a directory, a mount) is for the driver that embeds it.
package filedriver

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/limiquantix/limiquantix/plugins/kit/filepool"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/sdk"
)

// Driver serves StorageDriverService but for EnsurePool. The zero value is ready, and has no pools.
type Driver struct {
	driverv1.UnimplementedStorageDriverServiceServer

	// Keys are the keys of calls under way, "pool/ID" for pools.
	Keys sdk.KeyLock

	mu    sync.Mutex
	pools map[string]*filepool.Pool
}

// Features are the optional parts of the contract that pools of files have.
func Features() []driverv1.StorageFeature {
	return []driverv1.StorageFeature{
		driverv1.StorageFeature_STORAGE_FEATURE_RESIZE, driverv1.StorageFeature_STORAGE_FEATURE_THIN,
		driverv1.StorageFeature_STORAGE_FEATURE_SNAPSHOT, driverv1.StorageFeature_STORAGE_FEATURE_SNAPSHOT_RESTORE,
		driverv1.StorageFeature_STORAGE_FEATURE_VOLUME_FROM_SNAPSHOT, driverv1.StorageFeature_STORAGE_FEATURE_CLONE,
		driverv1.StorageFeature_STORAGE_FEATURE_EXPORT, driverv1.StorageFeature_STORAGE_FEATURE_IMPORT, driverv1.StorageFeature_STORAGE_FEATURE_IMPORT_HOLES,
	}
}

// Capabilities are those of pools of files.
func Capabilities(shared bool) *driverv1.GetCapabilitiesResponse {
	return &driverv1.GetCapabilitiesResponse{Storage: &driverv1.StorageCapabilities{
		Features:             Features(),
		OnlineSnapshots:      driverv1.OnlineSnapshotMode_ONLINE_SNAPSHOT_MODE_COMPUTE_SWITCH,
		SharedPools:          shared,
		Formats:              []driverv1.VolumeFormat{driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2, driverv1.VolumeFormat_VOLUME_FORMAT_RAW},
		SizeGranularityBytes: filepool.Granularity,
		DiskSources:          []driverv1.DiskSourceKind{driverv1.DiskSourceKind_DISK_SOURCE_KIND_FILE},
	}}
}

// Pool is an ensured pool, or nil.
func (d *Driver) Pool(id string) *filepool.Pool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pools[id]
}

// Put makes a pool an ensured one.
func (d *Driver) Put(id string, p *filepool.Pool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pools = maps.Clone(d.pools)
	if d.pools == nil {
		d.pools = map[string]*filepool.Pool{}
	}
	d.pools[id] = p
}

// ReleasePool closes a pool.
func (d *Driver) ReleasePool(_ context.Context, req *driverv1.ReleasePoolRequest) (*driverv1.ReleasePoolResponse, error) {
	unlock, err := d.Keys.Lock("pool/" + req.GetPoolId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	p := d.Pool(req.GetPoolId())
	if p == nil {
		return &driverv1.ReleasePoolResponse{}, nil
	}
	for after := ""; ; {
		vs, next, err := p.ListVolumes(after, 1000)
		if err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(vs, (*driverv1.Volume).GetAttached); i >= 0 {
			return nil, fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s of pool %s is attached", vs[i].GetVolumeId(), req.GetPoolId())
		}
		if after = next; after == "" {
			break
		}
	}
	d.mu.Lock()
	d.pools = maps.Clone(d.pools)
	delete(d.pools, req.GetPoolId())
	d.mu.Unlock()
	return &driverv1.ReleasePoolResponse{}, p.Close()
}

// GetPool reads health and capacity.
func (d *Driver) GetPool(_ context.Context, req *driverv1.GetPoolRequest) (*driverv1.GetPoolResponse, error) {
	p, err := d.pool(req.GetPoolId())
	if err != nil {
		return nil, err
	}
	return &driverv1.GetPoolResponse{Pool: p.State()}, nil
}

// pool finds an ensured pool.
func (d *Driver) pool(id string) (*filepool.Pool, error) {
	if p := d.Pool(id); p != nil {
		return p, nil
	}
	return nil, NotEnsured(id)
}

// NotEnsured is the error of a call on a pool that EnsurePool has not made usable.
func NotEnsured(id string) error {
	return fault.New(metav1.Reason_REASON_POOL_NOT_FOUND, "pool %q is not ensured on this node", id).WithRemedy("call EnsurePool first")
}

// locked finds a pool and takes the keys of objects in it.
func (d *Driver) locked(poolID string, keys ...string) (*filepool.Pool, func(), error) {
	p, err := d.pool(poolID)
	if err != nil {
		return nil, nil, err
	}
	for i := range keys {
		keys[i] = strings.Join([]string{poolID, keys[i]}, "/")
	}
	unlock, err := d.Keys.Lock(keys...)
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

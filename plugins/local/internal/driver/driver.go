// Package driver is the storage driver for pools that are directories of one node: the contract's calls, checked and handed to filepool.
package driver

import (
	"context"
	"path/filepath"
	"strings"
	"sync"

	"github.com/limiquantix/limiquantix/plugins/kit/filepool"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/sdk"
)

// Schema describes the configuration.
const Schema = `{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","additionalProperties":false,"properties":{
"roots":{"type":"array","items":{"type":"string"},"description":"Directories below which a pool's path may lie. Default: the plugin's state directory, /var/lib/limiquantix, /srv, /mnt."}}}`

// Driver serves StorageDriverService. Its pools are those that EnsurePool opened since it started.
type Driver struct {
	driverv1.UnimplementedStorageDriverServiceServer
	*sdk.BasePlugin

	keys sdk.KeyLock

	mu    sync.Mutex
	host  *driverv1.HostFacts
	roots []string
	pools map[string]*filepool.Pool
}

// New makes a driver; set BasePlugin before it is served.
func New() *Driver { return &Driver{pools: map[string]*filepool.Pool{}} }

type config struct {
	Roots []string `json:"roots"`
}

// ConfigureDriver takes the configuration; see sdk.ConfigureFunc.
func (d *Driver) ConfigureDriver(_ context.Context, c *sdk.Config) (*driverv1.GetCapabilitiesResponse, error) {
	var cfg config
	if err := c.Decode(&cfg); err != nil {
		return nil, err
	}
	for _, r := range cfg.Roots {
		if !filepath.IsAbs(r) || filepath.Clean(r) != r || r == "/" {
			return nil, fault.Invalid(fault.Violation{Field: "config_json.roots", Description: r + " is not a clean absolute path below /"})
		}
	}
	if len(cfg.Roots) == 0 {
		cfg.Roots = []string{"/var/lib/limiquantix", "/srv", "/mnt"}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.host, d.roots = c.Host, append(cfg.Roots, c.Host.GetStateDirectory())
	return &driverv1.GetCapabilitiesResponse{Storage: &driverv1.StorageCapabilities{
		Features: []driverv1.StorageFeature{
			driverv1.StorageFeature_STORAGE_FEATURE_RESIZE, driverv1.StorageFeature_STORAGE_FEATURE_THIN,
			driverv1.StorageFeature_STORAGE_FEATURE_SNAPSHOT, driverv1.StorageFeature_STORAGE_FEATURE_SNAPSHOT_RESTORE,
			driverv1.StorageFeature_STORAGE_FEATURE_VOLUME_FROM_SNAPSHOT, driverv1.StorageFeature_STORAGE_FEATURE_CLONE,
			driverv1.StorageFeature_STORAGE_FEATURE_EXPORT, driverv1.StorageFeature_STORAGE_FEATURE_IMPORT,
		},
		OnlineSnapshots:      driverv1.OnlineSnapshotMode_ONLINE_SNAPSHOT_MODE_COMPUTE_SWITCH,
		Formats:              []driverv1.VolumeFormat{driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2, driverv1.VolumeFormat_VOLUME_FORMAT_RAW},
		SizeGranularityBytes: filepool.Granularity,
		DiskSources:          []driverv1.DiskSourceKind{driverv1.DiskSourceKind_DISK_SOURCE_KIND_FILE},
	}}, nil
}

// EnsurePool opens the directory that parameter "path" names; without it, a directory below the plugin's state directory.
func (d *Driver) EnsurePool(_ context.Context, req *driverv1.EnsurePoolRequest) (*driverv1.EnsurePoolResponse, error) {
	id := req.GetPoolId()
	if err := filepool.CheckID("pool_id", id); err != nil {
		return nil, err
	}
	unlock, err := d.keys.Lock("pool/" + id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	d.mu.Lock()
	host, roots, open := d.host, d.roots, d.pools[id]
	d.mu.Unlock()
	path := filepath.Join(host.GetStateDirectory(), "pools", id)
	var options filepool.Options
	for k, v := range req.GetParameters() {
		switch k {
		case "path":
			path = v
		case "preallocation":
			options.Preallocation = v
		default:
			return nil, fault.Invalid(fault.Violation{Field: "parameters." + k, Description: `unknown: the local driver takes "path" and "preallocation"`})
		}
	}
	if err := filepool.CheckPath(path, roots); err != nil {
		return nil, err
	}
	if open != nil && open.Path() != path {
		return nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "pool %s is open at %s", id, open.Path()).WithRemedy("release it before moving it")
	}
	if open == nil {
		if open, err = filepool.Open(id, path, filepool.Owner{ClusterID: host.GetClusterId(), NodeID: host.GetNodeId()}, options); err != nil {
			return nil, err
		}
		d.mu.Lock()
		d.pools[id] = open
		d.mu.Unlock()
	}
	return &driverv1.EnsurePoolResponse{Pool: open.State()}, nil
}

// ReleasePool closes a pool.
func (d *Driver) ReleasePool(_ context.Context, req *driverv1.ReleasePoolRequest) (*driverv1.ReleasePoolResponse, error) {
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
	for after := ""; ; {
		vs, next, err := p.ListVolumes(after, 1000)
		if err != nil {
			return nil, err
		}
		for _, v := range vs {
			if v.GetAttached() {
				return nil, fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume %s of pool %s is attached", v.GetVolumeId(), req.GetPoolId())
			}
		}
		if after = next; after == "" {
			break
		}
	}
	d.mu.Lock()
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
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.pools[id]; p != nil {
		return p, nil
	}
	return nil, fault.New(metav1.Reason_REASON_POOL_NOT_FOUND, "pool %q is not ensured on this node", id).WithRemedy("call EnsurePool first")
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

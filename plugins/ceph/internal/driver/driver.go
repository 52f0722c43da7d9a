// Package driver is the storage driver for pools of Ceph clusters: the contract's calls, checked and handed to rbdpool.
package driver

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/limiquantix/limiquantix/plugins/ceph/internal/rbdpool"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/sdk"
)

// Schema describes the configuration.
const Schema = `{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","additionalProperties":false,"properties":{
"conf_files":{"type":"array","items":{"type":"string"},"description":"Files that a pool's parameter conf may name, for example /etc/ceph/ceph.conf. Default: none; no such file is read."},
"connect_timeout_seconds":{"type":"integer","minimum":1,"maximum":300,"description":"For a monitor's answer. Default: 5."},
"operation_timeout_seconds":{"type":"integer","minimum":1,"maximum":600,"description":"For an OSD's answer. Default: 30."},
"probe_seconds":{"type":"integer","minimum":1,"maximum":60,"description":"Between two looks at a pool's health. Default: 5."},
"calls_per_pool":{"type":"integer","minimum":2,"maximum":256,"description":"Calls under way at once in one pool. Default: 16."},
"spool_bytes":{"type":"integer","minimum":1048576,"description":"Largest qcow2 image, and content of one, that is kept in a file while it is imported. Default: 64 GiB."}}}`

// Driver serves StorageDriverService. Its pools are those that EnsurePool opened since it started.
type Driver struct {
	driverv1.UnimplementedStorageDriverServiceServer
	*sdk.BasePlugin

	keys sdk.KeyLock

	mu     sync.Mutex
	host   *driverv1.HostFacts
	confs  []string
	limits rbdpool.Limits
	pools  map[string]*rbdpool.Pool
}

// New makes a driver; set BasePlugin before it is served.
func New() *Driver { return &Driver{pools: map[string]*rbdpool.Pool{}} }

type config struct {
	ConfFiles        []string `json:"conf_files"`
	ConnectTimeout   int      `json:"connect_timeout_seconds"`
	OperationTimeout int      `json:"operation_timeout_seconds"`
	Probe            int      `json:"probe_seconds"`
	CallsPerPool     int      `json:"calls_per_pool"`
	SpoolBytes       int64    `json:"spool_bytes"`
}

func (c *config) limits() (rbdpool.Limits, []fault.Violation) {
	var bad []fault.Violation
	for _, f := range []struct {
		name               string
		value              *int
		standard, min, max int
	}{
		{"connect_timeout_seconds", &c.ConnectTimeout, 5, 1, 300},
		{"operation_timeout_seconds", &c.OperationTimeout, 30, 1, 600},
		{"probe_seconds", &c.Probe, 5, 1, 60},
		{"calls_per_pool", &c.CallsPerPool, 16, 2, 256},
	} {
		if *f.value == 0 {
			*f.value = f.standard
		}
		if *f.value < f.min || *f.value > f.max {
			bad = append(bad, fault.Violation{Field: "config_json." + f.name, Description: fmt.Sprintf("must be %d to %d", f.min, f.max)})
		}
	}
	if c.SpoolBytes == 0 {
		c.SpoolBytes = 64 << 30
	}
	if c.SpoolBytes < 1<<20 {
		bad = append(bad, fault.Violation{Field: "config_json.spool_bytes", Description: "must be 1 MiB or more"})
	}
	for _, f := range c.ConfFiles {
		if !filepath.IsAbs(f) || filepath.Clean(f) != f {
			bad = append(bad, fault.Violation{Field: "config_json.conf_files", Description: f + " is not a clean absolute path"})
		}
	}
	second := func(n int) time.Duration { return time.Duration(n) * time.Second }
	return rbdpool.Limits{
		Connect: second(c.ConnectTimeout), Operation: second(c.OperationTimeout), Probe: second(c.Probe), Calls: c.CallsPerPool, Spool: c.SpoolBytes,
	}, bad
}

// ConfigureDriver takes the configuration; see sdk.ConfigureFunc. Open pools keep their limits.
func (d *Driver) ConfigureDriver(_ context.Context, c *sdk.Config) (*driverv1.GetCapabilitiesResponse, error) {
	var cfg config
	if err := c.Decode(&cfg); err != nil {
		return nil, err
	}
	limits, bad := cfg.limits()
	if bad != nil {
		return nil, fault.Invalid(bad...)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.host == nil { // nothing is imported yet: what lies there is of a process that is gone
		if err := os.RemoveAll(spool(c.Host)); err != nil {
			return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "empty the spool: %w", err)
		}
	}
	d.host, d.confs, d.limits = c.Host, cfg.ConfFiles, limits
	return &driverv1.GetCapabilitiesResponse{Storage: &driverv1.StorageCapabilities{
		Features: []driverv1.StorageFeature{
			driverv1.StorageFeature_STORAGE_FEATURE_RESIZE, driverv1.StorageFeature_STORAGE_FEATURE_RESIZE_ONLINE,
			driverv1.StorageFeature_STORAGE_FEATURE_SNAPSHOT, driverv1.StorageFeature_STORAGE_FEATURE_SNAPSHOT_RESTORE,
			driverv1.StorageFeature_STORAGE_FEATURE_VOLUME_FROM_SNAPSHOT, driverv1.StorageFeature_STORAGE_FEATURE_CLONE,
			driverv1.StorageFeature_STORAGE_FEATURE_EXPORT, driverv1.StorageFeature_STORAGE_FEATURE_IMPORT, driverv1.StorageFeature_STORAGE_FEATURE_THIN,
			driverv1.StorageFeature_STORAGE_FEATURE_IMPORT_HOLES,
		},
		OnlineSnapshots:      driverv1.OnlineSnapshotMode_ONLINE_SNAPSHOT_MODE_STORAGE,
		SharedPools:          true,
		Formats:              []driverv1.VolumeFormat{driverv1.VolumeFormat_VOLUME_FORMAT_RAW},
		SizeGranularityBytes: rbdpool.Granularity,
		DiskSources:          []driverv1.DiskSourceKind{driverv1.DiskSourceKind_DISK_SOURCE_KIND_RBD},
	}}, nil
}

func spool(h *driverv1.HostFacts) string { return filepath.Join(h.GetStateDirectory(), "import") }

// pool finds an ensured pool.
func (d *Driver) pool(id string) (*rbdpool.Pool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.pools[id]; p != nil {
		return p, nil
	}
	return nil, fault.New(metav1.Reason_REASON_POOL_NOT_FOUND, "pool %q is not ensured on this node", id).WithRemedy("call EnsurePool first")
}

// do runs a call in a pool, alone on its keys. The keys stay taken until it has really ended, also when the caller is gone before.
func do[R any](ctx context.Context, d *Driver, poolID string, f func(*rbdpool.Session) (R, error), keys ...string) (R, error) {
	var none R
	p, err := d.pool(poolID)
	if err != nil {
		return none, err
	}
	unlock, err := d.lock(poolID, keys)
	if err != nil {
		return none, err
	}
	answer := make(chan R, 1)
	err = p.Do(ctx, unlock, func(s *rbdpool.Session) error {
		r, err := f(s)
		if err == nil {
			answer <- r
		}
		return err
	})
	if err != nil {
		return none, err
	}
	return <-answer, nil
}

// stream runs a streaming call in a pool, alone on its keys, in the caller's goroutine.
func (d *Driver) stream(ctx context.Context, poolID string, f func(*rbdpool.Session) error, keys ...string) error {
	p, err := d.pool(poolID)
	if err != nil {
		return err
	}
	unlock, err := d.lock(poolID, keys)
	if err != nil {
		return err
	}
	defer unlock()
	s, end, err := p.Stream(ctx)
	if err != nil {
		return err
	}
	defer func() { end(err) }()
	err = f(s)
	return err
}

func (d *Driver) lock(poolID string, keys []string) (func(), error) {
	full := make([]string, len(keys))
	for i, k := range keys {
		full[i] = poolID + "/" + k
	}
	return d.keys.Lock(full...)
}

// pageSize is the default and upper bound of list pages.
const pageSize = 1000

func limit(n int32) int {
	if n <= 0 || n > pageSize {
		return pageSize
	}
	return int(n)
}

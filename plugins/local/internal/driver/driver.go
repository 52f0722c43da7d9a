// Package driver is the storage driver for pools that are directories of one node: the contract's calls, checked and handed to filepool.
package driver

import (
	"context"
	"path/filepath"
	"sync"

	"github.com/limiquantix/limiquantix/plugins/kit/filedriver"
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
	filedriver.Driver
	*sdk.BasePlugin

	mu    sync.Mutex
	host  *driverv1.HostFacts
	roots []string
}

// New makes a driver; set BasePlugin before it is served.
func New() *Driver { return &Driver{} }

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
	return filedriver.Capabilities(false), nil
}

// EnsurePool opens the directory that parameter "path" names; without it, a directory below the plugin's state directory.
func (d *Driver) EnsurePool(_ context.Context, req *driverv1.EnsurePoolRequest) (*driverv1.EnsurePoolResponse, error) {
	id := req.GetPoolId()
	if err := filepool.CheckID("pool_id", id); err != nil {
		return nil, err
	}
	unlock, err := d.Keys.Lock("pool/" + id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	d.mu.Lock()
	host, roots := d.host, d.roots
	d.mu.Unlock()
	open := d.Pool(id)
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
		d.Put(id, open)
	}
	return &driverv1.EnsurePoolResponse{Pool: open.State()}, nil
}

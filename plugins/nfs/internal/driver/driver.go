// Package driver is the storage driver for pools on NFS servers: it mounts exports, watches their health, and hands the contract's calls to the workers in which
// the files are. Nothing in this process touches a mounted file system.
package driver

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/limiquantix/limiquantix/plugins/kit/filedriver"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/sdk"
)

// Schema describes the configuration.
const Schema = `{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","additionalProperties":false,"properties":{
"mount_root":{"type":"string","description":"Directory below which pools are mounted, the same on all nodes between which VMs move. Default: mounts in the plugin's state directory."},
"mount_timeout_seconds":{"type":"integer","minimum":1,"maximum":600,"description":"For a server to be mounted, and for a pool to be opened. Default: 30."},
"probe_seconds":{"type":"integer","minimum":1,"maximum":60,"description":"Between two looks at a pool's health. Default: 5."},
"probe_timeout_seconds":{"type":"integer","minimum":1,"maximum":60,"description":"For a server's answer to a look at its health. Default: 10."},
"call_timeout_seconds":{"type":"integer","minimum":1,"maximum":3600,"description":"For a call that is no transfer and has no deadline of its own. Default: 600."}}}`

// Driver serves StorageDriverService. Its pools are those that EnsurePool mounted since it started.
type Driver struct {
	driverv1.UnimplementedStorageDriverServiceServer
	*sdk.BasePlugin

	mounter Mounter
	keys    sdk.KeyLock

	mu     sync.Mutex
	host   *driverv1.HostFacts
	root   string
	limits limits
	pools  map[string]*pool
}

// New makes a driver; set BasePlugin before it is served.
func New(m Mounter) *Driver { return &Driver{mounter: m, pools: map[string]*pool{}} }

type limits struct{ mount, probe, answer, call time.Duration }

type config struct {
	MountRoot    string `json:"mount_root"`
	MountTimeout int    `json:"mount_timeout_seconds"`
	Probe        int    `json:"probe_seconds"`
	ProbeTimeout int    `json:"probe_timeout_seconds"`
	CallTimeout  int    `json:"call_timeout_seconds"`
}

func (c config) limits() (l limits, bad []fault.Violation) {
	for _, f := range []struct {
		name                 string
		to                   *time.Duration
		value, standard, max int
	}{
		{"mount_timeout_seconds", &l.mount, c.MountTimeout, 30, 600},
		{"probe_seconds", &l.probe, c.Probe, 5, 60},
		{"probe_timeout_seconds", &l.answer, c.ProbeTimeout, 10, 60},
		{"call_timeout_seconds", &l.call, c.CallTimeout, 600, 3600},
	} {
		n := cmp.Or(f.value, f.standard)
		if n < 1 || n > f.max {
			bad = append(bad, fault.Violation{Field: "config_json." + f.name, Description: fmt.Sprintf("must be 1 to %d", f.max)})
		}
		*f.to = time.Duration(n) * time.Second
	}
	if r := c.MountRoot; r != "" && (!filepath.IsAbs(r) || filepath.Clean(r) != r || r == "/") {
		bad = append(bad, fault.Violation{Field: "config_json.mount_root", Description: r + " is not a clean absolute path below /"})
	}
	return l, bad
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
	d.host, d.limits, d.root = c.Host, limits, cmp.Or(cfg.MountRoot, filepath.Join(c.Host.GetStateDirectory(), "mounts"))
	return filedriver.Capabilities(true), nil
}

// pool finds an ensured pool.
func (d *Driver) pool(id string) (*pool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.pools[id]; p != nil {
		return p, nil
	}
	return nil, filedriver.NotEnsured(id)
}

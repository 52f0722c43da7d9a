// Package driver is the network driver for Linux bridges: the contract's calls, checked, recorded, and handed to the kernel by packages filter, link and record.
package driver

import (
	"cmp"
	"context"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/limiquantix/limiquantix/plugins/bridge/internal/addrset"
	"github.com/limiquantix/limiquantix/plugins/bridge/internal/filter"
	"github.com/limiquantix/limiquantix/plugins/bridge/internal/record"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/sdk"
)

// Schema describes the configuration.
const Schema = `{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","additionalProperties":false,"properties":{
"runtime_directory":{"type":"string","description":"Directory of the marks: it must live until the next boot and no longer. Default: the one that the agent gives, usually /run/limiquantix/bridge."},
"uplinks":{"type":"array","items":{"type":"string"},"description":"Devices that networks may take as uplink. Default: none."}}}`

// DefaultDirectory is where marks lie.
const DefaultDirectory = "/run/limiquantix/bridge"

// Driver serves NetworkDriverService.
type Driver struct {
	driverv1.UnimplementedNetworkDriverServiceServer
	*sdk.BasePlugin

	keys   sdk.KeyLock
	kernel filter.Kernel
	sets   addrset.Kernel
	stale  atomic.Bool // inForce is not what the kernel has

	mu       sync.Mutex // one change of the host at a time; guards what follows
	host     *driverv1.HostFacts
	dir      record.Dir
	uplinks  []string
	tools    tools
	state    *record.State
	inForce  *filter.Rendered // what the kernel has, as far as is known
	inactive string           // why the first layer is not in force; empty = it is
	foreign  map[string]string
	stop     func()                       // of the watchers
	unhealed struct{ filter, links bool } // what could not be put right, and is tried again
	owner    owner
	owned    bool
}

// New makes a driver; set BasePlugin before it is served.
func New() *Driver { return &Driver{} }

type config struct {
	RuntimeDirectory string   `json:"runtime_directory"`
	Uplinks          []string `json:"uplinks"`
}

// ConfigureDriver takes the configuration, finds out what works here, and puts in force what the records say; see sdk.ConfigureFunc.
func (d *Driver) ConfigureDriver(ctx context.Context, c *sdk.Config) (*driverv1.GetCapabilitiesResponse, error) {
	var cfg config
	if err := c.Decode(&cfg); err != nil {
		return nil, err
	}
	dir := cmp.Or(cfg.RuntimeDirectory, c.Host.GetRuntimeDirectory(), DefaultDirectory)
	if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || dir == "/" {
		return nil, fault.Invalid(fault.Violation{Field: "config_json.runtime_directory", Description: "must be a clean absolute path below /"})
	}
	for _, u := range cfg.Uplinks {
		if !deviceName.MatchString(u) {
			return nil, fault.Invalid(fault.Violation{Field: "config_json.uplinks", Description: "a device's name has 1 to 15 characters"})
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.host, d.dir, d.uplinks = c.Host, record.Dir(dir), cfg.Uplinks
	d.tools = probe(ctx, &d.kernel)
	if err := d.begin(ctx); err != nil {
		return nil, err
	}
	return &driverv1.GetCapabilitiesResponse{Network: d.tools.capabilities(cfg.Uplinks)}, nil
}

// Close ends what runs beside the calls.
func (d *Driver) Close() {
	d.mu.Lock()
	stop := d.stop
	d.stop = nil
	d.mu.Unlock()
	if stop != nil {
		stop()
	}
}

func (d *Driver) ours(m *driverv1.OwnershipMark) bool {
	return m.GetClusterId() == d.host.GetClusterId() && m.GetNodeId() == d.host.GetNodeId()
}

func notOurs(what, id string) error {
	return fault.New(metav1.Reason_REASON_NOT_OURS, "%s %s carries the mark of another node or cluster", what, id)
}

func wrongState(format string, args ...any) *fault.Error {
	return fault.New(metav1.Reason_REASON_WRONG_STATE, format, args...)
}

func conflict(what, id, part string) error {
	return fault.New(metav1.Reason_REASON_SPEC_CONFLICT, "%s %s is there with another %s", what, id, part).WithRemedy("delete it first")
}

// failed wraps a failure of the host.
func failed(what string, err error) error {
	if err == nil {
		return nil
	}
	return fault.New(metav1.Reason_REASON_BACKEND_FAILED, "%s: %w", what, err)
}

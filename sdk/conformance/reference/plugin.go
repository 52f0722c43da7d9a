// Package reference is a driver of all three kinds without any real backend: the smallest one that passes the conformance suites. It is a model of how a
// driver is written with the SDK, stateless between calls, and what the suites themselves are tested with.
package reference

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/sdk"
)

// config is the plugin's configuration.
type config struct {
	// Journal is the file that the simulated backend keeps its state in; empty = in memory.
	Journal string `json:"journal"`
	// DelayMS is how long each change takes, half of it before and half after it is done.
	DelayMS int `json:"delay_ms"`
	// OnlineSnapshots is how snapshots of volumes in use are taken: "none" (also if empty), "storage" or "compute_switch".
	OnlineSnapshots string `json:"online_snapshots"`
	// OnlineDisks makes disks come, go, grow and be switched while a domain runs, and guests quiesce.
	OnlineDisks bool `json:"online_disks"`
	// OnlineInterfaces makes interfaces come and go, and their links be set.
	OnlineInterfaces bool `json:"online_interfaces"`
	// SharedPools makes each pool one for all nodes whose plugins have the same journal.
	SharedPools bool `json:"shared_pools"`
	// Defects makes the driver break the contract on purpose, to show that the suites notice.
	Defects []string `json:"defects"`
}

const schema = `{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","additionalProperties":false,"properties":{
"journal":{"type":"string","description":"file that the simulated backend keeps its state in; empty = in memory"},
"delay_ms":{"type":"integer","minimum":0,"description":"how long each change takes"},
"online_snapshots":{"enum":["none","storage","compute_switch"],"description":"how snapshots of volumes in use are taken"},
"online_disks":{"type":"boolean","description":"disks come, go, grow and are switched while a domain runs, and guests quiesce"},
"online_interfaces":{"type":"boolean","description":"interfaces come and go, and their links are set, while a domain runs"},
"shared_pools":{"type":"boolean","description":"each pool is one for all nodes whose plugins have the same journal"},
"defects":{"type":"array","items":{"type":"string"},"description":"ways to break the contract on purpose"}}}`

// driver is what the three drivers share: the configuration in force and the backend.
type driver struct {
	base *sdk.BasePlugin
	keys sdk.KeyLock

	mu      sync.Mutex
	host    *driverv1.HostFacts
	cfg     config
	backend *backend
}

// New makes the plugin.
func New(version string) sdk.Plugin {
	d := &driver{backend: &backend{}}
	d.base = sdk.NewBasePlugin(sdk.Info{Name: "reference", Version: version, Vendor: "limiquantix", Schema: schema}, d.configure)
	return sdk.Plugin{Base: d.base, Compute: &computeDriver{driver: d}, Storage: &storageDriver{driver: d}, Network: &networkDriver{driver: d}}
}

func (d *driver) configure(_ context.Context, c *sdk.Config) (*driverv1.GetCapabilitiesResponse, error) {
	var cfg config
	if err := c.Decode(&cfg); err != nil {
		return nil, err
	}
	if cfg.DelayMS < 0 {
		return nil, fault.Invalid(fault.Violation{Field: "config_json.delay_ms", Description: "must not be negative"})
	}
	if _, ok := onlineModes[cfg.OnlineSnapshots]; !ok {
		return nil, fault.Invalid(fault.Violation{Field: "config_json.online_snapshots", Description: cfg.OnlineSnapshots + " is none of none, storage, compute_switch"})
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if cfg.Journal != d.cfg.Journal {
		d.backend = &backend{path: cfg.Journal}
	}
	d.host, d.cfg = c.Host, cfg
	d.base.Health.Healthy(map[string]string{"reference.backend": "simulated"})
	return &driverv1.GetCapabilitiesResponse{Compute: computeCapabilities(cfg), Storage: storageCapabilities(cfg), Network: networkCapabilities()}, nil
}

// do runs f as one transaction of the backend.
func (d *driver) do(f func(*tx) error) error {
	d.mu.Lock()
	b := d.backend
	d.mu.Unlock()
	return b.do(f)
}

// change is do for what changes something: it takes its time, and gives up when ctx ends.
func (d *driver) change(ctx context.Context, f func(*tx) error) error {
	if err := d.delay(ctx); err != nil {
		return err
	}
	if err := d.do(f); err != nil {
		return err
	}
	return d.delay(ctx)
}

func (d *driver) delay(ctx context.Context) error {
	d.mu.Lock()
	half := time.Duration(d.cfg.DelayMS) * time.Millisecond / 2
	d.mu.Unlock()
	t := time.NewTimer(half)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// defect reports whether the driver shall have a defect.
func (d *driver) defect(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Contains(d.cfg.Defects, name)
}

// ours reports whether a mark has our cluster and node.
func (d *driver) ours(m *driverv1.OwnershipMark) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return m.GetClusterId() == d.host.GetClusterId() && m.GetNodeId() == d.host.GetNodeId()
}

var uuid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// checkID refuses what is no UUID.
func checkID(field, id string) error {
	if !uuid.MatchString(id) {
		return fault.Invalid(fault.Violation{Field: field, Description: fmt.Sprintf("%.40q is no UUID", id)})
	}
	return nil
}

// checkIDs refuses any that is no UUID; pairs of field and id.
func checkIDs(pairs ...string) error {
	for i := 0; i+1 < len(pairs); i += 2 {
		if err := checkID(pairs[i], pairs[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// checkMark refuses a mark that is not ours or of another object.
func (d *driver) checkMark(m *driverv1.OwnershipMark, id string) error {
	switch {
	case m.GetObjectId() != id:
		return fault.Invalid(fault.Violation{Field: "mark.object_id", Description: "must be the object's own id"})
	case !d.ours(m):
		return fault.Invalid(fault.Violation{Field: "mark", Description: "must have the cluster and node of Configure"})
	}
	return nil
}

func notFound(r metav1.Reason, what, id string) error {
	return fault.New(r, "no %s %s", what, id)
}

func notOurs(what, id string) error {
	return fault.New(metav1.Reason_REASON_NOT_OURS, "%s %s exists but does not carry our mark", what, id).WithRemedy("have an operator look at it; it is never touched")
}

func conflict(what, id string) error {
	return fault.New(metav1.Reason_REASON_SPEC_CONFLICT, "%s %s exists with another spec", what, id)
}

func wrongState(format string, args ...any) error {
	return fault.New(metav1.Reason_REASON_WRONG_STATE, format, args...)
}

// hash is equal for equal messages.
func hash(m proto.Message) string {
	data, _ := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16])
}

// handleOf is an object's handle: its version and key. Nothing depends on it, since every object is found by key.
func handleOf(id string) []byte { return []byte("1:" + id) }

// page cuts keys after token to a page and returns the token of the next one.
func page(keys []string, size int32, token string) (cut []string, next string) {
	if size <= 0 || size > 1000 {
		size = 1000
	}
	i, found := slices.BinarySearch(keys, token)
	if found {
		i++
	}
	keys = keys[i:]
	if len(keys) > int(size) {
		return keys[:size], keys[size-1]
	}
	return keys, ""
}

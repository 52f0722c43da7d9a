// Package driver is the network driver for Open vSwitch: the contract's calls, checked, and a loop that keeps what was asked for in force.
//
// All networks of a node are in one integration bridge of the driver's own, so that each change of rules is one atomic step for all interfaces. What was asked for is recorded in
// the external_ids of that bridge, and nowhere else: a driver that is killed reads it back. Flows follow from the records and from the port numbers that the switch gives.
package driver

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/limiquantix/limiquantix/plugins/kit/netspec"
	"github.com/limiquantix/limiquantix/plugins/ovs/internal/flow"
	"github.com/limiquantix/limiquantix/plugins/ovs/internal/vswitch"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/sdk"
)

// Schema describes the configuration.
const Schema = `{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","additionalProperties":false,"properties":{
"run_directory":{"type":"string","description":"Directory of Open vSwitch's sockets. Default: /var/run/openvswitch."},
"datapath":{"type":"string","enum":["auto","system","netdev"],"description":"Datapath of the integration bridge: the kernel's (system), or in user space (netdev). Default auto: the kernel's where it is there."},
"uplinks":{"type":"object","additionalProperties":{"type":"string"},"description":"Names of physical networks, each with the Open vSwitch bridge that leads there. The bridge is the operator's: the driver adds one patch port for each network that uses it."}}}`

type config struct {
	RunDirectory string            `json:"run_directory"`
	Datapath     string            `json:"datapath"`
	Uplinks      map[string]string `json:"uplinks"`
}

// Driver serves NetworkDriverService.
type Driver struct {
	driverv1.UnimplementedNetworkDriverServiceServer
	*sdk.BasePlugin

	keys sdk.KeyLock
	busy chan struct{} // held by whoever reads or changes what follows

	cfg     config
	host    *driverv1.HostFacts
	session *vswitch.Session // nil while the database is away
	s       *state           // nil until it was read once
	line    *flow.Line       // with the bridge; nil until flows were sent once

	stop context.CancelFunc
	done sync.WaitGroup
	kick chan struct{} // the database changed
	odd  chan string   // flows changed, and not by us
}

// New makes a driver; set BasePlugin before it is served.
func New() *Driver { return &Driver{busy: make(chan struct{}, 1)} }

// lock waits for what only one may do at a time.
func (d *Driver) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case d.busy <- struct{}{}:
		return func() { <-d.busy }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ConfigureDriver takes the configuration; see sdk.ConfigureFunc.
func (d *Driver) ConfigureDriver(ctx context.Context, c *sdk.Config) (*driverv1.GetCapabilitiesResponse, error) {
	cfg := config{RunDirectory: "/var/run/openvswitch", Datapath: "auto"}
	if err := c.Decode(&cfg); err != nil {
		return nil, err
	}
	if !filepath.IsAbs(cfg.RunDirectory) || filepath.Clean(cfg.RunDirectory) != cfg.RunDirectory || strings.ContainsAny(cfg.RunDirectory, " ,\n") {
		return nil, fault.Invalid(fault.Violation{Field: "config_json.run_directory", Description: "must be a clean absolute path"})
	}
	if !slices.Contains([]string{"auto", "system", "netdev"}, cfg.Datapath) {
		return nil, fault.Invalid(fault.Violation{Field: "config_json.datapath", Description: "must be auto, system or netdev"})
	}
	d.Close()
	unlock, err := d.lock(ctx)
	if err != nil {
		return nil, err
	}
	d.cfg, d.host, d.session, d.s, d.line = cfg, c.Host, nil, nil, nil
	d.kick, d.odd = make(chan struct{}, 1), make(chan string, 1)
	unlock()
	d.Health.Set(away("the database was not reached yet"))
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	d.stop = stop
	ready := make(chan struct{})
	d.done.Go(func() { d.run(life, ready) })
	select {
	case <-ready:
	case <-time.After(3 * time.Second): // it shows in the health; calls say UNAVAILABLE until then
	case <-ctx.Done():
	}
	uplinks := make([]string, 0, len(cfg.Uplinks))
	for name := range cfg.Uplinks {
		uplinks = append(uplinks, name)
	}
	slices.Sort(uplinks)
	return &driverv1.GetCapabilitiesResponse{Network: &driverv1.NetworkCapabilities{
		Types: []driverv1.NetworkType{driverv1.NetworkType_NETWORK_TYPE_OVS},
		Features: []driverv1.NetworkFeature{
			driverv1.NetworkFeature_NETWORK_FEATURE_SECURITY_RULES, driverv1.NetworkFeature_NETWORK_FEATURE_IPV6,
			driverv1.NetworkFeature_NETWORK_FEATURE_LIMITS, driverv1.NetworkFeature_NETWORK_FEATURE_DRIFT_EVENTS,
		},
		Bindings: []driverv1.InterfaceBindingKind{driverv1.InterfaceBindingKind_INTERFACE_BINDING_KIND_OVS_PORT},
		MaxRules: maxRules, MaxMtu: maxMTU, Uplinks: uplinks,
	}}, nil
}

const (
	maxRules = 10000
	maxMTU   = 9000
)

// Close ends the loop. Nothing in the switch changes by it.
func (d *Driver) Close() {
	if d.stop != nil {
		d.stop()
		d.done.Wait()
		d.stop = nil
		d.busy <- struct{}{}
		if d.line != nil {
			d.line.Close()
		}
		<-d.busy
	}
}

// bridgeName is the name of the integration bridge.
func (d *Driver) bridgeName() string {
	return netspec.DeviceName("lqo", d.host.GetClusterId()+"/"+d.host.GetNodeId())
}

func (d *Driver) owner() netspec.Owner { return netspec.OwnerOf(d.host) }

func (d *Driver) flows() flow.Bridge {
	return flow.Bridge{Socket: filepath.Join(d.cfg.RunDirectory, d.bridgeName()+".mgmt")}
}

// use locks the driver for a call, which is refused while the database is away.
func (d *Driver) use(ctx context.Context) (unlock func(), err error) {
	unlock, err = d.lock(ctx)
	if err != nil {
		return nil, err
	}
	if d.session == nil || d.s == nil {
		unlock()
		return nil, fault.New(metav1.Reason_REASON_BACKEND_UNAVAILABLE, "Open vSwitch's database at %s cannot be reached", d.endpoint()).WithRemedy("start openvswitch-switch")
	}
	return unlock, nil
}

func (d *Driver) endpoint() string { return "unix:" + filepath.Join(d.cfg.RunDirectory, "db.sock") }

func away(message string) sdk.Report {
	return sdk.Report{State: driverv1.HealthState_HEALTH_STATE_UNHEALTHY, Reason: "BACKEND_UNAVAILABLE", Message: "Open vSwitch: " + message}
}

// backend makes an error of the switch one of the contract.
func backend(err error) error {
	if err == nil {
		return nil
	}
	if f := fault.From(err); f.Reason != metav1.Reason_REASON_INTERNAL {
		return err
	}
	return fault.New(metav1.Reason_REASON_BACKEND_UNAVAILABLE, "%w", err)
}

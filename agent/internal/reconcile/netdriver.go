package reconcile

import (
	"context"
	"slices"
	"strings"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// chooseNetworkDriver picks the plugin for a network that names none: the one that has it, else the first healthy one by name that has the type, else, when none
// is healthy, the first that runs: its ports stay shut as long as it says so.
func chooseNetworkDriver(typ driverv1.NetworkType, plugins []Plugin, has string) (string, error) {
	serves := func(p Plugin) bool { return slices.Contains(p.Capabilities.GetNetwork().GetTypes(), typ) }
	if has != "" {
		return has, nil
	}
	for _, healthy := range []bool{true, false} {
		for _, p := range plugins {
			if p.Running && p.Healthy == healthy && serves(p) {
				return p.Name, nil
			}
		}
	}
	name := strings.TrimPrefix(typ.String(), "NETWORK_TYPE_")
	for _, p := range plugins {
		if !p.Running && (p.Capabilities == nil || serves(p)) {
			return "", fault.New(metav1.Reason_REASON_PLUGIN_UNAVAILABLE, "plugin %s, which may run networks of type %s, is not running", p.Name, name).WithMetadata("plugin", p.Name)
		}
	}
	return "", fault.New(metav1.Reason_REASON_PLUGIN_MISSING, "no network plugin of this node runs networks of type %s", name)
}

// networkDriver is the plugin of a network: the one that it had, or that it names, or that is chosen now. It is remembered before it is told anything.
func (e *Engine) networkDriver(ctx context.Context, d *agentv1.DesiredNetwork, rec realised.Record) (Plugin, error) {
	driver := rec.Driver
	if driver == "" {
		driver = d.GetDriver()
	}
	if driver == "" {
		var all []Plugin
		for _, name := range e.plugins.Names("network") {
			p, _ := e.plugins.Plugin(name)
			all = append(all, p)
		}
		var err error
		if driver, err = chooseNetworkDriver(d.GetSpec().GetType(), all, e.whoHasNetwork(ctx, d.GetNetworkId())); err != nil {
			return Plugin{}, err
		}
	}
	e.mu.Lock()
	e.networkState(d.GetNetworkId()).driver = driver
	e.mu.Unlock()
	return e.pluginFor(driver)
}

// whoHasNetwork is the plugin that lists a network which no record names: it was made before the state file was lost.
func (e *Engine) whoHasNetwork(ctx context.Context, id string) string {
	for _, p := range e.networkPlugins() {
		e.mu.Lock()
		_, listed := e.orphans.networks[p.Name]
		e.mu.Unlock()
		if !listed {
			e.surveyNetworks(ctx, p)
		}
		e.mu.Lock()
		_, has := e.orphans.networks[p.Name][id]
		e.mu.Unlock()
		if has {
			return p.Name
		}
	}
	return ""
}

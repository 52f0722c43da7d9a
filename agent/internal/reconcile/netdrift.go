package reconcile

import (
	"context"
	"fmt"
	"strings"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// NetworkDrift says that somebody else changed an object of a network driver: it is put right at once.
func (e *Engine) NetworkDrift(plugin string, d *driverv1.NetworkDriftEvent) {
	e.mu.Lock()
	network := d.GetObjectId()
	if port := e.wants[portKey(network)].object().GetPort(); port != nil {
		network = port.GetSpec().GetNetworkId()
	}
	if e.wants[networkKey(network)] == nil { // a rule set, an address set, or something that nobody wants
		network = ""
	}
	key := plugin + "/" + network
	again := e.checking[key]
	e.checking[key] = d
	e.mu.Unlock()
	if again != nil { // one is under way: it is done once more
		return
	}
	ctx := e.queue.ctx
	e.wg.Go(func() { e.repair(ctx, plugin, network, key) })
}

// repair has a driver put right what differs, until no more was heard of since it began.
func (e *Engine) repair(ctx context.Context, plugin, network, key string) {
	for {
		e.mu.Lock()
		d := e.checking[key]
		e.mu.Unlock()
		e.checkNetwork(ctx, plugin, network, d.GetDetail())
		e.mu.Lock()
		over := e.checking[key] == d || ctx.Err() != nil
		if over {
			delete(e.checking, key)
		}
		e.mu.Unlock()
		if over {
			return
		}
	}
}

// checkNetwork has a driver compare a network, or all of them, with the host and put right what differs. What it finds is told; what it cannot put right is told to it
// anew, as if its process were another.
func (e *Engine) checkNetwork(ctx context.Context, plugin, network, said string) {
	check := func(ctx context.Context) (r *driverv1.CheckNetworkResponse, err error) {
		return e.plugins.Network(plugin).CheckNetwork(ctx, &driverv1.CheckNetworkRequest{NetworkId: network, Repair: true})
	}
	var drifts []*driverv1.NetworkDrift
	err := e.callUnbounded(ctx, plugin, "CheckNetwork", netCall, func(ctx context.Context) error {
		r, err := check(ctx)
		drifts = r.GetDrifts()
		return err
	})
	if err != nil {
		if ctx.Err() == nil {
			e.log.Warn("networks cannot be compared with the host", "plugin", plugin, "network", network, "error", err)
			e.reporter.Event("", "NetworkCheckFailed", problemOf("", err, 1).reason, fmt.Sprintf("plugin %s could not compare its networks with the host: %v", plugin, err))
		}
		return
	}
	for _, d := range drifts {
		vm, reason, words := e.driftWords(d, said)
		e.log.Warn("a network object was changed by somebody else", "plugin", plugin, "object", d.GetObjectId(), "kind", d.GetKind(), "detail", d.GetDetail(), "open", d.GetOpen(), "repaired", d.GetRepaired())
		e.reporter.Event(vm, "NetworkDrift", reason, words)
		if !d.GetRepaired() {
			e.tellAnew(plugin, d)
		}
	}
	if len(drifts) > 0 {
		e.lookSoon(plugin)
	}
}

// Reasons of the event NetworkDrift: whether packets that should not pass could have passed.
const (
	driftOpen   = "DRIFT_OPEN"
	driftClosed = "DRIFT_CLOSED"
)

// driftWords tells people of a difference.
func (e *Engine) driftWords(d *driverv1.NetworkDrift, said string) (vm, reason, words string) {
	kind := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(d.GetKind().String(), "NETWORK_OBJECT_KIND_")), "_", " ")
	e.mu.Lock()
	if port := e.wants[portKey(d.GetObjectId())].object().GetPort(); port != nil {
		vm, kind = port.GetVmId(), "port"
	}
	e.mu.Unlock()
	words = fmt.Sprintf("%s %s was changed on the host: %s", kind, d.GetObjectId(), d.GetDetail())
	if said != "" && said != d.GetDetail() {
		words += " (" + said + ")"
	}
	words += "; it was put right"
	if !d.GetRepaired() {
		words = strings.TrimSuffix(words, "it was put right") + "the driver did not put it right, it is told anew"
	}
	reason = driftClosed
	if d.GetOpen() {
		reason = driftOpen
		words += "; packets that should not pass could have passed"
	}
	return vm, reason, words
}

// tellAnew has an object told to its driver again.
func (e *Engine) tellAnew(driver string, d *driverv1.NetworkDrift) {
	id := d.GetObjectId()
	var k realised.Key
	e.mu.Lock()
	switch d.GetKind() {
	case driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_NETWORK:
		if s := e.net.networks[id]; s != nil {
			s.told, k = told{}, networkKey(id)
		}
	case driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_INTERFACE:
		if s := e.net.ports[id]; s != nil {
			s.told, k = told{}, portKey(id)
		}
	case driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_RULE_SET:
		if s := e.net.rules[id]; s != nil {
			delete(s.applied, driver)
			delete(s.tried, driver)
			k = ruleKey(id)
		}
	case driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_ADDRESS_SET:
		if s := e.net.sets[id]; s != nil {
			if t, ok := s.told[driver]; ok { // as if nothing were in it: the difference is refused, or fills it
				s.told[driver] = toldSet{instance: t.instance}
			}
			k = setKey(id)
		}
	}
	e.mu.Unlock()
	if k.Kind != "" && e.wanted(k) {
		e.queue.add(k)
	}
}

func (e *Engine) wanted(k realised.Key) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.wants[k] != nil
}

package reconcile

import (
	"context"
	"fmt"
	"strings"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	"github.com/limiquantix/limiquantix/proto/fault"
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
	under := e.checking[key]
	if under == nil {
		e.checking[key] = &driftsHeard{}
		e.wg.Go(func() { e.repair(e.queue.ctx, plugin, network, key) })
	}
	e.checking[key].hear(d)
	e.mu.Unlock()
}

// driftsHeard are a driver's words on changes that are to be looked at; of very many some are only counted.
type driftsHeard struct {
	list []*driverv1.NetworkDriftEvent
	more int
}

// heardMost is how many changes of one network are told one by one.
const heardMost = 20

func (h *driftsHeard) hear(d *driverv1.NetworkDriftEvent) {
	if len(h.list) >= heardMost {
		h.more++
		return
	}
	h.list = append(h.list, d)
}

// repair has a driver put right what differs, until no more was heard of since it began.
func (e *Engine) repair(ctx context.Context, plugin, network, key string) {
	for {
		e.mu.Lock()
		heard := *e.checking[key]
		if len(heard.list) == 0 || ctx.Err() != nil {
			delete(e.checking, key)
			e.mu.Unlock()
			return
		}
		*e.checking[key] = driftsHeard{}
		e.mu.Unlock()
		e.checkNetwork(ctx, plugin, network, heard)
	}
}

// checkNetwork has a driver compare a network, or all of them, with the host and put right what differs. What it finds is told, and what was heard of and it had put right
// before; what it cannot put right is told to it anew, as if its process were another.
func (e *Engine) checkNetwork(ctx context.Context, plugin, network string, heard driftsHeard) {
	var drifts []*driverv1.NetworkDrift
	err := e.callUnbounded(ctx, plugin, "CheckNetwork", netCall, func(ctx context.Context) error {
		r, err := e.plugins.Network(plugin).CheckNetwork(ctx, &driverv1.CheckNetworkRequest{NetworkId: network, Repair: true})
		drifts = r.GetDrifts()
		return err
	})
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		e.log.Warn("networks cannot be compared with the host", "plugin", plugin, "network", network, "error", err)
		e.reporter.Event("", "NetworkCheckFailed", reasonOf(fault.From(err)), fmt.Sprintf("plugin %s could not compare its networks with the host: %v", plugin, err))
	}
	found := map[string]bool{}
	for _, d := range drifts {
		found[d.GetObjectId()] = true
		vm, reason, words := e.driftWords(d, heard)
		e.log.Warn("a network object was changed by somebody else", "plugin", plugin, "object", d.GetObjectId(), "kind", d.GetKind(), "detail", d.GetDetail(), "open", d.GetOpen(), "repaired", d.GetRepaired())
		e.reporter.Event(vm, "NetworkDrift", reason, words)
		if !d.GetRepaired() {
			e.tellAnew(plugin, d)
		}
	}
	for _, d := range heard.list {
		if found[d.GetObjectId()] {
			continue
		}
		vm, kind := e.driftedObject(d.GetObjectId(), "network object")
		e.log.Warn("a network object was changed by somebody else", "plugin", plugin, "object", d.GetObjectId(), "detail", d.GetDetail())
		e.reporter.Event(vm, "NetworkDrift", driftHealed, fmt.Sprintf("%s %s was changed on the host: %s", kind, d.GetObjectId(), d.GetDetail()))
	}
	if heard.more > 0 {
		e.reporter.Event("", "NetworkDrift", driftHealed, fmt.Sprintf("%d more changes on the host were heard of at once, of objects of plugin %s", heard.more, plugin))
	}
	if len(drifts)+len(heard.list) > 0 {
		e.lookSoon(plugin)
	}
}

// driftedObject says what an object is, and whose.
func (e *Engine) driftedObject(id, otherwise string) (vm, kind string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if port := e.wants[portKey(id)].object().GetPort(); port != nil {
		return port.GetVmId(), "port"
	}
	if e.wants[networkKey(id)] != nil {
		return "", "network"
	}
	if e.wants[ruleKey(id)] != nil {
		return "", "security group"
	}
	return "", otherwise
}

// Reasons of the event NetworkDrift: whether packets that should not pass could have passed. Of what a driver put right before it was asked only its own words tell.
const (
	driftOpen   = "DRIFT_OPEN"
	driftClosed = "DRIFT_CLOSED"
	driftHealed = "DRIFT_HEALED"
)

// driftWords tells people of a difference.
func (e *Engine) driftWords(d *driverv1.NetworkDrift, heard driftsHeard) (vm, reason, words string) {
	kind := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(d.GetKind().String(), "NETWORK_OBJECT_KIND_")), "_", " ")
	vm, kind = e.driftedObject(d.GetObjectId(), kind)
	words = fmt.Sprintf("%s %s was changed on the host: %s", kind, d.GetObjectId(), d.GetDetail())
	for _, h := range heard.list {
		if h.GetObjectId() == d.GetObjectId() && h.GetDetail() != "" && h.GetDetail() != d.GetDetail() {
			words += " (" + h.GetDetail() + ")"
		}
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

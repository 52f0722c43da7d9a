package reconcile

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	networkv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/network/v1"
)

func (e *Engine) reconcileNetwork(ctx context.Context, w *want) (time.Duration, string) {
	d := w.obj.GetNetwork()
	k := networkKey(d.GetNetworkId())
	rec := e.recordOf(k)
	if d.GetAbsent() && !rec.Gone.IsZero() {
		e.networkGone(w)
		return never, resultOK
	}
	e.progress.doing(k, networkVerb(d))
	p, err := e.networkDriver(ctx, d, rec)
	switch {
	case d.GetAbsent() && fault.Is(err, metav1.Reason_REASON_PLUGIN_MISSING) && rec.Driver == "" && d.GetDriver() == "": // nobody could have made it
		e.networkGone(w)
		return never, resultOK
	case err != nil:
	case d.GetAbsent():
		if port := e.portLeft(d.GetNetworkId()); port != "" {
			words := "port " + port + ", which is in it, is still here"
			e.progress.waiting(k, words, never)
			return never, resultWait
		}
		if err = e.deleteNetwork(ctx, d, p.Name, rec); err == nil {
			e.networkGone(w)
			return never, resultOK
		}
	default:
		if err = e.ensureNetwork(ctx, w, p, rec); err == nil {
			return never, resultOK
		}
	}
	if ctx.Err() != nil {
		return never, resultFailed
	}
	return e.networkFailed(w, err)
}

// portLeft names a port of a network that is not known to be gone; empty = none.
func (e *Engine) portLeft(network string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	for k, w := range e.wants {
		port := w.obj.GetPort()
		if port == nil || port.GetSpec().GetNetworkId() != network {
			continue
		}
		if s := e.net.ports[k.ID]; !port.GetAbsent() || s == nil || !s.gone {
			return k.ID
		}
	}
	return ""
}

// ensureNetwork tells the plugin's present process of the network, unless it was told.
func (e *Engine) ensureNetwork(ctx context.Context, w *want, p Plugin, rec realised.Record) error {
	d := w.obj.GetNetwork()
	id, now := d.GetNetworkId(), told{p.Instance, w.obj.GetVersion()}
	e.mu.Lock()
	s := e.networkState(id)
	known := s.told == now && !s.barred
	turn := e.orphans.next()
	e.mu.Unlock()
	if known {
		return nil
	}
	if rec.Driver != p.Name || !rec.Made || !rec.Gone.IsZero() { // before it is tried: what may be there is known to be
		rec.Kind, rec.ID, rec.Driver, rec.Made, rec.Gone = realised.KindNetwork, id, p.Name, true, time.Time{}
		e.store.Put(rec)
	}
	var network *driverv1.Network
	err := e.networkCall(ctx, p.Name, id, "EnsureNetwork", func(ctx context.Context) error {
		r, err := e.plugins.Network(p.Name).EnsureNetwork(ctx, &driverv1.EnsureNetworkRequest{
			NetworkId: id, Mark: e.mark(id, d.GetGeneration(), 0), Spec: d.GetSpec(), Handle: rec.Handle,
		})
		network = r.GetNetwork()
		return err
	})
	if err != nil {
		return err
	}
	e.mu.Lock()
	first := s.told.instance != p.Instance || s.problem != ""
	s.setback, s.told, s.turn, s.network = setback{}, now, turn, network
	e.mu.Unlock()
	rec.Generation, rec.Handle = d.GetGeneration(), network.GetHandle()
	e.store.Put(rec)
	e.reportNetwork(w, network, d.GetGeneration())
	if first {
		e.log.Info("network is usable", "network", id, "name", d.GetName(), "driver", p.Name, "device", network.GetDevice())
		e.dependents(networkKey(id))
	}
	return nil
}

func (e *Engine) deleteNetwork(ctx context.Context, d *agentv1.DesiredNetwork, driver string, rec realised.Record) error {
	err := e.networkCall(ctx, driver, d.GetNetworkId(), "DeleteNetwork", func(ctx context.Context) error {
		_, err := e.plugins.Network(driver).DeleteNetwork(ctx, &driverv1.DeleteNetworkRequest{NetworkId: d.GetNetworkId(), Handle: rec.Handle})
		return err
	})
	if err != nil {
		return err
	}
	e.mu.Lock()
	delete(e.orphans.networks[driver], d.GetNetworkId())
	e.net.litter()
	e.mu.Unlock()
	return nil
}

// networkGone notes and says that nothing of a network is left here.
func (e *Engine) networkGone(w *want) {
	id := w.obj.GetNetwork().GetNetworkId()
	if rec := e.recordOf(networkKey(id)); rec.Gone.IsZero() {
		e.store.Put(realised.Record{Kind: realised.KindNetwork, ID: id, Gone: e.now()})
	}
	e.mu.Lock()
	s := e.networkState(id)
	s.told, s.network, s.driver, s.setback = told{}, nil, "", setback{}
	e.mu.Unlock()
	if e.current(w) {
		e.reporter.Network(&agentv1.NetworkReport{NetworkId: id, Absent: true})
	}
	e.pokeGarbage()
}

func (e *Engine) networkFailed(w *want, err error) (time.Duration, string) {
	d := w.obj.GetNetwork()
	id, k := d.GetNetworkId(), networkKey(d.GetNetworkId())
	e.mu.Lock()
	s := e.networkState(id)
	s.failures++
	tries := s.failures
	pr := problemOf(networkVerb(d), err, tries)
	if pr.retry == never {
		pr.retryIn(slowRetry)
	}
	s.problem, s.reason, s.retry = err.Error(), pr.reason, e.now().Add(pr.retry)
	device, mtu, generation := s.network.GetDevice(), s.network.GetMtu(), e.recordOf(k).Generation
	e.mu.Unlock()
	e.progress.failed(k, networkVerb(d), err, tries, pr.retry)
	if e.current(w) {
		e.reporter.Network(&agentv1.NetworkReport{NetworkId: id, Status: &networkv1.NetworkNodeStatus{
			NodeId: e.node, Health: networkv1.NetworkHealth_NETWORK_HEALTH_UNHEALTHY, Reason: pr.reason, Message: pr.message,
			Device: device, Mtu: mtu, ObservedGeneration: generation, ObserveTime: timestamppb.New(e.now()),
		}})
	}
	e.log.Warn("network is not as wanted", "network", id, "name", d.GetName(), "error", err, "retry", pr.retry)
	e.dependents(k) // its ports say what they wait for
	return pr.retry, resultFailed
}

// reportNetwork says how a network is that the driver has.
func (e *Engine) reportNetwork(w *want, n *driverv1.Network, generation int64) {
	if e.current(w) {
		e.reporter.Network(&agentv1.NetworkReport{NetworkId: n.GetNetworkId(), Status: &networkv1.NetworkNodeStatus{
			NodeId: e.node, Health: networkv1.NetworkHealth(n.GetHealth()), Reason: n.GetReason(), Message: n.GetMessage(),
			Device: n.GetDevice(), Mtu: n.GetMtu(), ObservedGeneration: generation, ObserveTime: timestamppb.New(e.now()),
		}})
	}
}

func networkVerb(d *agentv1.DesiredNetwork) string {
	verb := "making network %s"
	if d.GetAbsent() {
		verb = "removing network %s"
	}
	name := d.GetName()
	if name == "" {
		name = d.GetNetworkId()
	}
	return fmt.Sprintf(verb, name)
}

// Networks are the networks of this node by id, and whether each works, for metrics.
func (e *Engine) Networks() map[string]bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := map[string]bool{}
	for id, s := range e.net.networks {
		if w := e.wants[networkKey(id)]; w != nil && !w.obj.GetNetwork().GetAbsent() {
			out[id] = s.problem == "" && s.network.GetHealth() == driverv1.HealthState_HEALTH_STATE_HEALTHY
		}
	}
	return out
}

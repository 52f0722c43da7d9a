package reconcile

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// portWait is how long a port that waits for others is not looked at, should nobody wake it.
const portWait = 10 * time.Second

func (e *Engine) reconcilePort(ctx context.Context, w *want) (time.Duration, string) {
	d := w.obj.GetPort()
	id, k := d.GetPortId(), portKey(d.GetPortId())
	rec := e.recordOf(k)
	if d.GetAbsent() && !rec.Gone.IsZero() && rec.Epoch >= d.GetEpoch() {
		e.portGone(w)
		return never, resultOK
	}
	e.progress.doing(k, portVerb(d))
	if d.GetAbsent() {
		return e.dropPort(ctx, w, rec)
	}
	e.mu.Lock()
	s := e.portState(id)
	s.detaching, s.gone = false, false
	e.mu.Unlock()
	p, wait, err := e.portReady(d)
	switch {
	case err != nil:
	case wait != "":
		return e.portWaits(w, wait)
	default:
		if err = e.attachPort(ctx, w, p, rec); err == nil {
			return never, resultOK
		}
	}
	if ctx.Err() != nil {
		return never, resultFailed
	}
	return e.portFailed(w, err)
}

func portVerb(d *agentv1.DesiredPort) string {
	verb, name := "putting port %s in place", d.GetName()
	if d.GetAbsent() {
		verb = "removing port %s"
	}
	if name == "" {
		name = d.GetPortId()
	}
	return fmt.Sprintf(verb, name)
}

// portReady is the plugin that a port is put in place by, or what it waits for: its network and its rule sets come first.
func (e *Engine) portReady(d *agentv1.DesiredPort) (p Plugin, wait string, err error) {
	network := d.GetSpec().GetNetworkId()
	e.mu.Lock()
	w := e.wants[networkKey(network)]
	var s networkState
	if known := e.net.networks[network]; known != nil {
		s = *known
	}
	e.mu.Unlock()
	name := w.object().GetNetwork().GetName()
	switch {
	case w == nil:
		return p, fmt.Sprintf("its network %s is not assigned to this node", network), nil
	case w.obj.GetNetwork().GetAbsent():
		return p, fmt.Sprintf("its network %s is being removed from this node", name), nil
	case s.driver == "":
		return p, waitForNetwork(name, s), nil
	}
	p, err = e.pluginFor(s.driver)
	switch {
	case err != nil:
		return p, "", err
	case s.barred || s.told.instance != p.Instance:
		return p, waitForNetwork(name, s), nil
	}
	wait, err = e.rulesInForce(d, p)
	return p, wait, err
}

func waitForNetwork(name string, s networkState) string {
	switch {
	case s.barred:
		return fmt.Sprintf("its network %s does not answer", name)
	case s.problem != "":
		return fmt.Sprintf("its network %s is not usable: %s", name, s.problem)
	}
	return fmt.Sprintf("its network %s is being made", name)
}

// portWaits says what a port waits for.
func (e *Engine) portWaits(w *want, words string) (time.Duration, string) {
	d := w.obj.GetPort()
	e.mu.Lock()
	s := e.portState(d.GetPortId())
	news := s.waits != words || s.problem != ""
	s.setback, s.waits = setback{}, words
	e.mu.Unlock()
	e.progress.waiting(portKey(d.GetPortId()), words, portWait)
	e.reportPort(w)
	if news {
		e.dependents(portKey(d.GetPortId()))
	}
	return portWait, resultWait
}

// attachPort has the driver's present process put the port in place as it is wanted now, unless it has.
func (e *Engine) attachPort(ctx context.Context, w *want, p Plugin, rec realised.Record) error {
	d := w.obj.GetPort()
	id, now := d.GetPortId(), told{p.Instance, w.obj.GetVersion()}
	e.mu.Lock()
	s := e.portState(id)
	known := s.told == now && s.driver == p.Name
	turn := e.orphans.next()
	e.mu.Unlock()
	if known {
		e.reportPort(w)
		return nil
	}
	if rec.Driver != p.Name || !rec.Made || !rec.Gone.IsZero() || rec.Epoch < d.GetEpoch() || rec.NetworkID != d.GetSpec().GetNetworkId() { // before it is tried
		rec.Kind, rec.ID, rec.Driver, rec.Made, rec.Gone = realised.KindPort, id, p.Name, true, time.Time{}
		rec.NetworkID, rec.Epoch = d.GetSpec().GetNetworkId(), max(rec.Epoch, d.GetEpoch())
		e.store.Put(rec)
	}
	var iface *driverv1.NetworkInterface
	err := e.networkCall(ctx, p.Name, rec.NetworkID, "AttachInterface", func(ctx context.Context) error {
		r, err := e.plugins.Network(p.Name).AttachInterface(ctx, &driverv1.NetworkDriverServiceAttachInterfaceRequest{
			InterfaceId: id, Mark: e.mark(id, d.GetGeneration(), d.GetEpoch()), Spec: d.GetSpec(), Handle: rec.Handle,
		})
		iface = r.GetInterface()
		return err
	})
	if err != nil {
		return err
	}
	e.mu.Lock()
	bound := s.iface.GetBinding()
	first := s.iface == nil || s.waits != "" || s.problem != ""
	s.setback, s.waits, s.driver, s.told, s.turn, s.iface = setback{}, "", p.Name, now, turn, iface
	if bound != nil && !proto.Equal(bound, iface.GetBinding()) {
		e.bindingChanged(d.GetVmId())
	}
	e.mu.Unlock()
	rec.Generation, rec.Handle = d.GetGeneration(), iface.GetHandle()
	e.store.Put(rec)
	e.reportPort(w)
	if first {
		e.log.Info("port is in place", "port", id, "vm", d.GetVmId(), "network", rec.NetworkID, "state", iface.GetState())
	}
	e.dependents(portKey(id)) // its VM: the link may have changed, too
	e.lookSoon(p.Name)
	return nil
}

// bindingChanged has a VM that is off defined anew before it is started: a NIC of it plugs in elsewhere. mu is held.
func (e *Engine) bindingChanged(vm string) {
	if s := e.vms[vm]; s != nil {
		s.moved = true
	}
}

// dropPort takes a port away once no domain uses it.
func (e *Engine) dropPort(ctx context.Context, w *want, rec realised.Record) (time.Duration, string) {
	d := w.obj.GetPort()
	id := d.GetPortId()
	if user := e.portUser(d); user != "" {
		return e.portWaits(w, user)
	}
	driver, network := rec.Driver, rec.NetworkID
	e.mu.Lock()
	if network == "" {
		network = d.GetSpec().GetNetworkId()
	}
	if driver == "" {
		driver = e.networkState(network).driver
	}
	if driver == "" {
		driver = e.whoListsPort(id)
	}
	e.mu.Unlock()
	if driver == "" {
		if silent := e.neverListed(); silent != "" {
			e.pokeSurvey(silent)
			return e.portWaits(w, "plugin "+silent+" was not asked yet whether it has it")
		}
	}
	if driver != "" { // else it was never put in place
		if err := e.detachPort(ctx, driver, network, id, rec.Handle); err != nil {
			if ctx.Err() != nil {
				return never, resultFailed
			}
			return e.portFailed(w, err)
		}
	}
	e.portGone(w)
	return never, resultOK
}

func (e *Engine) detachPort(ctx context.Context, driver, network, id string, handle []byte) error {
	if _, err := e.pluginFor(driver); err != nil {
		return err
	}
	err := e.networkCall(ctx, driver, network, "DetachInterface", func(ctx context.Context) error {
		_, err := e.plugins.Network(driver).DetachInterface(ctx, &driverv1.NetworkDriverServiceDetachInterfaceRequest{InterfaceId: id, NetworkId: network, Handle: handle})
		return err
	})
	if err != nil {
		return err
	}
	e.mu.Lock()
	delete(e.orphans.ports[driver], id)
	e.net.litter()
	e.mu.Unlock()
	return nil
}

// portGone notes and says that nothing of a port is left here.
func (e *Engine) portGone(w *want) {
	d := w.obj.GetPort()
	id, k := d.GetPortId(), portKey(d.GetPortId())
	if rec := e.recordOf(k); rec.Gone.IsZero() || rec.Epoch < d.GetEpoch() {
		e.store.Put(realised.Record{Kind: k.Kind, ID: id, Epoch: max(rec.Epoch, d.GetEpoch()), Gone: e.now()})
	}
	e.mu.Lock()
	s := e.portState(id)
	*s = portState{gone: true}
	e.mu.Unlock()
	if e.current(w) {
		e.reporter.Port(&agentv1.PortReport{PortId: id, Epoch: d.GetEpoch(), ObservedGeneration: d.GetGeneration(), Absent: true})
	}
	e.queue.add(networkKey(d.GetSpec().GetNetworkId())) // it may wait for this
}

func (e *Engine) portFailed(w *want, err error) (time.Duration, string) {
	d := w.obj.GetPort()
	k := portKey(d.GetPortId())
	e.mu.Lock()
	s := e.portState(d.GetPortId())
	s.failures++
	tries := s.failures
	pr := problemOf(portVerb(d), err, tries)
	switch {
	case pr.retry == never && d.GetAbsent(): // a removal always goes on
		pr.retryIn(slowMax)
	case pr.retry == never:
		pr.retryIn(slowRetry)
	}
	s.problem, s.reason, s.retry, s.waits = pr.message, pr.reason, e.now().Add(pr.retry), ""
	if waitsForOthers(err) {
		s.waits = pr.message
	}
	e.mu.Unlock()
	e.rulesLost(d, s.driver, err, tries)
	e.progress.failed(k, portVerb(d), err, tries, pr.retry)
	e.reportPort(w)
	e.log.Warn("port is not as wanted", "port", d.GetPortId(), "vm", d.GetVmId(), "error", err, "retry", pr.retry)
	e.dependents(k)
	return pr.retry, resultFailed
}

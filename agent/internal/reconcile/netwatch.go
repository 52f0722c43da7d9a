package reconcile

import (
	"cmp"
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

const (
	// netTick is how often it is looked whether something of the below is due.
	netTick = 100 * time.Millisecond
	// netLook is how often ports are looked at, netLookSoon while one waits for its device to come up.
	netLook     = 5 * time.Second
	netLookSoon = 200 * time.Millisecond
	// netStats is how often counters are read, netCheck how often all is compared with the host, beside the drivers' own watch.
	netStats = 10 * time.Second
	netCheck = 5 * time.Minute
)

// netWatch is when a network driver is asked next what nobody waits for. Of each kind there is one call at a time, so that a driver that hangs holds no more.
type netWatch struct {
	look, stats, check, garbage chore
	pace                        time.Duration // of looks; 0 = the usual one
	litter                      bool          // there may be something to collect
}

// chore is something that is done now and then.
type chore struct {
	busy bool
	next time.Time
}

// due takes a chore up.
func (c *chore) due(now time.Time) bool {
	if c.busy || now.Before(c.next) {
		return false
	}
	c.busy = true
	return true
}

func (c *chore) done(next time.Time) { c.busy, c.next = false, next }

// watch is of one driver. mu is held.
func (n *networking) watch(driver string, now time.Time, check time.Duration) *netWatch {
	w := n.watches[driver]
	if w == nil {
		w = &netWatch{}
		w.check.next, w.garbage.next = now.Add(check), now
		n.watches[driver] = w
	}
	return w
}

// litter notes that drivers may have something to collect. mu is held.
func (n *networking) litter() {
	for _, w := range n.watches {
		w.litter = true
	}
}

// lookSoon has a driver's ports looked at now.
func (e *Engine) lookSoon(driver string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	w := e.net.watch(driver, e.now(), e.netCheckEvery)
	w.look.next, w.pace = time.Time{}, netLookSoon
}

// networkLoop watches ports: whether they are up, with which addresses, and how much passes.
func (e *Engine) networkLoop(ctx context.Context) {
	t := time.NewTicker(netTick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			e.watchDrivers(ctx)
		}
	}
}

// watchDrivers begins what is due of drivers that serve networks of this node.
func (e *Engine) watchDrivers(ctx context.Context) {
	for _, driver := range e.networkDrivers() {
		p, _ := e.plugins.Plugin(driver)
		if !p.Running {
			continue
		}
		now := e.now()
		e.mu.Lock()
		w := e.net.watch(driver, now, e.netCheckEvery)
		look, stats, check := w.look.due(now), w.stats.due(now), w.check.due(now)
		garbage := w.litter && e.synced && w.garbage.due(now)
		if garbage {
			w.litter = false
		}
		e.mu.Unlock()
		if look {
			e.wg.Go(func() { e.surveyInterfaces(ctx, p); e.looked(w) })
		}
		if stats {
			e.wg.Go(func() { e.readNetworkStats(ctx, driver); e.finished(&w.stats, e.netStatsEvery) })
		}
		if check {
			e.wg.Go(func() { e.checkNetwork(ctx, driver, "", driftsHeard{}); e.finished(&w.check, e.netCheckEvery) })
		}
		if garbage {
			e.wg.Go(func() { e.collectGarbage(ctx, driver); e.finished(&w.garbage, time.Second) })
		}
	}
}

func (e *Engine) finished(c *chore, every time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c.done(e.now().Add(every))
}

// looked says when to look again: soon while a port's device is awaited, ever less so the longer that takes.
func (e *Engine) looked(w *netWatch) {
	e.mu.Lock()
	defer e.mu.Unlock()
	again := w.look.next.IsZero() // it was asked for meanwhile
	awaited := false
	for id, s := range e.net.ports {
		d := e.wants[portKey(id)].object().GetPort()
		vm := e.vms[d.GetVmId()]
		awaited = awaited || s.iface.GetState() == driverv1.InterfaceState_INTERFACE_STATE_WAITING && vm != nil && isOn(vm.domain)
	}
	wait := e.netLookEvery
	switch {
	case awaited:
		w.pace = min(max(w.pace, netLookSoon/2)*2, e.netLookEvery)
		wait = w.pace
	default:
		w.pace = 0
	}
	w.look.done(e.now().Add(wait))
	if again {
		w.look.next = e.now().Add(netLookSoon / 4)
	}
}

// networkDrivers are those that serve networks which are wanted here.
func (e *Engine) networkDrivers() (out []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	seen := map[string]bool{}
	for _, s := range e.net.networks {
		if s.driver != "" && !seen[s.driver] {
			seen[s.driver] = true
			out = append(out, s.driver)
		}
	}
	for driver := range e.net.watches { // also what it had is collected
		if !seen[driver] {
			out = append(out, driver)
		}
	}
	return out
}

// interfaceSeen takes what a driver listed of a port. mu is held; news says that it is to be told.
func (e *Engine) interfaceSeen(driver string, turn int, i *driverv1.NetworkInterface) (news bool) {
	s := e.net.ports[i.GetInterfaceId()]
	if s == nil || s.driver != driver || s.iface == nil || turn <= s.turn {
		return false // nothing of it was put in place by this run, or later than the list
	}
	before := s.observed
	news = !sameInterface(s.iface, i)
	if b := s.iface.GetBinding(); b != nil && i.GetBinding() == nil {
		i = proto.CloneOf(i) // a list may leave it out
		i.Binding = b
	}
	s.iface = i
	return news || len(before) != len(i.GetObservedAddresses()) || !sameAddresses(before, observedNow(before, i.GetObservedAddresses()))
}

func sameAddresses(a, b []*driverv1.ObservedAddress) bool {
	for i := range a {
		if !proto.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// portsSeen takes a whole list of a driver's interfaces; one that was put in place before the list began and is not in it is put in place anew.
func (e *Engine) portsSeen(driver string, turn int, list map[string]*driverv1.NetworkInterface) {
	var report []*want
	var vms, missing []realised.Key
	e.mu.Lock()
	for id, s := range e.net.ports {
		w := e.wants[portKey(id)]
		if w == nil || s.driver != driver {
			continue
		}
		i := list[id]
		switch {
		case i != nil && e.interfaceSeen(driver, turn, i):
			report = append(report, w)
			vms = append(vms, realised.Key{Kind: realised.KindVM, ID: w.obj.GetPort().GetVmId()})
		case i == nil && s.iface != nil && turn > s.turn && !w.obj.GetPort().GetAbsent():
			s.told = told{}
			missing = append(missing, portKey(id))
		}
	}
	e.mu.Unlock()
	for _, w := range report {
		e.reportPort(w)
	}
	for _, k := range missing {
		e.log.Warn("a port is gone from the host; it is put in place anew", "port", k.ID, "driver", driver)
		e.queue.add(k)
	}
	for _, k := range vms { // it says so itself when a port of it is shut
		e.queue.add(k)
	}
}

// readNetworkStats reads the counters of all ports of a driver in one call.
func (e *Engine) readNetworkStats(ctx context.Context, driver string) {
	var r *driverv1.GetNetworkStatsResponse
	err := e.netListCall(ctx, driver, "GetNetworkStats", func(ctx context.Context) (err error) {
		r, err = e.plugins.Network(driver).GetNetworkStats(ctx, &driverv1.GetNetworkStatsRequest{})
		return err
	})
	if err != nil {
		return // counted; shown as old figures
	}
	var changed []*agentv1.PortStats
	e.mu.Lock()
	for _, st := range r.GetInterfaces() {
		s := e.net.ports[st.GetInterfaceId()]
		if s == nil || s.driver != driver {
			continue
		}
		if s.stats = st; s.statsTold == nil || !proto.Equal(s.statsTold, st) {
			s.statsTold = st
			changed = append(changed, &agentv1.PortStats{PortId: st.GetInterfaceId(), Stats: st, ObserveTime: r.GetObserveTime()})
		}
	}
	e.mu.Unlock()
	for _, st := range changed {
		e.reporter.PortStats(st)
	}
}

// PortFigure is a port as metrics show it.
type PortFigure struct {
	ID, VM, Network string
	Up              bool
	Stats           *driverv1.NetworkInterfaceStats
}

// PortFigures are the ports of this node, with the counters that were read last.
func (e *Engine) PortFigures() (out []PortFigure) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, s := range e.net.ports {
		d := e.wants[portKey(id)].object().GetPort()
		if d == nil || d.GetAbsent() {
			continue
		}
		network := e.wants[networkKey(d.GetSpec().GetNetworkId())].object().GetNetwork()
		vm := e.wants[realised.Key{Kind: realised.KindVM, ID: d.GetVmId()}].object().GetVm()
		out = append(out, PortFigure{
			ID: id, VM: cmp.Or(vm.GetName(), d.GetVmId()), Network: cmp.Or(network.GetName(), d.GetSpec().GetNetworkId()),
			Up: s.iface.GetState() == driverv1.InterfaceState_INTERFACE_STATE_UP, Stats: s.stats,
		})
	}
	return out
}

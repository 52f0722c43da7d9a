package driver

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/limiquantix/limiquantix/plugins/ovs/internal/vswitch"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// pause is how long the driver waits before it tries again to reach the switch.
const pause = 100 * time.Millisecond

// run keeps a connection with the database, and what was asked for in force, until ctx ends.
func (d *Driver) run(ctx context.Context, ready chan<- struct{}) {
	for ctx.Err() == nil {
		err := d.serve(ctx, func() {
			if ready != nil {
				close(ready)
				ready = nil
			}
		})
		if ctx.Err() != nil {
			return
		}
		d.Health.Set(away(err.Error()))
		sleep(ctx, pause)
	}
}

func sleep(ctx context.Context, t time.Duration) {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// serve makes one session and works until it is lost.
func (d *Driver) serve(ctx context.Context, ready func()) error {
	within, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	session, err := vswitch.Open(within, d.endpoint(), func() {
		select {
		case d.kick <- struct{}{}:
		default: // one is enough
		}
	})
	if err != nil {
		return err
	}
	defer session.Close()
	if err := d.begin(within, session); err != nil {
		return err
	}
	ready()
	defer func() {
		d.busy <- struct{}{}
		d.session = nil
		<-d.busy
	}()
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		verify := ""
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-session.Lost():
			return vswitch.ErrAway
		case <-d.kick:
		case verify = <-d.odd:
		case <-retry.C:
		}
		if err := d.settle(ctx, verify); err != nil {
			d.Health.Set(away(err.Error()))
			retry.Reset(pause)
		}
	}
}

// begin reads what was asked for, unless this driver knows it, and makes the session the one to use.
func (d *Driver) begin(ctx context.Context, session *vswitch.Session) error {
	unlock, err := d.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	view, err := session.View()
	if err != nil {
		return err
	}
	if _, err := session.Root(); err != nil {
		return err
	}
	if d.s == nil {
		s := newState(d.owner())
		if b := view.Bridges[d.bridgeName()]; b != nil {
			if !d.ours(b) {
				return notOurs("bridge", b.Name)
			}
			for _, complaint := range s.restore(b.ExternalIDs) {
				slog.Error("a record in the bridge cannot be read; the agent will ask anew", "bridge", b.Name, "record", complaint)
			}
		}
		d.s = s
		d.s.drawAll()
	}
	d.s.dirty = true
	d.session = session
	d.observe(ctx, view) // before any call sends flows: those of ports that are there must be among them
	return nil
}

func (d *Driver) ours(b *vswitch.Bridge) bool {
	return b.ExternalIDs["limiquantix-cluster"] == d.host.GetClusterId() && b.ExternalIDs["limiquantix-node"] == d.host.GetNodeId()
}

func notOurs(what, name string) error {
	return fault.New(metav1.Reason_REASON_NOT_OURS, "%s %s exists and does not carry our mark", what, name)
}

// settle looks at the switch and puts right what is not as asked for.
func (d *Driver) settle(ctx context.Context, verify string) error {
	unlock, err := d.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if d.session == nil {
		return vswitch.ErrAway
	}
	if d.line != nil && d.line.Lost() && !d.s.dirty && !d.s.empty() {
		if fresh, err := d.connect(ctx); err == nil && fresh { // else the bridge may be gone, and is made anew
			verify = "the connection with the bridge was lost"
		}
	}
	drifts, err := d.sync(ctx, true)
	d.tell(drifts)
	if err != nil {
		return err
	}
	if verify != "" && !d.s.empty() {
		drifts, err := d.compareFlows(ctx, true)
		d.tell(drifts)
		if err != nil {
			return err
		}
	}
	root, err := d.session.Root()
	if err != nil {
		return err
	}
	version := ""
	if root.Version != nil {
		version = *root.Version
	}
	d.Health.Healthy(map[string]string{"ovs.version": version, "ovs.datapath": d.datapath(root)})
	return nil
}

// datapath is the kind of datapath to use: the one configured, or what the switch and the kernel have. The switch names the kernel's also where the kernel has none.
func (d *Driver) datapath(root vswitch.Root) string {
	if d.cfg.Datapath != "auto" {
		return d.cfg.Datapath
	}
	if _, err := os.Stat(kernelModule); err == nil && slices.Contains(root.Datapaths, "system") {
		return "system"
	}
	return "netdev"
}

// kernelModule is there when the kernel has a datapath, as a module or built in: ovs-vswitchd has asked for it when it started.
const kernelModule = "/sys/module/openvswitch"

func (d *Driver) tell(drifts []*driverv1.NetworkDrift) {
	for _, x := range drifts {
		slog.Warn("somebody changed what is ours", "object", x.GetObjectId(), "detail", x.GetDetail(), "repaired", x.GetRepaired())
		d.Events.NetworkDrift(x.GetObjectId(), x.GetDetail())
	}
}

// sync brings bridge, records, ports and flows to what was asked for. What it had to put right, or would have to without repair, it returns.
func (d *Driver) sync(ctx context.Context, repair bool) (drifts []*driverv1.NetworkDrift, err error) {
	drift := func(kind driverv1.NetworkObjectKind, id, detail string, open bool) {
		drifts = append(drifts, &driverv1.NetworkDrift{ObjectId: id, Kind: kind, Detail: detail, Open: open, Repaired: repair})
	}
	view, err := d.session.View()
	if err != nil {
		return nil, err
	}
	b := view.Bridges[d.bridgeName()]
	if d.s.empty() {
		if b != nil && d.ours(b) && repair {
			return nil, d.session.DeleteBridge(ctx, b)
		}
		return nil, nil
	}
	fixed := false
	switch {
	case b == nil:
		for id := range d.s.networks {
			drift(driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_NETWORK, id, "bridge "+d.bridgeName()+" is gone", false)
		}
		if !repair {
			return drifts, nil
		}
		if err := d.addBridge(ctx); err != nil {
			return drifts, err
		}
		fixed = true
	case !b.Secure():
		for id := range d.s.networks {
			drift(driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_NETWORK, id, "bridge "+b.Name+" is not in fail mode secure, or has a controller", true)
		}
		if repair {
			if err := d.session.SecureBridge(ctx, b); err != nil {
				return drifts, err
			}
			fixed, d.s.dirty = true, true
		}
	}
	if b != nil {
		changes := d.recordChanges(b)
		for key := range changes {
			kind, id := kindOf(key)
			drift(kind, id, "record "+key+" was changed", false)
		}
		if len(changes) > 0 && repair {
			if err := d.session.Record(ctx, b, changes); err != nil {
				return drifts, err
			}
		}
	}
	if fixed {
		if view, err = d.session.View(); err != nil {
			return drifts, err
		}
	}
	var missing []vswitch.Plug
	for id, n := range d.s.networks {
		for _, p := range d.plugs(n) {
			if !view.Plugged(p) {
				drift(driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_NETWORK, id, "port "+p.Name+" is absent or changed", false)
				if view.Bridges[p.Bridge] != nil {
					missing = append(missing, p)
				}
			}
		}
	}
	if len(missing) > 0 && repair {
		if err := d.session.Plug(ctx, view, missing, nil); err != nil {
			return drifts, err
		}
		if view, err = d.session.View(); err != nil {
			return drifts, err
		}
	}
	d.observe(ctx, view)
	if repair {
		err = d.apply(ctx)
	}
	return drifts, err
}

// addBridge makes the integration bridge with all records.
func (d *Driver) addBridge(ctx context.Context) error {
	root, err := d.session.Root()
	if err != nil {
		return err
	}
	ids := maps.Clone(d.s.records)
	maps.Copy(ids, map[string]string{"limiquantix-cluster": d.host.GetClusterId(), "limiquantix-node": d.host.GetNodeId()})
	d.s.dirty = true
	return d.session.AddBridge(ctx, d.bridgeName(), d.datapath(root), ids)
}

// recordChanges are what must be written so that a bridge has the records that it should.
func (d *Driver) recordChanges(b *vswitch.Bridge) map[string]string {
	want := maps.Clone(d.s.records)
	maps.Copy(want, map[string]string{"limiquantix-cluster": d.host.GetClusterId(), "limiquantix-node": d.host.GetNodeId()})
	changes := map[string]string{}
	for k, v := range want {
		if b.ExternalIDs[k] != v {
			changes[k] = v
		}
	}
	for k := range b.ExternalIDs {
		if _, ok := want[k]; !ok && slices.ContainsFunc(recordKinds, func(p string) bool { return strings.HasPrefix(k, p) }) {
			changes[k] = ""
		}
	}
	return changes
}

func kindOf(key string) (driverv1.NetworkObjectKind, string) {
	for n, prefix := range recordKinds {
		if id, ok := strings.CutPrefix(key, prefix); ok {
			return driverv1.NetworkObjectKind(n + 1), id //nolint:gosec // in the order of the enum
		}
	}
	return driverv1.NetworkObjectKind_NETWORK_OBJECT_KIND_NETWORK, ""
}

// observe takes the port numbers that the switch gave, and marks the ports of interfaces as ours.
func (d *Driver) observe(ctx context.Context, view *vswitch.View) {
	number := func(name string) (int, *vswitch.Port, *vswitch.Interface) {
		p := view.PortNamed[name]
		i := view.Interface(p)
		if i == nil || view.BridgeOf[p.UUID] != d.bridgeName() || i.OfPort == nil || *i.OfPort <= 0 {
			return 0, p, i
		}
		return *i.OfPort, p, i
	}
	redraw := map[string]bool{}
	for id, n := range d.s.networks {
		tunnel, _, _ := number(tunnelName(id))
		uplink, _, _ := number(patchName(id))
		if tunnel != n.Tunnel || uplink != n.Uplink {
			n.Tunnel, n.Uplink, redraw[id] = tunnel, uplink, true
		}
	}
	var marks []vswitch.Marking
	for id, i := range d.s.interfaces {
		port, row, x := number(tapName(id))
		i.note = ""
		if x != nil && x.Error != nil {
			i.note = *x.Error
		}
		if x != nil && x.ExternalIDs["iface-id"] != id {
			port, i.note = 0, "the port "+row.Name+" has no external_ids:iface-id of this interface"
		}
		if port > 0 && view.BridgeOf[row.UUID] == d.bridgeName() && x.ExternalIDs["limiquantix-object"] != id {
			marks = append(marks, vswitch.Marking{Port: row, Interface: x, IDs: markIDs(i.req.GetMark())})
		}
		if port != i.Port {
			i.Port, redraw[i.req.GetSpec().GetNetworkId()] = port, true
			d.s.drawInterface(id)
		}
	}
	if err := d.session.Mark(ctx, marks); err != nil {
		slog.Warn("ports could not be marked", "ports", len(marks), "first", marks[0].Port.Name, "error", err)
	}
	for id := range redraw {
		d.s.drawNetwork(id)
	}
}

// connect makes the connection with the bridge by which flows are changed, unless it is there, and reports whether it did: what changed without one was not told.
func (d *Driver) connect(ctx context.Context) (fresh bool, err error) {
	if d.line != nil && !d.line.Lost() {
		return false, nil
	}
	line, err := d.flows().Open(ctx, func(what string) {
		select {
		case d.odd <- what:
		default: // one is enough: all flows are compared
		}
	})
	if err != nil {
		return false, err
	}
	d.line = line
	return true, nil
}

// apply sends what the bridge has not got, in one bundle.
func (d *Driver) apply(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx) // a bundle that is cut short may or may not be in force
	b := d.flows()
	c, err := d.conntrack()
	if err != nil {
		return backend(err)
	}
	if d.s.dirty && d.line != nil { // it may be with a bridge that was deleted a moment ago
		d.line.Close()
	}
	fresh, err := d.connect(ctx)
	if err != nil {
		return backend(err)
	}
	d.s.dirty = d.s.dirty || fresh
	if !d.s.dirty {
		changes := d.s.table.Changes()
		if len(changes) == 0 {
			return nil
		}
		if err := d.line.Change(ctx, changes); err != nil {
			d.s.dirty = true
			return backend(err)
		}
		return backend(c.Settled(ctx, d.line))
	}
	for _, i := range d.s.interfaces {
		if err := d.meters(ctx, i); err != nil {
			return backend(err)
		}
	}
	if err := b.Replace(ctx, d.s.table.All()); err != nil {
		return backend(err)
	}
	if err := c.Settled(ctx, d.line); err != nil {
		return backend(err)
	}
	d.s.dirty = false
	all := map[string]bool{}
	for id := range d.s.networks {
		all[id] = true
	}
	d.cut(ctx, all) // a driver before this one may have been killed before it could
	return nil
}

func (d *Driver) meters(ctx context.Context, i *iface) error {
	l := i.req.GetSpec().GetLimits()
	for _, m := range []struct {
		id   uint32
		rate int64
	}{{i.IngressMeter, l.GetIngressBitsPerSecond()}, {i.EgressMeter, l.GetEgressBitsPerSecond()}} {
		if m.id != 0 {
			if err := d.flows().Meter(ctx, m.id, m.rate/1000, l.GetBurstBytes()*8/1000); err != nil {
				return err
			}
		}
	}
	return nil
}

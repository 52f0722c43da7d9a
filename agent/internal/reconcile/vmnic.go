package reconcile

import (
	"context"
	"maps"
	"slices"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// nicChange is what of a running domain's NICs is to be changed, by port.
type nicChange struct {
	unplug, plug []string
	link         map[string]bool // whether it shall be up
	awaited      []string        // to be plugged in as soon as they are in place
}

// none reports whether there is nothing to do now.
func (c nicChange) none() bool { return len(c.unplug)+len(c.plug)+len(c.link) == 0 }

// next is what to do first.
func (c nicChange) next() action {
	switch {
	case len(c.unplug) > 0:
		return actUnplug
	case len(c.plug) > 0:
		return actPlug
	}
	return actLink
}

// nicView is all that a change of NICs depends on.
type nicView struct {
	Domain *driverv1.Domain
	// Defined: the definition is the one that is wanted.
	Defined bool
	// Wanted are the ports of the VM that can be plugged in, and whether the link of each shall be up.
	Wanted map[string]bool
	// Awaited are the VM's ports that are not in place.
	Awaited []string
	// Had are ports that its definition had, or may have had.
	Had      []string
	Features []driverv1.ComputeFeature
}

// nicsToChange says what is left to do when a domain runs and its definition is as wanted: what the driver did not do of itself with the new definition.
// A driver that cannot says in restart_required that it waits for the next start.
func nicsToChange(v nicView) (c nicChange) {
	if !isOn(v.Domain) || !v.Defined {
		return c
	}
	if slices.Contains(v.Features, driverv1.ComputeFeature_COMPUTE_FEATURE_INTERFACE_HOTPLUG) {
		for _, id := range v.Had {
			if _, wanted := v.Wanted[id]; !wanted && !slices.Contains(v.Awaited, id) && hasInterface(v.Domain, id) {
				c.unplug = append(c.unplug, id)
			}
		}
		for id := range v.Wanted {
			if !hasInterface(v.Domain, id) {
				c.plug = append(c.plug, id)
			}
		}
		for _, id := range v.Awaited {
			if !hasInterface(v.Domain, id) {
				c.awaited = append(c.awaited, id)
			}
		}
		slices.Sort(c.unplug)
		slices.Sort(c.plug)
	}
	if slices.Contains(v.Features, driverv1.ComputeFeature_COMPUTE_FEATURE_LINK_STATE) {
		for _, i := range v.Domain.GetInterfaces() {
			if up, wanted := v.Wanted[i.GetInterfaceId()]; wanted && up != i.GetLinkUp() {
				if c.link == nil {
					c.link = map[string]bool{}
				}
				c.link[i.GetInterfaceId()] = up
			}
		}
	}
	return c
}

// letGo reports whether a domain whose definition is without a port uses it no more.
func letGo(d *driverv1.Domain, id string, features []driverv1.ComputeFeature) bool {
	switch {
	case !isOn(d):
		return true
	case hasInterface(d, id):
		return false
	}
	return slices.Contains(features, driverv1.ComputeFeature_COMPUTE_FEATURE_INTERFACE_HOTPLUG) || !d.GetRestartRequired()
}

func (r *vmRun) features() []driverv1.ComputeFeature {
	p, _ := r.e.plugins.Plugin(r.driver)
	return p.Capabilities.GetCompute().GetFeatures()
}

// takePorts takes the bindings of the VM's ports for its definition. They are noted before it is made, so that no port goes while a domain may have it.
func (r *vmRun) takePorts(src *sources) error {
	e := r.e
	e.mu.Lock()
	defer e.mu.Unlock()
	src.ports = map[string]portSource{}
	ports := slices.Clone(r.rec.Ports)
	for _, p := range r.d.GetPorts() {
		id := p.GetPortId()
		w, s := e.wants[portKey(id)], e.net.ports[id]
		if w == nil || w.obj.GetPort().GetAbsent() || s == nil || s.detaching || s.iface.GetBinding() == nil {
			return fault.New(metav1.Reason_REASON_BUSY, "port %s of NIC %q is not in place", id, p.GetNicName())
		}
		src.ports[id] = sourceOf(w.obj.GetPort(), s)
		if !slices.Contains(ports, id) {
			ports = append(ports, id)
		}
	}
	if !slices.Equal(ports, r.rec.Ports) {
		r.rec.Ports = ports
		r.keep()
	}
	return nil
}

func sourceOf(d *agentv1.DesiredPort, s *portState) portSource {
	return portSource{binding: s.iface.GetBinding(), mac: d.GetSpec().GetMac(), queues: d.GetSpec().GetQueues(), linkDown: d.GetSpec().GetLinkDown()}
}

// releaseNics forgets ports that the domain has let go of: they may go.
func (r *vmRun) releaseNics(input string) {
	dom, features := r.s.domain, r.features()
	if dom != nil && r.rec.InputHash != input {
		return // its definition may have any of them
	}
	kept := slices.DeleteFunc(slices.Clone(r.rec.Ports), func(id string) bool {
		wanted := slices.ContainsFunc(r.d.GetPorts(), func(p *agentv1.VMPort) bool { return p.GetPortId() == id })
		return !wanted && letGo(dom, id, features)
	})
	if len(kept) == len(r.rec.Ports) {
		return
	}
	r.rec.Ports = kept
	r.keep()
	r.e.dependents(r.key)
}

// nicsToChange looks at what of the NICs is not as wanted.
func (r *vmRun) nicsToChange(input string) nicChange {
	e, dom := r.e, r.s.domain
	if !isOn(dom) || r.rec.InputHash != input {
		return nicChange{}
	}
	v := nicView{Domain: dom, Defined: true, Wanted: map[string]bool{}, Had: slices.Clone(r.rec.Ports), Features: r.features()}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range r.d.GetPorts() {
		w, s := e.wants[portKey(p.GetPortId())], e.net.ports[p.GetPortId()]
		if w != nil && !w.obj.GetPort().GetAbsent() && s != nil && e.inPlace(s) && !s.detaching {
			v.Wanted[p.GetPortId()] = !w.obj.GetPort().GetSpec().GetLinkDown()
		} else {
			v.Awaited = append(v.Awaited, p.GetPortId())
		}
	}
	for _, i := range dom.GetInterfaces() { // after the state file was lost: what is a port of this VM is known from what is wanted
		id := i.GetInterfaceId()
		if p := e.wants[portKey(id)].object().GetPort(); p.GetVmId() == r.d.GetVmId() && p != nil && !slices.Contains(v.Had, id) {
			v.Had = append(v.Had, id)
		}
	}
	return nicsToChange(v).without(r.s.nicsDone)
}

// without leaves out what a driver confirmed and does not show: it is not asked for the same again and again.
func (c nicChange) without(done map[string]bool) nicChange {
	c.unplug = slices.DeleteFunc(c.unplug, func(id string) bool { return done[unplugged+id] })
	c.plug = slices.DeleteFunc(c.plug, func(id string) bool { return done[pluggedIn+id] })
	c.awaited = slices.DeleteFunc(c.awaited, func(id string) bool { return done[pluggedIn+id] })
	maps.DeleteFunc(c.link, func(id string, up bool) bool { return done[linkWord(up)+id] })
	return c
}

const (
	unplugged = "out "
	pluggedIn = "in "
	linkUp    = "up "
	linkDown  = "down "
)

func linkWord(up bool) string {
	if up {
		return linkUp
	}
	return linkDown
}

// nicDone notes a change that the driver confirmed; the reverse of it is no longer done.
func (r *vmRun) nicDone(what, port string) {
	r.e.mu.Lock()
	defer r.e.mu.Unlock()
	if r.s.nicsDone == nil {
		r.s.nicsDone = map[string]bool{}
	}
	reverse := map[string]string{unplugged: pluggedIn, pluggedIn: unplugged, linkUp: linkDown, linkDown: linkUp}
	r.s.nicsDone[what+port] = true
	delete(r.s.nicsDone, reverse[what]+port)
}

// changeNics does one kind of change to the NICs of a running domain; the driver waits for the guest.
func (r *vmRun) changeNics(ctx context.Context, a action) error {
	change := r.nicsToChange(r.rec.InputHash)
	id, handle := r.d.GetVmId(), r.rec.Handle
	switch a {
	case actUnplug:
		for _, port := range change.unplug {
			err := r.domainCall(ctx, "DetachInterface", usualCall, func(ctx context.Context) (*driverv1.Domain, error) {
				a, err := r.compute().DetachInterface(ctx, &driverv1.DetachInterfaceRequest{DomainId: id, Handle: handle, InterfaceId: port})
				return a.GetDomain(), err
			})
			if err != nil {
				return err
			}
			r.nicDone(unplugged, port)
		}
	case actPlug:
		for _, port := range change.plug {
			nic, err := r.pluggable(port)
			if err != nil {
				return err
			}
			err = r.domainCall(ctx, "AttachInterface", usualCall, func(ctx context.Context) (*driverv1.Domain, error) {
				a, err := r.compute().AttachInterface(ctx, &driverv1.AttachInterfaceRequest{DomainId: id, Handle: handle, Interface: nic})
				return a.GetDomain(), err
			})
			if err != nil {
				return err
			}
			r.nicDone(pluggedIn, port)
		}
		r.portsTurn()
	case actLink:
		for port, up := range change.link {
			err := r.e.call(ctx, r.driver, "", "SetLink", usualCall, func(ctx context.Context) error {
				_, err := r.compute().SetLink(ctx, &driverv1.SetLinkRequest{DomainId: id, Handle: handle, InterfaceId: port, Up: up})
				return err
			})
			r.looked = false
			if err != nil {
				return err
			}
			r.nicDone(linkWord(up), port)
		}
	}
	return nil
}

// pluggable is a NIC as a driver plugs it in; it is noted before.
func (r *vmRun) pluggable(port string) (*driverv1.DomainInterface, error) {
	src := sources{}
	if err := r.takePorts(&src); err != nil {
		return nil, err
	}
	for _, nic := range r.d.GetSpec().GetNics() {
		if portIDs(r.d)[nic.GetName()] == port {
			return domainInterface(r.d, nic, src)
		}
	}
	return nil, fault.New(metav1.Reason_REASON_INTERNAL, "no NIC has port %s", port)
}

// portsTurn has the VM's ports looked at: its domain was started or stopped, or has other NICs.
func (r *vmRun) portsTurn() {
	e := r.e
	drivers := map[string]bool{}
	e.mu.Lock()
	for k, w := range e.wants {
		if k.Kind != realised.KindPort || w.obj.GetPort().GetVmId() != r.d.GetVmId() {
			continue
		}
		if s := e.net.ports[k.ID]; s != nil && s.driver != "" {
			drivers[s.driver] = true
		}
	}
	e.mu.Unlock()
	for driver := range drivers {
		e.lookSoon(driver)
	}
	e.reportPortsOf(r.d.GetVmId())
	if len(drivers) > 0 {
		e.dependents(r.key)
	}
}

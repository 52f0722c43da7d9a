package driver

import (
	"context"
	"fmt"

	"github.com/digitalocean/go-libvirt"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// watched are the kinds of libvirt events that are passed on.
var watched = []libvirt.DomainEventID{
	libvirt.DomainEventIDLifecycle, libvirt.DomainEventIDReboot, libvirt.DomainEventIDAgentLifecycle,
	libvirt.DomainEventIDIoError, libvirt.DomainEventIDDeviceAdded, libvirt.DomainEventIDDeviceRemoved,
}

// subscribe asks a new connection for events and learns which domains are ours. What happens meanwhile is covered by the resync that follows.
func (d *Driver) subscribe(ctx context.Context, l *libvirt.Libvirt) error {
	for _, kind := range watched {
		events, err := l.SubscribeEvents(ctx, kind, nil)
		if err != nil {
			return fmt.Errorf("subscribe to libvirt events: %w", err)
		}
		d.running.Go(func() {
			for e := range events { // closed with the connection
				d.event(l, e)
			}
		})
	}
	all, _, err := l.ConnectListAllDomains(1, 0)
	if err != nil {
		return fmt.Errorf("list domains: %w", err)
	}
	for _, dom := range all {
		d.isOurs(l, dom)
	}
	return nil
}

func version(v uint64) string { return fmt.Sprintf("%d.%d.%d", v/1000000, v/1000%1000, v%1000) }

// isOurs looks at a domain's mark. One that is gone is what it was.
func (d *Driver) isOurs(l *libvirt.Libvirt, dom libvirt.Domain) bool {
	id := idOf(dom.UUID)
	f, err := readXML(l, dom, libvirt.DomainXMLInactive)
	if err != nil {
		return d.owned.has(id)
	}
	if !d.setting().oursMark(f.Mark) {
		d.owned.drop(id)
		return false
	}
	d.owned.add(id)
	return true
}

// event passes on what happened to a domain of ours.
func (d *Driver) event(l *libvirt.Libvirt, e any) {
	const device, running = driverv1.DomainEventType_DOMAIN_EVENT_TYPE_DEVICE, driverv1.DomainState_DOMAIN_STATE_RUNNING
	pass := func(dom libvirt.Domain, typ driverv1.DomainEventType, state driverv1.DomainState, detail string) {
		if d.isOurs(l, dom) {
			d.Events.Domain(idOf(dom.UUID), typ, state, detail)
		}
	}
	switch e := e.(type) {
	case *libvirt.DomainEventCallbackLifecycleMsg:
		d.lifecycle(l, e.Msg)
	case *libvirt.DomainEventCallbackRebootMsg:
		pass(e.Msg.Dom, driverv1.DomainEventType_DOMAIN_EVENT_TYPE_REBOOTED, running, "rebooted")
	case *libvirt.DomainEventCallbackAgentLifecycleMsg:
		detail := "guest agent went away"
		if libvirt.ConnectDomainEventAgentLifecycleState(e.State) == libvirt.ConnectDomainEventAgentLifecycleStateConnected {
			detail = "guest agent connected"
		}
		pass(e.Dom, driverv1.DomainEventType_DOMAIN_EVENT_TYPE_GUEST_AGENT, running, detail)
	case *libvirt.DomainEventCallbackIOErrorMsg:
		pass(e.Msg.Dom, driverv1.DomainEventType_DOMAIN_EVENT_TYPE_IO_ERROR, driverv1.DomainState_DOMAIN_STATE_UNKNOWN, "I/O error on "+e.Msg.DevAlias)
	case *libvirt.DomainEventCallbackDeviceAddedMsg:
		pass(e.Dom, device, running, e.DevAlias+" added")
	case *libvirt.DomainEventCallbackDeviceRemovedMsg:
		pass(e.Msg.Dom, device, running, e.Msg.DevAlias+" removed")
	}
}

func (d *Driver) lifecycle(l *libvirt.Libvirt, e libvirt.DomainEventLifecycleMsg) {
	id := idOf(e.Dom.UUID)
	ours := false
	if libvirt.DomainEventType(e.Event) == libvirt.DomainEventUndefined {
		if ours = d.owned.has(id); ours && !d.isOurs(l, e.Dom) { // defined anew meanwhile, by somebody else
			d.owned.drop(id)
		}
	} else {
		ours = d.isOurs(l, e.Dom)
	}
	if ours {
		typ, state := meaning(e)
		d.Events.Domain(id, typ, state, fmt.Sprintf("libvirt event %d detail %d", e.Event, e.Detail))
	}
}

func meaning(e libvirt.DomainEventLifecycleMsg) (driverv1.DomainEventType, driverv1.DomainState) {
	switch libvirt.DomainEventType(e.Event) {
	case libvirt.DomainEventDefined:
		return driverv1.DomainEventType_DOMAIN_EVENT_TYPE_DEFINED, driverv1.DomainState_DOMAIN_STATE_UNKNOWN
	case libvirt.DomainEventUndefined:
		return driverv1.DomainEventType_DOMAIN_EVENT_TYPE_UNDEFINED, driverv1.DomainState_DOMAIN_STATE_UNKNOWN
	case libvirt.DomainEventStarted:
		return driverv1.DomainEventType_DOMAIN_EVENT_TYPE_STARTED, driverv1.DomainState_DOMAIN_STATE_RUNNING
	case libvirt.DomainEventSuspended:
		return driverv1.DomainEventType_DOMAIN_EVENT_TYPE_PAUSED, driverv1.DomainState_DOMAIN_STATE_PAUSED
	case libvirt.DomainEventResumed:
		return driverv1.DomainEventType_DOMAIN_EVENT_TYPE_RESUMED, driverv1.DomainState_DOMAIN_STATE_RUNNING
	case libvirt.DomainEventShutdown:
		return driverv1.DomainEventType_DOMAIN_EVENT_TYPE_SHUTDOWN, driverv1.DomainState_DOMAIN_STATE_STOPPING
	case libvirt.DomainEventCrashed:
		return driverv1.DomainEventType_DOMAIN_EVENT_TYPE_CRASHED, driverv1.DomainState_DOMAIN_STATE_CRASHED
	case libvirt.DomainEventStopped:
		switch libvirt.DomainEventStoppedDetailType(e.Detail) {
		case libvirt.DomainEventStoppedShutdown:
			return driverv1.DomainEventType_DOMAIN_EVENT_TYPE_SHUTDOWN, driverv1.DomainState_DOMAIN_STATE_STOPPED
		case libvirt.DomainEventStoppedCrashed, libvirt.DomainEventStoppedFailed:
			return driverv1.DomainEventType_DOMAIN_EVENT_TYPE_CRASHED, driverv1.DomainState_DOMAIN_STATE_CRASHED
		}
		return driverv1.DomainEventType_DOMAIN_EVENT_TYPE_STOPPED, driverv1.DomainState_DOMAIN_STATE_STOPPED
	}
	return driverv1.DomainEventType_DOMAIN_EVENT_TYPE_DEVICE, driverv1.DomainState_DOMAIN_STATE_UNKNOWN
}

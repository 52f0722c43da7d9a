package driver

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/digitalocean/go-libvirt"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// connected subscribes to events, says that some may have been missed, and reports health.
func (d *Driver) connected(ctx context.Context, l *libvirt.Libvirt) {
	attrs := map[string]string{}
	if v, err := l.ConnectGetLibVersion(); err == nil {
		attrs["libvirt.version"] = version(v)
	}
	if v, err := l.ConnectGetVersion(); err == nil {
		attrs["qemu.version"] = version(v)
	}
	attrs["accel"] = d.setting().verdict.Accelerator
	events, err := l.LifecycleEvents(ctx)
	if err != nil {
		slog.Error("subscribe to libvirt events", "error", err)
	} else {
		d.running.Add(1)
		go func() {
			defer d.running.Done()
			for e := range events {
				d.event(e)
			}
		}()
	}
	d.Events.Resync()
	d.Health.Healthy(attrs)
}

func version(v uint64) string { return fmt.Sprintf("%d.%d.%d", v/1000000, v/1000%1000, v%1000) }

// event passes a change of any domain on; the host asks for the domain and learns there whether it is ours.
func (d *Driver) event(e libvirt.DomainEventLifecycleMsg) {
	typ, state := driverv1.DomainEventType_DOMAIN_EVENT_TYPE_DEVICE, driverv1.DomainState_DOMAIN_STATE_UNKNOWN
	switch libvirt.DomainEventType(e.Event) {
	case libvirt.DomainEventDefined:
		typ = driverv1.DomainEventType_DOMAIN_EVENT_TYPE_DEFINED
	case libvirt.DomainEventUndefined:
		typ = driverv1.DomainEventType_DOMAIN_EVENT_TYPE_UNDEFINED
	case libvirt.DomainEventStarted:
		typ, state = driverv1.DomainEventType_DOMAIN_EVENT_TYPE_STARTED, driverv1.DomainState_DOMAIN_STATE_RUNNING
	case libvirt.DomainEventSuspended:
		typ, state = driverv1.DomainEventType_DOMAIN_EVENT_TYPE_PAUSED, driverv1.DomainState_DOMAIN_STATE_PAUSED
	case libvirt.DomainEventResumed:
		typ, state = driverv1.DomainEventType_DOMAIN_EVENT_TYPE_RESUMED, driverv1.DomainState_DOMAIN_STATE_RUNNING
	case libvirt.DomainEventShutdown:
		typ, state = driverv1.DomainEventType_DOMAIN_EVENT_TYPE_SHUTDOWN, driverv1.DomainState_DOMAIN_STATE_STOPPING
	case libvirt.DomainEventCrashed:
		typ, state = driverv1.DomainEventType_DOMAIN_EVENT_TYPE_CRASHED, driverv1.DomainState_DOMAIN_STATE_CRASHED
	case libvirt.DomainEventStopped:
		typ, state = driverv1.DomainEventType_DOMAIN_EVENT_TYPE_STOPPED, driverv1.DomainState_DOMAIN_STATE_STOPPED
		switch libvirt.DomainEventStoppedDetailType(e.Detail) {
		case libvirt.DomainEventStoppedShutdown:
			typ = driverv1.DomainEventType_DOMAIN_EVENT_TYPE_SHUTDOWN
		case libvirt.DomainEventStoppedCrashed, libvirt.DomainEventStoppedFailed:
			typ, state = driverv1.DomainEventType_DOMAIN_EVENT_TYPE_CRASHED, driverv1.DomainState_DOMAIN_STATE_CRASHED
		}
	}
	d.Events.Domain(idOf(e.Dom.UUID), typ, state, fmt.Sprintf("libvirt event %d detail %d", e.Event, e.Detail))
}

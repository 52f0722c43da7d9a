package driver

import (
	"context"
	"strings"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/connection"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/domainxml"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/mark"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	// unplugLimit is how long a guest may take to let go of a device.
	unplugLimit = 20 * time.Second
	// unplugMargin is how long before its deadline a call that waits for a guest says that the guest does not play along.
	unplugMargin = time.Second
	// plugLimit is how long libvirt may take to plug a device in: QEMU connects to a disk's server meanwhile. libvirt goes on when its caller gave up, and a
	// repetition finds what came of it.
	plugLimit = time.Minute
)

// unplugging is what QEMU says to a request that it has already passed on to the guest.
const unplugging = "already in the process of unplug"

// doubleAlias is what libvirt says of a device whose alias a domain has. Aliases are ours, and were looked for before.
const doubleAlias = "non unique alias"

// add prepares for a device, which is done each time, plugs it into definition and running domain, each where it is missing, and then notes it in the marks: a repetition goes on where a crash ended it.
func (d *Driver) add(ctx context.Context, id string, dev mark.Device, prepare func(context.Context, setting, *domain) error, plug func(context.Context, setting, *domain, libvirt.DomainDeviceModifyFlags) error) (*driverv1.Domain, error) {
	s, unlock, err := d.begin(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	have, err := s.settled(ctx, id)
	if err != nil {
		return nil, err
	}
	if old, ok := have.defined.Mark.Find(dev.Kind, dev.ID); ok && old != dev {
		return nil, fault.New(metav1.Reason_REASON_SPEC_CONFLICT, "domain %s has %s %s with another spec", id, dev.Kind, dev.ID).WithRemedy("detach it first")
	}
	if err := prepare(ctx, s, have); err != nil {
		return nil, err
	}
	for _, side := range have.sides() {
		if !side.has(dev) {
			if err := plug(ctx, s, have, side.modify); err != nil {
				return nil, err
			}
		}
		if old, ok := side.facts.Mark.Find(dev.Kind, dev.ID); !ok || old != dev {
			if err := s.writeMark(ctx, have, side.facts.Mark.With(dev), side.impact); err != nil {
				return nil, err
			}
		}
	}
	if have, err = s.find(ctx, id); err != nil {
		return nil, err
	}
	return have.Domain, nil
}

// remove is the reverse of add. An absent domain or device: OK, with no domain or the one that is there.
func (d *Driver) remove(ctx context.Context, id string, dev mark.Device) (*driverv1.Domain, error) {
	s, unlock, err := d.begin(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	have, err := s.settled(ctx, id)
	if fault.Is(err, metav1.Reason_REASON_DOMAIN_NOT_FOUND) {
		return nil, nil //nolint:nilnil // absent is the answer
	}
	if err != nil {
		return nil, err
	}
	for _, side := range have.sides() {
		if side.modify == libvirt.DomainDeviceModifyLive {
			err = s.unplug(ctx, have, dev)
		} else if side.has(dev) {
			err = s.detach(ctx, have, dev, side.modify)
		}
		if err != nil {
			return nil, err
		}
		if _, ok := side.facts.Mark.Find(dev.Kind, dev.ID); ok {
			if err := s.writeMark(ctx, have, side.facts.Mark.Without(dev.Kind, dev.ID), side.impact); err != nil {
				return nil, err
			}
		}
	}
	if have, err = s.find(ctx, id); err != nil {
		return nil, err
	}
	return have.Domain, nil
}

// side is a domain as it runs, or as it is defined.
type side struct {
	facts  *domainxml.Facts
	modify libvirt.DomainDeviceModifyFlags
	impact libvirt.DomainModificationImpact
}

// sides are where a device has to be: the running domain first, since a guest may refuse.
func (d *domain) sides() (out []side) {
	if d.live != nil && d.live.Mark != nil {
		out = append(out, side{d.live, libvirt.DomainDeviceModifyLive, libvirt.DomainAffectLive})
	}
	return append(out, side{d.defined, libvirt.DomainDeviceModifyConfig, libvirt.DomainAffectConfig})
}

func (s side) has(dev mark.Device) bool {
	_, ok := s.facts.Disk(dev.ID)
	if dev.Kind == mark.Interface {
		_, ok = s.facts.Interface(dev.ID)
	}
	return ok
}

func (s setting) attach(ctx context.Context, have *domain, what, element string, flags libvirt.DomainDeviceModifyFlags) error {
	ctx, cancel := context.WithTimeout(ctx, plugLimit)
	defer cancel()
	_, err := connection.Alone(ctx, s.conn, "attach "+what+" to domain "+have.GetDomainId(), func(l *libvirt.Libvirt) (struct{}, error) {
		return struct{}{}, l.DomainAttachDeviceFlags(have.lv, element, uint32(flags)) //nolint:gosec // small
	})
	if err != nil && strings.Contains(err.Error(), doubleAlias) {
		return fault.New(metav1.Reason_REASON_BUSY, "%w", err).WithRemedy("an earlier call that was given up has just added it: ask again")
	}
	return err
}

func (s setting) detach(ctx context.Context, have *domain, dev mark.Device, flags libvirt.DomainDeviceModifyFlags) error {
	_, err := connection.Alone(ctx, s.conn, "detach "+dev.Kind+" "+dev.ID+" from domain "+have.GetDomainId(), func(l *libvirt.Libvirt) (struct{}, error) {
		return struct{}{}, l.DomainDetachDeviceAlias(have.lv, domainxml.Alias(dev.ID), uint32(flags)) //nolint:gosec // small
	})
	if connection.IsCode(err, libvirt.ErrDeviceMissing) || err != nil && strings.Contains(err.Error(), unplugging) {
		return nil
	}
	return err
}

// unplug asks a running guest to let go of a device and waits until it has.
func (s setting) unplug(ctx context.Context, have *domain, dev mark.Device) error {
	end := time.Now().Add(unplugLimit)
	if deadline, ok := ctx.Deadline(); ok && deadline.Add(-unplugMargin).Before(end) {
		end = deadline.Add(-unplugMargin)
	}
	live := side{facts: have.live}
	if !live.has(dev) {
		if dev.Kind == mark.Interface && !isNew(have.live.Mark, dev) {
			return fault.New(metav1.Reason_REASON_WRONG_STATE, "user-mode network %s cannot be unplugged from running domain %s", dev.ID, have.GetDomainId()).WithRemedy("stop it first")
		}
		return nil
	}
	if err := s.detach(ctx, have, dev, libvirt.DomainDeviceModifyLive); err != nil {
		return err
	}
	for {
		now, err := s.find(ctx, have.GetDomainId())
		if err != nil {
			return err
		}
		if live.facts = now.live; now.live == nil || !live.has(dev) {
			return nil
		}
		if time.Now().After(end) {
			return fault.New(metav1.Reason_REASON_WRONG_STATE, "the guest of domain %s does not let go of %s %s", have.GetDomainId(), dev.Kind, dev.ID).WithRemedy("unmount it in the guest, or stop the domain")
		}
		if err := pause(ctx, pollInterval); err != nil {
			return fault.New(metav1.Reason_REASON_BACKEND_TIMEOUT, "detach %s %s: %w", dev.Kind, dev.ID, err)
		}
	}
}

package driver

import (
	"context"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/connection"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/domainxml"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/mark"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// AttachInterface adds an interface; user-mode networks are part of a definition only.
func (d *Driver) AttachInterface(ctx context.Context, req *driverv1.AttachInterfaceRequest) (*driverv1.AttachInterfaceResponse, error) {
	v := &violations{}
	v.nic("interface", req.GetInterface())
	if req.GetInterface().GetBinding().GetUserMode() != nil {
		v.bad("interface.binding", "a user-mode network cannot be plugged in; update the domain with it")
	}
	d.setting().pluggable(v, "interface", req.GetInterface())
	if err := v.err(); err != nil {
		return nil, err
	}
	fits := func(_ context.Context, _ setting, have *domain) error { return fits(req.GetInterface(), have) }
	out, err := d.add(ctx, req.GetDomainId(), mark.OfInterface(req.GetInterface()), fits, func(ctx context.Context, s setting, have *domain, flags libvirt.DomainDeviceModifyFlags) error {
		return s.plugInterface(ctx, have, req.GetInterface(), flags)
	})
	if err != nil {
		return nil, err
	}
	return &driverv1.AttachInterfaceResponse{Domain: out}, nil
}

// DetachInterface removes an interface.
func (d *Driver) DetachInterface(ctx context.Context, req *driverv1.DetachInterfaceRequest) (*driverv1.DetachInterfaceResponse, error) {
	if !uuid.MatchString(req.GetInterfaceId()) {
		return nil, fault.Invalid(fault.Violation{Field: "interface_id", Description: "must be a UUID in lower case"})
	}
	out, err := d.remove(ctx, req.GetDomainId(), mark.Device{Kind: mark.Interface, ID: req.GetInterfaceId()})
	if err != nil {
		return nil, err
	}
	return &driverv1.DetachInterfaceResponse{Domain: out}, nil
}

// fits finds what is wrong with an interface for a domain that has others already, and virtual CPUs.
func fits(n *driverv1.DomainInterface, have *domain) error {
	v := &violations{}
	v.queues("interface", n, have.defined.VCPUs)
	for _, other := range have.defined.Interfaces {
		if other.ID == n.GetInterfaceId() {
			continue
		}
		if other.MAC == n.GetMac() {
			v.bad("interface.mac", "is that of interface %s", other.ID)
		}
		if _, tap := tapOf(n); tap == other.Target {
			v.bad("interface.binding", "tap %s is that of interface %s", tap, other.ID)
		}
	}
	return v.err()
}

func (s setting) plugInterface(ctx context.Context, have *domain, n *driverv1.DomainInterface, flags libvirt.DomainDeviceModifyFlags) error {
	x, err := domainxml.Interface(n)
	if err != nil {
		return fault.Invalid(fault.Violation{Field: "interface.binding", Description: err.Error()})
	}
	element, err := x.Marshal()
	if err != nil {
		return err
	}
	_, tap := tapOf(n)
	return tapMissing(s.attach(ctx, have, "interface "+n.GetInterfaceId(), element, flags), domainxml.Device{Target: tap})
}

// SetLink sets an interface's link, of the running domain and of its definition.
func (d *Driver) SetLink(ctx context.Context, req *driverv1.SetLinkRequest) (*driverv1.SetLinkResponse, error) {
	_, err := d.change(ctx, req.GetDomainId(), "set link of", func(l *libvirt.Libvirt, have *domain) error {
		for _, side := range have.sides() {
			if !side.has(mark.Device{Kind: mark.Interface, ID: req.GetInterfaceId()}) {
				return fault.New(metav1.Reason_REASON_WRONG_STATE, "domain %s has no interface %s with a link on this node", have.GetDomainId(), req.GetInterfaceId())
			}
		}
		for _, side := range have.sides() {
			if err := setLink(l, have.lv, req.GetInterfaceId(), req.GetUp(), side); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &driverv1.SetLinkResponse{}, nil
}

// setLiveLink sets the link of a running domain as its spec has it.
func (s setting) setLiveLink(ctx context.Context, have *domain, n *driverv1.DomainInterface) error {
	live := side{facts: have.live, modify: libvirt.DomainDeviceModifyLive}
	_, err := connection.Alone(ctx, s.conn, "set link of domain "+have.GetDomainId(), func(l *libvirt.Libvirt) (struct{}, error) {
		return struct{}{}, setLink(l, have.lv, n.GetInterfaceId(), !n.GetLinkDown(), live)
	})
	return err
}

// setLink hands libvirt the interface as it is but for its link: libvirt takes no less.
func setLink(l *libvirt.Libvirt, dom libvirt.Domain, id string, up bool, s side) error {
	var flags libvirt.DomainXMLFlags
	if s.modify == libvirt.DomainDeviceModifyConfig {
		flags = libvirt.DomainXMLInactive
	}
	text, err := l.DomainGetXMLDesc(dom, flags)
	if err != nil {
		return err
	}
	var all libvirtxml.Domain
	if err := all.Unmarshal(text); err != nil {
		return err
	}
	for _, n := range all.Devices.Interfaces {
		if n.Alias == nil || n.Alias.Name != domainxml.Alias(id) {
			continue
		}
		n.Link = &libvirtxml.DomainInterfaceLink{State: "down"}
		if up {
			n.Link.State = "up"
		}
		element, err := n.Marshal()
		if err != nil {
			return err
		}
		return l.DomainUpdateDeviceFlags(dom, element, s.modify)
	}
	return nil // went away meanwhile
}

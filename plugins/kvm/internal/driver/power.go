package driver

import (
	"context"

	"github.com/digitalocean/go-libvirt"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/connection"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// RebootDomain reboots a domain; the process stays.
func (d *Driver) RebootDomain(ctx context.Context, req *driverv1.RebootDomainRequest) (*driverv1.RebootDomainResponse, error) {
	out, err := d.change(ctx, req.GetDomainId(), "reboot", func(l *libvirt.Libvirt, have *domain) error {
		if have.GetState() != driverv1.DomainState_DOMAIN_STATE_RUNNING {
			return fault.New(metav1.Reason_REASON_WRONG_STATE, "domain %s is not running", have.GetDomainId())
		}
		if req.GetForce() {
			return l.DomainReset(have.lv, 0)
		}
		return l.DomainReboot(have.lv, libvirt.DomainRebootAcpiPowerBtn)
	})
	if err != nil {
		return nil, err
	}
	return &driverv1.RebootDomainResponse{Domain: out}, nil
}

// PauseDomain halts the virtual CPUs.
func (d *Driver) PauseDomain(ctx context.Context, req *driverv1.PauseDomainRequest) (*driverv1.PauseDomainResponse, error) {
	out, err := d.change(ctx, req.GetDomainId(), "pause", func(l *libvirt.Libvirt, have *domain) error {
		if have.GetState() == driverv1.DomainState_DOMAIN_STATE_PAUSED {
			return nil
		}
		return l.DomainSuspend(have.lv)
	})
	if err != nil {
		return nil, err
	}
	return &driverv1.PauseDomainResponse{Domain: out}, nil
}

// ResumeDomain lets a paused domain go on.
func (d *Driver) ResumeDomain(ctx context.Context, req *driverv1.ResumeDomainRequest) (*driverv1.ResumeDomainResponse, error) {
	out, err := d.change(ctx, req.GetDomainId(), "resume", func(l *libvirt.Libvirt, have *domain) error {
		if have.GetState() == driverv1.DomainState_DOMAIN_STATE_RUNNING {
			return nil
		}
		return l.DomainResume(have.lv)
	})
	if err != nil {
		return nil, err
	}
	return &driverv1.ResumeDomainResponse{Domain: out}, nil
}

// change runs libvirt calls on a domain of ours and reads it again. They ask QEMU, which may hang: they have a connection of their own.
func (d *Driver) change(ctx context.Context, id, what string, fn func(*libvirt.Libvirt, *domain) error) (*driverv1.Domain, error) {
	s, unlock, err := d.begin(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	have, err := s.settled(ctx, id)
	if err != nil {
		return nil, err
	}
	have, err = connection.Alone(ctx, s.conn, what+" domain "+id, func(l *libvirt.Libvirt) (*domain, error) {
		if err := fn(l, have); err != nil {
			return nil, err
		}
		return s.read(l, have.lv)
	})
	if err != nil {
		return nil, err
	}
	return have.Domain, nil
}

package driver

import (
	"context"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/connection"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	// defaultGrace is how long a graceful stop waits when the request does not say.
	defaultGrace = 30 * time.Second
	// pressInterval is how often the power button is pressed: a guest that boots ignores it.
	pressInterval = 5 * time.Second
	// pressLimit is how long QEMU may take to pass it on.
	pressLimit = 5 * time.Second
)

// StopDomain stops a domain.
func (d *Driver) StopDomain(ctx context.Context, req *driverv1.StopDomainRequest) (*driverv1.StopDomainResponse, error) {
	id := req.GetDomainId()
	s, unlock, err := d.begin(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	have, err := s.find(ctx, id)
	if err == nil && running(have.GetState()) {
		if req.GetForce() {
			err = s.destroy(ctx, have)
		} else {
			grace := defaultGrace
			if g := req.GetGrace(); g != nil {
				grace = g.AsDuration()
			}
			err = s.shutdown(ctx, have, grace)
		}
		if err == nil {
			have, err = s.find(ctx, id)
		}
	}
	if fault.Is(err, metav1.Reason_REASON_DOMAIN_NOT_FOUND) {
		return &driverv1.StopDomainResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	return &driverv1.StopDomainResponse{Domain: have.Domain}, nil
}

// destroy ends a domain's process. Off or gone by now: OK.
func (s setting) destroy(ctx context.Context, have *domain) error {
	_, err := connection.Alone(ctx, s.conn, "stop domain "+have.GetDomainId(), func(l *libvirt.Libvirt) (struct{}, error) {
		return struct{}{}, l.DomainDestroyFlags(have.lv, 0)
	})
	if fault.Is(err, metav1.Reason_REASON_WRONG_STATE) || fault.Is(err, metav1.Reason_REASON_DOMAIN_NOT_FOUND) {
		return nil
	}
	return err
}

// shutdown presses the power button until the guest is off or grace is over.
func (s setting) shutdown(ctx context.Context, have *domain, grace time.Duration) error {
	id, end := have.GetDomainId(), time.Now().Add(grace)
	var pressed time.Time
	for {
		state, err := s.stateNow(ctx, have)
		if err != nil || !running(state) {
			return err
		}
		if now := time.Now(); now.After(end) {
			return fault.New(metav1.Reason_REASON_WRONG_STATE, "the guest of domain %s did not shut down within %s", id, grace).WithRemedy("stop it by force")
		} else if now.Sub(pressed) >= pressInterval {
			pressed = now
			if err := s.press(ctx, have); err != nil {
				return err
			}
		}
		if err := pause(ctx, pollInterval); err != nil {
			return fault.New(metav1.Reason_REASON_BACKEND_TIMEOUT, "stop domain %s: %w", id, err)
		}
	}
}

// press presses the power button. A QEMU that does not take it now may take it later.
func (s setting) press(ctx context.Context, have *domain) error {
	short, cancel := context.WithTimeout(ctx, pressLimit)
	defer cancel()
	_, err := connection.Alone(short, s.conn, "shut down domain "+have.GetDomainId(), func(l *libvirt.Libvirt) (struct{}, error) {
		return struct{}{}, l.DomainShutdownFlags(have.lv, libvirt.DomainShutdownAcpiPowerBtn)
	})
	if fault.Is(err, metav1.Reason_REASON_WRONG_STATE) || fault.Is(err, metav1.Reason_REASON_BACKEND_TIMEOUT) {
		return nil
	}
	return err
}

func (s setting) stateNow(ctx context.Context, have *domain) (driverv1.DomainState, error) {
	return connection.Do(ctx, s.conn, "read state of domain "+have.GetDomainId(), func(l *libvirt.Libvirt) (driverv1.DomainState, error) {
		state, reason, err := l.DomainGetState(have.lv, 0)
		out, _ := s.stateOf(have.GetDomainId(), state, reason)
		return out, err
	})
}

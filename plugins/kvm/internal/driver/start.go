package driver

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/connection"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	// startLimit is how long libvirt may take for a start. It goes on with one whose caller gave up; a repetition waits for that one.
	startLimit = 2 * time.Minute
	// pollInterval is how often a state that is waited for is looked at.
	pollInterval = 200 * time.Millisecond
)

// StartDomain starts a domain.
func (d *Driver) StartDomain(ctx context.Context, req *driverv1.StartDomainRequest) (*driverv1.StartDomainResponse, error) {
	id := req.GetDomainId()
	s, unlock, err := d.begin(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	have, err := s.settled(ctx, id)
	if err != nil {
		return nil, err
	}
	if running(have.GetState()) {
		return &driverv1.StartDomainResponse{Domain: have.Domain}, nil
	}
	if err := s.beforeStart(id, have); err != nil {
		return nil, err
	}
	_, err = connection.Alone(ctx, s.conn, "start domain "+id, func(l *libvirt.Libvirt) (libvirt.Domain, error) {
		return l.DomainCreateWithFlags(have.lv, 0)
	})
	if err != nil && !fault.Is(err, metav1.Reason_REASON_WRONG_STATE) { // WRONG_STATE: it runs by now
		return nil, tapMissing(err, have.defined.Interfaces...)
	}
	if have, err = s.settled(ctx, id); err != nil {
		return nil, err
	}
	return &driverv1.StartDomainResponse{Domain: have.Domain}, nil
}

// beforeStart prepares the host for a domain that does not run.
func (s setting) beforeStart(id string, have *domain) error {
	f := s.files(id)
	dirs := []string{f.Dir}
	if socket := have.defined.ConsoleSocket; socket != "" {
		_ = os.Remove(socket)                     // of an earlier run
		dirs = append(dirs, filepath.Dir(socket)) // went with the last host boot
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fault.New(metav1.Reason_REASON_BACKEND_FAILED, "start domain %s: %w", id, err)
		}
	}
	if err := os.WriteFile(f.Started, []byte(s.host.GetBootId()+"\n"), 0o600); err != nil {
		return fault.New(metav1.Reason_REASON_BACKEND_FAILED, "start domain %s: %w", id, err)
	}
	return nil
}

// settled reads a domain when it is not in the middle of a start.
func (s setting) settled(ctx context.Context, id string) (*domain, error) {
	for {
		have, err := s.find(ctx, id)
		if err != nil || have.GetState() != driverv1.DomainState_DOMAIN_STATE_UNKNOWN {
			return have, err
		}
		if err := pause(ctx, pollInterval); err != nil {
			return nil, fault.New(metav1.Reason_REASON_BACKEND_TIMEOUT, "domain %s is still being started: %w", id, err)
		}
	}
}

// pause waits; it returns early when ctx ends.
func pause(ctx context.Context, t time.Duration) error {
	select {
	case <-time.After(t):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

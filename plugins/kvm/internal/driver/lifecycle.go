package driver

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/domainxml"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/seed"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// CreateDomain defines a domain. Files come first and the definition last: a crash in between leaves files that a repetition writes again.
func (d *Driver) CreateDomain(ctx context.Context, req *driverv1.CreateDomainRequest) (*driverv1.CreateDomainResponse, error) {
	s, id, unlock, err := d.begin(req.GetDomainId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if req.GetMark().GetObjectId() != id || !s.ours(req.GetMark()) {
		return nil, fault.Invalid(fault.Violation{Field: "mark", Description: "must carry this cluster, this node and the domain's id"})
	}
	have, _, err := d.find(ctx, s, id)
	switch {
	case err == nil && have.GetSpecHash() == domainxml.Hash(req.GetSpec()):
		return &driverv1.CreateDomainResponse{Domain: have}, nil
	case err == nil:
		return nil, fault.New(metav1.Reason_REASON_SPEC_CONFLICT, "domain %s exists with another spec", id).WithRemedy("update it")
	case !fault.Is(err, metav1.Reason_REASON_DOMAIN_NOT_FOUND):
		return nil, err
	}
	out, err := d.define(ctx, s, id, req.GetMark(), req.GetSpec())
	if err != nil {
		return nil, err
	}
	return &driverv1.CreateDomainResponse{Domain: out}, nil
}

// UpdateDomain defines a domain anew; a running one takes it at its next start.
func (d *Driver) UpdateDomain(ctx context.Context, req *driverv1.UpdateDomainRequest) (*driverv1.UpdateDomainResponse, error) {
	s, id, unlock, err := d.begin(req.GetDomainId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if !s.ours(req.GetMark()) {
		return nil, fault.Invalid(fault.Violation{Field: "mark", Description: "must carry this cluster and this node"})
	}
	have, _, err := d.find(ctx, s, id)
	if err != nil {
		return nil, err
	}
	out, err := d.define(ctx, s, id, req.GetMark(), req.GetSpec())
	if err != nil {
		return nil, err
	}
	out.RestartRequired = running(have.GetState()) && have.GetSpecHash() != out.GetSpecHash()
	return &driverv1.UpdateDomainResponse{Domain: out}, nil
}

// begin checks the id and takes its lock.
func (d *Driver) begin(id string) (setting, string, func(), error) {
	if err := checkID(id); err != nil {
		return setting{}, "", nil, err
	}
	unlock, err := d.keys.Lock(id)
	return d.setting(), id, unlock, err
}

func (d *Driver) define(ctx context.Context, s setting, id string, m *driverv1.OwnershipMark, spec *driverv1.DomainSpec) (*driverv1.Domain, error) {
	if v := check(spec); len(v) > 0 {
		return nil, fault.Invalid(v...)
	}
	f := s.files(id)
	xml, err := domainxml.Build(id, m, spec, domainxml.Options{
		Accelerator: s.verdict.Accelerator, CPUModel: s.cfg.CPUModel, MachineType: s.cfg.MachineType, Files: f,
	})
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(f.Seed), 0o711); err != nil {
		return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "make domain directory: %w", err)
	}
	if spec.GetCloudInit() != nil {
		if err := seed.Write(f.Seed, spec.GetCloudInit()); err != nil {
			return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "domain %s: %w", id, err)
		}
	}
	var out *driverv1.Domain
	err = s.conn.Do(ctx, "define domain "+id, func(l *libvirt.Libvirt) error {
		dom, err := l.DomainDefineXMLFlags(xml, 0)
		if err != nil {
			return err
		}
		out, err = s.read(l, dom)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// StartDomain starts a domain.
func (d *Driver) StartDomain(ctx context.Context, req *driverv1.StartDomainRequest) (*driverv1.StartDomainResponse, error) {
	s, id, unlock, err := d.begin(req.GetDomainId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	have, dom, err := d.settled(ctx, s, id)
	if err != nil {
		return nil, err
	}
	if !running(have.GetState()) {
		f := s.files(id)
		for _, sock := range []string{f.ConsoleSocket, f.VNCSocket} {
			_ = os.Remove(sock) // of an earlier run; QEMU refuses to bind over it
		}
		_ = os.MkdirAll(filepath.Dir(f.ConsoleSocket), 0o711) // the runtime directory goes with a host boot
		err := s.conn.Do(ctx, "start domain "+id, func(l *libvirt.Libvirt) error {
			_, err := l.DomainCreateWithFlags(dom, 0)
			return err
		})
		if err != nil && !fault.Is(err, metav1.Reason_REASON_WRONG_STATE) { // WRONG_STATE: it runs by now
			return nil, err
		}
		if have, _, err = d.settled(ctx, s, id); err != nil {
			return nil, err
		}
	}
	return &driverv1.StartDomainResponse{Domain: have}, nil
}

// settled reads a domain when it is not in the middle of a start: libvirt goes on with one whose caller gave up.
func (d *Driver) settled(ctx context.Context, s setting, id string) (*driverv1.Domain, libvirt.Domain, error) {
	for {
		have, dom, err := d.find(ctx, s, id)
		if err != nil || have.GetState() != driverv1.DomainState_DOMAIN_STATE_UNKNOWN {
			return have, dom, err
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return nil, dom, fault.New(metav1.Reason_REASON_BACKEND_TIMEOUT, "domain %s is still being started: %w", id, ctx.Err())
		}
	}
}

// defaultGrace is how long a graceful stop waits when the request does not say.
const defaultGrace = 30 * time.Second

// StopDomain stops a domain.
func (d *Driver) StopDomain(ctx context.Context, req *driverv1.StopDomainRequest) (*driverv1.StopDomainResponse, error) {
	s, id, unlock, err := d.begin(req.GetDomainId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	have, dom, err := d.find(ctx, s, id)
	if fault.Is(err, metav1.Reason_REASON_DOMAIN_NOT_FOUND) {
		return &driverv1.StopDomainResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	if running(have.GetState()) {
		if req.GetForce() {
			err = s.destroy(ctx, dom, id)
		} else {
			grace := defaultGrace
			if g := req.GetGrace(); g != nil {
				grace = g.AsDuration()
			}
			err = d.shutdown(ctx, s, dom, id, grace)
		}
		if err != nil {
			return nil, err
		}
		if have, _, err = d.find(ctx, s, id); err != nil {
			return nil, err
		}
	}
	return &driverv1.StopDomainResponse{Domain: have}, nil
}

func (s setting) destroy(ctx context.Context, dom libvirt.Domain, id string) error {
	err := s.conn.Do(ctx, "stop domain "+id, func(l *libvirt.Libvirt) error { return l.DomainDestroyFlags(dom, 0) })
	if fault.Is(err, metav1.Reason_REASON_WRONG_STATE) || fault.Is(err, metav1.Reason_REASON_DOMAIN_NOT_FOUND) {
		return nil // off by now
	}
	return err
}

// pollInterval is how often a graceful stop looks whether the guest is off; asked for again every pressInterval, since a booting guest ignores the button.
const (
	pollInterval  = 200 * time.Millisecond
	pressInterval = 5 * time.Second
)

func (d *Driver) shutdown(ctx context.Context, s setting, dom libvirt.Domain, id string, grace time.Duration) error {
	end := time.Now().Add(grace)
	var pressed time.Time
	for {
		have, _, err := d.find(ctx, s, id)
		if err != nil || !running(have.GetState()) {
			return err
		}
		if now := time.Now(); now.After(end) {
			return fault.New(metav1.Reason_REASON_WRONG_STATE, "the guest of domain %s did not shut down within %s", id, grace).WithRemedy("stop it by force")
		} else if now.Sub(pressed) >= pressInterval {
			pressed = now
			err := s.conn.Do(ctx, "shut down domain "+id, func(l *libvirt.Libvirt) error {
				return l.DomainShutdownFlags(dom, libvirt.DomainShutdownAcpiPowerBtn)
			})
			if err != nil && !fault.Is(err, metav1.Reason_REASON_WRONG_STATE) {
				return err
			}
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return fault.New(metav1.Reason_REASON_BACKEND_TIMEOUT, "stop domain %s: %w", id, ctx.Err())
		}
	}
}

// RebootDomain reboots a domain; the process stays.
func (d *Driver) RebootDomain(ctx context.Context, req *driverv1.RebootDomainRequest) (*driverv1.RebootDomainResponse, error) {
	out, err := d.change(ctx, req.GetDomainId(), "reboot", func(l *libvirt.Libvirt, dom libvirt.Domain, have driverv1.DomainState) error {
		if have != driverv1.DomainState_DOMAIN_STATE_RUNNING {
			return fault.New(metav1.Reason_REASON_WRONG_STATE, "domain is not running")
		}
		if req.GetForce() {
			return l.DomainReset(dom, 0)
		}
		return l.DomainReboot(dom, libvirt.DomainRebootAcpiPowerBtn)
	})
	if err != nil {
		return nil, err
	}
	return &driverv1.RebootDomainResponse{Domain: out}, nil
}

// PauseDomain halts the virtual CPUs.
func (d *Driver) PauseDomain(ctx context.Context, req *driverv1.PauseDomainRequest) (*driverv1.PauseDomainResponse, error) {
	out, err := d.change(ctx, req.GetDomainId(), "pause", func(l *libvirt.Libvirt, dom libvirt.Domain, have driverv1.DomainState) error {
		if have == driverv1.DomainState_DOMAIN_STATE_PAUSED {
			return nil
		}
		return l.DomainSuspend(dom)
	})
	if err != nil {
		return nil, err
	}
	return &driverv1.PauseDomainResponse{Domain: out}, nil
}

// ResumeDomain lets a paused domain go on.
func (d *Driver) ResumeDomain(ctx context.Context, req *driverv1.ResumeDomainRequest) (*driverv1.ResumeDomainResponse, error) {
	out, err := d.change(ctx, req.GetDomainId(), "resume", func(l *libvirt.Libvirt, dom libvirt.Domain, have driverv1.DomainState) error {
		if have == driverv1.DomainState_DOMAIN_STATE_RUNNING {
			return nil
		}
		return l.DomainResume(dom)
	})
	if err != nil {
		return nil, err
	}
	return &driverv1.ResumeDomainResponse{Domain: out}, nil
}

// change runs one libvirt call on a domain of ours and reads it again.
func (d *Driver) change(ctx context.Context, id, what string, fn func(*libvirt.Libvirt, libvirt.Domain, driverv1.DomainState) error) (*driverv1.Domain, error) {
	s, id, unlock, err := d.begin(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	have, dom, err := d.find(ctx, s, id)
	if err != nil {
		return nil, err
	}
	state := have.GetState()
	if err := s.conn.Do(ctx, what+" domain "+id, func(l *libvirt.Libvirt) error { return fn(l, dom, state) }); err != nil {
		return nil, err
	}
	have, _, err = d.find(ctx, s, id)
	return have, err
}

// DeleteDomain removes a domain and the driver's files of it.
func (d *Driver) DeleteDomain(ctx context.Context, req *driverv1.DeleteDomainRequest) (*driverv1.DeleteDomainResponse, error) {
	s, id, unlock, err := d.begin(req.GetDomainId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	have, dom, err := d.find(ctx, s, id)
	if err != nil && !fault.Is(err, metav1.Reason_REASON_DOMAIN_NOT_FOUND) {
		return nil, err
	}
	if err == nil {
		if running(have.GetState()) {
			if err := s.destroy(ctx, dom, id); err != nil {
				return nil, err
			}
		}
		err := s.conn.Do(ctx, "undefine domain "+id, func(l *libvirt.Libvirt) error {
			return l.DomainUndefineFlags(dom, libvirt.DomainUndefineManagedSave|libvirt.DomainUndefineSnapshotsMetadata|libvirt.DomainUndefineNvram|libvirt.DomainUndefineCheckpointsMetadata)
		})
		if err != nil && !fault.Is(err, metav1.Reason_REASON_DOMAIN_NOT_FOUND) {
			return nil, err
		}
	}
	d.consoles.drop(id)
	f := s.files(id)
	_ = os.Remove(f.ConsoleSocket)
	_ = os.Remove(f.VNCSocket)
	if err := os.RemoveAll(filepath.Dir(f.Seed)); err != nil {
		return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "remove files of domain %s: %w", id, err)
	}
	return &driverv1.DeleteDomainResponse{}, nil
}

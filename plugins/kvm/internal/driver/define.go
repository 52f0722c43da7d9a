package driver

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/digitalocean/go-libvirt"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/connection"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/domainxml"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/mark"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/seed"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// begin checks a domain's id and takes its lock.
func (d *Driver) begin(id string) (s setting, unlock func(), err error) {
	if err := checkID(id); err != nil {
		return setting{}, nil, err
	}
	unlock, err = d.keys.Lock(id)
	return d.setting(), unlock, err
}

// checkMark refuses to write a mark that is not this node's.
func (s setting) checkMark(id string, m *driverv1.OwnershipMark) error {
	if m.GetObjectId() != id || m.GetClusterId() != s.host.GetClusterId() || m.GetNodeId() != s.host.GetNodeId() {
		return fault.Invalid(fault.Violation{Field: "mark", Description: "must carry this cluster, this node and the domain's id"})
	}
	return nil
}

// CreateDomain defines a domain. Files come first and the definition last: a crash in between leaves files that a repetition writes again.
func (d *Driver) CreateDomain(ctx context.Context, req *driverv1.CreateDomainRequest) (*driverv1.CreateDomainResponse, error) {
	id, spec := req.GetDomainId(), req.GetSpec()
	s, unlock, err := d.begin(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.checkMark(id, req.GetMark()); err != nil {
		return nil, err
	}
	want := mark.Of(req.GetMark(), spec)
	have, err := s.find(ctx, id)
	switch {
	case err == nil && have.GetSpecHash() == want.Hash():
		if _, err := os.Stat(s.files(id).Seed); errors.Is(err, fs.ErrNotExist) && spec.GetCloudInit() != nil {
			if err := s.writeFiles(id, spec); err != nil { // somebody cleared the state directory
				return nil, err
			}
		}
		if err := s.keepSecrets(ctx, id, spec.GetDisks()...); err != nil { // the key may be another
			return nil, err
		}
		return &driverv1.CreateDomainResponse{Domain: have.Domain}, nil
	case err == nil:
		return nil, fault.New(metav1.Reason_REASON_SPEC_CONFLICT, "domain %s exists with another spec", id).WithRemedy("update it")
	case !fault.Is(err, metav1.Reason_REASON_DOMAIN_NOT_FOUND):
		return nil, err
	}
	if v := s.check(spec); len(v) > 0 {
		return nil, fault.Invalid(v...)
	}
	out, err := d.define(ctx, s, id, want, spec, domainxml.Options{MachineType: s.cfg.MachineType})
	if err != nil {
		return nil, err
	}
	return &driverv1.CreateDomainResponse{Domain: out.Domain}, nil
}

// define writes a domain's files and its definition.
func (d *Driver) define(ctx context.Context, s setting, id string, m mark.Mark, spec *driverv1.DomainSpec, o domainxml.Options) (*domain, error) {
	o.Accelerator, o.CPUModel, o.Files = s.verdict.Accelerator, s.cfg.CPUModel, s.files(id)
	text, err := domainxml.Build(id, m, spec, o)
	if err != nil {
		return nil, err
	}
	if err := s.writeFiles(id, spec); err != nil {
		return nil, err
	}
	if err := s.keepSecrets(ctx, id, spec.GetDisks()...); err != nil {
		return nil, err
	}
	d.owned.add(id)
	// A connection of its own: libvirt may look at QEMU anew first, which takes seconds.
	return connection.Alone(ctx, s.conn, "define domain "+id, func(l *libvirt.Libvirt) (*domain, error) {
		dom, err := l.DomainDefineXMLFlags(text, 0)
		if err != nil {
			return nil, err
		}
		return s.read(l, dom)
	})
}

// writeFiles makes a domain's folder and seed.
func (s setting) writeFiles(id string, spec *driverv1.DomainSpec) error {
	f := s.files(id)
	err := os.MkdirAll(f.Dir, 0o711)
	if err == nil && spec.GetCloudInit() != nil {
		err = seed.Write(f.Seed, spec.GetCloudInit())
	}
	if err != nil {
		return fault.New(metav1.Reason_REASON_BACKEND_FAILED, "write files of domain %s: %w", id, err)
	}
	return nil
}

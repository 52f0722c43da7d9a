package driver

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"slices"

	"github.com/digitalocean/go-libvirt"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/connection"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/domainxml"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/mark"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// UpdateDomain defines a domain anew. A running one takes disks, interfaces and virtual CPUs at once, as far as its guest plays along, and the rest at its next start.
func (d *Driver) UpdateDomain(ctx context.Context, req *driverv1.UpdateDomainRequest) (*driverv1.UpdateDomainResponse, error) {
	id, spec := req.GetDomainId(), req.GetSpec()
	s, unlock, err := d.begin(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.checkMark(id, req.GetMark()); err != nil {
		return nil, err
	}
	if v := s.check(spec); len(v) > 0 {
		return nil, fault.Invalid(v...)
	}
	have, err := s.settled(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := s.keepSecrets(ctx, id, spec.GetDisks()...); err != nil { // the key may be another, which no hash tells
		return nil, err
	}
	want, keyed := mark.Of(req.GetMark(), spec), have.keyed()
	if have.GetSpecHash() != want.Hash() || !proto.Equal(have.GetMark(), req.GetMark()) {
		// The name in libvirt and, unless the spec names one, the machine type stay for a domain's life.
		if have, err = d.define(ctx, s, id, want, spec, domainxml.Options{Name: have.defined.Name, MachineType: have.defined.Machine}); err != nil {
			return nil, err
		}
		if err := os.Remove(s.files(id).Seed); spec.GetCloudInit() == nil && err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fault.New(metav1.Reason_REASON_BACKEND_FAILED, "update domain %s: %w", id, err)
		}
	}
	if have.live != nil && have.live.Mark != nil {
		s.updateLive(ctx, have, want, spec)
		if have, err = s.find(ctx, id); err != nil {
			return nil, err
		}
	}
	for _, id := range keyed { // of disks that are gone for good
		if _, stays := want.Find(mark.Disk, id); !stays && !slices.Contains(have.keyed(), id) {
			if err := s.dropSecrets(ctx, req.GetDomainId(), id); err != nil {
				return nil, err
			}
		}
	}
	return &driverv1.UpdateDomainResponse{Domain: have.Domain}, nil
}

// updateLive brings a running domain as near to its definition as it can get. What fails waits for the next start, and shows in restart_required.
func (s setting) updateLive(ctx context.Context, have *domain, want mark.Mark, spec *driverv1.DomainSpec) {
	now := *have.live.Mark
	try := func(what string, then mark.Mark, err error) {
		if err != nil {
			slog.Warn("change waits for the next start", "domain", have.GetDomainId(), "change", what, "error", err)
			return
		}
		now = then
	}
	for _, dev := range have.live.Mark.Devices {
		if _, stays := want.Find(dev.Kind, dev.ID); !stays {
			try("remove "+dev.Kind+" "+dev.ID, now.Without(dev.Kind, dev.ID), s.unplug(ctx, have, dev))
		}
	}
	for _, disk := range spec.GetDisks() {
		if dev := mark.OfDisk(disk); isNew(&now, dev) {
			try("add disk "+dev.ID, now.With(dev), s.plugDisk(ctx, have, disk, libvirt.DomainDeviceModifyLive))
		}
	}
	for _, disk := range spec.GetDisks() {
		dev := mark.OfDisk(disk)
		then, has := now.Find(dev.Kind, dev.ID)
		if has && then.Limits != dev.Limits {
			then.Limits = dev.Limits
			try("limits of disk "+dev.ID, now.With(then), s.throttle(ctx, have, disk))
		}
	}
	for _, n := range spec.GetInterfaces() {
		if dev := mark.OfInterface(n); isNew(&now, dev) && n.GetBinding().GetUserMode() == nil {
			try("add interface "+dev.ID, now.With(dev), s.plugInterface(ctx, have, n, libvirt.DomainDeviceModifyLive))
		}
	}
	for _, n := range spec.GetInterfaces() {
		dev := mark.OfInterface(n)
		if then, has := now.Find(dev.Kind, dev.ID); has && then == mark.OfOtherLink(n) {
			try("link of interface "+dev.ID, now.With(dev), s.setLiveLink(ctx, have, n))
		}
	}
	if now.VCPUs != want.VCPUs && now.Base == want.Base {
		then := now
		then.VCPUs = want.VCPUs
		_, err := connection.Alone(ctx, s.conn, "set virtual CPUs", func(l *libvirt.Libvirt) (struct{}, error) {
			return struct{}{}, l.DomainSetVcpusFlags(have.lv, uint32(want.VCPUs), uint32(libvirt.DomainVCPULive)) //nolint:gosec // checked
		})
		try("virtual CPUs", then, err)
	}
	now.Generation, now.Epoch, now.Name = want.Generation, want.Epoch, want.Name
	if err := s.writeMark(ctx, have, now, libvirt.DomainAffectLive); err != nil {
		slog.Warn("mark of a running domain", "domain", have.GetDomainId(), "error", err)
	}
}

func isNew(m *mark.Mark, dev mark.Device) bool {
	_, found := m.Find(dev.Kind, dev.ID)
	return !found
}

// writeMark replaces the mark of a domain as it runs or as it is defined.
func (s setting) writeMark(ctx context.Context, have *domain, m mark.Mark, impact libvirt.DomainModificationImpact) error {
	element, err := m.Encode()
	if err != nil {
		return err
	}
	_, err = connection.Alone(ctx, s.conn, "mark domain "+have.GetDomainId(), func(l *libvirt.Libvirt) (struct{}, error) {
		return struct{}{}, l.DomainSetMetadata(have.lv, int32(libvirt.DomainMetadataElement), libvirt.OptString{element},
			libvirt.OptString{mark.Prefix}, libvirt.OptString{mark.Namespace}, impact)
	})
	return err
}

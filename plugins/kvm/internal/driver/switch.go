package driver

import (
	"context"
	"strings"

	"github.com/digitalocean/go-libvirt"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/connection"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/domainxml"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/mark"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// switchFlags: only the disk, in a file that is there already; libvirt keeps no record of its own; all or nothing.
const switchFlags = libvirt.DomainSnapshotCreateDiskOnly | libvirt.DomainSnapshotCreateReuseExt | libvirt.DomainSnapshotCreateNoMetadata | libvirt.DomainSnapshotCreateAtomic

// SwitchDisk makes a running domain, and its definition, use an overlay of a disk's present file.
func (d *Driver) SwitchDisk(ctx context.Context, req *driverv1.SwitchDiskRequest) (*driverv1.SwitchDiskResponse, error) {
	id, file := req.GetDomainId(), req.GetSource().GetFile()
	v := &violations{}
	if !uuid.MatchString(req.GetDiskId()) {
		v.bad("disk_id", "must be a UUID in lower case")
	}
	if file == nil || !v.path("source.file.path", file.GetPath()) || file.GetFormat() != driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2 {
		v.bad("source", "must be a qcow2 file by an absolute path: an overlay of the disk's present file")
	}
	if err := v.err(); err != nil {
		return nil, err
	}
	s, unlock, err := d.begin(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	have, err := s.settled(ctx, id)
	if err != nil {
		return nil, err
	}
	old, ok := have.defined.Mark.Find(mark.Disk, req.GetDiskId())
	if !ok {
		return nil, fault.New(metav1.Reason_REASON_VOLUME_NOT_FOUND, "domain %s has no disk %s", id, req.GetDiskId())
	}
	if have.live == nil {
		return nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "domain %s does not run: nothing has the disk open", id).WithRemedy("define it with the new source")
	}
	dev, ok := have.live.Disk(req.GetDiskId())
	if !ok {
		return nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "disk %s of domain %s waits for the next start", req.GetDiskId(), id).WithRemedy("stop the domain")
	}
	if dev.Source != file.GetPath() {
		text, err := domainxml.Switch(dev.Target, have.live.Targets, file.GetPath())
		if err != nil {
			return nil, err
		}
		_, err = connection.Alone(ctx, s.conn, "switch disk "+req.GetDiskId()+" of domain "+id, func(l *libvirt.Libvirt) (libvirt.DomainSnapshot, error) {
			return l.DomainSnapshotCreateXML(have.lv, text, uint32(switchFlags))
		})
		if err != nil {
			err = s.switched(ctx, have.GetDomainId(), req.GetDiskId(), file.GetPath(), err)
		}
		if err != nil {
			return nil, err
		}
	}
	now := old
	now.Source = mark.OfSource(req.GetSource())
	for _, side := range have.sides() {
		if was, ok := side.facts.Mark.Find(now.Kind, now.ID); ok && was != now {
			was.Source = now.Source
			if err := s.writeMark(ctx, have, side.facts.Mark.With(was), side.impact); err != nil {
				return nil, err
			}
		}
	}
	if have, err = s.find(ctx, id); err != nil {
		return nil, err
	}
	return &driverv1.SwitchDiskResponse{Domain: have.Domain}, nil
}

// locked is what QEMU says of an overlay that it has open already.
const locked = `Failed to get "write" lock`

// switched looks whether a switch that failed was done all the same: an earlier call that was given up may have come first.
func (s setting) switched(ctx context.Context, domain, disk, path string, cause error) error {
	if !strings.Contains(cause.Error(), locked) {
		return cause
	}
	now, err := s.find(ctx, domain)
	if err != nil {
		return cause
	}
	if now.live != nil {
		if dev, ok := now.live.Disk(disk); ok && dev.Source == path {
			return nil
		}
	}
	return fault.New(metav1.Reason_REASON_BUSY, "%w", cause).WithRemedy("an earlier call that was given up is switching it: ask again")
}

package driver

import (
	"context"
	"maps"

	"github.com/digitalocean/go-libvirt"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/domainxml"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/mark"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// AttachDisk adds a disk.
func (d *Driver) AttachDisk(ctx context.Context, req *driverv1.AttachDiskRequest) (*driverv1.AttachDiskResponse, error) {
	v := &violations{}
	v.disk("disk", req.GetDisk())
	if err := v.err(); err != nil {
		return nil, err
	}
	keys := func(ctx context.Context, s setting, _ *domain) error {
		return s.keepSecrets(ctx, req.GetDomainId(), req.GetDisk())
	}
	out, err := d.add(ctx, req.GetDomainId(), mark.OfDisk(req.GetDisk()), keys, func(ctx context.Context, s setting, have *domain, flags libvirt.DomainDeviceModifyFlags) error {
		return s.plugDisk(ctx, have, req.GetDisk(), flags)
	})
	if err != nil {
		return nil, err
	}
	return &driverv1.AttachDiskResponse{Domain: out}, nil
}

// DetachDisk removes a disk.
func (d *Driver) DetachDisk(ctx context.Context, req *driverv1.DetachDiskRequest) (*driverv1.DetachDiskResponse, error) {
	if !uuid.MatchString(req.GetDiskId()) {
		return nil, fault.Invalid(fault.Violation{Field: "disk_id", Description: "must be a UUID in lower case"})
	}
	out, err := d.remove(ctx, req.GetDomainId(), mark.Device{Kind: mark.Disk, ID: req.GetDiskId()})
	if err == nil {
		err = d.setting().dropSecrets(ctx, req.GetDomainId(), req.GetDiskId())
	}
	if err != nil {
		return nil, err
	}
	return &driverv1.DetachDiskResponse{Domain: out}, nil
}

// plugDisk adds a disk at a target that is free in the running domain and in its definition.
func (s setting) plugDisk(ctx context.Context, have *domain, disk *driverv1.DomainDisk, flags libvirt.DomainDeviceModifyFlags) error {
	used := maps.Clone(have.defined.Targets)
	if have.live != nil {
		maps.Copy(used, have.live.Targets)
		if disk.GetBus() == driverv1.DiskBus_DISK_BUS_SCSI && !have.live.SCSI && flags == libvirt.DomainDeviceModifyLive {
			return fault.New(metav1.Reason_REASON_WRONG_STATE, "domain %s runs without a SCSI controller", have.GetDomainId()).WithRemedy("use bus virtio, or add the disk while it is stopped")
		}
	}
	target := domainxml.FreeTarget(disk.GetBus(), used)
	for _, f := range []*domainxml.Facts{have.live, have.defined} { // where it is already
		if f != nil {
			if dev, ok := f.Disk(disk.GetDiskId()); ok {
				target = dev.Target
			}
		}
	}
	x, err := domainxml.Disk(have.GetDomainId(), disk, target)
	if err != nil {
		return fault.Invalid(fault.Violation{Field: "disk.source", Description: err.Error()})
	}
	if flags == libvirt.DomainDeviceModifyConfig && !have.defined.Kernel {
		domainxml.BootFrom(x, disk.GetBootOrder())
	}
	element, err := x.Marshal()
	if err != nil {
		return err
	}
	if err := s.attach(ctx, have, "disk "+disk.GetDiskId(), element, flags); err != nil {
		return err
	}
	now := have.defined
	if flags == libvirt.DomainDeviceModifyLive {
		now = have.live
	}
	now.Disks, now.Targets[target] = append(now.Disks, domainxml.Device{ID: disk.GetDiskId(), Target: target}), true // the same in the definition
	return nil
}

// ResizeDisk tells a running guest that a disk has grown.
func (d *Driver) ResizeDisk(ctx context.Context, req *driverv1.ResizeDiskRequest) (*driverv1.ResizeDiskResponse, error) {
	if req.GetSizeBytes() <= 0 || req.GetSizeBytes()%512 != 0 {
		return nil, fault.Invalid(fault.Violation{Field: "size_bytes", Description: "must be a positive multiple of 512"})
	}
	_, err := d.change(ctx, req.GetDomainId(), "resize disk of", func(l *libvirt.Libvirt, have *domain) error {
		if _, ok := have.defined.Disk(req.GetDiskId()); !ok {
			return fault.New(metav1.Reason_REASON_VOLUME_NOT_FOUND, "domain %s has no disk %s", have.GetDomainId(), req.GetDiskId())
		}
		if have.live == nil {
			return nil
		}
		dev, ok := have.live.Disk(req.GetDiskId())
		if !ok {
			return nil // from the next start on
		}
		err := l.DomainBlockResize(have.lv, dev.Target, uint64(req.GetSizeBytes()), libvirt.DomainBlockResizeBytes) //nolint:gosec // checked
		if err != nil && dev.Protocol == "nbd" {
			return fault.New(metav1.Reason_REASON_WRONG_STATE, "disk %s of running domain %s is an NBD export, whose size is learned when it is attached: %w", req.GetDiskId(), have.GetDomainId(), err).
				WithRemedy("detach and attach it, or stop and start the domain")
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &driverv1.ResizeDiskResponse{}, nil
}

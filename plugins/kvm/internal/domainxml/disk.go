package domainxml

import (
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// aliasPrefix is what libvirt wants before a name of ours for a device.
const aliasPrefix = "ua-"

// Alias is the name by which libvirt knows a disk or interface of ours.
func Alias(id string) string { return aliasPrefix + id }

func disks(d *libvirtxml.Domain, spec *driverv1.DomainSpec, machine string, f Files) error {
	used := map[string]bool{}
	for i, disk := range spec.GetDisks() {
		x, err := Disk(d.UUID, disk, FreeTarget(disk.GetBus(), used))
		if err != nil {
			return fault.Invalid(fault.Violation{Field: fmt.Sprintf("spec.disks[%d].source", i), Description: err.Error()})
		}
		if spec.GetBoot().GetKernelPath() == "" {
			BootFrom(x, disk.GetBootOrder())
		}
		used[x.Target.Dev] = true
		d.Devices.Disks = append(d.Devices.Disks, *x)
	}
	if spec.GetCloudInit() == nil {
		return nil
	}
	bus, prefix := "sata", "sd"
	if !express(machine) {
		bus, prefix = "ide", "hd"
	}
	d.Devices.Disks = append(d.Devices.Disks, libvirtxml.DomainDisk{
		Device: "cdrom", Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "raw"}, ReadOnly: &libvirtxml.DomainDiskReadOnly{},
		Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: f.Seed}},
		Target: &libvirtxml.DomainDiskTarget{Dev: free(prefix, used), Bus: bus},
	})
	return nil
}

// BootFrom gives a disk its place in the order in which a domain without a kernel of its own tries disks; 0 = it is not tried.
func BootFrom(x *libvirtxml.DomainDisk, order int32) {
	if order > 0 {
		x.Boot = &libvirtxml.DomainDeviceBoot{Order: uint(order)}
	}
}

// Disk makes the element of one disk of a domain at a target, for example "vda". Its error says which sources can be used.
func Disk(domain string, disk *driverv1.DomainDisk, target string) (*libvirtxml.DomainDisk, error) {
	bus, _ := busOf(disk.GetBus())
	x := &libvirtxml.DomainDisk{
		Device: "disk", Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "raw"}, Target: &libvirtxml.DomainDiskTarget{Dev: target, Bus: bus},
		Alias: &libvirtxml.DomainAlias{Name: Alias(disk.GetDiskId())}, Serial: firstOf(disk.GetSerial(), strings.ReplaceAll(disk.GetDiskId(), "-", "")),
	}
	if len(x.Serial) > 20 {
		x.Serial = x.Serial[:20]
	}
	switch s := disk.GetSource().GetSource().(type) {
	case *driverv1.DiskSource_File:
		x.Source = &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: s.File.GetPath()}}
		if s.File.GetFormat() == driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2 {
			x.Driver.Type = "qcow2"
		}
	case *driverv1.DiskSource_BlockDevice:
		x.Source = &libvirtxml.DomainDiskSource{Block: &libvirtxml.DomainDiskSourceBlock{Dev: s.BlockDevice.GetPath()}}
		x.Driver.Cache, x.Driver.IO = "none", "native"
	case *driverv1.DiskSource_Rbd:
		if err := rbd(x, s.Rbd, domain, disk.GetDiskId()); err != nil {
			return nil, err
		}
	case *driverv1.DiskSource_Nbd:
		if err := nbd(x, s.Nbd); err != nil {
			return nil, err
		}
	default:
		return nil, errSource
	}
	if disk.GetDiscard() { // Zeros that are written stay written (no detect_zeroes): a guest that wants its room reserved may write them, and looking for them costs time.
		x.Driver.Discard = "unmap"
	}
	if disk.GetReadOnly() {
		x.ReadOnly = &libvirtxml.DomainDiskReadOnly{}
	}
	if disk.GetShared() {
		x.Shareable = &libvirtxml.DomainDiskShareable{}
		x.Driver.Cache = "none" // what one writes the others read at once
	}
	if l := disk.GetLimits(); l.GetIops() > 0 || l.GetBytesPerSecond() > 0 {
		x.IOTune = &libvirtxml.DomainDiskIOTune{TotalIopsSec: uint64(l.GetIops()), TotalBytesSec: uint64(l.GetBytesPerSecond())} //nolint:gosec // checked
	}
	return x, nil
}

type sourceError string

func (e sourceError) Error() string { return string(e) }

const errSource = sourceError("this driver takes files, block devices, RBD images and NBD exports")

func busOf(b driverv1.DiskBus) (bus, prefix string) {
	switch b {
	case driverv1.DiskBus_DISK_BUS_SCSI:
		return "scsi", "sd"
	case driverv1.DiskBus_DISK_BUS_SATA:
		return "sata", "sd"
	}
	return "virtio", "vd"
}

// FreeTarget is the first target on a bus that is not used.
func FreeTarget(b driverv1.DiskBus, used map[string]bool) string {
	_, prefix := busOf(b)
	return free(prefix, used)
}

func free(prefix string, used map[string]bool) string {
	for n := 0; ; n++ {
		if t := prefix + letters(n); !used[t] {
			return t
		}
	}
}

func letters(n int) string {
	if n < 26 {
		return string(rune('a' + n))
	}
	return letters(n/26-1) + string(rune('a'+n%26))
}

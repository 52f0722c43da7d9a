package domainxml

import (
	"maps"
	"slices"

	"libvirt.org/go/libvirtxml"
)

// Switch makes the description by which libvirt switches the disk at one target to an overlay that is there, and leaves the disks at all other targets alone.
func Switch(target string, targets map[string]bool, overlay string) (string, error) {
	x := libvirtxml.DomainSnapshot{Disks: &libvirtxml.DomainSnapshotDisks{}}
	for _, t := range slices.Sorted(maps.Keys(targets)) {
		disk := libvirtxml.DomainSnapshotDisk{Name: t, Snapshot: "no"}
		if t == target {
			disk.Snapshot = "external"
			disk.Driver = &libvirtxml.DomainDiskDriver{Type: "qcow2"}
			disk.Source = &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: overlay}}
		}
		x.Disks.Disks = append(x.Disks.Disks, disk)
	}
	return x.Marshal()
}

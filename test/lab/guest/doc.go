// Package guest runs tests' backends in a virtual machine of their own: a Debian with Debian's kernel, for what the machine that tests cannot do itself
// (device-mapper, NFS mounts, the kernel's Open vSwitch). It is booted once, its memory is saved, and every [Start] resumes it in about a second.
//
//	g := guest.Start(t, guest.Options{Disks: []int64{1 << 30}})
//	out, err := g.Run(ctx, "pvcreate", "-y", g.Disk(0))
//
// In the guest, Options.Share is /host. No udevd, no systemd, no network but loopback runs there; modules for LVM, NFS, bridges, VLANs and Open vSwitch
// are loaded or can be. The image is never written: what a guest changes is in its memory and gone with it.
//
// A plugin runs there unchanged: [Guest.Plugin] makes a plugin directory on the host whose binary stands for the one in the guest, so that sdk/host and
// sdk/conformance start, drive and kill it as any other.
package guest

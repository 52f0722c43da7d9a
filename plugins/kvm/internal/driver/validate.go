package driver

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

var (
	machineType  = regexp.MustCompile(`^(pc|q35|pc-(q35|i440fx)-[0-9]+(\.[0-9]+)+)$`)
	plainWord    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	feature      = regexp.MustCompile(`^[+-][a-z0-9][a-z0-9._-]{0,63}$`)
	serialNumber = regexp.MustCompile(`^[A-Za-z0-9_-]{0,20}$`)
	deviceName   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$`)
)

const (
	machineWanted = `must be "q35", "pc" or one of their versions, for example "pc-q35-7.2"`
	vcpusMost     = 255
)

// ValidateDomain says what is wrong with a spec, without any effect.
func (d *Driver) ValidateDomain(_ context.Context, req *driverv1.ValidateDomainRequest) (*driverv1.ValidateDomainResponse, error) {
	out := &driverv1.ValidateDomainResponse{}
	if !uuid.MatchString(req.GetDomainId()) {
		out.Violations = append(out.Violations, &driverv1.FieldViolation{Field: "domain_id", Description: "must be a UUID in lower case"})
	}
	for _, v := range d.setting().check(req.GetSpec()) {
		out.Violations = append(out.Violations, &driverv1.FieldViolation{Field: v.Field, Description: v.Description})
	}
	return out, nil
}

// violations collects what is wrong with a request.
type violations struct{ list []fault.Violation }

func (v *violations) bad(field, format string, args ...any) {
	v.list = append(v.list, fault.Violation{Field: field, Description: fmt.Sprintf(format, args...)})
}

func (v *violations) err() error {
	if len(v.list) == 0 {
		return nil
	}
	return fault.Invalid(v.list...)
}

// check finds what is wrong with a spec on this node.
func (s setting) check(spec *driverv1.DomainSpec) []fault.Violation {
	v := &violations{}
	if spec == nil {
		v.bad("spec", "is required")
		return v.list
	}
	v.cpu(spec.GetCpu())
	if m := firstOf(spec.GetCpu().GetModel(), s.cfg.CPUModel); m == "host-passthrough" && s.verdict.Accelerator == "tcg" {
		v.bad("spec.cpu.model", "host-passthrough needs KVM; this node emulates: %s", s.verdict.Reason)
	}
	if m := spec.GetMemoryBytes(); m < 1<<20 || m%(1<<20) != 0 {
		v.bad("spec.memory_bytes", "must be a multiple of 1 MiB")
	}
	if m := spec.GetMaxMemoryBytes(); m != 0 && m != spec.GetMemoryBytes() {
		v.bad("spec.max_memory_bytes", "memory hotplug is not offered by this driver")
	}
	if m := spec.GetMachineType(); m != "" && !machineType.MatchString(m) {
		v.bad("spec.machine_type", machineWanted)
	}
	v.boot(spec.GetBoot())
	if f := spec.GetBoot().GetFirmware(); f == driverv1.Firmware_FIRMWARE_UEFI && !s.uefi {
		v.bad("spec.boot.firmware", "this node has no UEFI firmware; install the package ovmf")
	}
	v.devices(spec)
	for i, n := range spec.GetInterfaces() {
		s.pluggable(v, fmt.Sprintf("spec.interfaces[%d]", i), n)
	}
	return v.list
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (v *violations) cpu(c *driverv1.DomainCpu) {
	most := max(c.GetVcpus(), c.GetMaxVcpus())
	if c.GetVcpus() < 1 || c.GetVcpus() > vcpusMost {
		v.bad("spec.cpu.vcpus", "must be 1 to %d", vcpusMost)
	}
	if m := c.GetMaxVcpus(); m != 0 && (m < c.GetVcpus() || m > vcpusMost) {
		v.bad("spec.cpu.max_vcpus", "must be vcpus to %d, or 0", vcpusMost)
	}
	sockets, cores, threads := int64(c.GetSockets()), int64(c.GetCores()), int64(c.GetThreads())
	if sockets != 0 || cores != 0 || threads != 0 {
		if min(sockets, cores, threads) < 1 || max(sockets, cores, threads) > vcpusMost || sockets*cores*threads != int64(most) {
			v.bad("spec.cpu", "sockets x cores x threads must equal max_vcpus")
		}
	}
	if m := c.GetModel(); m != "" && !plainWord.MatchString(m) {
		v.bad("spec.cpu.model", `must be "host-passthrough", "host-model" or a model of QEMU`)
	}
	for i, f := range c.GetFeatures() {
		if !feature.MatchString(f) {
			v.bad(fmt.Sprintf("spec.cpu.features[%d]", i), `must be "+" or "-" and the name of a CPU feature`)
		}
	}
}

func (v *violations) boot(b *driverv1.DomainBoot) {
	for _, f := range []struct{ field, path string }{{"spec.boot.kernel_path", b.GetKernelPath()}, {"spec.boot.initrd_path", b.GetInitrdPath()}} {
		if f.path == "" {
			continue
		}
		if !v.path(f.field, f.path) {
			continue
		}
		if _, err := os.Stat(f.path); err != nil {
			v.bad(f.field, "cannot be read: %v", err)
		}
	}
	if b.GetKernelPath() == "" && (b.GetInitrdPath() != "" || b.GetCmdline() != "") {
		v.bad("spec.boot.kernel_path", "is required with initrd_path or cmdline")
	}
	if strings.ContainsFunc(b.GetCmdline(), control) {
		v.bad("spec.boot.cmdline", "must hold no control characters")
	}
}

func control(r rune) bool { return r < ' ' || r == 0x7f }

func (v *violations) path(field, path string) bool {
	if !filepath.IsAbs(path) || strings.ContainsFunc(path, control) {
		v.bad(field, "must be an absolute path")
		return false
	}
	return true
}

// devices checks disks and interfaces, each and together.
func (v *violations) devices(spec *driverv1.DomainSpec) {
	ids, orders := map[string]bool{}, map[int32]bool{}
	for i, disk := range spec.GetDisks() {
		field := fmt.Sprintf("spec.disks[%d]", i)
		v.disk(field, disk)
		if ids[disk.GetDiskId()] {
			v.bad(field+".disk_id", "is used twice")
		}
		if o := disk.GetBootOrder(); o > 0 && orders[o] {
			v.bad(field+".boot_order", "is used twice")
		}
		ids[disk.GetDiskId()], orders[disk.GetBootOrder()] = true, true
	}
	v.nics(spec)
}

func (v *violations) disk(field string, d *driverv1.DomainDisk) {
	if !uuid.MatchString(d.GetDiskId()) {
		v.bad(field+".disk_id", "must be a UUID in lower case")
	}
	if !serialNumber.MatchString(d.GetSerial()) {
		v.bad(field+".serial", "must have at most 20 of A-Z a-z 0-9 '-' '_'")
	}
	if d.GetBootOrder() < 0 {
		v.bad(field+".boot_order", "must not be negative")
	}
	if _, known := driverv1.DiskBus_name[int32(d.GetBus())]; !known {
		v.bad(field+".bus", "is unknown")
	}
	if l := d.GetLimits(); l.GetIops() < 0 || l.GetBytesPerSecond() < 0 {
		v.bad(field+".limits", "must not be negative")
	}
	switch s := d.GetSource().GetSource().(type) {
	case *driverv1.DiskSource_File:
		v.path(field+".source.file.path", s.File.GetPath())
		if f := s.File.GetFormat(); f != driverv1.VolumeFormat_VOLUME_FORMAT_RAW && f != driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2 {
			v.bad(field+".source.file.format", "must be RAW or QCOW2: formats are never guessed")
		}
		if d.GetShared() && !d.GetReadOnly() && s.File.GetFormat() == driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2 {
			v.bad(field+".shared", "a qcow2 file has one writer; use RAW")
		}
	case *driverv1.DiskSource_BlockDevice:
		v.path(field+".source.block_device.path", s.BlockDevice.GetPath())
	case *driverv1.DiskSource_Rbd:
		v.rbd(field+".source.rbd", s.Rbd)
	case *driverv1.DiskSource_Nbd:
		if path := s.Nbd.GetSocketPath(); path != "" {
			v.path(field+".source.nbd.socket_path", path)
		} else if _, _, err := net.SplitHostPort(s.Nbd.GetAddress()); err != nil {
			v.bad(field+".source.nbd.address", "must be host:port, or socket_path an absolute path")
		}
		if strings.ContainsFunc(s.Nbd.GetExportName(), control) {
			v.bad(field+".source.nbd.export_name", "must not hold control characters")
		}
	default:
		v.bad(field+".source", "this driver takes files, block devices, RBD images and NBD exports")
	}
}

// cephName is what pools, namespaces, images and users may be named: nothing that QEMU or libvirt read as more than a name.
var cephName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

func (v *violations) rbd(field string, s *driverv1.RbdSource) {
	if len(s.GetMonitors()) == 0 {
		v.bad(field+".monitors", "must name at least one")
	}
	for i, m := range s.GetMonitors() {
		if _, _, err := net.SplitHostPort(m); err != nil || strings.ContainsFunc(m, control) {
			v.bad(fmt.Sprintf("%s.monitors[%d]", field, i), "must be host:port")
		}
	}
	for name, text := range map[string]string{"pool": s.GetPool(), "image": s.GetImage(), "namespace": s.GetNamespace(), "user": s.GetUser()} {
		if !cephName.MatchString(text) && (text != "" || name == "pool" || name == "image") {
			v.bad(field+"."+name, "must be letters, digits, '.', '_' and '-', beginning with a letter or digit")
		}
	}
	if s.GetKey() != "" && s.GetUser() == "" {
		v.bad(field+".user", "is required with a key")
	}
	if _, err := base64.StdEncoding.DecodeString(s.GetKey()); err != nil {
		v.bad(field+".key", "must be base64, as Ceph prints it")
	}
}

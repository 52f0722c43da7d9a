// Package domainxml turns a domain's spec into libvirt XML, and reads from XML what the driver needs to know. Pure: no libvirt connection.
package domainxml

import (
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/mark"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// Emulator is the QEMU that domains run.
const Emulator = "/usr/bin/qemu-system-x86_64"

// agentChannel is the channel that the agent inside a guest listens on.
const agentChannel = "org.qemu.guest_agent.0"

// Options are what the node adds to a spec.
type Options struct {
	Name        string // in libvirt; "" = a new one
	Accelerator string // "kvm" or "tcg"
	CPUModel    string // when the spec names none; "" = the accelerator's default
	MachineType string // when the spec names none; "" = "q35"
	Files       Files
}

// Build makes a domain's definition.
func Build(id string, m mark.Mark, spec *driverv1.DomainSpec, o Options) (string, error) {
	element, err := m.Encode()
	if err != nil {
		return "", err
	}
	machine := firstOf(spec.GetMachineType(), o.MachineType, "q35")
	vcpus, most := spec.GetCpu().GetVcpus(), max(spec.GetCpu().GetVcpus(), spec.GetCpu().GetMaxVcpus(), 1)
	d := &libvirtxml.Domain{
		Type: "kvm", UUID: id, Name: firstOf(o.Name, Name(id, spec.GetName())), Metadata: &libvirtxml.DomainMetadata{XML: element},
		Memory:   &libvirtxml.DomainMemory{Value: uint(spec.GetMemoryBytes() >> 10), Unit: "KiB"}, //nolint:gosec // checked
		VCPU:     &libvirtxml.DomainVCPU{Placement: "static", Value: uint(most)},
		OS:       &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Arch: "x86_64", Machine: machine, Type: "hvm"}},
		Features: &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{}, APIC: &libvirtxml.DomainFeatureAPIC{}},
		Clock:    &libvirtxml.DomainClock{Offset: "utc"}, OnPoweroff: "destroy", OnReboot: "restart", OnCrash: "destroy",
		Devices: &libvirtxml.DomainDeviceList{
			Emulator:   Emulator,
			MemBalloon: &libvirtxml.DomainMemBalloon{Model: "virtio", Stats: &libvirtxml.DomainMemBalloonStats{Period: 10}},
			RNGs:       []libvirtxml.DomainRNG{{Model: "virtio", Backend: &libvirtxml.DomainRNGBackend{Random: &libvirtxml.DomainRNGBackendRandom{Device: "/dev/urandom"}}}},
		},
	}
	if vcpus < most {
		d.VCPU.Current = uint(vcpus)
	}
	if o.Accelerator == "tcg" {
		d.Type = "qemu"
	}
	d.CPU = cpu(spec.GetCpu(), o)
	boot(d, spec.GetBoot())
	if err := disks(d, spec, machine, o.Files); err != nil {
		return "", err
	}
	if err := interfaces(d, spec.GetInterfaces(), machine); err != nil {
		return "", err
	}
	channels(d, spec, o.Files)
	controllers(d, machine)
	out, err := d.Marshal()
	if err != nil {
		return "", fmt.Errorf("encode domain: %w", err)
	}
	return out, nil
}

func cpu(c *driverv1.DomainCpu, o Options) *libvirtxml.DomainCPU {
	out := &libvirtxml.DomainCPU{}
	switch model := firstOf(c.GetModel(), o.CPUModel); {
	case model == "host-passthrough" || model == "host-model":
		out.Mode = model
	case model != "":
		out.Mode, out.Match, out.Model = "custom", "exact", &libvirtxml.DomainCPUModel{Value: model, Fallback: "forbid"}
	case o.Accelerator == "tcg":
		out.Mode, out.Match, out.Model = "custom", "exact", &libvirtxml.DomainCPUModel{Value: "qemu64", Fallback: "allow"}
	default:
		out.Mode = "host-model"
	}
	if c.GetSockets() > 0 {
		out.Topology = &libvirtxml.DomainCPUTopology{Sockets: int(c.GetSockets()), Cores: int(c.GetCores()), Threads: int(c.GetThreads())}
	}
	for _, f := range c.GetFeatures() {
		policy := "require"
		if strings.HasPrefix(f, "-") {
			policy = "disable"
		}
		out.Features = append(out.Features, libvirtxml.DomainCPUFeature{Policy: policy, Name: strings.TrimLeft(f, "+-")})
	}
	return out
}

func boot(d *libvirtxml.Domain, b *driverv1.DomainBoot) {
	d.OS.Kernel, d.OS.Initrd, d.OS.Cmdline = b.GetKernelPath(), b.GetInitrdPath(), b.GetCmdline()
	if b.GetFirmware() == driverv1.Firmware_FIRMWARE_UEFI {
		d.OS.Firmware = "efi"
		d.OS.FirmwareInfo = &libvirtxml.DomainOSFirmwareInfo{Features: []libvirtxml.DomainOSFirmwareFeature{
			{Enabled: "no", Name: "secure-boot"}, {Enabled: "no", Name: "enrolled-keys"},
		}}
	}
}

// channels adds console, guest agent and VNC.
func channels(d *libvirtxml.Domain, spec *driverv1.DomainSpec, f Files) {
	if spec.GetSerialConsole() {
		zero := uint(0)
		d.Devices.Serials = []libvirtxml.DomainSerial{{
			Source: &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{Mode: "bind", Path: f.ConsoleSocket}},
			Target: &libvirtxml.DomainSerialTarget{Port: &zero}, Log: &libvirtxml.DomainChardevLog{File: f.ConsoleLog, Append: "on"},
		}}
	}
	if spec.GetGuestAgent() {
		d.Devices.Channels = []libvirtxml.DomainChannel{{
			Source: &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{Mode: "bind"}},
			Target: &libvirtxml.DomainChannelTarget{VirtIO: &libvirtxml.DomainChannelTargetVirtIO{Name: agentChannel}},
		}}
	}
	if spec.GetVnc() {
		// QEMU itself makes this socket, as a user that may write in libvirt's own folder of the domain only.
		d.Devices.Graphics = []libvirtxml.DomainGraphic{{VNC: &libvirtxml.DomainGraphicVNC{
			Listeners: []libvirtxml.DomainGraphicListener{{Socket: &libvirtxml.DomainGraphicListenerSocket{}}},
		}}}
		d.Devices.Videos = []libvirtxml.DomainVideo{{Model: libvirtxml.DomainVideoModel{Type: "vga"}}}
	}
}

// spareSlots is how many devices can be plugged into a running PCI Express guest.
const spareSlots = 4

// controllers adds what libvirt would choose otherwise, or not at all: the SCSI controller, and on PCI Express a port for each device and some to spare.
func controllers(d *libvirtxml.Domain, machine string) {
	devices, scsi := 3, false // balloon, random numbers, USB controller
	for _, disk := range d.Devices.Disks {
		switch disk.Target.Bus {
		case "virtio":
			devices++
		case "scsi":
			scsi = true
		}
	}
	if scsi {
		devices++
		zero := uint(0)
		d.Devices.Controllers = append(d.Devices.Controllers, libvirtxml.DomainController{Type: "scsi", Index: &zero, Model: "virtio-scsi"})
	}
	devices += len(d.Devices.Interfaces) + len(d.Devices.Channels)
	if !express(machine) {
		return
	}
	for i := range devices + spareSlots {
		index := uint(i + 1) //nolint:gosec // small
		d.Devices.Controllers = append(d.Devices.Controllers, libvirtxml.DomainController{Type: "pci", Index: &index, Model: "pcie-root-port"})
	}
}

// express reports whether a machine has PCI Express.
func express(machine string) bool { return machine == "q35" || strings.HasPrefix(machine, "pc-q35-") }

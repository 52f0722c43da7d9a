// Package domainxml turns a domain's spec into libvirt XML and back into what is known of it. Pure: no libvirt connection.
package domainxml

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"google.golang.org/protobuf/proto"
	"libvirt.org/go/libvirtxml"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

// Namespace of our mark in a domain's metadata.
const Namespace = "https://limiquantix.io/xmlns/mark/1"

// Options are what the node adds to a spec.
type Options struct {
	Accelerator string // "kvm" or "tcg"
	CPUModel    string // when the spec names none; "" = the accelerator's default
	MachineType string // when the spec names none; "" = "q35"
	Files       Files
}

// Files are the driver's own files of a domain.
type Files struct {
	ConsoleSocket, ConsoleLog, VNCSocket, Seed string
}

// FilesOf places a domain's files: what stays in the state directory, sockets in the runtime directory.
func FilesOf(stateDir, runtimeDir, id string) Files {
	return Files{
		ConsoleSocket: filepath.Join(runtimeDir, id[:13]+".console"), VNCSocket: filepath.Join(runtimeDir, id[:13]+".vnc"),
		ConsoleLog: filepath.Join(stateDir, "domains", id, "console.log"), Seed: filepath.Join(stateDir, "domains", id, "seed.iso"),
	}
}

// mark is our element in a domain's metadata.
type mark struct {
	XMLName    xml.Name `xml:"https://limiquantix.io/xmlns/mark/1 mark"`
	Cluster    string   `xml:"cluster,attr"`
	Node       string   `xml:"node,attr"`
	Object     string   `xml:"object,attr"`
	Generation int64    `xml:"generation,attr"`
	Epoch      int64    `xml:"epoch,attr"`
	SpecHash   string   `xml:"spec-hash,attr"`
}

// ReadMark finds our mark in a domain's metadata; nil when there is none.
func ReadMark(metadata string) (m *driverv1.OwnershipMark, specHash string) {
	dec := xml.NewDecoder(strings.NewReader(metadata))
	for {
		tok, err := dec.Token()
		if err != nil {
			return nil, ""
		}
		start, ok := tok.(xml.StartElement)
		if !ok || start.Name.Space != Namespace || start.Name.Local != "mark" {
			continue
		}
		var v mark
		if dec.DecodeElement(&v, &start) != nil {
			return nil, ""
		}
		return &driverv1.OwnershipMark{ClusterId: v.Cluster, NodeId: v.Node, ObjectId: v.Object, Generation: v.Generation, Epoch: v.Epoch}, v.SpecHash
	}
}

// Hash is equal for equal specs; content of secrets counts, but cannot be read back.
func Hash(spec *driverv1.DomainSpec) string {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(spec)
	if err != nil {
		return ""
	}
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:16])
}

var notSafe = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// Name is a domain's name in libvirt: for people, and unique by the id's beginning.
func Name(id, name string) string {
	n := strings.Trim(notSafe.ReplaceAllString(name, "-"), "-.")
	if len(n) > 48 {
		n = n[:48]
	}
	return strings.TrimRight("lq-"+id[:8]+"-"+n, "-")
}

// Build makes a domain's definition.
func Build(id string, m *driverv1.OwnershipMark, spec *driverv1.DomainSpec, o Options) (string, error) {
	inner, err := xml.Marshal(mark{
		Cluster: m.GetClusterId(), Node: m.GetNodeId(), Object: m.GetObjectId(), Generation: m.GetGeneration(), Epoch: m.GetEpoch(), SpecHash: Hash(spec),
	})
	if err != nil {
		return "", fmt.Errorf("encode mark: %w", err)
	}
	machine := firstOf(spec.GetMachineType(), o.MachineType, "q35")
	d := &libvirtxml.Domain{
		Type: "kvm", UUID: id, Name: Name(id, spec.GetName()), Metadata: &libvirtxml.DomainMetadata{XML: string(inner)},
		Memory:   &libvirtxml.DomainMemory{Value: uint(spec.GetMemoryBytes() >> 10), Unit: "KiB"},
		VCPU:     &libvirtxml.DomainVCPU{Placement: "static", Value: uint(max(spec.GetCpu().GetVcpus(), spec.GetCpu().GetMaxVcpus(), 1))},
		OS:       &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Arch: "x86_64", Machine: machine, Type: "hvm"}},
		Features: &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{}, APIC: &libvirtxml.DomainFeatureAPIC{}},
		Clock:    &libvirtxml.DomainClock{Offset: "utc"}, OnPoweroff: "destroy", OnReboot: "restart", OnCrash: "destroy",
		Devices: &libvirtxml.DomainDeviceList{
			Emulator:   "/usr/bin/qemu-system-x86_64",
			MemBalloon: &libvirtxml.DomainMemBalloon{Model: "virtio", Stats: &libvirtxml.DomainMemBalloonStats{Period: 10}},
			RNGs:       []libvirtxml.DomainRNG{{Model: "virtio", Backend: &libvirtxml.DomainRNGBackend{Random: &libvirtxml.DomainRNGBackendRandom{Device: "/dev/urandom"}}}},
			Videos:     nil,
		},
	}
	if o.Accelerator == "tcg" {
		d.Type = "qemu"
	}
	d.CPU = cpu(spec.GetCpu(), o)
	boot(d, spec.GetBoot())
	if err := disks(d, id, spec); err != nil {
		return "", err
	}
	if err := interfaces(d, spec.GetInterfaces(), rootBus(machine)); err != nil {
		return "", err
	}
	extras(d, spec, o.Files)
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
	}
}

func disks(d *libvirtxml.Domain, id string, spec *driverv1.DomainSpec) error {
	letters := map[string]int{}
	for i, disk := range spec.GetDisks() {
		bus, prefix := "virtio", "vd"
		switch disk.GetBus() {
		case driverv1.DiskBus_DISK_BUS_SCSI:
			bus, prefix = "scsi", "sd"
		case driverv1.DiskBus_DISK_BUS_SATA:
			bus, prefix = "sata", "sd"
		}
		x := libvirtxml.DomainDisk{
			Device: "disk", Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "raw"}, Target: &libvirtxml.DomainDiskTarget{Dev: prefix + letter(letters[prefix]), Bus: bus},
			Alias: &libvirtxml.DomainAlias{Name: "ua-" + disk.GetDiskId()}, Serial: firstOf(disk.GetSerial(), strings.ReplaceAll(disk.GetDiskId(), "-", "")),
		}
		letters[prefix]++
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
		default:
			return fault.Invalid(fault.Violation{Field: fmt.Sprintf("spec.disks[%d].source", i), Description: "this driver takes files and block devices"})
		}
		if disk.GetDiscard() {
			x.Driver.Discard = "unmap"
		}
		if disk.GetReadOnly() {
			x.ReadOnly = &libvirtxml.DomainDiskReadOnly{}
		}
		if disk.GetShared() {
			x.Shareable = &libvirtxml.DomainDiskShareable{}
		}
		if o := disk.GetBootOrder(); o > 0 && spec.GetBoot().GetKernelPath() == "" {
			x.Boot = &libvirtxml.DomainDeviceBoot{Order: uint(o)}
		}
		if l := disk.GetLimits(); l != nil {
			x.IOTune = &libvirtxml.DomainDiskIOTune{TotalIopsSec: uint64(l.GetIops()), TotalBytesSec: uint64(l.GetBytesPerSecond())}
		}
		d.Devices.Disks = append(d.Devices.Disks, x)
	}
	return nil
}

func letter(n int) string {
	if n < 26 {
		return string(rune('a' + n))
	}
	return string(rune('a'+n/26-1)) + string(rune('a'+n%26))
}

// interfaces adds user-mode networks as QEMU arguments: libvirt 9's own user interfaces take no port forwards without passt.
func interfaces(d *libvirtxml.Domain, list []*driverv1.DomainInterface, bus string) error {
	for i, n := range list {
		model := firstOf(n.GetModel(), "virtio")
		switch b := n.GetBinding().GetBinding().(type) {
		case *driverv1.InterfaceBinding_UserMode:
			userMode(d, i, n, model, bus, b.UserMode)
		case *driverv1.InterfaceBinding_BridgePort:
			x := libvirtxml.DomainInterface{
				MAC: &libvirtxml.DomainInterfaceMAC{Address: n.GetMac()}, Model: &libvirtxml.DomainInterfaceModel{Type: model},
				Source: &libvirtxml.DomainInterfaceSource{Bridge: &libvirtxml.DomainInterfaceSourceBridge{Bridge: b.BridgePort.GetBridge()}},
				Target: &libvirtxml.DomainInterfaceTarget{Dev: b.BridgePort.GetTapName()}, Alias: &libvirtxml.DomainAlias{Name: "ua-" + n.GetInterfaceId()},
			}
			if n.GetLinkDown() {
				x.Link = &libvirtxml.DomainInterfaceLink{State: "down"}
			}
			d.Devices.Interfaces = append(d.Devices.Interfaces, x)
		default:
			return fault.Invalid(fault.Violation{Field: fmt.Sprintf("spec.interfaces[%d].binding", i), Description: "this driver takes user-mode and bridge bindings"})
		}
	}
	return nil
}

func userMode(d *libvirtxml.Domain, i int, n *driverv1.DomainInterface, model, bus string, u *driverv1.UserModeBinding) {
	netdev := fmt.Sprintf("user,id=lqnet%d", i)
	for _, f := range u.GetForwards() {
		netdev += fmt.Sprintf(",hostfwd=%s:%s:%d-:%d", firstOf(f.GetProtocol(), "tcp"), firstOf(f.GetHostAddress(), "127.0.0.1"), f.GetHostPort(), f.GetGuestPort())
	}
	dev := map[string]string{"virtio": "virtio-net-pci"}[model]
	if dev == "" {
		dev = model
	}
	if d.QEMUCommandline == nil {
		d.QEMUCommandline = &libvirtxml.DomainQEMUCommandline{}
	}
	// The root bus has room high up, where libvirt places nothing by itself.
	for _, a := range []string{"-netdev", netdev, "-device", fmt.Sprintf("%s,netdev=lqnet%d,id=lqnic%d,mac=%s,bus=%s,addr=0x%x,romfile=", dev, i, i, n.GetMac(), bus, 0x10+i)} {
		d.QEMUCommandline.Args = append(d.QEMUCommandline.Args, libvirtxml.DomainQEMUCommandlineArg{Value: a})
	}
}

// rootBus is what QEMU calls a machine's first PCI bus.
func rootBus(machine string) string {
	if machine == "pc" || strings.HasPrefix(machine, "pc-i440fx") {
		return "pci.0"
	}
	return "pcie.0"
}

// DeviceIDs finds the disk and interface ids behind a definition's target devices, for example "vda".
func DeviceIDs(definition string) (map[string]string, error) {
	var d libvirtxml.Domain
	if err := d.Unmarshal(definition); err != nil {
		return nil, fmt.Errorf("read definition: %w", err)
	}
	out := map[string]string{}
	if d.Devices == nil {
		return out, nil
	}
	for _, disk := range d.Devices.Disks {
		if disk.Alias != nil && disk.Target != nil {
			out[disk.Target.Dev] = strings.TrimPrefix(disk.Alias.Name, "ua-")
		}
	}
	for _, n := range d.Devices.Interfaces {
		if n.Alias != nil && n.Target != nil {
			out[n.Target.Dev] = strings.TrimPrefix(n.Alias.Name, "ua-")
		}
	}
	return out, nil
}

// extras adds console, guest agent, VNC and seed.
func extras(d *libvirtxml.Domain, spec *driverv1.DomainSpec, f Files) {
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
			Target: &libvirtxml.DomainChannelTarget{VirtIO: &libvirtxml.DomainChannelTargetVirtIO{Name: "org.qemu.guest_agent.0"}},
		}}
	}
	if spec.GetVnc() {
		d.Devices.Graphics = []libvirtxml.DomainGraphic{{VNC: &libvirtxml.DomainGraphicVNC{
			Listeners: []libvirtxml.DomainGraphicListener{{Socket: &libvirtxml.DomainGraphicListenerSocket{Socket: f.VNCSocket}}},
		}}}
		d.Devices.Videos = []libvirtxml.DomainVideo{{Model: libvirtxml.DomainVideoModel{Type: "vga"}}}
	}
	if spec.GetCloudInit() != nil {
		d.Devices.Disks = append(d.Devices.Disks, libvirtxml.DomainDisk{
			Device: "cdrom", Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "raw"}, ReadOnly: &libvirtxml.DomainDiskReadOnly{},
			Source: &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: f.Seed}},
			Target: &libvirtxml.DomainDiskTarget{Dev: "sdz", Bus: "sata"},
		})
	}
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

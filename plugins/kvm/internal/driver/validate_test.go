package driver

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/accelerator"
	"github.com/limiquantix/limiquantix/plugins/kvm/internal/mark"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

const (
	idA = "aaaaaaaa-6a0e-4d0e-9d2b-3c1a4f5e6a7b"
	idB = "bbbbbbbb-6a0e-4d0e-9d2b-3c1a4f5e6a7b"
	idC = "cccccccc-6a0e-4d0e-9d2b-3c1a4f5e6a7b"
)

func forwards(f *driverv1.PortForward) *driverv1.InterfaceBinding {
	return &driverv1.InterfaceBinding{Binding: &driverv1.InterfaceBinding_UserMode{UserMode: &driverv1.UserModeBinding{Forwards: []*driverv1.PortForward{f}}}}
}

func goodSpec() *driverv1.DomainSpec {
	return &driverv1.DomainSpec{
		Name: "any <name>", Cpu: &driverv1.DomainCpu{Vcpus: 2, MaxVcpus: 4, Sockets: 1, Cores: 2, Threads: 2, Model: "Haswell-noTSX", Features: []string{"+aes"}}, MemoryBytes: 64 << 20,
		Boot: &driverv1.DomainBoot{KernelPath: "/proc/self/exe", Cmdline: `a="b" c`}, MachineType: "pc-q35-7.2",
		Disks: []*driverv1.DomainDisk{{DiskId: idA, Source: &driverv1.DiskSource{Source: &driverv1.DiskSource_File{File: &driverv1.FileSource{Path: "/a", Format: driverv1.VolumeFormat_VOLUME_FORMAT_RAW}}}}},
		Interfaces: []*driverv1.DomainInterface{
			{InterfaceId: idA, Mac: "52:54:00:00:00:01", Binding: forwards(&driverv1.PortForward{HostAddress: "127.0.0.1", HostPort: 1, GuestPort: 65535})},
			{InterfaceId: idB, Mac: "52:54:00:00:00:02", Model: "e1000e", Binding: &driverv1.InterfaceBinding{
				Binding: &driverv1.InterfaceBinding_BridgePort{BridgePort: &driverv1.BridgePortBinding{Bridge: "br0", TapName: "t0"}},
			}},
			{InterfaceId: idC, Mac: "52:54:00:00:00:03", Queues: 4, Binding: &driverv1.InterfaceBinding{
				Binding: &driverv1.InterfaceBinding_Tap{Tap: &driverv1.TapBinding{TapName: "t1"}},
			}},
		},
	}
}

// ovsOf gives a spec's last interface a good port of Open vSwitch.
func ovsOf(s *driverv1.DomainSpec) *driverv1.OvsPortBinding {
	b := &driverv1.OvsPortBinding{Bridge: "br-int", TapName: "t1", InterfaceId: idC, OffloadsOff: true}
	s.Interfaces[2].Binding = &driverv1.InterfaceBinding{Binding: &driverv1.InterfaceBinding_OvsPort{OvsPort: b}}
	return b
}

// rbdOf and nbdOf give a spec's first disk a good source of their kind.
func rbdOf(s *driverv1.DomainSpec) *driverv1.RbdSource {
	r := &driverv1.RbdSource{Monitors: []string{"10.0.0.1:6789"}, Pool: "vms", Namespace: "n", Image: "v-1", User: "lq", Key: "c2VjcmV0"}
	s.Disks[0].Source = &driverv1.DiskSource{Source: &driverv1.DiskSource_Rbd{Rbd: r}}
	return r
}

func nbdOf(s *driverv1.DomainSpec) *driverv1.NbdSource {
	n := &driverv1.NbdSource{Endpoint: &driverv1.NbdSource_Address{Address: "10.0.0.1:10809"}, ExportName: "v"}
	s.Disks[0].Source = &driverv1.DiskSource{Source: &driverv1.DiskSource_Nbd{Nbd: n}}
	return n
}

// Each wrong field is named, and nothing else.
func TestViolations(t *testing.T) {
	t.Parallel()
	s := setting{verdict: accelerator.Verdict{Accelerator: "tcg", Reason: "told so"}, cfg: config{OVSSocket: listening(t)}}
	withOVS := goodSpec()
	ovsOf(withOVS)
	if v := s.check(withOVS); len(v) > 0 {
		t.Fatalf("good spec: %v", v)
	}
	s.cfg.OVSSocket = filepath.Join(t.TempDir(), "none")
	if v := s.check(withOVS); len(v) != 1 || v[0].Field != "spec.interfaces[2].binding" {
		t.Errorf("without Open vSwitch: %v", v)
	}
	if slices.Contains(s.bindings(), driverv1.InterfaceBindingKind_INTERFACE_BINDING_KIND_OVS_PORT) {
		t.Error("Open vSwitch is offered where there is none")
	}
	s.cfg.OVSSocket = listening(t)
	if !slices.Contains(s.bindings(), driverv1.InterfaceBindingKind_INTERFACE_BINDING_KIND_OVS_PORT) {
		t.Error("Open vSwitch is not offered")
	}
	if v := s.check(goodSpec()); len(v) > 0 {
		t.Fatalf("good spec: %v", v)
	}
	for field, spoil := range map[string]func(*driverv1.DomainSpec){
		"spec.cpu.vcpus":                   func(s *driverv1.DomainSpec) { s.Cpu = nil },
		"spec.cpu.max_vcpus":               func(s *driverv1.DomainSpec) { s.Cpu = &driverv1.DomainCpu{Vcpus: 4, MaxVcpus: 2} },
		"spec.cpu":                         func(s *driverv1.DomainSpec) { s.Cpu.Sockets = 3 },
		"spec.cpu.model":                   func(s *driverv1.DomainSpec) { s.Cpu.Model = "host-passthrough" },
		"spec.cpu.features[0]":             func(s *driverv1.DomainSpec) { s.Cpu.Features = []string{"aes"} },
		"spec.memory_bytes":                func(s *driverv1.DomainSpec) { s.MemoryBytes++ },
		"spec.max_memory_bytes":            func(s *driverv1.DomainSpec) { s.MaxMemoryBytes = 1 << 30 },
		"spec.machine_type":                func(s *driverv1.DomainSpec) { s.MachineType = "microvm" },
		"spec.boot.firmware":               func(s *driverv1.DomainSpec) { s.Boot.Firmware = driverv1.Firmware_FIRMWARE_UEFI },
		"spec.boot.initrd_path":            func(s *driverv1.DomainSpec) { s.Boot.InitrdPath = "initrd" },
		"spec.boot.kernel_path":            func(s *driverv1.DomainSpec) { s.Boot.KernelPath = "" },
		"spec.boot.cmdline":                func(s *driverv1.DomainSpec) { s.Boot.Cmdline = "a\nb" },
		"spec.disks[0].disk_id":            func(s *driverv1.DomainSpec) { s.Disks[0].DiskId = strings.ToUpper(idA) },
		"spec.disks[0].serial":             func(s *driverv1.DomainSpec) { s.Disks[0].Serial = "a,b" },
		"spec.disks[0].boot_order":         func(s *driverv1.DomainSpec) { s.Disks[0].BootOrder = -1 },
		"spec.disks[0].bus":                func(s *driverv1.DomainSpec) { s.Disks[0].Bus = 99 },
		"spec.disks[0].limits":             func(s *driverv1.DomainSpec) { s.Disks[0].Limits = &driverv1.IoLimits{Iops: -1} },
		"spec.disks[0].source":             func(s *driverv1.DomainSpec) { s.Disks[0].Source = nil },
		"spec.disks[0].source.file.path":   func(s *driverv1.DomainSpec) { s.Disks[0].Source.GetFile().Path = "../etc" },
		"spec.disks[0].source.file.format": func(s *driverv1.DomainSpec) { s.Disks[0].Source.GetFile().Format = 0 },
		"spec.disks[0].shared": func(s *driverv1.DomainSpec) {
			s.Disks[0].Shared, s.Disks[0].Source.GetFile().Format = true, driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2
		},
		"spec.disks[0].source.rbd.monitors":                func(s *driverv1.DomainSpec) { rbdOf(s).Monitors = nil },
		"spec.disks[0].source.rbd.monitors[0]":             func(s *driverv1.DomainSpec) { rbdOf(s).Monitors[0] = "mon" },
		"spec.disks[0].source.rbd.pool":                    func(s *driverv1.DomainSpec) { rbdOf(s).Pool = "" },
		"spec.disks[0].source.rbd.image":                   func(s *driverv1.DomainSpec) { rbdOf(s).Image = "i@snap" },
		"spec.disks[0].source.rbd.namespace":               func(s *driverv1.DomainSpec) { rbdOf(s).Namespace = "a/b" },
		"spec.disks[0].source.rbd.user":                    func(s *driverv1.DomainSpec) { rbdOf(s).User = "" },
		"spec.disks[0].source.rbd.key":                     func(s *driverv1.DomainSpec) { rbdOf(s).Key = "no base64" },
		"spec.disks[0].source.nbd.address":                 func(s *driverv1.DomainSpec) { nbdOf(s).Endpoint = nil },
		"spec.disks[0].source.nbd.export_name":             func(s *driverv1.DomainSpec) { nbdOf(s).ExportName = "a\nb" },
		"spec.disks[0].source.nbd.socket_path":             func(s *driverv1.DomainSpec) { nbdOf(s).Endpoint = &driverv1.NbdSource_SocketPath{SocketPath: "n"} },
		"spec.disks[1].disk_id":                            func(s *driverv1.DomainSpec) { s.Disks = append(s.Disks, s.Disks[0]) },
		"spec.interfaces[1].interface_id":                  func(s *driverv1.DomainSpec) { s.Interfaces[1].InterfaceId = idA },
		"spec.interfaces[0].mac":                           func(s *driverv1.DomainSpec) { s.Interfaces[0].Mac = "52:54:00:00:00:01,romfile=/etc/shadow" },
		"spec.interfaces[1].mac":                           func(s *driverv1.DomainSpec) { s.Interfaces[1].Mac = "01:00:5e:00:00:01" },
		"spec.interfaces[1].model":                         func(s *driverv1.DomainSpec) { s.Interfaces[1].Model = "ne2k_pci,x=y" },
		"spec.interfaces[2].mac":                           func(s *driverv1.DomainSpec) { s.Interfaces[2].Mac = s.Interfaces[1].Mac },
		"spec.interfaces[2].binding.tap.tap_name":          func(s *driverv1.DomainSpec) { s.Interfaces[2].Binding.GetTap().TapName = "t0" },
		"spec.interfaces[1].queues":                        func(s *driverv1.DomainSpec) { s.Interfaces[1].Queues = 2 },
		"spec.interfaces[0].queues":                        func(s *driverv1.DomainSpec) { s.Interfaces[0].Queues = 2 },
		"spec.interfaces[2].queues":                        func(s *driverv1.DomainSpec) { s.Interfaces[2].Queues = 5 },
		"spec.interfaces[1].binding.bridge_port.mtu":       func(s *driverv1.DomainSpec) { s.Interfaces[1].Binding.GetBridgePort().Mtu = 67 },
		"spec.interfaces[2].binding.ovs_port.bridge":       func(s *driverv1.DomainSpec) { ovsOf(s).Bridge = "b;rm" },
		"spec.interfaces[2].binding.ovs_port.tap_name":     func(s *driverv1.DomainSpec) { ovsOf(s).TapName = "sixteen-letters-" },
		"spec.interfaces[2].binding.ovs_port.interface_id": func(s *driverv1.DomainSpec) { ovsOf(s).InterfaceId = "iface" },
		"spec.interfaces[2].binding.ovs_port.mtu":          func(s *driverv1.DomainSpec) { ovsOf(s).Mtu = 65536 },
		"spec.interfaces[0].link_down":                     func(s *driverv1.DomainSpec) { s.Interfaces[0].LinkDown = true },
		"spec.interfaces[1].binding":                       func(s *driverv1.DomainSpec) { s.Interfaces[1].Binding = nil },
		"spec.interfaces[1].binding.bridge_port.bridge":    func(s *driverv1.DomainSpec) { s.Interfaces[1].Binding.GetBridgePort().Bridge = "a/b" },
		"spec.interfaces[1].binding.bridge_port.tap_name":  func(s *driverv1.DomainSpec) { s.Interfaces[1].Binding.GetBridgePort().TapName = "vnet3" },
		"spec.interfaces[0].binding.user_mode.forwards[0].host_address": func(s *driverv1.DomainSpec) {
			s.Interfaces[0].Binding = forwards(&driverv1.PortForward{HostAddress: "1.2.3.4,guestfwd=x", HostPort: 1, GuestPort: 1})
		},
		"spec.interfaces[0].binding.user_mode.forwards[0].protocol": func(s *driverv1.DomainSpec) {
			s.Interfaces[0].Binding = forwards(&driverv1.PortForward{Protocol: "sctp", HostPort: 1, GuestPort: 1})
		},
		"spec.interfaces[0].binding.user_mode.forwards[0].host_port": func(s *driverv1.DomainSpec) { s.Interfaces[0].Binding = forwards(&driverv1.PortForward{GuestPort: 1}) },
		"spec.interfaces[0].binding.user_mode.forwards[0].guest_port": func(s *driverv1.DomainSpec) {
			s.Interfaces[0].Binding = forwards(&driverv1.PortForward{HostPort: 1, GuestPort: 65536})
		},
	} {
		spec := goodSpec()
		spoil(spec)
		if v := s.check(spec); len(v) != 1 || v[0].Field != field || v[0].Description == "" {
			t.Errorf("%s: %v", field, v)
		}
	}
	if v := s.check(nil); len(v) != 1 {
		t.Error(v)
	}
}

// listening is a unix socket that accepts.
func listening(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lq")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.Close()
		_ = os.RemoveAll(dir)
	})
	return l.Addr().String()
}

func TestConfigViolations(t *testing.T) {
	t.Parallel()
	host := &driverv1.HostFacts{RuntimeDirectory: "/run/limiquantix/kvm"}
	for field, c := range map[string]config{
		"":                         {Socket: "/s", URI: "qemu:///system", Accel: "auto", OVSSocket: "/o"},
		"config_json.accel":        {Socket: "/s", URI: "qemu:///system", Accel: "hax", OVSSocket: "/o"},
		"config_json.ovs_socket":   {Socket: "/s", URI: "qemu:///system", Accel: "tcg", OVSSocket: "o"},
		"config_json.socket":       {Socket: "s", URI: "qemu:///system", Accel: "tcg", OVSSocket: "/o"},
		"config_json.uri":          {Socket: "/s", URI: "xen:///", Accel: "tcg", OVSSocket: "/o"},
		"config_json.machine_type": {Socket: "/s", URI: "qemu:///system", Accel: "tcg", MachineType: "virt", OVSSocket: "/o"},
	} {
		if v := c.violations(host); len(v) != min(len(field), 1) || len(v) > 0 && v[0].Field != field {
			t.Errorf("%s: %v", field, v)
		}
	}
	ok := config{Socket: "/s", URI: "qemu:///system", Accel: "auto", OVSSocket: "/o"}
	for length, bad := range map[int]bool{70: false, 71: true} {
		if v := ok.violations(&driverv1.HostFacts{RuntimeDirectory: "/" + strings.Repeat("x", length-1)}); (len(v) > 0) != bad {
			t.Errorf("runtime directory of %d bytes: %v", length, v)
		}
	}
}

func TestIDs(t *testing.T) {
	t.Parallel()
	if got := idOf(uuidOf(idA)); got != idA {
		t.Error(got)
	}
	for _, bad := range []string{"", "x", strings.ToUpper(idA), idA + " ", "../" + idA[3:], strings.ReplaceAll(idA, "-", "")} {
		if checkID(bad) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// A mark of another cluster or node, or none, is not ours.
func TestOurs(t *testing.T) {
	t.Parallel()
	s := setting{host: &driverv1.HostFacts{ClusterId: "c", NodeId: "n"}}
	for _, tc := range []struct {
		m    *mark.Mark
		ours bool
	}{{nil, false}, {&mark.Mark{Cluster: "c", Node: "n"}, true}, {&mark.Mark{Cluster: "c", Node: "x"}, false}, {&mark.Mark{Cluster: "x", Node: "n"}, false}} {
		if s.oursMark(tc.m) != tc.ours {
			t.Errorf("%+v", tc.m)
		}
	}
}

func TestFirmwareIsLookedFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if haveUEFI([]string{dir, filepath.Join(dir, "none")}) {
		t.Error("found where there is none")
	}
	if err := os.WriteFile(filepath.Join(dir, "60-edk2.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if !haveUEFI([]string{dir}) {
		t.Error("not found")
	}
}

package domainxml

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/mark"
	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

var update = flag.Bool("update", false, "write the golden files")

const (
	id    = "0f6b1d52-6a0e-4d0e-9d2b-3c1a4f5e6a7b"
	diskA = "aaaaaaaa-6a0e-4d0e-9d2b-3c1a4f5e6a7b"
	diskB = "bbbbbbbb-6a0e-4d0e-9d2b-3c1a4f5e6a7b"
	nicA  = "cccccccc-6a0e-4d0e-9d2b-3c1a4f5e6a7b"
)

var testMark = &driverv1.OwnershipMark{ClusterId: "cl", NodeId: "no", ObjectId: id, Generation: 7, Epoch: 3}

func file(path string, f driverv1.VolumeFormat) *driverv1.DiskSource {
	return &driverv1.DiskSource{Source: &driverv1.DiskSource_File{File: &driverv1.FileSource{Path: path, Format: f}}}
}

func small() *driverv1.DomainSpec {
	return &driverv1.DomainSpec{Name: "web 1 <&>", Cpu: &driverv1.DomainCpu{Vcpus: 1}, MemoryBytes: 128 << 20}
}

func full() *driverv1.DomainSpec {
	s := small()
	s.Cpu = &driverv1.DomainCpu{Vcpus: 4, Sockets: 1, Cores: 2, Threads: 2, Model: "host-passthrough", Features: []string{"+aes", "-svm"}}
	s.Disks = []*driverv1.DomainDisk{
		{DiskId: diskA, Source: file("/pool/a.qcow2", driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2), BootOrder: 1, Discard: true, Limits: &driverv1.IoLimits{Iops: 100, BytesPerSecond: 1 << 20}},
		{DiskId: diskB, Source: &driverv1.DiskSource{Source: &driverv1.DiskSource_BlockDevice{BlockDevice: &driverv1.BlockDeviceSource{Path: "/dev/vg/b"}}}, Bus: driverv1.DiskBus_DISK_BUS_SATA, ReadOnly: true, Serial: "MY-SERIAL"},
	}
	s.Interfaces = []*driverv1.DomainInterface{{InterfaceId: nicA, Mac: "52:54:00:00:00:01", LinkDown: true, Binding: &driverv1.InterfaceBinding{
		Binding: &driverv1.InterfaceBinding_BridgePort{BridgePort: &driverv1.BridgePortBinding{Bridge: "br0", TapName: "lq-tap0"}},
	}}}
	s.CloudInit, s.GuestAgent, s.SerialConsole, s.Vnc = &driverv1.CloudInitSeed{MetaData: []byte("x")}, true, true, true
	return s
}

// The XML of each kind of spec is as it was, and libvirt's own schema takes it.
func TestGolden(t *testing.T) {
	for _, tc := range []struct {
		name, accel string
		spec        func() *driverv1.DomainSpec
	}{
		{"small-kvm", "kvm", small},
		{"small-qemu", "tcg", small},
		{"full-kvm", "kvm", full},
		{"full-qemu", "tcg", full},
		{"kernel", "tcg", func() *driverv1.DomainSpec {
			s := small()
			s.Boot = &driverv1.DomainBoot{KernelPath: "/pool/k.raw", InitrdPath: "/pool/i.raw", Cmdline: `console=ttyS0 a="<b>"`}
			return s
		}},
		{"uefi", "kvm", func() *driverv1.DomainSpec {
			s := full()
			s.Boot = &driverv1.DomainBoot{Firmware: driverv1.Firmware_FIRMWARE_UEFI}
			return s
		}},
		{"pc-scsi", "tcg", func() *driverv1.DomainSpec {
			s := full()
			s.MachineType, s.Cpu.MaxVcpus, s.Cpu.Vcpus, s.Cpu.Model = "pc", 4, 2, "Haswell"
			s.Disks[1].Bus, s.Interfaces[0].Binding.GetBridgePort().Mtu = driverv1.DiskBus_DISK_BUS_SCSI, 1400
			return s
		}},
		{"network-disks", "kvm", func() *driverv1.DomainSpec {
			s := small()
			s.Disks = []*driverv1.DomainDisk{
				{DiskId: diskA, BootOrder: 2, Shared: true, Source: &driverv1.DiskSource{Source: &driverv1.DiskSource_Rbd{Rbd: &driverv1.RbdSource{
					Monitors: []string{"10.0.0.1:6789", "[fd00::1]:3300"}, Pool: "vms", Namespace: "tenant", Image: "v-1", User: "lq", Key: "c2VjcmV0",
				}}}},
				{DiskId: diskB, Source: &driverv1.DiskSource{Source: &driverv1.DiskSource_Rbd{Rbd: &driverv1.RbdSource{Monitors: []string{"mon:6789"}, Pool: "vms", Image: "v-2"}}}},
				{DiskId: id, Discard: true, Source: &driverv1.DiskSource{Source: &driverv1.DiskSource_Nbd{Nbd: &driverv1.NbdSource{
					Endpoint: &driverv1.NbdSource_SocketPath{SocketPath: "/run/n.sock"}, ExportName: "v <3>",
				}}}},
				{DiskId: nicA, ReadOnly: true, Source: &driverv1.DiskSource{Source: &driverv1.DiskSource_Nbd{Nbd: &driverv1.NbdSource{Endpoint: &driverv1.NbdSource_Address{Address: "[::1]:10809"}}}}},
			}
			return s
		}},
		{"interfaces", "tcg", func() *driverv1.DomainSpec {
			s := small()
			s.Cpu.Vcpus = 4
			s.Interfaces = []*driverv1.DomainInterface{
				{InterfaceId: nicA, Mac: "52:54:00:00:00:01", Queues: 4, Binding: &driverv1.InterfaceBinding{
					Binding: &driverv1.InterfaceBinding_BridgePort{BridgePort: &driverv1.BridgePortBinding{Bridge: "br0", TapName: "t-0", Mtu: 9000}},
				}},
				{InterfaceId: diskA, Mac: "52:54:00:00:00:02", Queues: 2, LinkDown: true, Binding: &driverv1.InterfaceBinding{
					Binding: &driverv1.InterfaceBinding_OvsPort{OvsPort: &driverv1.OvsPortBinding{Bridge: "br-int", TapName: "t-1", InterfaceId: diskA, OffloadsOff: true, Mtu: 1450}},
				}},
				{InterfaceId: diskB, Mac: "52:54:00:00:00:03", Model: "e1000e", Binding: &driverv1.InterfaceBinding{
					Binding: &driverv1.InterfaceBinding_OvsPort{OvsPort: &driverv1.OvsPortBinding{Bridge: "br-int", TapName: "t-2", InterfaceId: diskB, OffloadsOff: true}},
				}},
				{InterfaceId: id, Mac: "52:54:00:00:00:04", Queues: 1, Binding: &driverv1.InterfaceBinding{
					Binding: &driverv1.InterfaceBinding_Tap{Tap: &driverv1.TapBinding{TapName: "t-3"}},
				}},
			}
			return s
		}},
		{"user-network", "tcg", func() *driverv1.DomainSpec {
			s := small()
			s.Interfaces = []*driverv1.DomainInterface{{InterfaceId: nicA, Mac: "52:54:00:00:00:01", Binding: &driverv1.InterfaceBinding{
				Binding: &driverv1.InterfaceBinding_UserMode{UserMode: &driverv1.UserModeBinding{Forwards: []*driverv1.PortForward{{HostPort: 8022, GuestPort: 22}}}},
			}}}
			return s
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Build(id, mark.Of(testMark, tc.spec()), tc.spec(), Options{Accelerator: tc.accel, Files: FilesOf("/state", "/run/lq", id)})
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", tc.name+".xml")
			if *update {
				if err := os.WriteFile(golden, []byte(got+"\n"), 0o644); err != nil { //nolint:gosec // no secret
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got+"\n" != string(want) {
				t.Errorf("differs from %s; got:\n%s", golden, got)
			}
			if out, err := exec.Command("virt-xml-validate", golden, "domain").CombinedOutput(); err != nil {
				t.Errorf("libvirt's schema: %v: %s", err, out)
			}
		})
	}
}

// What a definition says of its domain can be read back; a foreign one has no mark.
func TestReadBack(t *testing.T) {
	files := FilesOf("/state", "/run/lq", id)
	text, err := Build(id, mark.Of(testMark, full()), full(), Options{Accelerator: "tcg", Files: files})
	if err != nil {
		t.Fatal(err)
	}
	f, err := Read(text)
	if err != nil {
		t.Fatal(err)
	}
	want := mark.Of(testMark, full())
	if f.Mark == nil || !proto.Equal(f.Mark.Ownership(), testMark) || f.Mark.Hash() != want.Hash() || f.Mark.Running() != want.Running() {
		t.Errorf("mark: %+v, want %+v", f.Mark, want)
	}
	f.Mark = nil
	if diff := cmp.Diff(f, &Facts{
		Type: "qemu", Name: "lq-3c1a4f5e6a7b-web-1", Machine: "q35", ConsoleSocket: files.ConsoleSocket, ConsoleLog: files.ConsoleLog,
		Disks: []Device{{ID: diskA, Target: "vda", LinkUp: true, Source: "/pool/a.qcow2"}, {ID: diskB, Target: "sda", LinkUp: true, Source: "/dev/vg/b"}}, Interfaces: []Device{{ID: nicA, Target: "lq-tap0", MAC: "52:54:00:00:00:01"}},
		Targets: map[string]bool{"vda": true, "sda": true, "sdb": true}, VCPUs: 4,
	}); diff != "" {
		t.Error(diff)
	}
	for _, foreign := range []string{"<domain/>", "<domain><metadata><mark cluster='cl' node='no'/></metadata></domain>", "<domain><metadata><x><mark xmlns='" + mark.Namespace + "' cluster='cl'/></x></metadata></domain>"} {
		if f, err := Read(foreign); err != nil || f.Mark != nil {
			t.Errorf("%q has mark %v, %v", foreign, f, err)
		}
	}
	if _, err := Read("<broken"); err == nil {
		t.Error("broken XML is read")
	}
}

// A running domain's XML, as libvirt writes it.
func TestReadRunning(t *testing.T) {
	f, err := Read(`<domain type='kvm' id='3'><name>n</name><metadata><lq:mark xmlns:lq='` + mark.Namespace + `' cluster='c'><lq:device kind='disk' id='d' hash='h'/></lq:mark></metadata><devices>
<controller type='scsi'/><interface><target dev='t1'/><link state='down'/><alias name='ua-i'/></interface><interface><target dev='vnet0'/><alias name='net1'/></interface>
<channel><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel><graphics><listen type='socket' socket='/x/vnc.sock'/></graphics></devices></domain>`)
	if err != nil {
		t.Fatal(err)
	}
	if !f.AgentConnected || f.VNCSocket != "/x/vnc.sock" || !f.SCSI || len(f.Interfaces) != 1 || f.Interfaces[0] != (Device{ID: "i", Target: "t1"}) ||
		f.Mark == nil || len(f.Mark.Devices) != 1 || f.Mark.Devices[0] != (mark.Device{Kind: "disk", ID: "d", Hash: "h"}) {
		t.Errorf("%+v %+v", f, f.Mark)
	}
}

// Names are safe in paths, and differ even for domains of one name that are made within a minute: their ids begin alike.
func TestNamesAreSafeAndUnique(t *testing.T) {
	for in, want := range map[string]string{"web": "-web", "../../etc": "-etc", "": "", "ü<&>": "", strings.Repeat("x", 128): "-" + strings.Repeat("x", 48)} {
		if got := Name(id, in); got != "lq-3c1a4f5e6a7b"+want {
			t.Errorf("%q: %q", in, got)
		}
	}
	const a, b = "01a2099f-a798-7b00-aebf-2c16599758d4", "01a2099f-a798-7b00-9ebf-6a7813d7166c"
	if Name(a, "web") == Name(b, "web") || FilesOf("/s", "/r", a).ConsoleSocket == FilesOf("/s", "/r", b).ConsoleSocket {
		t.Error("two domains share a name or a socket")
	}
	if f := FilesOf("/s", "/r", a); len(f.ConsoleSocket) != len("/r")+SocketNameBytes {
		t.Errorf("%s has not the length that is reckoned with", f.ConsoleSocket)
	}
}

func TestTargets(t *testing.T) {
	used := map[string]bool{}
	for range 27 {
		used[FreeTarget(0, used)] = true
	}
	if !used["vda"] || !used["vdz"] || !used["vdaa"] || FreeTarget(driverv1.DiskBus_DISK_BUS_SCSI, used) != "sda" {
		t.Error(used)
	}
}

func TestUnknownSourcesAreRefused(t *testing.T) {
	s := small()
	for _, source := range []*driverv1.DiskSource{
		nil,
		{Source: &driverv1.DiskSource_Rbd{Rbd: &driverv1.RbdSource{Monitors: []string{"nowhere"}}}},
		{Source: &driverv1.DiskSource_Nbd{Nbd: &driverv1.NbdSource{Endpoint: &driverv1.NbdSource_Address{Address: "nowhere"}}}},
	} {
		s.Disks = []*driverv1.DomainDisk{{DiskId: diskA, Source: source}}
		if _, err := Build(id, mark.Of(testMark, s), s, Options{}); !fault.Is(err, metav1.Reason_REASON_INVALID_FIELD) {
			t.Errorf("%v: %v", source, err)
		}
	}
}

// Disks that the hypervisor opens over the network: addresses and names as they are, the key only by the id of its secret.
func TestNetworkDisks(t *testing.T) {
	s := small()
	s.Disks = []*driverv1.DomainDisk{
		{DiskId: diskA, Source: &driverv1.DiskSource{Source: &driverv1.DiskSource_Rbd{Rbd: &driverv1.RbdSource{
			Monitors: []string{"10.0.0.1:6789", "[fd00::1]:6789"}, Pool: "vms", Namespace: "ns", Image: "lq-1", User: "lq", Key: "Y2FuYXJ5",
		}}}},
		{DiskId: diskB, Source: &driverv1.DiskSource{Source: &driverv1.DiskSource_Nbd{Nbd: &driverv1.NbdSource{
			Endpoint: &driverv1.NbdSource_SocketPath{SocketPath: "/run/nbd.sock"}, ExportName: "vol",
		}}}},
	}
	text, err := Build(id, mark.Of(testMark, s), s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	secret, err := Secret(id, diskA)
	if err != nil {
		t.Fatal(err)
	}
	uuid := uuidText(SecretID(id, diskA))
	flat := strings.Join(strings.Fields(text), " ")
	for _, want := range []string{
		`<source protocol="rbd" name="vms/ns/lq-1"> <host name="10.0.0.1" port="6789"></host> <host name="fd00::1" port="6789"></host> <config file="/dev/null"></config> </source>`,
		`<auth username="lq"> <secret type="ceph" uuid="` + uuid + `"></secret> </auth>`,
		`<source protocol="nbd" name="vol"> <host transport="unix" socket="/run/nbd.sock"></host> </source>`,
	} {
		if !strings.Contains(flat, want) {
			t.Errorf("no %s in %s", want, flat)
		}
	}
	if strings.Contains(text+secret, "Y2FuYXJ5") || strings.Contains(text+secret, "canary") || !strings.Contains(secret, uuid) || !strings.Contains(secret, `private="yes"`) {
		t.Errorf("the key is in the definition, or the secret is another: %s", secret)
	}
	if f, err := Read(text); err != nil || !f.Disks[0].Secret || f.Disks[1].Secret {
		t.Errorf("%+v, %v", f, err)
	}
}

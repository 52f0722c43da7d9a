package domainxml

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

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
		{"user-network", "tcg", func() *driverv1.DomainSpec {
			s := small()
			s.Interfaces = []*driverv1.DomainInterface{{InterfaceId: nicA, Mac: "52:54:00:00:00:01", Binding: &driverv1.InterfaceBinding{
				Binding: &driverv1.InterfaceBinding_UserMode{UserMode: &driverv1.UserModeBinding{Forwards: []*driverv1.PortForward{{HostPort: 8022, GuestPort: 22}}}},
			}}}
			return s
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Build(id, testMark, tc.spec(), Options{Accelerator: tc.accel, Files: FilesOf("/state", "/run/lq", id)})
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

// What the mark says can be read back; a foreign domain has none.
func TestMarkIsReadBack(t *testing.T) {
	text, err := Build(id, testMark, small(), Options{Accelerator: "tcg"})
	if err != nil {
		t.Fatal(err)
	}
	m, hash := ReadMark(text)
	if !proto.Equal(m, testMark) || hash != Hash(small()) {
		t.Errorf("got %v %s", m, hash)
	}
	for _, foreign := range []string{"", "<domain/>", "<domain><metadata><mark cluster='cl' node='no'/></metadata></domain>", "<broken"} {
		if m, _ := ReadMark(foreign); m != nil {
			t.Errorf("%q has mark %v", foreign, m)
		}
	}
	if Hash(small()) == Hash(full()) {
		t.Error("different specs have one hash")
	}
}

func TestNamesAreSafe(t *testing.T) {
	for in, want := range map[string]string{"web": "lq-0f6b1d52-web", "../../etc": "lq-0f6b1d52-etc", "": "lq-0f6b1d52", "ü<&>": "lq-0f6b1d52", strings.Repeat("x", 128): "lq-0f6b1d52-" + strings.Repeat("x", 48)} {
		if got := Name(id, in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestUnknownSourcesAreRefused(t *testing.T) {
	s := small()
	s.Disks = []*driverv1.DomainDisk{{DiskId: diskA, Source: &driverv1.DiskSource{Source: &driverv1.DiskSource_Rbd{Rbd: &driverv1.RbdSource{}}}}}
	if _, err := Build(id, testMark, s, Options{}); !fault.Is(err, metav1.Reason_REASON_INVALID_FIELD) {
		t.Error(err)
	}
}

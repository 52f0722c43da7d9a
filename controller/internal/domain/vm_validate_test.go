package domain_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const mib = int64(1) << 20

// goodVM is a VM with a bit of everything, defaulted.
func goodVM() *computev1.VM {
	vm := &computev1.VM{
		Meta: domain.NewMeta("018f0000-0000-7000-8000-000000000001", "web-1", "default", map[string]string{"a.example/tier": "web"}, nil),
		Spec: &computev1.VMSpec{
			MemoryBytes: 512 * mib, Cpu: &computev1.CPU{Vcpus: 4, Sockets: 1, Cores: 2, Threads: 2},
			Boot: &computev1.Boot{Kernel: &computev1.KernelBoot{KernelImage: "vmlinuz", Cmdline: "console=ttyS0 quiet"}},
			Disks: []*computev1.Disk{
				{Name: "root", Source: &computev1.Disk_Inline{Inline: &computev1.InlineVolume{SizeBytes: 1 << 30}}, BootOrder: 1},
				{Name: "data", Source: &computev1.Disk_Inline{Inline: &computev1.InlineVolume{Image: "debian"}}},
			},
			Nics: []*computev1.NIC{{Name: "eth0", Attachment: &computev1.NIC_User{User: &computev1.UserModeNetwork{
				Forwards: []*computev1.PortForward{{HostPort: 2222, GuestPort: 22}},
			}}}},
			CloudInit: &computev1.CloudInit{Hostname: "web", SshAuthorizedKeys: []string{"ssh-ed25519 AAAA me"}, UserData: []byte("#cloud-config\n")},
			Placement: &computev1.Placement{
				Affinity:    []*computev1.AffinityRule{{Type: computev1.AffinityType_AFFINITY_TYPE_ANTI_AFFINITY, VmLabels: map[string]string{"a": "b"}}},
				Tolerations: []*computev1.Toleration{{Key: "gpu"}},
			},
		},
	}
	domain.DefaultVM(vm.Spec, vm.Meta.Id)
	return vm
}

// Every way to be wrong is refused under the name of its field, and the good VM is not.
func TestValidateVM(t *testing.T) {
	t.Parallel()
	for field, spoil := range map[string]func(*computev1.VM){
		"":                            func(*computev1.VM) {},
		"vm.meta.name":                func(v *computev1.VM) { v.Meta.Name = "Web" },
		"vm.meta.project_id":          func(v *computev1.VM) { v.Meta.ProjectId = "../x" },
		`vm.meta.labels["-x"]`:        func(v *computev1.VM) { v.Meta.Labels = map[string]string{"-x": ""} },
		`vm.meta.labels["x"]`:         func(v *computev1.VM) { v.Meta.Labels = map[string]string{"x": "a b"} },
		"vm.meta.annotations":         func(v *computev1.VM) { v.Meta.Annotations = map[string]string{"x": strings.Repeat("x", 64<<10)} },
		"vm.spec.cpu.vcpus":           func(v *computev1.VM) { v.Spec.Cpu = &computev1.CPU{Vcpus: 513} },
		"vm.spec.cpu":                 func(v *computev1.VM) { v.Spec.Cpu.Cores = 3 },
		"vm.spec.cpu.model":           func(v *computev1.VM) { v.Spec.Cpu.Model = "a b" },
		"vm.spec.memory_bytes":        func(v *computev1.VM) { v.Spec.MemoryBytes = 16*mib + 1 },
		"vm.spec.boot.firmware":       func(v *computev1.VM) { v.Spec.Boot.Firmware = computev1.Firmware_FIRMWARE_UEFI },
		"vm.spec.boot.kernel.cmdline": func(v *computev1.VM) { v.Spec.Boot.Kernel.Cmdline = "a\nb" },
		"vm.spec.disks[1].name":       func(v *computev1.VM) { v.Spec.Disks[1].Name = "root" },
		"vm.spec.disks[0].inline.size_bytes": func(v *computev1.VM) {
			v.Spec.Disks[0].GetInline().SizeBytes = 513
		},
		"vm.spec.disks[0]":            func(v *computev1.VM) { v.Spec.Disks[0].Source = nil },
		"vm.spec.disks[1].volume":     func(v *computev1.VM) { v.Spec.Disks[1].Source = &computev1.Disk_Volume{} },
		"vm.spec.disks[1].boot_order": func(v *computev1.VM) { v.Spec.Disks[1].BootOrder = 1 },
		"vm.spec.disks[0].serial":     func(v *computev1.VM) { v.Spec.Disks[0].Serial = "a/b" },
		"vm.spec.disks[0].bus":        func(v *computev1.VM) { v.Spec.Disks[0].Bus = 99 },
		"vm.spec.disks":               func(v *computev1.VM) { v.Spec.Disks = make([]*computev1.Disk, 25) },
		"vm.spec.nics[0].mac":         func(v *computev1.VM) { v.Spec.Nics[0].Mac = "01:00:00:00:00:01" },
		"vm.spec.nics[0].model":       func(v *computev1.VM) { v.Spec.Nics[0].Model = "ne2k" },
		"vm.spec.nics[0].queues":      func(v *computev1.VM) { v.Spec.Nics[0].Queues = 2 }, // with a user-mode network
		"vm.spec.nics[0].network.network": func(v *computev1.VM) {
			v.Spec.Nics[0].Attachment = &computev1.NIC_Network{Network: &computev1.NetworkAttachment{Network: "../x"}}
		},
		"vm.spec.nics[0].network": func(v *computev1.VM) {
			v.Spec.Nics[0].Attachment = &computev1.NIC_Network{Network: &computev1.NetworkAttachment{Port: "p", Network: "n"}}
		},
		"vm.spec.nics[0].network.ip_addresses[1]": func(v *computev1.VM) {
			v.Spec.Nics[0].Attachment = &computev1.NIC_Network{Network: &computev1.NetworkAttachment{Network: "n", IpAddresses: []string{"10.0.0.1", "10.0.0.2"}}}
		},
		"vm.spec.nics[0].network.security_groups": func(v *computev1.VM) {
			v.Spec.Nics[0].Attachment = &computev1.NIC_Network{Network: &computev1.NetworkAttachment{Network: "n", SecurityGroups: make([]string, 33)}}
		},
		"vm.spec.nics[0].user.forwards[0].host_port": func(v *computev1.VM) {
			v.Spec.Nics[0].GetUser().Forwards[0].HostPort = 65536
		},
		"vm.spec.nics[0].user.forwards[0].host_address": func(v *computev1.VM) {
			v.Spec.Nics[0].GetUser().Forwards[0].HostAddress = "localhost"
		},
		"vm.spec.nics[0].user.forwards[0].protocol":    func(v *computev1.VM) { v.Spec.Nics[0].GetUser().Forwards[0].Protocol = "icmp" },
		"vm.spec.cloud_init.hostname":                  func(v *computev1.VM) { v.Spec.CloudInit.Hostname = "a_b" },
		"vm.spec.cloud_init.ssh_authorized_keys[0]":    func(v *computev1.VM) { v.Spec.CloudInit.SshAuthorizedKeys[0] = "x" },
		"vm.spec.cloud_init.user_data":                 func(v *computev1.VM) { v.Spec.CloudInit.UserData = []byte("hello") },
		"vm.spec.placement.affinity[0].vm_labels":      func(v *computev1.VM) { v.Spec.Placement.Affinity[0].VmLabels = nil },
		"vm.spec.placement.affinity[0].weight":         func(v *computev1.VM) { v.Spec.Placement.Affinity[0].Weight = 5 },
		"vm.spec.placement.tolerations[0].key":         func(v *computev1.VM) { v.Spec.Placement.Tolerations[0].Key = "a b" },
		"vm.spec.desired_power":                        func(v *computev1.VM) { v.Spec.DesiredPower = 77 },
		"vm.spec.run_policy":                           func(v *computev1.VM) { v.Spec.RunPolicy = 77 },
		"vm.spec.stop_grace":                           func(v *computev1.VM) { v.Spec.StopGrace = durationpb.New(2 * time.Hour) },
		"vm.spec.machine_type":                         func(v *computev1.VM) { v.Spec.MachineType = "q35;x" },
		"vm.spec.boot.kernel.kernel_image":             func(v *computev1.VM) { v.Spec.Boot.Kernel.KernelImage = "" },
		"vm.spec.cloud_init.network_config":            func(v *computev1.VM) { v.Spec.CloudInit.NetworkConfig = "\x00" },
		"vm.spec.placement.affinity[0].topology_key":   func(v *computev1.VM) { v.Spec.Placement.Affinity[0].TopologyKey = "/" },
		`vm.spec.placement.node_selector["a b"]`:       func(v *computev1.VM) { v.Spec.Placement.NodeSelector = map[string]string{"a b": ""} },
		`vm.spec.placement.affinity[0].vm_labels["!"]`: func(v *computev1.VM) { v.Spec.Placement.Affinity[0].VmLabels = map[string]string{"!": ""} },
	} {
		t.Run(field, func(t *testing.T) {
			vm := goodVM()
			spoil(vm)
			var v domain.Violations
			domain.ValidateVM(&v, vm)
			if field == "" {
				if len(v) > 0 {
					t.Fatalf("good VM is refused: %v", v)
				}
				return
			}
			if !slices.ContainsFunc(v, func(x fault.Violation) bool { return x.Field == field && x.Description != "" }) {
				t.Fatalf("violations are %v", v)
			}
		})
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{
		"a": true, "web-1": true, strings.Repeat("a", 63): true, "": false, strings.Repeat("a", 64): false, "1a": false, "a-": false, "-a": false,
		"A": false, "a.b": false, "a/b": false, "..": false, "a b": false, "ä": false,
	} {
		if domain.ValidName(name) != ok {
			t.Errorf("%q: valid is %v", name, !ok)
		}
	}
	now := time.Now()
	a, b := domain.NewID(now), domain.NewID(now.Add(time.Millisecond))
	if !domain.IsID(a) || a >= b || domain.IsID("web-1") || domain.IsID(strings.ToUpper(a)) {
		t.Errorf("ids %s, %s", a, b)
	}
}

// The mask is honoured exactly: what it names changes, also to nothing, and what it does not name stays.
func TestUpdateVM(t *testing.T) {
	t.Parallel()
	cur := goodVM()
	domain.TakeUserData(cur.Spec)
	sum := cur.Spec.CloudInit.UserDataSha256
	update := func(change *computev1.VM, paths ...string) (*computev1.VM, bool, bool, error) {
		return domain.UpdateVM(cur, change, &fieldmaskpb.FieldMask{Paths: paths})
	}
	next, spec, keep, err := update(&computev1.VM{Spec: &computev1.VMSpec{Vnc: true, MemoryBytes: 64 * mib}}, "spec.vnc")
	if err != nil || !spec || !keep || !next.GetSpec().GetVnc() || next.GetSpec().GetMemoryBytes() != 512*mib {
		t.Fatalf("vnc: %v %v %v %v", next, spec, keep, err)
	}
	next, spec, _, err = update(&computev1.VM{}, "meta.labels", "spec.boot")
	if err != nil || !spec || len(next.GetMeta().GetLabels()) > 0 || next.GetSpec().GetBoot() != nil {
		t.Fatalf("clearing: %v %v", next, err)
	}
	if _, spec, _, err = update(&computev1.VM{Spec: cur.GetSpec()}, "spec"); err != nil || spec {
		t.Fatalf("what was read sent back: changed %v, %v", spec, err)
	}
	if next, _, keep, err = update(&computev1.VM{Spec: cur.GetSpec()}, "spec"); !keep || next.GetSpec().GetCloudInit().GetUserDataSha256() != sum {
		t.Fatalf("secret is not kept: %v %v", keep, err)
	}
	if _, _, keep, err = update(&computev1.VM{}, "spec.cloud_init.user_data"); keep || err != nil {
		t.Fatalf("secret is not removed: %v %v", keep, err)
	}
	other := proto.CloneOf(cur)
	other.Spec.Disks = other.Spec.Disks[:1]
	for _, tc := range []struct {
		change *computev1.VM
		paths  []string
	}{
		{&computev1.VM{}, nil},
		{other, []string{"spec.disks"}},
		{&computev1.VM{Spec: &computev1.VMSpec{MachineType: "q35"}}, []string{"spec"}},
		{&computev1.VM{}, []string{"spec.memory_bytes"}},
		{&computev1.VM{}, []string{"spec.disks.name"}},
		{&computev1.VM{}, []string{"meta.id"}},
		{&computev1.VM{Meta: &metav1.ObjectMeta{}}, []string{"spec.restart_generation"}},
	} {
		if _, _, _, err := update(tc.change, tc.paths...); !fault.Is(err, metav1.Reason_REASON_INVALID_FIELD) {
			t.Errorf("%v: %v", tc.paths, err)
		}
	}
}

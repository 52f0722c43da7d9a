package reconcile

import (
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/agent/internal/realised"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	storagev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/storage/v1"
)

func twoDisks() (*agentv1.DesiredVM, sources) {
	d := &agentv1.DesiredVM{
		VmId: "11111111-2222-4333-8444-555555555555", Name: "web", UserData: []byte("#cloud-config\npassword: x\n"),
		Spec: &computev1.VMSpec{
			MemoryBytes: 1 << 30, Disks: []*computev1.Disk{{Name: "a"}, {Name: "b", Serial: "own"}},
			Nics:      []*computev1.NIC{{Name: "n", Mac: "52:54:00:00:00:01", Attachment: &computev1.NIC_User{User: &computev1.UserModeNetwork{Forwards: []*computev1.PortForward{{HostPort: 1, GuestPort: 2}}}}}},
			CloudInit: &computev1.CloudInit{SshAuthorizedKeys: []string{"ssh-ed25519 AAAA: \"x\"\ninjected: true"}, UserDataSha256: "s"},
		},
		Volumes: []*agentv1.VMVolume{{DiskName: "b", VolumeId: "vb"}, {DiskName: "a", VolumeId: "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"}},
	}
	return d, sources{volumes: map[string]*driverv1.DiskSource{"vb": {}, "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee": {}}}
}

func TestDomainSpec(t *testing.T) {
	t.Parallel()
	d, src := twoDisks()
	s, err := domainSpec(d, src)
	if err != nil {
		t.Fatal(err)
	}
	if !s.GetGuestAgent() || !s.GetSerialConsole() || s.GetCpu().GetVcpus() != 1 {
		t.Errorf("defaults: %v", s)
	}
	a, b := s.GetDisks()[0], s.GetDisks()[1]
	if a.GetBootOrder() != 1 || b.GetBootOrder() != 2 || a.GetSerial() != "aaaaaaaabbbb4ccc8ddd" || b.GetSerial() != "own" || b.GetDiskId() != "vb" {
		t.Errorf("disks: %v", s.GetDisks())
	}
	f := s.GetInterfaces()[0].GetBinding().GetUserMode().GetForwards()[0]
	if f.GetHostAddress() != "127.0.0.1" || f.GetProtocol() != "tcp" {
		t.Errorf("a forward that listens to the world: %v", f)
	}
	var meta map[string]any
	if err := yaml.Unmarshal(s.GetCloudInit().GetMetaData(), &meta); err != nil || meta["instance-id"] != d.GetVmId() || meta["local-hostname"] != "web" || meta["injected"] != nil {
		t.Errorf("meta-data %v: %v", meta, err)
	}
	if !strings.Contains(string(s.GetCloudInit().GetUserData()), "password") {
		t.Error("user-data was lost")
	}
	d.Spec.Boot = &computev1.Boot{Kernel: &computev1.KernelBoot{KernelImage: "k", Cmdline: "quiet"}}
	src.kernel = "/k"
	if s, err = domainSpec(d, src); err != nil || s.GetBoot().GetKernelPath() != "/k" || s.GetDisks()[0].GetBootOrder() != 0 {
		t.Errorf("kernel boot: %v, %v", s.GetBoot(), err)
	}
	d.Spec.Nics[0].Attachment = &computev1.NIC_Network{Network: &computev1.NetworkAttachment{}}
	d.Spec.Nics[0].Queues, d.Spec.Nics[0].Model = 4, "virtio"
	d.Ports = []*agentv1.VMPort{{NicName: "other", PortId: "q"}, {NicName: "n", PortId: "p"}}
	if _, err = domainSpec(d, src); err == nil {
		t.Error("a NIC without a binding was defined")
	}
	binding := &driverv1.InterfaceBinding{Binding: &driverv1.InterfaceBinding_BridgePort{BridgePort: &driverv1.BridgePortBinding{Bridge: "b", TapName: "t"}}}
	src.ports = map[string]portSource{"p": {binding: binding, mac: "52:54:00:00:00:02", queues: 2, linkDown: true}, "q": {}}
	s, err = domainSpec(d, src)
	want := &driverv1.DomainInterface{InterfaceId: "p", Mac: "52:54:00:00:00:02", Model: "virtio", Queues: 4, LinkDown: true, Binding: binding}
	if err != nil || !proto.Equal(s.GetInterfaces()[0], want) {
		t.Errorf("a NIC in a network: %v, %v", s.GetInterfaces(), err)
	}
}

// What shapes no definition changes no hash; what does, changes it.
// Limits of a volume shape the definition, and only they: who has none is defined as before there were any.
func TestInputHashOfLimits(t *testing.T) {
	e, _ := newFake(t)
	vm := e.wants[realised.Key{Kind: realised.KindVM, ID: "vm"}].obj.GetVm()
	vol := e.wants[volumeKey("vol")].obj.GetVolume().GetVolume()
	base := e.inputHash(vm)
	if base != inputHash(vm) {
		t.Error("a volume without limits counts")
	}
	vol.Spec.SizeBytes = 1 << 30
	if e.inputHash(vm) != base {
		t.Error("a volume's size counts")
	}
	seen := map[string]bool{base: true}
	for _, q := range []*storagev1.VolumeQos{{Iops: 1}, {Iops: 2}, {BytesPerSecond: 1}, {Iops: 1, BytesPerSecond: 1}} {
		vol.Spec.Qos = q
		if h := e.inputHash(vm); seen[h] {
			t.Errorf("%v does not count", q)
		} else {
			seen[h] = true
		}
	}
	vol.Spec.Qos = &storagev1.VolumeQos{}
	if e.inputHash(vm) != base {
		t.Error("limits that were lifted count")
	}
}

func TestInputHash(t *testing.T) {
	t.Parallel()
	d, _ := twoDisks()
	network := func(groups ...string) *computev1.NIC_Network {
		return &computev1.NIC_Network{Network: &computev1.NetworkAttachment{SecurityGroups: groups}}
	}
	d.Spec.Nics = append(d.Spec.Nics, &computev1.NIC{Name: "m", Attachment: network("g")})
	d.Ports = []*agentv1.VMPort{{NicName: "m", PortId: "p"}}
	base := inputHash(d)
	for name, change := range map[string]func(*agentv1.DesiredVM){
		"power":      func(d *agentv1.DesiredVM) { d.Spec.DesiredPower = computev1.PowerState_POWER_STATE_STOPPED },
		"reboot":     func(d *agentv1.DesiredVM) { d.Spec.RestartGeneration++ },
		"generation": func(d *agentv1.DesiredVM) { d.Generation++ },
		"policy":     func(d *agentv1.DesiredVM) { d.Spec.RunPolicy = computev1.RunPolicy_RUN_POLICY_ALWAYS },
		"user-data":  func(d *agentv1.DesiredVM) { d.UserData = nil },
		"groups":     func(d *agentv1.DesiredVM) { d.Spec.Nics[1].Attachment = network("h") },
		"size": func(d *agentv1.DesiredVM) {
			d.Spec.Disks[0].Source = &computev1.Disk_Inline{Inline: &computev1.InlineVolume{SizeBytes: 9}}
		},
	} {
		c := proto.CloneOf(d)
		if change(c); inputHash(c) != base {
			t.Errorf("%s changes the definition", name)
		}
	}
	for name, change := range map[string]func(*agentv1.DesiredVM){
		"memory": func(d *agentv1.DesiredVM) { d.Spec.MemoryBytes++ },
		"epoch":  func(d *agentv1.DesiredVM) { d.Epoch++ },
		"volume": func(d *agentv1.DesiredVM) { d.Volumes[0].VolumeId = "x" },
		"port":   func(d *agentv1.DesiredVM) { d.Ports[0].PortId = "q" },
		"seed":   func(d *agentv1.DesiredVM) { d.Spec.CloudInit.UserDataSha256 = "t" },
	} {
		c := proto.CloneOf(d)
		if change(c); inputHash(c) == base {
			t.Errorf("%s does not change the definition", name)
		}
	}
}

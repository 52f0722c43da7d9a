package mark_test

import (
	"encoding/xml"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/limiquantix/limiquantix/plugins/kvm/internal/mark"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

func spec() *driverv1.DomainSpec {
	return &driverv1.DomainSpec{
		Name: "web", Cpu: &driverv1.DomainCpu{Vcpus: 2, MaxVcpus: 4}, MemoryBytes: 1 << 30,
		Disks: []*driverv1.DomainDisk{{DiskId: "a"}, {DiskId: "b"}}, Interfaces: []*driverv1.DomainInterface{{InterfaceId: "n"}},
		CloudInit: &driverv1.CloudInitSeed{UserData: []byte("secret")},
	}
}

// Each change of a spec changes its hash; only what a guest notices changes the hash of what runs.
func TestHashes(t *testing.T) {
	t.Parallel()
	base := mark.Of(nil, spec())
	for name, tc := range map[string]struct {
		change        func(*driverv1.DomainSpec)
		hash, running bool // whether they change
	}{
		"nothing":       {func(*driverv1.DomainSpec) {}, false, false},
		"name":          {func(s *driverv1.DomainSpec) { s.Name = "other" }, true, false},
		"vcpus":         {func(s *driverv1.DomainSpec) { s.Cpu.Vcpus = 3 }, true, true},
		"max vcpus":     {func(s *driverv1.DomainSpec) { s.Cpu.MaxVcpus = 5 }, true, true},
		"memory":        {func(s *driverv1.DomainSpec) { s.MemoryBytes *= 2 }, true, true},
		"user-data":     {func(s *driverv1.DomainSpec) { s.CloudInit.UserData = []byte("other") }, true, true},
		"disk":          {func(s *driverv1.DomainSpec) { s.Disks[1].ReadOnly = true }, true, true},
		"order of disk": {func(s *driverv1.DomainSpec) { s.Disks[0], s.Disks[1] = s.Disks[1], s.Disks[0] }, true, true},
		"interface":     {func(s *driverv1.DomainSpec) { s.Interfaces = nil }, true, true},
		"link":          {func(s *driverv1.DomainSpec) { s.Interfaces[0].LinkDown = true }, true, true},
		"queues":        {func(s *driverv1.DomainSpec) { s.Interfaces[0].Queues = 2 }, true, true},
		"one queue":     {func(s *driverv1.DomainSpec) { s.Interfaces[0].Queues = 1 }, false, false},
	} {
		s := spec()
		tc.change(s)
		m := mark.Of(nil, s)
		if changed := m.Hash() != base.Hash(); changed != tc.hash {
			t.Errorf("%s: hash changed: %v", name, changed)
		}
		if changed := m.Running() != base.Running(); changed != tc.running {
			t.Errorf("%s: hash of what runs changed: %v", name, changed)
		}
	}
}

// Adding and removing devices one by one leads to the hash of the spec that has them.
func TestDevicesOneByOne(t *testing.T) {
	t.Parallel()
	less := spec()
	less.Disks = less.Disks[:1]
	whole, m := mark.Of(nil, spec()), mark.Of(nil, less)
	before := m.Hash()
	added := m.With(mark.OfDisk(spec().GetDisks()[1]))
	if added.Hash() != whole.Hash() {
		t.Errorf("added: %v, want %v", added.Devices, whole.Devices)
	}
	back := added.Without(mark.Disk, "b")
	if back.Hash() != before || m.Hash() != before {
		t.Errorf("removed again: %v; the first one became %v", back.Devices, m.Devices)
	}
	if d, ok := added.Find(mark.Disk, "b"); !ok || d != mark.OfDisk(spec().GetDisks()[1]) {
		t.Error(d, ok)
	}
	if _, ok := added.Find(mark.Interface, "b"); ok {
		t.Error("a disk is found as an interface")
	}
}

// What is written can be read, and holds no secret.
func TestEncode(t *testing.T) {
	t.Parallel()
	own := &driverv1.OwnershipMark{ClusterId: "c<&\"", NodeId: "n", ObjectId: "o", Generation: 7, Epoch: 3}
	m := mark.Of(own, spec())
	text, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	var back mark.Mark
	if err := xml.Unmarshal([]byte(text), &back); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(back.Ownership(), own) || back.Hash() != m.Hash() || back.Running() != m.Running() {
		t.Errorf("%s\n%+v", text, back)
	}
}

// Marks that lie on hosts keep their hashes: a new version of this driver finds no domain changed.
func TestHashesOfEarlierVersions(t *testing.T) {
	t.Parallel()
	s := spec()
	s.Interfaces = []*driverv1.DomainInterface{
		{InterfaceId: "n", Mac: "52:54:00:00:00:01", Binding: &driverv1.InterfaceBinding{
			Binding: &driverv1.InterfaceBinding_BridgePort{BridgePort: &driverv1.BridgePortBinding{Bridge: "br0", TapName: "t0", Mtu: 1400}},
		}},
		{InterfaceId: "u", Mac: "52:54:00:00:00:02", Model: "e1000e", Binding: &driverv1.InterfaceBinding{
			Binding: &driverv1.InterfaceBinding_UserMode{UserMode: &driverv1.UserModeBinding{Forwards: []*driverv1.PortForward{{Protocol: "tcp", HostPort: 8022, GuestPort: 22}}}},
		}},
	}
	m := mark.Of(nil, s)
	for what, hash := range map[string][2]string{
		"spec":         {m.Hash(), "10b388c9293ed6a469bb753f"},
		"what runs":    {m.Running(), "9076817b6fb265195b7b1e7e"},
		"bridge port":  {m.Devices[2].Hash, "97d26b524e56ff1a22cf4663"},
		"user network": {m.Devices[3].Hash, "a3587f401ef34709dc1f67c2"},
	} {
		if hash[0] != hash[1] {
			t.Errorf("%s: %s, was %s", what, hash[0], hash[1])
		}
	}
}

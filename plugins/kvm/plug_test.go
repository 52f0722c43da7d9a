package kvm_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

const (
	diskID  = "3f6b1d52-6a0e-4d0e-9d2b-3c1a4f5e6a7b"
	otherID = "4f6b1d52-6a0e-4d0e-9d2b-3c1a4f5e6a7b"
)

// rawDisk makes a disk of a new raw file.
func (b *bench) rawDisk(id string, size int64) *driverv1.DomainDisk {
	b.t.Helper()
	path := filepath.Join(b.dir, id+".raw")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		b.t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		b.t.Fatal(err)
	}
	return &driverv1.DomainDisk{DiskId: id, Source: &driverv1.DiskSource{Source: &driverv1.DiskSource_File{
		File: &driverv1.FileSource{Path: path, Format: driverv1.VolumeFormat_VOLUME_FORMAT_RAW},
	}}}
}

// Disks, interfaces and virtual CPUs come and go while the guest runs, each call twice, and the spec's hash follows.
func TestPlug(t *testing.T) {
	t.Parallel()
	b, ctx := newBench(t), t.Context()
	if _, err := b.node.Exec(ctx, "ip", "link", "add", "lqbr", "up", "type", "bridge"); err != nil {
		t.Fatal(err)
	}
	spec := b.spec("labname=plug")
	spec.Cpu.MaxVcpus = 2
	spec.Disks = []*driverv1.DomainDisk{b.rawDisk(otherID, 4<<20)}
	ok[*driverv1.CreateDomainResponse](t, "create")(b.CreateDomain(ctx, &driverv1.CreateDomainRequest{DomainId: b.id, Mark: mark(b.id), Spec: spec}))
	first := b.start()
	if log := b.waitLog(b.id, "GUEST-READY"); !strings.Contains(log, "cpus=1 ") {
		t.Errorf("virtual CPUs at start:\n%s", log)
	}

	disk := b.rawDisk(diskID, 8<<20)
	for range 2 {
		ok[*driverv1.AttachDiskResponse](t, "attach disk")(b.AttachDisk(ctx, &driverv1.AttachDiskRequest{DomainId: b.id, Disk: disk}))
	}
	b.waitLog(b.id, "HOTPLUG add vdb")
	other := proto.CloneOf(disk)
	other.ReadOnly = true
	if _, err := b.AttachDisk(ctx, &driverv1.AttachDiskRequest{DomainId: b.id, Disk: other}); !fault.Is(err, metav1.Reason_REASON_SPEC_CONFLICT) {
		t.Error("other disk of that id:", err)
	}
	ok[*driverv1.ResizeDiskResponse](t, "resize")(b.ResizeDisk(ctx, &driverv1.ResizeDiskRequest{DomainId: b.id, DiskId: diskID, SizeBytes: 16 << 20}))
	stats := ok[*driverv1.GetStatsResponse](t, "stats")(b.GetStats(ctx, &driverv1.GetStatsRequest{}))
	if d := stats.GetDomains()[0].GetDisks(); len(d) != 2 || d[1].GetDiskId() != diskID || d[1].GetCapacityBytes() != 16<<20 {
		t.Errorf("disks of stats: %v", d)
	}
	if _, err := b.ResizeDisk(ctx, &driverv1.ResizeDiskRequest{DomainId: b.id, DiskId: foreignID, SizeBytes: 16 << 20}); !fault.Is(err, metav1.Reason_REASON_VOLUME_NOT_FOUND) {
		t.Error("resize of another disk:", err)
	}

	nic := &driverv1.DomainInterface{InterfaceId: nicID, Mac: "52:54:00:0a:0b:0c", Binding: &driverv1.InterfaceBinding{
		Binding: &driverv1.InterfaceBinding_BridgePort{BridgePort: &driverv1.BridgePortBinding{Bridge: "lqbr", TapName: "lqtap0"}},
	}}
	for range 2 {
		ok[*driverv1.AttachInterfaceResponse](t, "attach interface")(b.AttachInterface(ctx, &driverv1.AttachInterfaceRequest{DomainId: b.id, Interface: nic}))
	}
	link := func(want bool) {
		t.Helper()
		if n := b.get().GetInterfaces(); len(n) != 1 || n[0].GetInterfaceId() != nicID || n[0].GetDevice() != "lqtap0" || n[0].GetLinkUp() != want {
			t.Errorf("interfaces: %v", n)
		}
	}
	link(true)
	for _, up := range []bool{false, false, true} {
		ok[*driverv1.SetLinkResponse](t, "set link")(b.SetLink(ctx, &driverv1.SetLinkRequest{DomainId: b.id, InterfaceId: nicID, Up: up}))
		link(up)
	}
	if ports, err := b.node.Exec(ctx, "ip", "-o", "link", "show", "master", "lqbr"); err != nil || !strings.Contains(ports, "lqtap0") {
		t.Errorf("bridge has %q, %v", ports, err)
	}

	// What was plugged in one by one is the spec that has it.
	whole := proto.CloneOf(spec)
	whole.Disks, whole.Interfaces = append(whole.Disks, disk), append(whole.Interfaces, nic)
	dom := ok[*driverv1.CreateDomainResponse](t, "create with all")(b.CreateDomain(ctx, &driverv1.CreateDomainRequest{DomainId: b.id, Mark: mark(b.id), Spec: whole})).GetDomain()
	if dom.GetRestartRequired() || dom.GetPid() != first.GetPid() {
		t.Errorf("after plugging: %v", dom)
	}

	// One update takes all of it away again, and adds a CPU.
	less := proto.CloneOf(spec)
	less.Cpu.Vcpus, less.Name = 2, "another name"
	update := &driverv1.UpdateDomainRequest{DomainId: b.id, Mark: mark(b.id), Spec: less}
	for range 2 {
		if d := ok[*driverv1.UpdateDomainResponse](t, "update")(b.UpdateDomain(ctx, update)).GetDomain(); d.GetRestartRequired() || len(d.GetInterfaces()) > 0 {
			t.Errorf("updated: %v", d)
		}
	}
	b.waitLog(b.id, "HOTPLUG cpus=2")
	b.waitLog(b.id, "HOTPLUG remove vdb")
	for range 2 {
		ok[*driverv1.DetachDiskResponse](t, "detach")(b.DetachDisk(ctx, &driverv1.DetachDiskRequest{DomainId: b.id, DiskId: otherID}))
		ok[*driverv1.DetachInterfaceResponse](t, "detach")(b.DetachInterface(ctx, &driverv1.DetachInterfaceRequest{DomainId: b.id, InterfaceId: nicID}))
	}
	b.waitLog(b.id, "HOTPLUG remove vda")

	// Memory waits for the next start, and is there then.
	less.Disks, less.MemoryBytes = nil, 160<<20
	if d := ok[*driverv1.UpdateDomainResponse](t, "update")(b.UpdateDomain(ctx, update)).GetDomain(); !d.GetRestartRequired() || d.GetPid() != first.GetPid() {
		t.Errorf("memory: %v", d)
	}
	if !b.get().GetRestartRequired() {
		t.Error("forgot that a restart is required")
	}
	ok[*driverv1.StopDomainResponse](t, "stop")(b.StopDomain(ctx, &driverv1.StopDomainRequest{DomainId: b.id, Grace: durationpb.New(bootLimit)}))
	if d := b.start(); d.GetRestartRequired() || d.GetPid() == first.GetPid() {
		t.Errorf("started again: %v", d)
	}
	stats = ok[*driverv1.GetStatsResponse](t, "stats")(b.GetStats(ctx, &driverv1.GetStatsRequest{}))
	if m := stats.GetDomains()[0].GetMemoryBytes(); m != 160<<20 {
		t.Errorf("memory after restart: %d", m)
	}
}

// Figures of an interface are the guest's view: what is sent to it, it receives.
func TestInterfaceFigures(t *testing.T) {
	t.Parallel()
	b, ctx := newBench(t), t.Context()
	for _, args := range [][]string{{"link", "add", "lqbr", "up", "type", "bridge"}, {"addr", "add", "10.9.9.1/24", "dev", "lqbr"}} {
		if out, err := b.node.Exec(ctx, "ip", args...); err != nil {
			t.Fatal(out, err)
		}
	}
	spec := b.spec("labname=nic labip=10.9.9.2/24")
	spec.Interfaces = []*driverv1.DomainInterface{{InterfaceId: nicID, Mac: "52:54:00:0a:0b:0c", Binding: &driverv1.InterfaceBinding{
		Binding: &driverv1.InterfaceBinding_BridgePort{BridgePort: &driverv1.BridgePortBinding{Bridge: "lqbr", TapName: "lqtap0"}},
	}}}
	b.create(b.id, spec)
	b.start()
	b.waitLog(b.id, "GUEST-READY")
	figures := func() *driverv1.InterfaceStats {
		t.Helper()
		d := ok[*driverv1.GetStatsResponse](t, "stats")(b.GetStats(ctx, &driverv1.GetStatsRequest{})).GetDomains()
		if len(d) != 1 || len(d[0].GetInterfaces()) != 1 || d[0].GetInterfaces()[0].GetInterfaceId() != nicID || d[0].GetMemoryRssBytes() == 0 {
			t.Fatalf("stats: %v", d)
		}
		return d[0].GetInterfaces()[0]
	}
	before := figures()
	// To the guest's card, but to an address that it has not: it answers nothing. What it sends of its own accord is far less.
	const sent = 100
	if out, err := b.node.Exec(ctx, "bash", "-c", fmt.Sprintf("ip neigh add 10.9.9.9 lladdr 52:54:00:0a:0b:0c dev lqbr && for i in {1..%d}; do echo x >/dev/udp/10.9.9.9/9; done", sent)); err != nil {
		t.Fatal(out, err)
	}
	var in, out int64
	for deadline := time.Now().Add(time.Minute); ; <-time.After(50 * time.Millisecond) { // QEMU takes them one by one
		after := figures()
		in, out = after.GetReceivePackets()-before.GetReceivePackets(), after.GetTransmitPackets()-before.GetTransmitPackets()
		if in >= sent || time.Now().After(deadline) {
			break
		}
	}
	if in < sent || out >= in {
		t.Errorf("guest received %d packets and sent %d", in, out)
	}
}

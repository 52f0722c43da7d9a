package kvm_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	"github.com/limiquantix/limiquantix/test/lab"
)

// The agent inside a Debian guest that boots from its own disk: what it tells, and file systems that thaw by themselves, also when the plugin is killed meanwhile.
func TestGuestAgent(t *testing.T) {
	t.Parallel()
	b, ctx := newBench(t), t.Context()
	image, err := lab.DebianGuest(ctx)
	if err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(b.dir, "debian.qcow2")
	if out, err := exec.CommandContext(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, overlay).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	spec := &driverv1.DomainSpec{
		Name: "debian", Cpu: &driverv1.DomainCpu{Vcpus: 1}, MemoryBytes: 512 << 20, SerialConsole: true, GuestAgent: true,
		CloudInit: &driverv1.CloudInitSeed{MetaData: []byte("instance-id: i\nlocal-hostname: seeded\n"), UserData: []byte("#cloud-config\n{}\n")},
		Disks: []*driverv1.DomainDisk{{DiskId: diskID, BootOrder: 1, Source: &driverv1.DiskSource{Source: &driverv1.DiskSource_File{
			File: &driverv1.FileSource{Path: overlay, Format: driverv1.VolumeFormat_VOLUME_FORMAT_QCOW2},
		}}}},
	}
	b.create(b.id, spec)
	events := ok[driverv1.PluginService_WatchEventsClient](t, "events")(b.WatchEvents(ctx, &driverv1.WatchEventsRequest{}))
	b.start()
	for !b.get().GetGuestAgentConnected() {
		for e := (*driverv1.WatchEventsResponse)(nil); e.GetDomain().GetType() != driverv1.DomainEventType_DOMAIN_EVENT_TYPE_GUEST_AGENT; {
			e = ok[*driverv1.WatchEventsResponse](t, "event")(events.Recv())
		}
	}
	b.waitLog(b.id, "finished at") // cloud-init
	info := ok[*driverv1.GetGuestInfoResponse](t, "guest info")(b.GetGuestInfo(ctx, &driverv1.GetGuestInfoRequest{DomainId: b.id}))
	if info.GetHostname() != "seeded" || !strings.Contains(info.GetOsName(), "Debian") || info.GetKernelRelease() == "" || info.GetAgentVersion() == "" || len(info.GetInterfaces()) == 0 {
		t.Errorf("guest info: %v", info)
	}

	frozen := filepath.Join(b.state, "domains", b.id, "frozen")
	freeze := func(most time.Duration) {
		t.Helper()
		q := ok[*driverv1.QuiesceDomainResponse](t, "quiesce")(b.QuiesceDomain(ctx, &driverv1.QuiesceDomainRequest{DomainId: b.id, MaxFrozen: durationpb.New(most)}))
		if q.GetFrozenCount() < 1 {
			t.Errorf("quiesce: %v", q)
		}
	}
	thawed := func() {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; {
			if _, err := os.Stat(frozen); err != nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("never thawed")
			}
			<-time.After(50 * time.Millisecond)
		}
		if n := ok[*driverv1.ThawDomainResponse](t, "thaw")(b.ThawDomain(ctx, &driverv1.ThawDomainRequest{DomainId: b.id})).GetThawedCount(); n != 0 {
			t.Errorf("%d were still frozen", n)
		}
	}
	freeze(time.Minute)
	if n := ok[*driverv1.ThawDomainResponse](t, "thaw")(b.ThawDomain(ctx, &driverv1.ThawDomainRequest{DomainId: b.id})).GetThawedCount(); n < 1 {
		t.Errorf("%d thawed", n)
	}
	thawed()
	freeze(time.Second)
	thawed()
	freeze(time.Minute)
	if err := syscall.Kill(b.process.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-b.process.Done()
	b.launch()
	thawed()
}

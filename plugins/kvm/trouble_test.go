package kvm_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Two domains of one name whose ids begin alike, as those of two projects that are made in one millisecond, live side by side.
const twinA, twinB = "01a2099f-a798-7b00-aebf-2c16599758d4", "01a2099f-a798-7b00-9ebf-6a7813d7166c"

func (b *bench) create(id string, spec *driverv1.DomainSpec) {
	b.t.Helper()
	ok[*driverv1.CreateDomainResponse](b.t, "create")(b.CreateDomain(b.t.Context(), &driverv1.CreateDomainRequest{DomainId: id, Mark: mark(id), Spec: spec}))
}

func (b *bench) boot(id, cmdline string) *driverv1.Domain {
	b.t.Helper()
	b.create(id, b.spec(cmdline))
	return ok[*driverv1.StartDomainResponse](b.t, "start")(b.StartDomain(b.t.Context(), &driverv1.StartDomainRequest{DomainId: id})).GetDomain()
}

// A QEMU that hangs delays neither the figures nor the verbs of another domain, and is itself ended by force.
func TestHungGuestDelaysNobody(t *testing.T) {
	t.Parallel()
	b, ctx := newBench(t), t.Context()
	hung, well := b.boot(twinA, "labname=hung"), b.boot(twinB, "labname=well")
	for _, id := range []string{twinA, twinB} {
		b.waitLog(id, "GUEST-READY name="+map[string]string{twinA: "hung", twinB: "well"}[id])
	}
	if err := syscall.Kill(int(hung.GetPid()), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		begin := time.Now()
		stats := ok[*driverv1.GetStatsResponse](t, "stats")(b.GetStats(ctx, &driverv1.GetStatsRequest{PerDomainTimeout: durationpb.New(time.Second)}))
		if took := time.Since(begin); took > 15*time.Second {
			t.Errorf("round %d: stats took %s", round, took)
		}
		got := map[string]*driverv1.DomainStats{}
		for _, s := range stats.GetDomains() {
			got[s.GetDomainId()] = s
		}
		if s := got[twinA]; s == nil || s.GetError() == "" {
			t.Errorf("round %d: hung domain: %v", round, s)
		}
		if s := got[twinB]; s == nil || s.GetError() != "" || s.GetCpuTimeNs() == 0 {
			t.Errorf("round %d: other domain: %v", round, s)
		}
	}
	begin := time.Now()
	for range 8 { // more than libvirtd takes at once from one connection
		go func() { _, _ = b.PauseDomain(ctx, &driverv1.PauseDomainRequest{DomainId: twinA}) }()
	}
	ok[*driverv1.PauseDomainResponse](t, "pause")(b.PauseDomain(ctx, &driverv1.PauseDomainRequest{DomainId: twinB}))
	ok[*driverv1.ResumeDomainResponse](t, "resume")(b.ResumeDomain(ctx, &driverv1.ResumeDomainRequest{DomainId: twinB}))
	ok[*driverv1.GetDomainResponse](t, "get")(b.GetDomain(ctx, &driverv1.GetDomainRequest{DomainId: twinA}))
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("verbs beside a hung domain took %s", took)
	}
	if d := ok[*driverv1.GetDomainResponse](t, "get")(b.GetDomain(ctx, &driverv1.GetDomainRequest{DomainId: twinB})).GetDomain(); d.GetPid() != well.GetPid() {
		t.Errorf("other domain: %v", d)
	}
	for deadline := time.Now().Add(bootLimit); ; { // another call on the key may be under way
		_, err := b.DeleteDomain(ctx, &driverv1.DeleteDomainRequest{DomainId: twinA})
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("delete of a hung domain:", err)
		}
		<-time.After(200 * time.Millisecond)
	}
	b.waitGone(hung.GetPid())
}

// waitGone waits until a process has ended.
func (b *bench) waitGone(pid int64) {
	b.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil || !strings.Contains(exe, "qemu") {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("process %d lives on", pid)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// A libvirtd that hangs is reported, calls end at their deadline, and all is well when it goes on.
func TestHungLibvirtd(t *testing.T) {
	t.Parallel()
	b, ctx := newBench(t), t.Context()
	b.create(b.id, b.spec(""))
	signal := func(name string) {
		t.Helper()
		if out, err := b.node.Exec(ctx, "sh", "-c", "kill -"+name+" $(cat /run/libvirt/libvirtd.pid)"); err != nil {
			t.Fatal(out, err)
		}
	}
	signal("STOP")
	defer signal("CONT")
	short, cancel := contextWithTimeout(t, 2*time.Second)
	defer cancel()
	begin := time.Now()
	_, err := b.StartDomain(short, &driverv1.StartDomainRequest{DomainId: b.id})
	if took := time.Since(begin); err == nil || took > 10*time.Second {
		t.Errorf("start: %v after %s", err, took)
	}
	b.healthy(driverv1.HealthState_HEALTH_STATE_UNHEALTHY)
	signal("CONT")
	b.healthy(driverv1.HealthState_HEALTH_STATE_HEALTHY)
	first := b.start() // whatever became of the first call
	if again := b.start(); again.GetPid() == 0 || again.GetPid() != first.GetPid() {
		t.Errorf("%v, then %v", first, again)
	}
}

// A reboot that the guest carries out keeps the process and is told; events of a foreign domain are not.
func TestRebootAndEvents(t *testing.T) {
	t.Parallel()
	b, ctx := newBench(t), t.Context()
	first := b.boot(b.id, "labname=boot")
	b.waitLog(b.id, "GUEST-READY")
	events := ok[driverv1.PluginService_WatchEventsClient](t, "events")(b.WatchEvents(ctx, &driverv1.WatchEventsRequest{}))
	file := filepath.Join(b.dir, "foreign.xml")
	xml := fmt.Sprintf(`<domain type='qemu'><name>precious</name><uuid>%s</uuid><memory unit='MiB'>64</memory><os><type arch='x86_64' machine='pc'>hvm</type></os></domain>`, foreignID)
	if err := os.WriteFile(file, []byte(xml), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"define", file}, {"start", "precious"}, {"destroy", "precious"}, {"undefine", "precious"}} {
		if out, err := b.node.Virsh(ctx, args...); err != nil {
			t.Fatal(out, err)
		}
	}
	ok[*driverv1.RebootDomainResponse](t, "reboot")(b.RebootDomain(ctx, &driverv1.RebootDomainRequest{DomainId: b.id}))
	for {
		e := ok[*driverv1.WatchEventsResponse](t, "event")(events.Recv())
		if e.GetDomain().GetDomainId() == foreignID {
			t.Errorf("event of a foreign domain: %v", e)
		}
		if e.GetDomain().GetType() == driverv1.DomainEventType_DOMAIN_EVENT_TYPE_REBOOTED {
			break
		}
	}
	b.waitLog(b.id, "GUEST-READY", "GUEST-SHUTDOWN", "GUEST-READY")
	if now := b.get(); now.GetPid() != first.GetPid() || now.GetState() != driverv1.DomainState_DOMAIN_STATE_RUNNING {
		t.Errorf("after reboot: %v", now)
	}
	ok[*driverv1.DeleteDomainResponse](t, "delete")(b.DeleteDomain(ctx, &driverv1.DeleteDomainRequest{DomainId: b.id}))
	for {
		if e := ok[*driverv1.WatchEventsResponse](t, "event")(events.Recv()); e.GetDomain().GetType() == driverv1.DomainEventType_DOMAIN_EVENT_TYPE_UNDEFINED {
			break
		}
	}
}

// With libvirt's own settings, under which QEMU is another user, a guest with all that the driver makes for it still runs.
func TestOrdinarySettings(t *testing.T) {
	t.Parallel()
	b, ctx := newBench(t), t.Context()
	conf := filepath.Join(b.node.Dir, "etc/qemu.conf")
	t.Cleanup(func() { // what that user sees of QEMU is not for the nodes to come: they would look at it anew, which takes many seconds
		if err := os.RemoveAll(filepath.Join(b.node.Dir, "cache/qemu/capabilities")); err != nil {
			t.Error(err)
		}
	})
	was, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	plain := "# as installed\n"
	if strings.Contains(string(was), "namespaces = []") { // the lab's own, without which no guest starts in a chroot
		plain += "namespaces = []\n"
	}
	if err := os.WriteFile(conf, []byte(plain), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.node.KillLibvirtd(); err != nil {
		t.Fatal(err)
	}
	b.healthy(driverv1.HealthState_HEALTH_STATE_UNHEALTHY)
	if err := b.node.StartLibvirtd(ctx); err != nil {
		t.Fatal(err)
	}
	b.healthy(driverv1.HealthState_HEALTH_STATE_HEALTHY)
	if err := os.Chmod(b.dir, 0o711); err != nil { // as /var/lib/limiquantix
		t.Fatal(err)
	}
	for _, path := range []*string{&b.guest.Kernel, &b.guest.Initrd} {
		content, err := os.ReadFile(*path)
		if err != nil {
			t.Fatal(err)
		}
		*path = filepath.Join(b.dir, filepath.Base(*path))
		if err := os.WriteFile(*path, content, 0o644); err != nil { //nolint:gosec // for QEMU's user
			t.Fatal(err)
		}
	}
	spec := b.spec("labname=plain labip=dhcp")
	spec.CloudInit, spec.Vnc = &driverv1.CloudInitSeed{MetaData: []byte("instance-id: i\n")}, true
	spec.Disks = []*driverv1.DomainDisk{b.rawDisk(diskID, 4<<20)}
	b.create(b.id, spec)
	dom := b.start()
	if st, err := os.Stat(fmt.Sprintf("/proc/%d", dom.GetPid())); err != nil || st.Sys().(*syscall.Stat_t).Uid == 0 {
		t.Fatalf("QEMU of %v runs as root: %v", dom, err)
	}
	b.waitLog(b.id, "GUEST-READY")
	b.console()
	if out, err := b.node.Exec(ctx, "test", "-S", dom.GetVncSocketPath()); err != nil || dom.GetVncSocketPath() == "" {
		t.Errorf("VNC socket %q: %s %v", dom.GetVncSocketPath(), out, err)
	}
	ok[*driverv1.DeleteDomainResponse](t, "delete")(b.DeleteDomain(ctx, &driverv1.DeleteDomainRequest{DomainId: b.id}))
	if _, err := b.GetDomain(ctx, &driverv1.GetDomainRequest{DomainId: b.id}); !fault.Is(err, metav1.Reason_REASON_DOMAIN_NOT_FOUND) {
		t.Error(err)
	}
}

// Package kvm_test runs the built plugin against a real, private libvirtd and a guest that boots.
package kvm_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/sdk/conformance"
	"github.com/limiquantix/limiquantix/sdk/host"
	"github.com/limiquantix/limiquantix/test/lab"
)

const (
	foreignID = "1f6b1d52-6a0e-4d0e-9d2b-3c1a4f5e6a7b"
	nicID     = "2f6b1d52-6a0e-4d0e-9d2b-3c1a4f5e6a7b"
	bootLimit = 5 * time.Minute
)

// bench is a node, a plugin on it, and a guest's files.
type bench struct {
	driverv1.ComputeDriverServiceClient
	driverv1.PluginServiceClient
	t       *testing.T
	dir     string
	node    *lab.Node
	plugin  string // directory with binary and manifest
	state   string
	run     string
	guest   lab.Guest
	process *host.Process
	id      string // of the test's domain; processes are found by it, and tests run beside each other
	asked   int    // questions to guests
}

func newBench(t *testing.T, how ...lab.NodeOption) *bench {
	t.Helper()
	dir, err := os.MkdirTemp("", "lqk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	b := &bench{t: t, dir: dir, id: newID(), plugin: filepath.Join(dir, "plugin"), state: filepath.Join(dir, "state"), run: filepath.Join(dir, "run")}
	if b.guest, err = lab.BusyboxGuest(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b.node, err = lab.StartNode(t.Context(), filepath.Join(dir, "node"), "k", how...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.node.Stop(); err != nil {
			t.Error(err)
		}
	})
	bin, err := built()
	if err == nil {
		err = errors.Join(os.MkdirAll(b.plugin, 0o755), os.Link(bin, filepath.Join(b.plugin, filepath.Base(bin))))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := host.WriteManifest(b.plugin, &host.Manifest{Name: "kvm", Version: "0.0.0-dev", Kinds: []string{"compute"}, Executable: filepath.Base(bin)}); err != nil {
		t.Fatal(err)
	}
	b.launch()
	return b
}

// newID makes a random UUID.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// built builds the plugin, once for all tests, and is where it lies. Folder and file go when the tests have ended.
var built = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("go", "build", "-o", builds+"/", "./cmd/limiquantix-plugin-kvm")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return filepath.Join(builds, "limiquantix-plugin-kvm"), nil
})

var builds string // folder of built

func TestMain(m *testing.M) { os.Exit(main(m)) }

func main(m *testing.M) int {
	var err error
	if builds, err = os.MkdirTemp("", "lqb"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(builds) }()
	return m.Run()
}

// launch starts the plugin and waits until it reaches libvirtd.
func (b *bench) launch() {
	b.t.Helper()
	p, err := host.Launch(b.t.Context(), host.Spec{
		Dir: b.plugin, RuntimeDir: filepath.Join(b.dir, "sock"), ConfigJSON: fmt.Sprintf(`{"socket":%q,"accel":"tcg","ovs_socket":%q}`, b.node.Socket(), filepath.Join(b.dir, "ovs/db.sock")),
		Host: &driverv1.HostFacts{ClusterId: "c", NodeId: "n", NodeName: "n", BootId: "b", StateDirectory: b.state, RuntimeDirectory: b.run},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_ = p.Stop(ctx, time.Second)
	})
	b.process, b.ComputeDriverServiceClient, b.PluginServiceClient = p, driverv1.NewComputeDriverServiceClient(p.Conn()), driverv1.NewPluginServiceClient(p.Conn())
	b.healthy(driverv1.HealthState_HEALTH_STATE_HEALTHY)
}

// healthy waits for a state of health.
func (b *bench) healthy(want driverv1.HealthState) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	s, err := b.WatchHealth(ctx, &driverv1.WatchHealthRequest{})
	for err == nil {
		var r *driverv1.WatchHealthResponse
		if r, err = s.Recv(); err == nil && r.GetState() == want && (want != driverv1.HealthState_HEALTH_STATE_HEALTHY || r.GetAttributes()["libvirt.version"] != "") {
			return
		}
	}
	b.t.Fatalf("plugin did not become %v: %v", want, err)
}

// spec is of a guest that boots. On a busy machine the kernel's check of its timer, which emulation delays, would fail.
func (b *bench) spec(cmdline string) *driverv1.DomainSpec {
	return &driverv1.DomainSpec{
		Name: "test", Cpu: &driverv1.DomainCpu{Vcpus: 1}, MemoryBytes: 128 << 20, SerialConsole: true, GuestAgent: true,
		Boot: &driverv1.DomainBoot{KernelPath: b.guest.Kernel, InitrdPath: b.guest.Initrd, Cmdline: "console=ttyS0 quiet panic=1 no_timer_check " + cmdline},
	}
}

func mark(id string) *driverv1.OwnershipMark {
	return &driverv1.OwnershipMark{ClusterId: "c", NodeId: "n", ObjectId: id, Generation: 3, Epoch: 2}
}

// waitLog reads the console's log until it holds the texts, one behind the other.
func (b *bench) waitLog(id string, texts ...string) string {
	b.t.Helper()
	ctx, cancel := contextWithTimeout(b.t, bootLimit)
	defer cancel()
	s, err := b.ReadConsoleLog(ctx, &driverv1.ReadConsoleLogRequest{DomainId: id, Follow: true})
	var all strings.Builder
	for err == nil {
		var r *driverv1.ReadConsoleLogResponse
		if r, err = s.Recv(); err == nil {
			all.Write(r.GetData())
			rest, found := all.String(), true
			for _, text := range texts {
				if _, rest, found = strings.Cut(rest, text); !found {
					break
				}
			}
			if found {
				return all.String()
			}
		}
	}
	b.t.Fatalf("console never said %q: %v\n%s", texts, err, all.String())
	return ""
}

func contextWithTimeout(t *testing.T, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), limit)
}

// ok fails the test on an error and hands the answer on.
func ok[T any](t *testing.T, what string) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return v
	}
}

func freePort(t *testing.T) uint32 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return uint32(l.Addr().(*net.TCPAddr).Port)
}

func (b *bench) get() *driverv1.Domain {
	b.t.Helper()
	return ok[*driverv1.GetDomainResponse](b.t, "get")(b.GetDomain(b.t.Context(), &driverv1.GetDomainRequest{DomainId: b.id})).GetDomain()
}

func (b *bench) start() *driverv1.Domain {
	b.t.Helper()
	return ok[*driverv1.StartDomainResponse](b.t, "start")(b.StartDomain(b.t.Context(), &driverv1.StartDomainRequest{DomainId: b.id})).GetDomain()
}

// One guest's life: it boots, is talked to, outlives plugin and libvirtd, crashes, stops, and leaves nothing.
func TestGuestLife(t *testing.T) {
	t.Parallel()
	b, ctx := newBench(t), t.Context()
	res := ok[*driverv1.GetNodeResourcesResponse](t, "resources")(b.GetNodeResources(ctx, &driverv1.GetNodeResourcesRequest{}))
	if res.GetCpus() < 1 || res.GetMemoryBytes() < 1<<30 || res.GetAccelerator().GetAccelerator() != "tcg" || !strings.Contains(res.GetHypervisor(), "libvirt") || len(res.GetCpuModels()) == 0 {
		t.Errorf("resources: %v", res)
	}
	spec, port := b.spec("nonce=tulip42 labname=t1 labip=dhcp"), freePort(t)
	spec.CloudInit = &driverv1.CloudInitSeed{MetaData: []byte("instance-id: i\n"), UserData: []byte("#cloud-config\n")}
	spec.Interfaces = []*driverv1.DomainInterface{{InterfaceId: nicID, Mac: "52:54:00:01:02:03", Binding: &driverv1.InterfaceBinding{
		Binding: &driverv1.InterfaceBinding_UserMode{UserMode: &driverv1.UserModeBinding{Forwards: []*driverv1.PortForward{{Protocol: "tcp", HostPort: port, GuestPort: 80}}}},
	}}}
	create := &driverv1.CreateDomainRequest{DomainId: b.id, Mark: mark(b.id), Spec: spec}
	for range 2 {
		dom := ok[*driverv1.CreateDomainResponse](t, "create")(b.CreateDomain(ctx, create)).GetDomain()
		if dom.GetState() != driverv1.DomainState_DOMAIN_STATE_STOPPED || !proto.Equal(dom.GetMark(), mark(b.id)) {
			t.Errorf("created: %v", dom)
		}
	}
	other := proto.CloneOf(create)
	other.Spec.MemoryBytes = 256 << 20
	if _, err := b.CreateDomain(ctx, other); !fault.Is(err, metav1.Reason_REASON_SPEC_CONFLICT) {
		t.Error("other spec:", err)
	}
	b.start()
	first := b.start()
	if first.GetPid() == 0 || first.GetStartTime() == nil || first.GetAccelerator() != "tcg" {
		t.Errorf("started: %v", first)
	}
	if log := b.waitLog(b.id, "GUEST-READY"); !strings.Contains(log, "NONCE tulip42") || !strings.Contains(log, "DHCP-BOUND") {
		t.Errorf("no nonce, or no address from the user-mode network:\n%s", log)
	}
	if out, err := b.node.Exec(ctx, "curl", "-s", "-m", "20", fmt.Sprintf("http://127.0.0.1:%d/", port)); err != nil || !strings.Contains(string(out), "t1") {
		t.Errorf("forwarded port answers %q, %v", out, err)
	}
	b.console()
	stats := ok[*driverv1.GetStatsResponse](t, "stats")(b.GetStats(ctx, &driverv1.GetStatsRequest{}))
	if len(stats.GetDomains()) != 1 || stats.GetDomains()[0].GetCpuTimeNs() == 0 || stats.GetDomains()[0].GetError() != "" {
		t.Errorf("stats: %v", stats)
	}
	same := func(when string) {
		t.Helper()
		if now := b.get(); now.GetPid() != first.GetPid() || !proto.Equal(now.GetStartTime(), first.GetStartTime()) {
			t.Fatalf("%s: pid %d start %v, was %d %v", when, now.GetPid(), now.GetStartTime(), first.GetPid(), first.GetStartTime())
		}
	}
	for range 2 {
		if d := ok[*driverv1.PauseDomainResponse](t, "pause")(b.PauseDomain(ctx, &driverv1.PauseDomainRequest{DomainId: b.id})).GetDomain(); d.GetState() != driverv1.DomainState_DOMAIN_STATE_PAUSED {
			t.Error("pause:", d)
		}
	}
	for range 2 {
		if d := ok[*driverv1.ResumeDomainResponse](t, "resume")(b.ResumeDomain(ctx, &driverv1.ResumeDomainRequest{DomainId: b.id})).GetDomain(); d.GetState() != driverv1.DomainState_DOMAIN_STATE_RUNNING {
			t.Error("resume:", d)
		}
	}
	if _, err := b.GetGuestInfo(ctx, &driverv1.GetGuestInfoRequest{DomainId: b.id}); !fault.Is(err, metav1.Reason_REASON_GUEST_AGENT_UNAVAILABLE) {
		t.Error("guest without agent:", err)
	}
	if err := syscall.Kill(b.process.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-b.process.Done()
	b.launch()
	same("plugin killed")
	if err := b.node.KillLibvirtd(); err != nil {
		t.Fatal(err)
	}
	b.healthy(driverv1.HealthState_HEALTH_STATE_UNHEALTHY)
	if _, err := b.GetDomain(ctx, &driverv1.GetDomainRequest{DomainId: b.id}); !fault.Is(err, metav1.Reason_REASON_BACKEND_UNAVAILABLE) {
		t.Error("without libvirtd:", err)
	}
	if err := b.node.StartLibvirtd(ctx); err != nil {
		t.Fatal(err)
	}
	b.healthy(driverv1.HealthState_HEALTH_STATE_HEALTHY)
	same("libvirtd killed")
	events := ok[driverv1.PluginService_WatchEventsClient](t, "events")(b.WatchEvents(ctx, &driverv1.WatchEventsRequest{}))
	ok[*driverv1.RebootDomainResponse](t, "reset")(b.RebootDomain(ctx, &driverv1.RebootDomainRequest{DomainId: b.id, Force: true}))
	same("reset")
	if err := syscall.Kill(int(first.GetPid()), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for crashed := false; !crashed; {
		e := ok[*driverv1.WatchEventsResponse](t, "event")(events.Recv())
		crashed = e.GetDomain().GetType() == driverv1.DomainEventType_DOMAIN_EVENT_TYPE_CRASHED
	}
	if d := b.get(); d.GetState() != driverv1.DomainState_DOMAIN_STATE_CRASHED {
		t.Error("after kill -9 of QEMU:", d)
	}
	b.start()
	stop := &driverv1.StopDomainRequest{DomainId: b.id, Grace: durationpb.New(bootLimit)}
	for range 2 {
		if d := ok[*driverv1.StopDomainResponse](t, "stop")(b.StopDomain(ctx, stop)).GetDomain(); d.GetState() != driverv1.DomainState_DOMAIN_STATE_STOPPED || d.GetStopReason() != driverv1.StopReason_STOP_REASON_SHUTDOWN {
			t.Error("graceful stop:", d)
		}
	}
	for range 2 {
		ok[*driverv1.DeleteDomainResponse](t, "delete")(b.DeleteDomain(ctx, &driverv1.DeleteDomainRequest{DomainId: b.id}))
	}
	if _, err := b.GetDomain(ctx, &driverv1.GetDomainRequest{DomainId: b.id}); !fault.Is(err, metav1.Reason_REASON_DOMAIN_NOT_FOUND) {
		t.Error("after delete:", err)
	}
	for _, dir := range []string{filepath.Join(b.state, "domains"), b.run} {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v %v", dir, left, err)
		}
	}
}

// console types a command into the guest's shell and reads its answer; two may look at once.
func (b *bench) console() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	open := func() driverv1.ComputeDriverService_OpenConsoleClient {
		s, err := b.OpenConsole(ctx)
		if err == nil {
			err = s.Send(&driverv1.OpenConsoleRequest{Message: &driverv1.OpenConsoleRequest_Open{Open: &driverv1.ConsoleTarget{DomainId: b.id}}})
		}
		if err == nil {
			_, err = s.Recv()
		}
		if err != nil {
			b.t.Fatal(err)
		}
		return s
	}
	typist, reader := open(), open()
	if err := typist.Send(&driverv1.OpenConsoleRequest{Message: &driverv1.OpenConsoleRequest_Data{Data: []byte("\necho sum-$((40+2))\n")}}); err != nil {
		b.t.Fatal(err)
	}
	for _, s := range []driverv1.ComputeDriverService_OpenConsoleClient{typist, reader} {
		var all strings.Builder
		for !strings.Contains(all.String(), "sum-42") {
			r, err := s.Recv()
			if err != nil {
				b.t.Fatalf("%v after %q", err, all.String())
			}
			all.Write(r.GetData())
		}
		if err := s.CloseSend(); err != nil && !errors.Is(err, io.EOF) {
			b.t.Error(err)
		}
	}
}

// A domain that is not ours is neither listed nor touched, even under an id that we ask for; a wrong spec is refused before anything is made.
func TestForeignDomainIsLeftAlone(t *testing.T) {
	t.Parallel()
	b, ctx := newBench(t), t.Context()
	xml := fmt.Sprintf(`<domain type='qemu'><name>precious</name><uuid>%s</uuid><memory unit='MiB'>64</memory><os><type arch='x86_64' machine='pc'>hvm</type></os></domain>`, foreignID)
	file := filepath.Join(b.dir, "foreign.xml")
	if err := os.WriteFile(file, []byte(xml), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.node.Virsh(ctx, "define", file); err != nil {
		t.Fatal(err)
	}
	before, err := b.node.Virsh(ctx, "dumpxml", "precious")
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"get":    second(b.GetDomain(ctx, &driverv1.GetDomainRequest{DomainId: foreignID})),
		"create": second(b.CreateDomain(ctx, &driverv1.CreateDomainRequest{DomainId: foreignID, Mark: mark(foreignID), Spec: b.spec("")})),
		"start":  second(b.StartDomain(ctx, &driverv1.StartDomainRequest{DomainId: foreignID})),
		"stop":   second(b.StopDomain(ctx, &driverv1.StopDomainRequest{DomainId: foreignID, Force: true})),
		"delete": second(b.DeleteDomain(ctx, &driverv1.DeleteDomainRequest{DomainId: foreignID})),
	} {
		if !fault.Is(err, metav1.Reason_REASON_NOT_OURS) {
			t.Errorf("%s: %v", name, err)
		}
	}
	list := ok[*driverv1.ListDomainsResponse](t, "list")(b.ListDomains(ctx, &driverv1.ListDomainsRequest{}))
	if len(list.GetDomains()) != 0 || list.GetForeignCount() != 1 {
		t.Errorf("list: %v", list)
	}
	if after, err := b.node.Virsh(ctx, "dumpxml", "precious"); err != nil || string(after) != string(before) {
		t.Errorf("changed:\n%s\n%s\n%v", before, after, err)
	}
	for name, spec := range map[string]*driverv1.DomainSpec{
		"no memory": {Cpu: &driverv1.DomainCpu{Vcpus: 1}}, "no cpu": {MemoryBytes: 64 << 20},
		"kernel absent": {Cpu: &driverv1.DomainCpu{Vcpus: 1}, MemoryBytes: 64 << 20, Boot: &driverv1.DomainBoot{KernelPath: "/nonexistent"}},
	} {
		v := ok[*driverv1.ValidateDomainResponse](t, "validate")(b.ValidateDomain(ctx, &driverv1.ValidateDomainRequest{DomainId: b.id, Spec: spec}))
		_, err := b.CreateDomain(ctx, &driverv1.CreateDomainRequest{DomainId: b.id, Mark: mark(b.id), Spec: spec})
		if len(v.GetViolations()) == 0 || !fault.Is(err, metav1.Reason_REASON_INVALID_FIELD) {
			t.Errorf("%s: %v, %v", name, v, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// The contract of the SDK, against the real libvirt and guests that boot.
func TestConformance(t *testing.T) {
	t.Parallel()
	b, made := newBench(t), 0
	b.inNode("ip link add lqcf up type bridge")
	conformance.Test(t, conformance.Options{
		Plugin: host.Spec{Dir: b.plugin, RuntimeDir: filepath.Join(b.dir, "csock"), ConfigJSON: fmt.Sprintf(`{"socket":%q,"accel":"tcg"}`, b.node.Socket())},
		Compute: conformance.ComputeOptions{
			Spec: func(name string) *driverv1.DomainSpec {
				s := b.spec("labname=conformance")
				s.Name, s.GuestAgent = name, false
				return s
			},
			GuestReboots: true, GuestSpeaks: true,
			Disk: func(kind driverv1.DiskSourceKind) (*driverv1.DiskSource, error) {
				made++
				name := fmt.Sprintf("conformance%d", made)
				switch kind {
				case driverv1.DiskSourceKind_DISK_SOURCE_KIND_BLOCK_DEVICE:
					device, _ := b.loop(name, 4<<20)
					return blockDisk(name, device).GetSource(), nil
				case driverv1.DiskSourceKind_DISK_SOURCE_KIND_NBD:
					socket := filepath.Join(b.dir, name)
					b.export("addr.type=unix,addr.path="+socket, b.rawDisk(name, 4<<20).GetSource().GetFile().GetPath(), name)
					return nbdDisk(name, &driverv1.NbdSource{Endpoint: &driverv1.NbdSource_SocketPath{SocketPath: socket}, ExportName: name}).GetSource(), nil
				}
				return nil, nil //nolint:nilnil // the suite makes files; images of Ceph have a test of their own
			},
			Interface: func(kind driverv1.InterfaceBindingKind) (*driverv1.InterfaceBinding, error) {
				made++
				tap := fmt.Sprintf("lqcf%d", made)
				switch kind {
				case driverv1.InterfaceBindingKind_INTERFACE_BINDING_KIND_BRIDGE_PORT:
					return bridgeNic("", "lqcf", tap).GetBinding(), nil
				case driverv1.InterfaceBindingKind_INTERFACE_BINDING_KIND_TAP:
					b.inNode("ip tuntap add "+tap+" mode tap", "ip link set "+tap+" up")
					return tapNic("", tap).GetBinding(), nil
				}
				return nil, nil //nolint:nilnil // user-mode networks are part of a definition only; Open vSwitch has a test of its own
			},
		},
	})
}

package kvm_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// tell types a line into a guest's shell. The console stays open until the test ends: QEMU forgets what the guest has not read when it is closed.
func (b *bench) tell(id, line string) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	s, err := b.OpenConsole(ctx)
	if err == nil {
		err = s.Send(&driverv1.OpenConsoleRequest{Message: &driverv1.OpenConsoleRequest_Open{Open: &driverv1.ConsoleTarget{DomainId: id}}})
	}
	if err == nil {
		_, err = s.Recv()
	}
	if err == nil {
		err = s.Send(&driverv1.OpenConsoleRequest{Message: &driverv1.OpenConsoleRequest_Data{Data: []byte(line + "\n")}})
	}
	if err != nil {
		cancel()
		b.t.Fatalf("typing %q: %v", line, err)
	}
	go func() {
		defer close(ended)
		for err == nil {
			_, err = s.Recv()
		}
	}()
	b.t.Cleanup(func() { cancel(); <-ended })
}

// answer has the guest's shell run a command and returns the one line that it prints.
func (b *bench) answer(id, command string) string {
	b.t.Helper()
	b.asked++
	b.tell(id, fmt.Sprintf("\necho answer-$((%d+0)):$(%s):", b.asked, command))
	all := b.waitLog(id, fmt.Sprintf("answer-%d:", b.asked), ":")
	_, rest, _ := strings.Cut(all, fmt.Sprintf("answer-%d:", b.asked))
	line, _, _ := strings.Cut(rest, ":")
	return line
}

// loop makes a block device of a new file of zeros.
func (b *bench) loop(name string, size int64) (device, file string) {
	b.t.Helper()
	file = b.rawDisk(name, size).GetSource().GetFile().GetPath()
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		b.t.Fatalf("%v: %s", err, out)
	}
	device = strings.TrimSpace(string(out))
	b.t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			b.t.Errorf("%v: %s", err, out)
		}
	})
	return device, file
}

func blockDisk(id, device string) *driverv1.DomainDisk {
	return &driverv1.DomainDisk{DiskId: id, Source: &driverv1.DiskSource{Source: &driverv1.DiskSource_BlockDevice{BlockDevice: &driverv1.BlockDeviceSource{Path: device}}}}
}

// wantBytes checks what a disk holds at its beginning.
func (b *bench) wantBytes(file, want string) {
	b.t.Helper()
	f, err := os.Open(file)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(f, got); err != nil || string(got) != want {
		b.t.Errorf("%s begins with %q, %v; want %q", file, got, err, want)
	}
}

// writeDisk has the guest write a text to the beginning of a disk, through to the storage.
func (b *bench) writeDisk(id, name, text string) {
	b.t.Helper()
	if got := b.answer(id, fmt.Sprintf("echo %s | dd of=/dev/%s conv=notrunc,fsync 2>/dev/null && echo written", text, name)); got != "written" {
		b.t.Errorf("writing to %s: %q", name, got)
	}
}

// A block device is cold in a domain and another comes and goes while it runs: the guest's bytes are in them, it sees serial, write protection and growth, and its limits
// change while it runs. One that the guest keeps is not taken away.
func TestBlockDevices(t *testing.T) {
	t.Parallel()
	b, ctx := newBench(t), t.Context()
	cold, coldFile := b.loop(otherID, 4<<20)
	hot, hotFile := b.loop(diskID, 4<<20)
	spec := b.spec("labname=block")
	spec.Disks = []*driverv1.DomainDisk{blockDisk(otherID, cold)}
	b.create(b.id, spec)
	first := b.start()
	b.waitLog(b.id, "GUEST-READY")
	b.writeDisk(b.id, "vda", "cold")
	b.wantBytes(coldFile, "cold\n")

	disk := blockDisk(diskID, hot)
	disk.Limits, disk.Discard = &driverv1.IoLimits{Iops: 500, BytesPerSecond: 8 << 20}, true
	for range 2 {
		ok[*driverv1.AttachDiskResponse](t, "attach")(b.AttachDisk(ctx, &driverv1.AttachDiskRequest{DomainId: b.id, Disk: disk}))
	}
	b.waitLog(b.id, "HOTPLUG add vdb")
	b.writeDisk(b.id, "vdb", "hot")
	b.wantBytes(hotFile, "hot\n")
	serial := strings.ReplaceAll(diskID, "-", "")[:20]
	if got := b.answer(b.id, "cat /sys/block/vdb/serial"); got != serial {
		t.Errorf("serial %q, want %q", got, serial)
	}
	if got := b.answer(b.id, "cat /sys/block/vdb/queue/discard_max_bytes"); got == "0" || got == "" {
		t.Errorf("the guest cannot discard: %q", got)
	}

	// The storage grows it, and the guest is told.
	if err := os.Truncate(hotFile, 16<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("losetup", "--set-capacity", hot).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for range 2 {
		ok[*driverv1.ResizeDiskResponse](t, "resize")(b.ResizeDisk(ctx, &driverv1.ResizeDiskRequest{DomainId: b.id, DiskId: diskID, SizeBytes: 16 << 20}))
	}
	if got := b.answer(b.id, "cat /sys/block/vdb/size"); got != "32768" {
		t.Errorf("the guest sees %s sectors", got)
	}

	// Limits: at once, and at the next start.
	tuned := func(iops, bytes int64) {
		t.Helper()
		for _, flag := range []string{"--live", "--config"} {
			out, err := b.node.Virsh(ctx, "blkdeviotune", b.id, "vdb", flag)
			if text := strings.Join(strings.Fields(out), " ") + " "; err != nil || !strings.Contains(text, fmt.Sprintf("total_iops_sec : %d ", iops)) || !strings.Contains(text, fmt.Sprintf("total_bytes_sec: %d ", bytes)) {
				t.Errorf("%s: want %d and %d: %s, %v", flag, iops, bytes, text, err)
			}
		}
	}
	tuned(500, 8<<20)
	for _, limits := range []*driverv1.IoLimits{{Iops: 900}, nil, {BytesPerSecond: 1 << 20}} {
		spec = proto.CloneOf(spec)
		disk = proto.CloneOf(disk)
		disk.Limits = limits
		spec.Disks = []*driverv1.DomainDisk{spec.Disks[0], disk}
		for range 2 {
			d := ok[*driverv1.UpdateDomainResponse](t, "update")(b.UpdateDomain(ctx, &driverv1.UpdateDomainRequest{DomainId: b.id, Mark: mark(b.id), Spec: spec})).GetDomain()
			if d.GetRestartRequired() || d.GetPid() != first.GetPid() {
				t.Errorf("limits: %v", d)
			}
		}
		tuned(limits.GetIops(), limits.GetBytesPerSecond())
	}

	// A guest that does not answer keeps its disk, however often it is asked; later it lets go.
	ok[*driverv1.PauseDomainResponse](t, "pause")(b.PauseDomain(ctx, &driverv1.PauseDomainRequest{DomainId: b.id}))
	for range 2 {
		short, cancel := contextWithTimeout(t, 8*time.Second)
		_, err := b.DetachDisk(short, &driverv1.DetachDiskRequest{DomainId: b.id, DiskId: diskID})
		cancel()
		if !fault.Is(err, metav1.Reason_REASON_WRONG_STATE) {
			t.Error("detach from a guest that sleeps:", err)
		}
	}
	ok[*driverv1.ResumeDomainResponse](t, "resume")(b.ResumeDomain(ctx, &driverv1.ResumeDomainRequest{DomainId: b.id}))
	for range 2 {
		ok[*driverv1.DetachDiskResponse](t, "detach")(b.DetachDisk(ctx, &driverv1.DetachDiskRequest{DomainId: b.id, DiskId: diskID}))
	}
	b.waitLog(b.id, "HOTPLUG remove vdb")
	if l, err := b.node.Virsh(ctx, "domblklist", b.id); err != nil || strings.Contains(l, hot) || !strings.Contains(l, cold) {
		t.Errorf("after detach: %s, %v", l, err)
	}
	ok[*driverv1.DeleteDomainResponse](t, "delete")(b.DeleteDomain(ctx, &driverv1.DeleteDomainRequest{DomainId: b.id}))
	b.wantBytes(hotFile, "hot\n")
}

// export serves a file by NBD from within the node, writable, until the test ends.
func (b *bench) export(addr, file, name string) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var log strings.Builder
	cmd := b.node.Command(ctx, "qemu-storage-daemon", "--blockdev", "driver=file,node-name=f,filename="+file, "--nbd-server", addr,
		"--export", "type=nbd,id=e,node-name=f,writable=on,name="+name, "--pidfile", filepath.Join(b.dir, name+".pid"))
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	b.t.Cleanup(func() { cancel(); <-ended })
	for deadline := time.Now().Add(time.Minute); ; <-time.After(50 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(b.dir, name+".pid")); err == nil { // written when it serves
			return
		}
		select {
		case <-ended:
			b.t.Fatalf("qemu-storage-daemon ended: %s", log.String())
		default:
		}
		if time.Now().After(deadline) {
			b.t.Fatal("qemu-storage-daemon does not serve")
		}
	}
}

func nbdDisk(id string, s *driverv1.NbdSource) *driverv1.DomainDisk {
	return &driverv1.DomainDisk{DiskId: id, Source: &driverv1.DiskSource{Source: &driverv1.DiskSource_Nbd{Nbd: s}}}
}

// NBD exports: a cold one over a unix socket, and one over TCP that comes and goes while the guest runs, read-only the second time.
func TestNBD(t *testing.T) {
	t.Parallel()
	b, ctx := newBench(t), t.Context()
	socket := filepath.Join(b.dir, "nbd.sock")
	coldFile, hotFile := b.rawDisk(otherID, 4<<20).GetSource().GetFile().GetPath(), b.rawDisk(diskID, 4<<20).GetSource().GetFile().GetPath()
	b.export("addr.type=unix,addr.path="+socket, coldFile, "cold")
	b.export("addr.type=inet,addr.host=127.0.0.1,addr.port=10809", hotFile, "hot")
	spec := b.spec("labname=nbd")
	spec.Disks = []*driverv1.DomainDisk{nbdDisk(otherID, &driverv1.NbdSource{Endpoint: &driverv1.NbdSource_SocketPath{SocketPath: socket}, ExportName: "cold"})}
	b.create(b.id, spec)
	b.start()
	b.waitLog(b.id, "GUEST-READY")
	b.writeDisk(b.id, "vda", "cold")
	b.wantBytes(coldFile, "cold\n")

	tcp := nbdDisk(diskID, &driverv1.NbdSource{Endpoint: &driverv1.NbdSource_Address{Address: "127.0.0.1:10809"}, ExportName: "hot"})
	attach := func() {
		t.Helper()
		for range 2 {
			ok[*driverv1.AttachDiskResponse](t, "attach")(b.AttachDisk(ctx, &driverv1.AttachDiskRequest{DomainId: b.id, Disk: tcp}))
		}
	}
	attach()
	b.waitLog(b.id, "HOTPLUG add vdb")
	b.writeDisk(b.id, "vdb", "hot")
	b.wantBytes(hotFile, "hot\n")
	if _, err := b.ResizeDisk(ctx, &driverv1.ResizeDiskRequest{DomainId: b.id, DiskId: diskID, SizeBytes: 8 << 20}); !fault.Is(err, metav1.Reason_REASON_WRONG_STATE) {
		t.Error("growing an export that is open:", err)
	}
	ok[*driverv1.ResizeDiskResponse](t, "size as it is")(b.ResizeDisk(ctx, &driverv1.ResizeDiskRequest{DomainId: b.id, DiskId: diskID, SizeBytes: 4 << 20}))
	for range 2 {
		ok[*driverv1.DetachDiskResponse](t, "detach")(b.DetachDisk(ctx, &driverv1.DetachDiskRequest{DomainId: b.id, DiskId: diskID}))
	}
	b.waitLog(b.id, "HOTPLUG remove vdb")
	tcp.ReadOnly = true
	attach()
	b.waitLog(b.id, "HOTPLUG remove vdb", "HOTPLUG add vdb")
	if ro := b.answer(b.id, "cat /sys/block/vdb/ro"); ro != "1" {
		t.Errorf("the guest sees read-only = %q", ro)
	}
}

// silence listens on a socket, takes connections and says nothing, until end is called.
func silence(t *testing.T, path string) (end func()) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	over := false
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if conns = append(conns, c); over {
				_ = c.Close()
			}
			mu.Unlock()
		}
	}()
	end = func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
		_ = l.Close()
		for _, c := range conns {
			_ = c.Close()
		}
	}
	t.Cleanup(end)
	return end
}

// A disk whose server says nothing: start and attach end at their deadline, other domains go on, the domain can be stopped meanwhile, and when the server fails at last
// nothing runs, and nothing is attached, that nobody was told of.
func TestSilentDisk(t *testing.T) {
	t.Parallel()
	b, ctx, silent := newBench(t), t.Context(), newID()
	one, two := filepath.Join(b.dir, "a.sock"), filepath.Join(b.dir, "b.sock")
	endFirst, endSecond := silence(t, one), silence(t, two)
	source := func(path string) *driverv1.NbdSource {
		return &driverv1.NbdSource{Endpoint: &driverv1.NbdSource_SocketPath{SocketPath: path}}
	}
	spec := b.spec("labname=silent")
	spec.Disks = []*driverv1.DomainDisk{nbdDisk(diskID, source(one))}
	b.create(silent, spec)
	well := b.boot(b.id, "labname=well")
	b.waitLog(b.id, "GUEST-READY")
	state := func(id string) driverv1.DomainState {
		t.Helper()
		return ok[*driverv1.GetDomainResponse](t, "get")(b.GetDomain(ctx, &driverv1.GetDomainRequest{DomainId: id})).GetDomain().GetState()
	}
	late := func(what string, call func(context.Context) error) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; <-time.After(50 * time.Millisecond) {
			short, cancel := contextWithTimeout(t, 4*time.Second)
			begin := time.Now()
			err := call(short)
			cancel()
			if fault.Is(err, metav1.Reason_REASON_BUSY) && time.Now().Before(deadline) { // the call before is still ending
				continue
			}
			if took := time.Since(begin); took > 15*time.Second || !isTimeout(err) {
				t.Errorf("%s: %v after %s", what, err, took)
			}
			return
		}
	}
	start := func(ctx context.Context) error {
		return second(b.StartDomain(ctx, &driverv1.StartDomainRequest{DomainId: silent}))
	}
	off := func() {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); state(silent) != driverv1.DomainState_DOMAIN_STATE_STOPPED; <-time.After(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the domain is %v", state(silent))
			}
		}
	}
	late("start", start)
	late("start again", start)
	if s := state(silent); s != driverv1.DomainState_DOMAIN_STATE_UNKNOWN {
		t.Errorf("while it is being started: %v", s)
	}
	stats := ok[*driverv1.GetStatsResponse](t, "stats")(b.GetStats(ctx, &driverv1.GetStatsRequest{PerDomainTimeout: durationpb.New(time.Second)}))
	for _, s := range stats.GetDomains() {
		if s.GetDomainId() == b.id && s.GetError() != "" {
			t.Errorf("figures of the other domain: %v", s)
		}
	}
	ok[*driverv1.StopDomainResponse](t, "stop")(b.StopDomain(ctx, &driverv1.StopDomainRequest{DomainId: silent, Force: true}))
	off()
	late("start", start)
	endFirst()
	off() // never running
	if err := start(ctx); err == nil || isTimeout(err) {
		t.Error("start without the server:", err)
	}

	disk := nbdDisk(otherID, source(two))
	late("attach", func(ctx context.Context) error {
		return second(b.AttachDisk(ctx, &driverv1.AttachDiskRequest{DomainId: b.id, Disk: disk}))
	})
	ok[*driverv1.GetDomainResponse](t, "get")(b.GetDomain(ctx, &driverv1.GetDomainRequest{DomainId: b.id}))
	endSecond()
	for deadline := time.Now().Add(time.Minute); ; <-time.After(200 * time.Millisecond) {
		_, err := b.AttachDisk(ctx, &driverv1.AttachDiskRequest{DomainId: b.id, Disk: disk})
		if err == nil {
			t.Fatal("a disk without a server is attached")
		}
		if fault.Is(err, metav1.Reason_REASON_BACKEND_FAILED) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("attach without the server:", err)
		}
	}
	ok[*driverv1.DetachDiskResponse](t, "detach")(b.DetachDisk(ctx, &driverv1.DetachDiskRequest{DomainId: b.id, DiskId: otherID}))
	if l, err := b.node.Virsh(ctx, "domblklist", b.id); err != nil || strings.Contains(l, "vd") {
		t.Errorf("disks: %s, %v", l, err)
	}
	if got := b.answer(b.id, "echo alive"); got != "alive" || b.get().GetPid() != well.GetPid() || b.get().GetRestartRequired() {
		t.Errorf("the other domain: %q, %v", got, b.get())
	}
}

// isTimeout reports whether a call ended with its time, by the driver's word or before that could arrive.
func isTimeout(err error) bool {
	return fault.Is(err, metav1.Reason_REASON_BACKEND_TIMEOUT) || err != nil && strings.Contains(err.Error(), "DeadlineExceeded")
}

package command

import (
	"bytes"
	"context"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/cli/internal/fakeapi"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

var update = flag.Bool("update", false, "write golden files anew")

// buffer may be read while commands write.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// bench is lqctl beside a controller in memory.
type bench struct {
	t      *testing.T
	server *fakeapi.Server
	env    map[string]string
	in     io.Reader
	change func(*App)
}

type result struct {
	code     int
	out, err string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	t.Parallel()
	s := fakeapi.Start(t)
	return &bench{t: t, server: s, in: strings.NewReader(""), env: map[string]string{
		"HOME": t.TempDir(), "LQCTL_SERVER": s.URL, "LQCTL_TOKEN": fakeapi.Token,
	}}
}

func (b *bench) app(out, err io.Writer) *App {
	a := &App{
		In: b.in, Out: out, Err: err, Getenv: func(k string) string { return b.env[k] },
		Now: func() time.Time { return fakeapi.Epoch.Add(5 * time.Minute) }, Version: "0.1.0", Commit: "test",
	}
	if b.change != nil {
		b.change(a)
	}
	return a
}

func (b *bench) runContext(ctx context.Context, args ...string) result {
	b.t.Helper()
	var out, errs buffer
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	code := b.app(&out, &errs).Run(ctx, args)
	return result{code, out.String(), errs.String()}
}

func (b *bench) run(args ...string) result {
	b.t.Helper()
	return b.runContext(b.t.Context(), args...)
}

// ok runs a command that must succeed, and returns its output.
func (b *bench) ok(args ...string) string {
	b.t.Helper()
	r := b.run(args...)
	if r.code != 0 {
		b.t.Fatalf("lqctl %s: exit %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.err)
	}
	return r.out
}

// fails runs a command that must end with this code, and whose stderr holds all of these.
func (b *bench) fails(code int, args []string, holds ...string) result {
	b.t.Helper()
	r := b.run(args...)
	if r.code != code {
		b.t.Errorf("lqctl %s: exit %d, want %d\n%s%s", strings.Join(args, " "), r.code, code, r.out, r.err)
	}
	for _, h := range append(holds, "error: ", "reason: ", "fix: ") {
		if !strings.Contains(r.err, h) {
			b.t.Errorf("lqctl %s: stderr lacks %q:\n%s", strings.Join(args, " "), h, r.err)
		}
	}
	if strings.HasSuffix(r.err, "fix: \n") {
		b.t.Errorf("lqctl %s: no remedy:\n%s", strings.Join(args, " "), r.err)
	}
	return r
}

// golden compares output with a file.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; run with -update if that is meant\n got:\n%s\nwant:\n%s", name, got, want)
	}
}

// populate makes what tables show.
func (b *bench) populate() {
	b.t.Helper()
	b.server.Nodes = []*computev1.Node{
		{
			Meta: &metav1.ObjectMeta{Id: "node-1", Name: "host1", CreateTime: timestamppb.New(fakeapi.Epoch), Labels: map[string]string{"zone": "a"}},
			Spec: &computev1.NodeSpec{Cordoned: true, Taints: []*computev1.Taint{{Key: "gpu", Value: "yes", Effect: computev1.TaintEffect_TAINT_EFFECT_NO_SCHEDULE}}},
			Status: &computev1.NodeStatus{
				Phase: computev1.NodePhase_NODE_PHASE_READY, VmCount: 2, AgentVersion: "0.1.0", System: "x86_64 Linux 6.1.0",
				HeartbeatTime: timestamppb.New(fakeapi.Epoch.Add(295 * time.Second)),
				Allocatable:   &computev1.ResourceAmount{Cpus: 8, MemoryBytes: 24 << 30}, Claimed: &computev1.ResourceAmount{Cpus: 2.5, MemoryBytes: 3 << 29},
				Resources: &computev1.NodeResources{
					Accelerator: "tcg", AcceleratorReason: "/dev/kvm does not run a guest", Cpus: 4, CpuModel: "Example CPU", MemoryBytes: 16 << 30, Hypervisor: "QEMU 7.2.0",
				},
				Drivers: []*computev1.DriverStatus{{Name: "kvm", Kinds: []string{"compute"}, Version: "0.1.0", State: "healthy"}},
				Conditions: []*metav1.Condition{{
					Type: "AcceleratorUsable", Status: metav1.ConditionStatus_CONDITION_STATUS_FALSE, Reason: "PROBE_FAILED", Message: "a guest did not start",
				}},
			},
		},
		{Meta: &metav1.ObjectMeta{Id: "node-2", Name: "host2"}, Status: &computev1.NodeStatus{Phase: computev1.NodePhase_NODE_PHASE_UNKNOWN}},
	}
	b.ok("vm", "create", "web", "--image", "debian", "--cpus", "2", "--memory", "1G", "--label", "app=web", "--label", "tier=front",
		"--nic", "user,forward=tcp:8022-22", "--disk", "size=10G,name=data,bus=scsi,read-only", "--no-wait")
	b.ok("vm", "create", "db", "--memory", "1536M", "--stopped", "--no-wait")
	b.server.Change("web", func(vm *computev1.VM) {
		vm.Status.Nics = []*computev1.NICStatus{{Name: "nic0", Mac: "52:54:00:00:00:01", IpAddresses: []string{"10.0.2.15/24"}}}
		vm.Status.Disks = []*computev1.DiskStatus{{Name: "root", SizeBytes: 2 << 30, Attached: true}}
		vm.Status.StartTime = timestamppb.New(fakeapi.Epoch.Add(time.Minute))
		vm.Status.Accelerator, vm.Status.Pid, vm.Status.RestartRequired = "tcg", 4711, true
	})
}

// waitLimit bounds a wait for something that must come.
const waitLimit = 20 * time.Second

// pauseBriefly lets others run between two looks at what a command has written.
func pauseBriefly(ctx context.Context) {
	t := time.NewTimer(2 * time.Millisecond)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

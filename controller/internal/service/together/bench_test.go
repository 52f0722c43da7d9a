package together_test

import (
	"context"
	"fmt"
	"log/slog"
	"sort"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/controller/internal/store/etcd"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

func durable(b *testing.B) *rig {
	b.Helper()
	s, err := etcd.OpenEmbedded(context.Background(), etcd.EmbeddedConfig{Common: etcd.Common{Logger: slog.New(slog.DiscardHandler)}, Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	return newRig(b, s)
}

// BenchmarkCreateVM is how many VMs 64 clients can have accepted durably in a second, with nowhere to place them.
func BenchmarkCreateVM(b *testing.B) {
	r := durable(b)
	var next atomic.Int64
	b.ResetTimer()
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				if _, err := r.create(&computev1.CreateVMRequest{Vm: &computev1.VM{
					Meta: &metav1.ObjectMeta{Name: fmt.Sprintf("vm-%d", i)}, Spec: spec(64*mib, "root"),
				}}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "VMs/s")
}

// BenchmarkReads measures GetVM and pages of ListVMs at 10,000 VMs.
func BenchmarkReads(b *testing.B) {
	r := newRig(b, newStore(b))
	const count = 10_000
	var ids []string
	for i := range count {
		resp, err := r.create(&computev1.CreateVMRequest{Vm: &computev1.VM{
			Meta: &metav1.ObjectMeta{Name: fmt.Sprintf("vm-%d", i), Labels: map[string]string{"tier": fmt.Sprint(i % 10), "n": fmt.Sprint(i)}}, Spec: spec(64*mib, "root"),
		}})
		if err != nil {
			b.Fatal(err)
		}
		ids = append(ids, resp.GetVm().GetMeta().GetId())
	}
	ctx := context.Background()
	b.Run("GetVM", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if r.vm(ids[i%count]) == nil {
				b.Fatal("gone")
			}
		}
	})
	for name, req := range map[string]*computev1.ListVMsRequest{
		"first": {}, "label": {LabelSelector: "tier=3"}, "rare": {LabelSelector: "tier=3,n!=13"}, "absent": {LabelSelector: "!tier"},
	} {
		b.Run("ListVMs/"+name, func(b *testing.B) {
			for b.Loop() {
				if _, err := r.VM.ListVMs(ctx, connect.NewRequest(req)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCreateToAgent is the time from a create to its arrival on the agent's stream, idle.
func BenchmarkCreateToAgent(b *testing.B) {
	r := durable(b)
	a := r.join("n1", 1<<20, 1<<50)
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		begin := time.Now()
		id := r.mustCreate(fmt.Sprintf("vm-%d", i), spec(64*mib, "root")).GetVm().GetMeta().GetId()
		for a.known(id) == nil {
			time.Sleep(200 * time.Microsecond)
		}
		took = append(took, time.Since(begin))
	}
	sort.Slice(took, func(i, j int) bool { return took[i] < took[j] })
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-p50")
}

// BenchmarkLife is how many VMs can be created, placed, started and deleted in a second on one node that does all at once.
func BenchmarkLife(b *testing.B) {
	r := durable(b)
	r.join("n1", 1<<20, 1<<50)
	var next atomic.Int64
	b.ResetTimer()
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				c := r.mustCreate(fmt.Sprintf("vm-%d", i), spec(64*mib, "root"))
				r.done(c.GetOperation().GetId())
				r.done(r.delete(c.GetVm().GetMeta().GetId()).GetOperation().GetId())
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lives/s")
}

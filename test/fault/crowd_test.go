package fault

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// Many VMs fit nowhere: each says why, and the controller rests. A node joins: those that came first are placed. 10,000 in a soak.
func TestCrowdThatFitsNowhere(t *testing.T) {
	crowd, soak := count(t, 1000)
	f := startFleet(t, shape{nodes: 0, heartbeat: "{interval: 1s, timeout: 6s}", cpu: 64})
	ids := make([]string, crowd) // in order of creation
	var next atomic.Int64
	var all sync.WaitGroup
	var order sync.Mutex // creation in order, so that the order is known
	for range 8 {
		all.Go(func() {
			for {
				order.Lock()
				i := int(next.Add(1)) - 1
				if i >= crowd {
					order.Unlock()
					return
				}
				res, err := f.vms.CreateVM(context.Background(), connect.NewRequest(&computev1.CreateVMRequest{Vm: &computev1.VM{
					Meta: &metav1.ObjectMeta{Name: fmt.Sprintf("crowd-%d", i)}, Spec: &computev1.VMSpec{MemoryBytes: 512 << 20},
				}}))
				order.Unlock()
				if err != nil {
					t.Error(err)
					return
				}
				ids[i] = res.Msg.GetVm().GetMeta().GetId()
			}
		})
	}
	all.Wait()
	f.until(t, bound(soak, time.Minute), "each says why it waits", func() (bool, string) {
		vms, err := f.allVMs()
		if err != nil {
			return false, err.Error()
		}
		told := 0
		for _, vm := range vms {
			if vm.GetStatus().GetReason() == "UNSCHEDULABLE" && vm.GetStatus().GetMessage() != "" {
				told++
			}
		}
		return told == crowd, fmt.Sprintf("%d of %d say why", told, crowd)
	})
	ex, err := f.vms.ExplainVM(t.Context(), connect.NewRequest(&computev1.ExplainVMRequest{Id: ids[crowd-1]}))
	if err != nil || ex.Msg.GetSummary() == "" {
		t.Errorf("explanation: %v, %v", ex, err)
	}
	const rest = 10 * time.Second
	before := cpuTime(t, f.controller.pid())
	time.Sleep(rest)
	share := float64(cpuTime(t, f.controller.pid())-before) / float64(rest)
	t.Logf("evidence: VMs that fit nowhere | %d", crowd)
	t.Logf("evidence: CPU of the controller meanwhile | %.1f %% of one", 100*share)
	if limit := 0.05; share > limit && (soak || share > 10*limit) {
		t.Errorf("the controller uses %.1f %% of a CPU while nothing happens", 100*share)
	}

	f.addNode(t, 0)
	f.awaitNodes(t, time.Minute)
	var placed []string
	f.until(t, bound(soak, time.Minute), "the node is full", func() (bool, string) {
		vms, err := f.allVMs()
		if err != nil {
			return false, err.Error()
		}
		placed = placed[:0]
		running := 0
		for _, vm := range vms {
			if vm.GetStatus().GetVmPlacement() != nil {
				placed = append(placed, vm.GetMeta().GetId())
			}
			if vm.GetStatus().GetPhase() == computev1.VMPhase_VM_PHASE_RUNNING {
				running++
			}
		}
		nodes, err := f.list()
		if err != nil {
			return false, err.Error()
		}
		st := nodes[0].GetStatus()
		free := st.GetAllocatable().GetMemoryBytes() - st.GetClaimed().GetMemoryBytes()
		return free < 512<<20 && running == len(placed), fmt.Sprintf("%d run, %d MiB are free", running, free>>20)
	})
	for i, id := range ids[:len(placed)] {
		if !slices.Contains(placed, id) {
			t.Errorf("%d VMs are placed, and the one that came as number %d is not", len(placed), i+1)
		}
	}
	t.Logf("evidence: placed in order when a node joined | %d", len(placed))
}

// cpuTime is how long a process has used CPUs.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	var user, system int64
	fields := strings.Fields(string(b[strings.LastIndex(string(b), ")")+1:]))
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond // a tick is 10 ms on Linux
}

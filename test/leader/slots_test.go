package leader

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	"github.com/limiquantix/limiquantix/test/stack"
)

// slotClients is how many clients create at once.
const slotClients = 64

// Clients create at once onto the last free slots, again and again, through one controller and through two: claims equal capacity exactly each time, and
// who got no slot waits with a reason.
func TestLastSlots(t *testing.T) {
	for name, members := range map[string]int{"one": 1, "two": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := startCluster(t, config{members: members, agents: 2, overcommitCPU: 2})
			slots := k.capacity(t)
			rounds := int(number(t, stack.CountEnv, 20))
			for round := range rounds {
				k.fill(t, round, slots)
				k.clear(t, round)
				if t.Failed() {
					return
				}
			}
			if k.etcd != nil {
				for _, keys := range k.etcd.steer(t, "witness").Bare {
					t.Errorf("written without a leader's fence and without a client's request: %s", keys)
				}
			}
			t.Logf("evidence: controllers: %d; rounds in which %d of %d VMs got the free slots | %d", members, slots, slotClients, rounds)
		})
	}
}

// capacity is how many VMs of one CPU fit, a whole number.
func (k *cluster) capacity(t *testing.T) int {
	t.Helper()
	res, err := k.members[0].nodes.ListNodes(t.Context(), connect.NewRequest(&computev1.ListNodesRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	slots := 0
	for _, n := range res.Msg.GetNodes() {
		cpus := n.GetStatus().GetAllocatable().GetCpus()
		if cpus != float64(int(cpus)) || n.GetStatus().GetAllocatable().GetMemoryBytes() < slotClients*(16<<20) {
			t.Fatalf("node %s has %v", n.GetMeta().GetName(), n.GetStatus().GetAllocatable())
		}
		slots += int(cpus)
	}
	if slots == 0 || slots >= slotClients {
		t.Fatalf("%d slots are no contest for %d clients", slots, slotClients)
	}
	return slots
}

// together does something for every client at once, each through its controller.
func (k *cluster) together(t *testing.T, what string, do func(ctx context.Context, m *controller, i int) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound(30*time.Second))
	defer cancel()
	begin := make(chan struct{})
	var all sync.WaitGroup
	for i := range slotClients {
		all.Go(func() {
			<-begin
			if err := do(ctx, k.members[i%len(k.members)], i); err != nil {
				t.Errorf("%s %d: %v", what, i, err)
			}
		})
	}
	close(begin)
	all.Wait()
}

func slotName(round, i int) string { return fmt.Sprintf("s%d-%d", round, i) }

func (k *cluster) fill(t *testing.T, round, slots int) {
	t.Helper()
	k.together(t, "create", func(ctx context.Context, m *controller, i int) error {
		_, err := m.vms.CreateVM(ctx, connect.NewRequest(createRequest(slotName(round, i))))
		return err
	})
	for _, m := range k.members {
		await(t, bound(30*time.Second), fmt.Sprintf("round %d: every slot is taken and the rest wait, as %s sees it", round, m.name), func() (bool, string) {
			placed, waiting, seen := m.census(t, round)
			k.claims(t, m, round, slots, placed == slots && waiting == slotClients-slots)
			return t.Failed() || placed == slots && waiting == slotClients-slots, seen
		})
	}
	if k.etcd == nil {
		return
	}
	s := k.snapshot(t)
	s.consistent(t, fmt.Sprint("round ", round))
	sum := 0
	for _, n := range s.nodes {
		sum += int(n.GetClaimedVcpus())
	}
	if sum != slots {
		t.Errorf("round %d: the nodes' records claim %d CPUs of %d", round, sum, slots)
	}
}

// census counts the VMs that have a node, and those that wait with a reason.
func (m *controller) census(t *testing.T, round int) (placed, waiting int, seen string) {
	t.Helper()
	res, err := m.vms.ListVMs(t.Context(), connect.NewRequest(&computev1.ListVMsRequest{PageSize: 500}))
	if err != nil {
		t.Fatal(err)
	}
	on := map[string]int{}
	for _, vm := range res.Msg.GetVms() {
		st := vm.GetStatus()
		switch {
		case !strings.HasPrefix(vm.GetMeta().GetName(), fmt.Sprintf("s%d-", round)):
		case st.GetVmPlacement() != nil:
			placed++
			on[st.GetVmPlacement().GetNodeName()]++
		case st.GetPhase() == computev1.VMPhase_VM_PHASE_PENDING && st.GetReason() == "UNSCHEDULABLE" && strings.Contains(st.GetMessage(), "CPU"):
			waiting++
		default:
			seen = fmt.Sprint(vm.GetMeta().GetName(), st)
		}
	}
	return placed, waiting, fmt.Sprintf("%d placed on %v, %d wait with a reason; %s", placed, on, waiting, seen)
}

// claims checks that no node claims more than it has, and, when full, not less either.
func (k *cluster) claims(t *testing.T, m *controller, round, slots int, full bool) {
	t.Helper()
	res, err := m.nodes.ListNodes(t.Context(), connect.NewRequest(&computev1.ListNodesRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, n := range res.Msg.GetNodes() {
		have, may := n.GetStatus().GetClaimed(), n.GetStatus().GetAllocatable()
		if have.GetCpus() > may.GetCpus() || have.GetMemoryBytes() > may.GetMemoryBytes() {
			t.Errorf("round %d: node %s claims %v of %v", round, n.GetMeta().GetName(), have, may)
		}
		sum += have.GetCpus()
	}
	if full && int(sum) != slots {
		t.Errorf("round %d: %v CPUs of %d are claimed while %d VMs of one CPU are placed", round, sum, slots, slots)
	}
}

// clear deletes everything and waits until the slots are free.
func (k *cluster) clear(t *testing.T, round int) {
	t.Helper()
	k.together(t, "delete", func(ctx context.Context, m *controller, i int) error {
		_, err := m.vms.DeleteVM(ctx, connect.NewRequest(&computev1.DeleteVMRequest{Id: slotName(round, i), RequestId: "delete-" + slotName(round, i)}))
		return err
	})
	await(t, bound(30*time.Second), fmt.Sprintf("round %d: all are gone", round), func() (bool, string) {
		res, err := k.members[0].vms.ListVMs(t.Context(), connect.NewRequest(&computev1.ListVMsRequest{PageSize: 500}))
		if err != nil {
			return false, err.Error()
		}
		return len(res.Msg.GetVms()) == 0, fmt.Sprint(res.Msg.GetVms())
	})
}

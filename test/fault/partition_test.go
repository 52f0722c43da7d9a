package fault

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"connectrpc.com/connect"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	"github.com/limiquantix/limiquantix/test/stack"
)

// separation is one partition: which ways are cut, and for how long.
type separation struct {
	name string
	way  cut
	long time.Duration
}

// An agent is cut off from the controller, both ways and one way, for less and for more than a heartbeat's timeout: guests run on, the node is unknown at
// the timeout and not before, no VM is placed elsewhere, and everything converges within 15 s of healing. 5 s and 60 s with the usual timeouts in a soak.
func TestPartition(t *testing.T) {
	soak := os.Getenv(stack.CountEnv) != ""
	interval, timeout := time.Second, 4*time.Second
	cases := []separation{{"blink", cutBoth, 2 * time.Second}, {"both ways", cutBoth, 7 * time.Second}, {"to the controller", cutUp, 7 * time.Second}, {"to the agent", cutDown, 7 * time.Second}}
	if soak {
		interval, timeout = 5*time.Second, 30*time.Second // as they are unless configured
		cases = []separation{{"blink", cutBoth, 5 * time.Second}, {"both ways", cutBoth, time.Minute}, {"to the controller", cutUp, time.Minute}, {"to the agent", cutDown, time.Minute}}
	}
	f := startFleet(t, shape{nodes: 3, heartbeat: fmt.Sprintf("{interval: %s, timeout: %s}", interval, timeout), cpu: 64})
	l := newLedger(f)
	var steady []told
	for i := range 6 {
		if vm, ok := l.create(fmt.Sprintf("steady-%d", i)); ok {
			steady = append(steady, vm)
		}
	}
	touched, _ := l.create("touched")
	l.settled(t, bound(soak, 30*time.Second))
	lies := f.nodeOf(t, touched.id)
	places := f.places(t)
	g := watch(t, f, steady)

	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			began := time.Now()
			lies.net.set(c.way)
			// Something is wanted meanwhile: it waits, and says for whom.
			next := touched
			next.power = []computev1.PowerState{computev1.PowerState_POWER_STATE_STOPPED, computev1.PowerState_POWER_STATE_RUNNING}[i%2]
			if !l.power(next, fmt.Sprintf("cut-%d", i)) {
				t.Fatal("nothing is accepted")
			}
			l.note(next)
			touched = next
			if c.long > timeout {
				f.until(t, c.long, "the node is unknown", func() (bool, string) {
					p := f.phase(lies)
					return p == computev1.NodePhase_NODE_PHASE_UNKNOWN, p.String()
				})
				took := time.Since(began)
				t.Logf("evidence: %s for %s: unknown after | %s", c.name, c.long, took.Round(100*time.Millisecond))
				// The last heartbeat may have come an interval before the cut, and one may be under way. Where only answers are lost, heartbeats arrive until the
				// agent gives the connection up.
				late := interval + time.Second
				if c.way == cutDown {
					late += 20 * time.Second
				}
				if took < timeout-interval-time.Second || soak && took > timeout+late {
					t.Errorf("the node was unknown after %s, the timeout is %s", took, timeout)
				}
				vm, err := f.vms.GetVM(t.Context(), connect.NewRequest(&computev1.GetVMRequest{Id: touched.id}))
				if err != nil {
					t.Fatal(err)
				}
				if st := vm.Msg.GetVm().GetStatus(); st.GetPhase() != computev1.VMPhase_VM_PHASE_UNKNOWN || st.GetMessage() == "" {
					t.Errorf("a VM on an unknown node is %s: %q", st.GetPhase(), st.GetMessage())
				}
			}
			time.Sleep(c.long - time.Since(began))
			if p := f.phase(lies); c.long < timeout && p != computev1.NodePhase_NODE_PHASE_READY {
				t.Errorf("after %s the node is %s", c.long, p)
			}
			lies.net.set(cutNone)
			healed := time.Now()
			f.awaitNodes(t, bound(soak, 15*time.Second))
			l.settled(t, bound(soak, 15*time.Second)-time.Since(healed))
			t.Logf("evidence: %s for %s: converged after healing | %s", c.name, c.long, time.Since(healed).Round(100*time.Millisecond))
		})
	}
	for id, node := range f.places(t) {
		if places[id] != node {
			t.Errorf("VM %s was on %s, and is on %s", id, places[id], node)
		}
	}
	g.end(t)
	l.empty(t, bound(soak, 30*time.Second))
}

// power starts or stops a VM, as it says.
func (l *ledger) power(vm told, request string) bool {
	l.ask(vm.id, map[bool]string{true: "off", false: "on"}[vm.power == computev1.PowerState_POWER_STATE_STOPPED], time.Now())
	return l.retry("power of "+vm.name, false, func(ctx context.Context) error {
		if vm.power == computev1.PowerState_POWER_STATE_STOPPED {
			_, err := l.f.vms.StopVM(ctx, connect.NewRequest(&computev1.StopVMRequest{Id: vm.id, RequestId: request, Force: true}))
			return err
		}
		_, err := l.f.vms.StartVM(ctx, connect.NewRequest(&computev1.StartVMRequest{Id: vm.id, RequestId: request}))
		return err
	})
}

// places tells the node of each VM.
func (f *fleet) places(t *testing.T) map[string]string {
	t.Helper()
	vms, err := f.allVMs()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, vm := range vms {
		out[vm.GetMeta().GetId()] = vm.GetStatus().GetVmPlacement().GetNodeId()
	}
	return out
}

func (f *fleet) nodeOf(t *testing.T, vm string) *node {
	t.Helper()
	at := f.places(t)[vm]
	for _, n := range f.nodes {
		if n.id == at {
			return n
		}
	}
	t.Fatalf("VM %s is on node %q", vm, at)
	return nil
}

func (f *fleet) phase(n *node) computev1.NodePhase {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	res, err := f.nodeS.GetNode(ctx, connect.NewRequest(&computev1.GetNodeRequest{Id: n.id}))
	if err != nil {
		return computev1.NodePhase_NODE_PHASE_UNSPECIFIED
	}
	return res.Msg.GetNode().GetStatus().GetPhase()
}

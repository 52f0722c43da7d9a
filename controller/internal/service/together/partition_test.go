package together_test

import (
	"testing"
	"time"

	"github.com/limiquantix/limiquantix/controller/internal/state"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
)

// A node is cut off for ten minutes, by an injected clock: it and its VMs are unknown, no VM is placed elsewhere though another node has room, and when it
// is back everything is as it was, under the same epoch, and nothing is sent to it again.
func TestPartitionOfTenMinutes(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a := r.join("n1", 4, 1024*mib)
	c := r.mustCreate("one", spec(128*mib, "root"))
	id := c.GetVm().GetMeta().GetId()
	r.done(c.GetOperation().GetId())
	a.settled(id)
	r.join("n2", 4, 1024*mib)

	a.stop()
	for range 20 {
		r.ahead.Add(int64(30 * time.Second))
		r.until("the node is unknown", func() bool {
			return r.Cache.Row(state.KindNode, a.id).Node().GetNode().GetStatus().GetPhase() == computev1.NodePhase_NODE_PHASE_UNKNOWN
		})
		st := r.vm(id).GetStatus()
		if st.GetPhase() != computev1.VMPhase_VM_PHASE_UNKNOWN || st.GetVmPlacement().GetNodeId() != a.id || st.GetVmPlacement().GetEpoch() != 1 {
			t.Fatalf("after %s of silence the VM is %v", time.Duration(r.ahead.Load()), st)
		}
	}
	// The other node takes what is new.
	other := r.mustCreate("two", spec(128*mib))
	r.done(other.GetOperation().GetId())

	b := &fakeAgent{r: r, id: a.id, session: "test", vms: map[string]*agentv1.DesiredVM{}, revision: a.revision, digest: a.digest}
	b.start(4, 1024*mib)
	r.untilPhase(id, computev1.VMPhase_VM_PHASE_RUNNING)
	if st := r.vm(id).GetStatus(); st.GetVmPlacement().GetNodeId() != a.id || st.GetVmPlacement().GetEpoch() != 1 {
		t.Fatalf("healed, the VM is %v", st)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.snaps != 0 || b.sent != 0 {
		t.Errorf("%d snapshots, %d objects sent again", b.snaps, b.sent)
	}
}

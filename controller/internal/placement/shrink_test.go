package placement_test

import (
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/scheduler"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

// A node whose CPUs become fewer than are claimed keeps its VMs, says that it is overcommitted, and gets nothing new: no VM, and no growth of one, not
// even of what it has enough of. Giving back works.
func TestShrunkNodeGetsNothingNew(t *testing.T) {
	t.Parallel()
	r := newTestRig(t, scheduler.Config{})
	n := r.join("n1", 4, 2048*mib)
	one := r.create("one", &computev1.VMSpec{Cpu: &computev1.CPU{Vcpus: 4}, MemoryBytes: 256 * mib})
	r.must(r.step.Schedule(r.ctx))
	r.resources(n, 2, 2048*mib)
	resp, err := r.nodes.GetNode(r.ctx, connect.NewRequest(&computev1.GetNodeRequest{Id: n}))
	r.must(err)
	c := domain.Condition(resp.Msg.GetNode().GetStatus().GetConditions(), "Overcommitted")
	if c.GetStatus() != metav1.ConditionStatus_CONDITION_STATUS_TRUE || c.GetMessage() == "" {
		t.Fatalf("condition is %v", c)
	}
	if r.vm(one).GetClaim().GetVcpus() != 4 {
		t.Fatalf("the VM lost its claim: %v", r.vm(one))
	}
	two := r.create("two", small())
	r.resize(one, 4, 512*mib)
	r.must(r.step.Schedule(r.ctx))
	r.must(r.step.Notes(r.ctx))
	if r.vm(two).GetClaim() != nil || r.vm(one).GetClaim().GetMemoryBytes() != 256*mib {
		t.Fatalf("an overcommitted node got something new: %v, %v", r.vm(one).GetClaim(), r.vm(two).GetClaim())
	}
	if st := r.vm(one).GetVm().GetStatus(); st.GetReason() != "UNSCHEDULABLE" || !strings.Contains(st.GetMessage(), "n1") {
		t.Fatalf("the VM that waits to grow says %q: %q", st.GetReason(), st.GetMessage())
	}
	r.resources(n, 8, 2048*mib)
	r.must(r.step.Schedule(r.ctx))
	if r.vm(two).GetClaim() == nil || r.vm(one).GetClaim().GetMemoryBytes() != 512*mib {
		t.Fatalf("with room again: %v, %v", r.vm(one).GetClaim(), r.vm(two).GetClaim())
	}
}

// A node that shrinks between the decision and its commit is not written over, and what was decided does not come about.
func TestNodeShrinksUnderCommit(t *testing.T) {
	t.Parallel()
	r := newTestRig(t, scheduler.Config{})
	n := r.join("n1", 4, 1024*mib)
	r.losing.meddle = func() { r.resources(n, 1, 1024*mib) }
	id := r.create("one", &computev1.VMSpec{Cpu: &computev1.CPU{Vcpus: 2}, MemoryBytes: 128 * mib})
	r.losing.next = "meddle"
	r.must(r.step.Schedule(r.ctx))
	if c := r.vm(id).GetClaim(); c != nil {
		t.Fatalf("claim is %v", c)
	}
	if cpus := r.node(n).GetNode().GetStatus().GetResources().GetCpus(); cpus != 1 {
		t.Fatalf("the node's word was written over: %d CPUs", cpus)
	}
}

func (r *rig) resize(id string, cpus int32, memory int64) {
	r.t.Helper()
	_, err := r.vms.UpdateVM(r.ctx, connect.NewRequest(&computev1.UpdateVMRequest{
		Vm:         &computev1.VM{Meta: &metav1.ObjectMeta{Id: id}, Spec: &computev1.VMSpec{Cpu: &computev1.CPU{Vcpus: cpus}, MemoryBytes: memory}},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"spec.cpu", "spec.memory_bytes"}},
	}))
	r.must(err)
}

package placement_test

import (
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/scheduler"
	"github.com/limiquantix/limiquantix/controller/internal/service/caller"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
)

func (r *rig) label(id string, labels map[string]string) {
	r.t.Helper()
	_, err := r.vms.UpdateVM(r.ctx, connect.NewRequest(&computev1.UpdateVMRequest{
		Vm: &computev1.VM{Meta: &metav1.ObjectMeta{Id: id, Labels: labels}}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"meta.labels"}},
	}))
	r.must(err)
}

func (r *rig) placedOn(id string) string {
	return r.vm(id).GetVm().GetStatus().GetVmPlacement().GetNodeId()
}

// A VM that labels kept away is tried again when its own labels change, and when those of the one that kept it away do. Neither makes a new generation.
func TestLabelsFreeAPlace(t *testing.T) {
	t.Parallel()
	for _, which := range []string{"its own", "the other's"} {
		t.Run(which, func(t *testing.T) {
			r := newTestRig(t, scheduler.Config{})
			n := r.join("n1", 4, 1024*mib)
			apart := small()
			apart.Placement = &computev1.Placement{Affinity: []*computev1.AffinityRule{{
				Type: computev1.AffinityType_AFFINITY_TYPE_ANTI_AFFINITY, VmLabels: map[string]string{"app": "db"},
			}}}
			one, two := r.create("one", small()), r.create("two", apart)
			r.label(one, map[string]string{"app": "db"})
			first, second := one, two
			if which == "its own" {
				first, second = two, one
			}
			r.must(r.step.ScheduleOnly(first, func() {}))
			r.must(r.step.Schedule(r.ctx))
			r.must(r.step.Schedule(r.ctx))
			if r.placedOn(first) != n || r.placedOn(second) != "" {
				t.Fatalf("placed at %q and %q", r.placedOn(first), r.placedOn(second))
			}
			r.label(one, nil)
			r.must(r.step.Schedule(r.ctx))
			if r.placedOn(second) != n {
				t.Fatalf("still waits: %v", r.vm(second).GetVm().GetStatus())
			}
		})
	}
}

// A VM that waits for room where it lies goes on saying so, whatever its node reports meanwhile, and no longer once it has room.
func TestWaitForRoomOutlastsReports(t *testing.T) {
	t.Parallel()
	r := newTestRig(t, scheduler.Config{})
	n := r.join("n1", 4, 256*mib)
	id := r.create("one", small())
	r.must(r.step.Schedule(r.ctx))
	r.resize(id, 1, 512*mib)
	r.must(r.step.Schedule(r.ctx))
	r.must(r.step.Notes(r.ctx))
	waits := func(want bool) {
		t.Helper()
		st := r.vm(id).GetVm().GetStatus()
		if got := st.GetReason() == "UNSCHEDULABLE" && st.GetMessage() != ""; got != want {
			t.Fatalf("waits: %v; it says %q: %q", want, st.GetReason(), st.GetMessage())
		}
		if got := domain.Condition(st.GetConditions(), domain.CondClaim) != nil; got != want {
			t.Fatalf("waits: %v; conditions are %v", want, st.GetConditions())
		}
	}
	waits(true)
	says := func(sequence int64) {
		_, err := r.agents.ReportStatus(caller.WithNode(r.ctx, n), &agentv1.ReportStatusRequest{SessionId: "s", Sequence: sequence, Vms: []*agentv1.VMReport{{
			VmId: id, Epoch: 1, ObservedGeneration: 2, Status: &computev1.VMStatus{Phase: runs, Pid: sequence},
		}}})
		r.must(err)
	}
	says(1)
	says(2)
	waits(true)
	r.resources(n, 4, 1024*mib)
	r.must(r.step.Schedule(r.ctx))
	waits(false)
	says(3)
	waits(false)
}

// Two VMs that want the same port of their host are never on one node, not even when they are placed at once; the second waits, says why, and is placed
// when the first lets the port go.
func TestHostPortsDoNotMeet(t *testing.T) {
	t.Parallel()
	r := newTestRig(t, scheduler.Config{})
	n := r.join("n1", 4, 1024*mib)
	web := func(port uint32) *computev1.VMSpec {
		s := small()
		s.Nics = []*computev1.NIC{{Name: "net0", Attachment: &computev1.NIC_User{User: &computev1.UserModeNetwork{
			Forwards: []*computev1.PortForward{{HostPort: port, GuestPort: 80}},
		}}}}
		return s
	}
	one, two, other := r.create("one", web(8080)), r.create("two", web(8080)), r.create("other", web(8081))
	r.must(r.step.Schedule(r.ctx))
	r.must(r.step.Notes(r.ctx))
	if r.placedOn(one) == "" {
		one, two = two, one
	}
	if r.placedOn(one) != n || r.placedOn(two) != "" || r.placedOn(other) != n {
		t.Fatalf("placed at %q, %q and %q", r.placedOn(one), r.placedOn(two), r.placedOn(other))
	}
	if m := r.vm(two).GetVm().GetStatus().GetMessage(); !strings.Contains(m, "host-port") || !strings.Contains(m, "8080") {
		t.Fatalf("it says %q", m)
	}
	_, err := r.vms.UpdateVM(r.ctx, connect.NewRequest(&computev1.UpdateVMRequest{
		Vm: &computev1.VM{Meta: &metav1.ObjectMeta{Id: one}, Spec: &computev1.VMSpec{Nics: web(9090).GetNics()}}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"spec.nics"}},
	}))
	r.must(err)
	r.must(r.step.Schedule(r.ctx))
	if r.placedOn(two) != n {
		t.Fatalf("still waits: %v", r.vm(two).GetVm().GetStatus())
	}
}

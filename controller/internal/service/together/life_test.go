package together_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/limiquantix/limiquantix/controller/internal/service/caller"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	agentv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/agent/v1"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
)

func (r *rig) delete(id string) *computev1.DeleteVMResponse {
	r.t.Helper()
	resp, err := r.VM.DeleteVM(context.Background(), connect.NewRequest(&computev1.DeleteVMRequest{Id: id}))
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.Msg
}

// A VM's whole life: accepted, placed, running, stopped, started, paused, resumed, rebooted, deleted; nothing is left of it.
func TestLife(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a := r.join("n1", 4, 1024*mib)
	s := spec(128*mib, "root", "data")
	s.CloudInit = &computev1.CloudInit{UserData: []byte("#cloud-config\n")}
	c := r.mustCreate("one", s)
	id := c.GetVm().GetMeta().GetId()
	r.done(c.GetOperation().GetId())
	if d := a.known(id); string(d.GetUserData()) != "#cloud-config\n" || len(d.GetVolumes()) != 2 {
		t.Fatalf("agent was told %v", d)
	}
	vm := r.vm(id)
	if vm.GetStatus().GetPhase() != computev1.VMPhase_VM_PHASE_RUNNING || vm.GetStatus().GetVmPlacement().GetNodeName() != "n1" ||
		len(vm.GetSpec().GetCloudInit().GetUserData()) > 0 || vm.GetSpec().GetCloudInit().GetUserDataSha256() == "" {
		t.Fatalf("VM is %v", vm)
	}
	if rec := a.record(); rec.GetClaimedMemoryBytes() != 128*mib || rec.GetClaimedVcpus() != 1 {
		t.Fatalf("claims are %d, %d", rec.GetClaimedMemoryBytes(), rec.GetClaimedVcpus())
	}
	ctx := context.Background()
	steps := []struct {
		name string
		do   func() (*operationv1.Operation, error)
		want computev1.VMPhase
	}{
		{"stop", func() (*operationv1.Operation, error) {
			resp, err := r.VM.StopVM(ctx, connect.NewRequest(&computev1.StopVMRequest{Id: "one"}))
			return resp.Msg.GetOperation(), err
		}, computev1.VMPhase_VM_PHASE_STOPPED},
		{"start", func() (*operationv1.Operation, error) {
			resp, err := r.VM.StartVM(ctx, connect.NewRequest(&computev1.StartVMRequest{Id: id}))
			return resp.Msg.GetOperation(), err
		}, computev1.VMPhase_VM_PHASE_RUNNING},
		{"start again", func() (*operationv1.Operation, error) {
			resp, err := r.VM.StartVM(ctx, connect.NewRequest(&computev1.StartVMRequest{Id: id}))
			return resp.Msg.GetOperation(), err
		}, computev1.VMPhase_VM_PHASE_RUNNING},
		{"pause", func() (*operationv1.Operation, error) {
			resp, err := r.VM.PauseVM(ctx, connect.NewRequest(&computev1.PauseVMRequest{Id: id}))
			return resp.Msg.GetOperation(), err
		}, computev1.VMPhase_VM_PHASE_PAUSED},
		{"resume", func() (*operationv1.Operation, error) {
			resp, err := r.VM.ResumeVM(ctx, connect.NewRequest(&computev1.ResumeVMRequest{Id: id}))
			return resp.Msg.GetOperation(), err
		}, computev1.VMPhase_VM_PHASE_RUNNING},
		{"reboot", func() (*operationv1.Operation, error) {
			resp, err := r.VM.RebootVM(ctx, connect.NewRequest(&computev1.RebootVMRequest{Id: id}))
			return resp.Msg.GetOperation(), err
		}, computev1.VMPhase_VM_PHASE_RUNNING},
	}
	for _, step := range steps {
		op, err := step.do()
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		r.done(op.GetId())
		if got := r.vm(id).GetStatus().GetPhase(); got != step.want {
			t.Fatalf("after %s it is %s", step.name, got)
		}
	}
	del := r.delete(id)
	if again := r.delete(id); again.GetVm() != nil && again.GetOperation().GetId() != del.GetOperation().GetId() {
		t.Fatalf("a second delete answers %v", again)
	}
	r.done(del.GetOperation().GetId())
	a.mu.Lock()
	if want := []string{"vm", "volume", "volume"}; !slices.Equal(a.gone, want) {
		t.Errorf("the node was asked to remove %v, want %v", a.gone, want)
	}
	a.mu.Unlock()
	for _, prefix := range []string{"vm/", "volume/", "secret/", "name/default/vm/"} {
		if res, err := r.store.List(ctx, prefix, listAll); err != nil || len(res.KVs) > 0 {
			t.Errorf("left under %s: %v %v", prefix, res.KVs, err)
		}
	}
	if rec := a.record(); rec.GetClaimedMemoryBytes() != 0 || rec.GetClaimedVcpus() != 0 {
		t.Errorf("claims are left: %d, %d", rec.GetClaimedMemoryBytes(), rec.GetClaimedVcpus())
	}
	if resp := r.delete(id); resp.GetVm() != nil || resp.GetOperation() != nil {
		t.Errorf("delete of what is gone answers %v", resp)
	}
}

// The same request id is one effect and one answer; another body is refused.
func TestRequestID(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	req := func(name string) *computev1.CreateVMRequest {
		return &computev1.CreateVMRequest{RequestId: "r1", Vm: &computev1.VM{Meta: &metav1.ObjectMeta{Name: name}, Spec: spec(64 * mib)}}
	}
	first, err := r.create(req("a"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := r.create(req("a"))
	if err != nil || second.GetVm().GetMeta().GetId() != first.GetVm().GetMeta().GetId() || second.GetVm().GetMeta().GetEtag() != first.GetVm().GetMeta().GetEtag() ||
		second.GetOperation().GetId() != first.GetOperation().GetId() {
		t.Fatalf("repetition answers %v, %v; first was %v", second, err, first)
	}
	if _, err := r.create(req("b")); !fault.Is(err, metav1.Reason_REASON_REQUEST_ID_REUSED) {
		t.Fatalf("other body: %v", err)
	}
	if n := r.Cache.Count(state.Query{Kind: state.KindVM}); n != 1 {
		t.Fatalf("%d VMs", n)
	}
	ctx := caller.WithPrincipal(context.Background(), "other")
	other := req("c")
	if _, err := r.VM.CreateVM(ctx, connect.NewRequest(other)); err != nil {
		t.Fatalf("another principal's id: %v", err)
	}
	if _, err := r.create(&computev1.CreateVMRequest{Vm: &computev1.VM{Meta: &metav1.ObjectMeta{Name: "a"}, Spec: spec(64 * mib)}}); !fault.Is(err, metav1.Reason_REASON_NAME_TAKEN) {
		t.Fatalf("taken name: %v", err)
	}
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a := r.join("n1", 4, 1024*mib)
	c := r.mustCreate("one", spec(128*mib))
	id := c.GetVm().GetMeta().GetId()
	r.done(c.GetOperation().GetId())
	update := func(vm *computev1.VM, paths ...string) (*computev1.UpdateVMResponse, error) {
		vm.Meta.Id = id
		resp, err := r.VM.UpdateVM(context.Background(), connect.NewRequest(&computev1.UpdateVMRequest{Vm: vm, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}}))
		if err != nil {
			return nil, err
		}
		return resp.Msg, nil
	}
	etag := r.vm(id).GetMeta().GetEtag()
	resp, err := update(&computev1.VM{Meta: &metav1.ObjectMeta{Etag: etag, Labels: map[string]string{"a": "b"}}}, "meta.labels")
	if err != nil || resp.GetVm().GetMeta().GetGeneration() != 1 || resp.GetOperation().GetState() != operationv1.OperationState_OPERATION_STATE_DONE {
		t.Fatalf("labels: %v %v", resp, err)
	}
	if _, err := update(&computev1.VM{Meta: &metav1.ObjectMeta{Etag: etag}}, "meta.labels"); !fault.Is(err, metav1.Reason_REASON_STALE_ETAG) {
		t.Fatalf("stale etag: %v", err)
	}
	resp, err = update(&computev1.VM{Meta: &metav1.ObjectMeta{}, Spec: &computev1.VMSpec{MemoryBytes: 256 * mib, Vnc: true}}, "spec.memory_bytes")
	if err != nil || resp.GetVm().GetMeta().GetGeneration() != 2 || resp.GetVm().GetSpec().GetVnc() {
		t.Fatalf("memory: %v %v", resp, err)
	}
	r.done(resp.GetOperation().GetId())
	if got := a.record().GetClaimedMemoryBytes(); got != 256*mib {
		t.Fatalf("claim is %d", got)
	}
	for _, path := range []string{"spec.machine_type", "spec.nonsense", "meta.name", "status", "meta.labels.a", ""} {
		if _, err := update(&computev1.VM{Meta: &metav1.ObjectMeta{}}, path); !fault.Is(err, metav1.Reason_REASON_INVALID_FIELD) {
			t.Errorf("path %q: %v", path, err)
		}
	}
	// More than the node has: the wish is kept, the VM stays within its claim and says what it waits for.
	resp, err = update(&computev1.VM{Meta: &metav1.ObjectMeta{}, Spec: &computev1.VMSpec{MemoryBytes: 2048 * mib}}, "spec.memory_bytes")
	if err != nil {
		t.Fatal(err)
	}
	r.until("it says what it waits for", func() bool { return r.vm(id).GetStatus().GetReason() == "UNSCHEDULABLE" })
	if d := a.known(id); d.GetSpec().GetMemoryBytes() != 256*mib {
		t.Fatalf("agent was told %d bytes", d.GetSpec().GetMemoryBytes())
	}
}

// Deletion while the VM is being made, a start during the deletion, and a create superseded by it.
func TestDeleteDuringCreate(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a := r.join("n1", 4, 1024*mib)
	a.set(func(a *fakeAgent) { a.frozen = true })
	pending := r.mustCreate("pending", spec(4096*mib, "root"))
	r.done(r.delete(pending.GetVm().GetMeta().GetId()).GetOperation().GetId()) // never placed
	if op := r.ended(pending.GetOperation().GetId()); op.GetState() != operationv1.OperationState_OPERATION_STATE_SUPERSEDED {
		t.Fatalf("create is %v", op)
	}
	c := r.mustCreate("one", spec(128*mib))
	id := c.GetVm().GetMeta().GetId()
	r.until("the agent knows it", func() bool { return a.known(id) != nil })
	del := r.delete(id)
	if _, err := r.VM.StartVM(context.Background(), connect.NewRequest(&computev1.StartVMRequest{Id: id})); !fault.Is(err, metav1.Reason_REASON_BEING_DELETED) {
		t.Fatalf("start during delete: %v", err)
	}
	r.mustCreate("one", spec(128*mib)) // the name is free at once
	r.until("the agent knows that it goes", func() bool { return a.known(id).GetAbsent() })
	a.set(func(a *fakeAgent) { a.frozen = false })
	a.report(a.ctx, answerVM(a.known(id)))
	r.done(del.GetOperation().GetId())
}

// The record of a VM stays until its node has confirmed that its volumes are gone too.
func TestDeleteWaitsForVolumes(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a := r.join("n1", 4, 1024*mib)
	c := r.mustCreate("one", spec(128*mib, "root"))
	id := c.GetVm().GetMeta().GetId()
	r.done(c.GetOperation().GetId())
	a.set(func(a *fakeAgent) { a.frozen = true })
	del := r.delete(id)
	r.until("the agent knows that it goes", func() bool { return a.known(id).GetAbsent() })
	a.report(a.ctx, answerVM(a.known(id)))
	other := r.mustCreate("other", spec(4096*mib)) // once that is gone, what may be done about the first was done
	r.done(r.delete(other.GetVm().GetMeta().GetId()).GetOperation().GetId())
	vols := r.Cache.Find(state.Query{Kind: state.KindVolume, Owner: id}).Rows
	if r.vm(id) == nil || len(vols) != 1 {
		t.Fatal("forgotten before its volume was gone")
	}
	a.report(a.ctx, &agentv1.ReportStatusRequest{Volumes: []*agentv1.VolumeReport{{
		VolumeId: vols[0].ID, Epoch: vols[0].Volume().GetExecutorEpoch(), Absent: true,
	}}})
	r.done(del.GetOperation().GetId())
}

// A guest that shut itself down stays off, by its run policy.
func TestGuestStopped(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	a := r.join("n1", 4, 1024*mib)
	c := r.mustCreate("one", spec(128*mib))
	id := c.GetVm().GetMeta().GetId()
	r.done(c.GetOperation().GetId())
	rep := answerVM(a.known(id))
	rep.Vms[0].GuestStopped, rep.Vms[0].Status.Phase = true, computev1.VMPhase_VM_PHASE_STOPPED
	a.report(a.ctx, rep)
	if vm := r.vm(id); vm.GetSpec().GetDesiredPower() != computev1.PowerState_POWER_STATE_STOPPED || vm.GetMeta().GetGeneration() != 2 {
		t.Fatalf("VM is %v", vm)
	}
	r.until("it is off", func() bool { return r.vm(id).GetStatus().GetObservedGeneration() == 2 })
	stale := answerVM(a.known(id))
	stale.Vms[0].Epoch = 99
	stale.Vms[0].Status.Phase = computev1.VMPhase_VM_PHASE_RUNNING
	a.report(a.ctx, stale)
	if p := r.vm(id).GetStatus().GetPhase(); p != computev1.VMPhase_VM_PHASE_STOPPED {
		t.Fatalf("a report of another epoch made it %s", p)
	}
}

// An operation tells the phases that it passed, the controller's and the node's, also after its end.
func TestPhasesOfACreation(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	resp := r.mustCreate("v", spec(64*mib))
	queued := func(id string) []string {
		got, err := r.Operation.GetOperation(context.Background(), connect.NewRequest(&operationv1.GetOperationRequest{Id: id}))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, p := range got.Msg.GetOperation().GetPhases() {
			names = append(names, p.GetName())
		}
		return names
	}
	if got := queued(resp.GetOperation().GetId()); !slices.Equal(got, []string{"queued"}) {
		t.Fatalf("phases of what fits nowhere: %v", got)
	}
	r.join("n1", 8, 1<<30)
	r.done(resp.GetOperation().GetId())
	if got := queued(resp.GetOperation().GetId()); !slices.Equal(got, []string{"queued", "assigned", "start"}) {
		t.Fatalf("phases %v", got)
	}
}

// Many sendings of one request at once have one effect: a reboot is not bound to a name that could be taken.
func TestRequestIDAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, newStore(t))
	r.join("n1", 4, 1024*mib)
	c := r.mustCreate("one", spec(128*mib))
	id := c.GetVm().GetMeta().GetId()
	r.done(c.GetOperation().GetId())
	for round := range int64(20) {
		req := &computev1.RebootVMRequest{Id: id, Force: true, RequestId: fmt.Sprintf("reboot-%d", round)}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if _, err := r.VM.RebootVM(context.Background(), connect.NewRequest(proto.CloneOf(req))); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if n := r.vm(id).GetSpec().GetRestartGeneration(); n != round+1 {
			t.Fatalf("%d requests rebooted %d times", round+1, n)
		}
		r.untilPhase(id, computev1.VMPhase_VM_PHASE_RUNNING)
	}
}

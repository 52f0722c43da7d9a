package fakeapi

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
)

type vms struct {
	computev1connect.UnimplementedVMServiceHandler
	*Server
}

// find is a VM by id, or name within a project. Called under Lock.
func (v vms) find(id, project string) (*computev1.VM, error) {
	if project == "" {
		project = "default"
	}
	for _, vm := range v.VMs {
		if m := vm.GetMeta(); m.GetId() == id || m.GetName() == id && m.GetProjectId() == project {
			return vm, nil
		}
	}
	return nil, fault.New(metav1.Reason_REASON_NOT_FOUND, "there is no VM %q in project %q", id, project).WithRemedy("list VMs to see which there are")
}

func (v vms) CreateVM(_ context.Context, req *connect.Request[computev1.CreateVMRequest]) (*connect.Response[computev1.CreateVMResponse], error) {
	v.Lock()
	defer v.Unlock()
	in := req.Msg.GetVm()
	if in.GetSpec().GetMemoryBytes() < 16<<20 {
		return nil, fault.Invalid(fault.Violation{Field: "vm.spec.memory_bytes", Description: "must be at least 16 MiB"})
	}
	if _, err := v.find(in.GetMeta().GetName(), in.GetMeta().GetProjectId()); err == nil {
		return nil, fault.New(metav1.Reason_REASON_NAME_TAKEN, "the name %q is taken", in.GetMeta().GetName())
	}
	vm := &computev1.VM{Meta: newMeta(in.GetMeta(), fmt.Sprintf("vm-%d", len(v.VMs)+1)), Spec: proto.CloneOf(in.GetSpec())}
	if vm.Spec.DesiredPower == 0 {
		vm.Spec.DesiredPower = computev1.PowerState_POWER_STATE_RUNNING
	}
	vm.Status = &computev1.VMStatus{Phase: computev1.VMPhase_VM_PHASE_PENDING}
	if req.Msg.GetDryRun() {
		return connect.NewResponse(&computev1.CreateVMResponse{Vm: vm}), nil
	}
	if err := v.plug(vm); err != nil {
		return nil, err
	}
	v.VMs = append(v.VMs, vm)
	op := v.operate("CreateVM", "VM", vm.GetMeta())
	accepted := proto.CloneOf(vm)
	v.realise(vm)
	v.touch()
	return connect.NewResponse(&computev1.CreateVMResponse{Vm: accepted, Operation: proto.CloneOf(op)}), nil
}

// realise makes status as spec wants it, unless Hold is set. Called under Lock.
func (v vms) realise(vm *computev1.VM) {
	if v.Hold {
		return
	}
	vm.Status.VmPlacement = &computev1.VMPlacement{NodeId: "node-1", NodeName: "host1", Epoch: 1}
	vm.Status.ObservedGeneration = vm.GetMeta().GetGeneration()
	vm.Status.Phase = map[computev1.PowerState]computev1.VMPhase{
		computev1.PowerState_POWER_STATE_RUNNING: computev1.VMPhase_VM_PHASE_RUNNING,
		computev1.PowerState_POWER_STATE_STOPPED: computev1.VMPhase_VM_PHASE_STOPPED,
		computev1.PowerState_POWER_STATE_PAUSED:  computev1.VMPhase_VM_PHASE_PAUSED,
	}[vm.GetSpec().GetDesiredPower()]
}

func (v vms) GetVM(_ context.Context, req *connect.Request[computev1.GetVMRequest]) (*connect.Response[computev1.GetVMResponse], error) {
	v.Lock()
	defer v.Unlock()
	vm, err := v.find(req.Msg.GetId(), req.Msg.GetProjectId())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&computev1.GetVMResponse{Vm: proto.CloneOf(vm)}), nil
}

// ListVMs gives one VM a page, so that every walk is walked.
func (v vms) ListVMs(_ context.Context, req *connect.Request[computev1.ListVMsRequest]) (*connect.Response[computev1.ListVMsResponse], error) {
	v.Lock()
	defer v.Unlock()
	var all []*computev1.VM
	for _, vm := range v.VMs {
		if selected(vm, req.Msg.GetProjectId(), req.Msg.GetLabelSelector(), "") &&
			(len(req.Msg.GetPhases()) == 0 || slices.Contains(req.Msg.GetPhases(), vm.GetStatus().GetPhase())) {
			all = append(all, proto.CloneOf(vm))
		}
	}
	at := len(req.Msg.GetPageToken())
	resp := &computev1.ListVMsResponse{Revision: v.revision}
	if at < len(all) {
		resp.Vms = all[at : at+1]
	}
	if at+1 < len(all) {
		resp.NextPageToken = strings.Repeat("x", at+1)
	}
	return connect.NewResponse(resp), nil
}

func selected(vm *computev1.VM, project, selector, id string) bool {
	for _, part := range strings.Split(selector, ",") {
		if k, value, ok := strings.Cut(part, "="); ok && vm.GetMeta().GetLabels()[k] != value {
			return false
		}
	}
	return (project == "" || vm.GetMeta().GetProjectId() == project) && (id == "" || vm.GetMeta().GetId() == id)
}

func (v vms) UpdateVM(_ context.Context, req *connect.Request[computev1.UpdateVMRequest]) (*connect.Response[computev1.UpdateVMResponse], error) {
	v.Lock()
	defer v.Unlock()
	vm, err := v.find(req.Msg.GetVm().GetMeta().GetId(), "")
	if err != nil {
		return nil, err
	}
	if e := req.Msg.GetVm().GetMeta().GetEtag(); e != "" && e != vm.GetMeta().GetEtag() {
		return nil, fault.New(metav1.Reason_REASON_STALE_ETAG, "etag %q is stale", e)
	}
	in, before := req.Msg.GetVm(), proto.CloneOf(vm.GetSpec())
	for _, p := range req.Msg.GetUpdateMask().GetPaths() {
		switch p {
		case "meta.labels":
			vm.Meta.Labels = in.GetMeta().GetLabels()
		case "spec.memory_bytes":
			vm.Spec.MemoryBytes = in.GetSpec().GetMemoryBytes()
		case "spec.cpu.vcpus":
			vm.Spec.Cpu = &computev1.CPU{Vcpus: in.GetSpec().GetCpu().GetVcpus()}
		case "spec.run_policy":
			vm.Spec.RunPolicy = in.GetSpec().GetRunPolicy()
		case "spec.nics":
			vm.Spec.Nics = in.GetSpec().GetNics()
			if err := v.plug(vm); err != nil {
				vm.Spec.Nics = before.GetNics()
				return nil, err
			}
		case "spec.disks":
			vm.Spec.Disks = before.GetDisks() // as a controller that finds them equal once defaults are filled in
		default:
			return nil, fault.Invalid(fault.Violation{Field: "update_mask", Description: p + " is not known here"})
		}
	}
	vm.Meta.Etag += "+"
	if !proto.Equal(before, vm.GetSpec()) {
		vm.Meta.Generation++
	}
	op := v.operate("UpdateVM", "VM", vm.GetMeta())
	v.realise(vm)
	v.touch()
	return connect.NewResponse(&computev1.UpdateVMResponse{Vm: proto.CloneOf(vm), Operation: proto.CloneOf(op)}), nil
}

func (v vms) DeleteVM(_ context.Context, req *connect.Request[computev1.DeleteVMRequest]) (*connect.Response[computev1.DeleteVMResponse], error) {
	v.Lock()
	defer v.Unlock()
	vm, err := v.find(req.Msg.GetId(), req.Msg.GetProjectId())
	if err != nil {
		return nil, err
	}
	vm.Spec.Nics = nil
	if err := v.plug(vm); err != nil {
		return nil, err
	}
	v.VMs = slices.DeleteFunc(v.VMs, func(o *computev1.VM) bool { return o == vm })
	gone := proto.CloneOf(vm)
	gone.Meta.DeleteTime, gone.Status.Phase = timestamppb.New(Epoch), computev1.VMPhase_VM_PHASE_DELETING
	op := v.operate("DeleteVM", "VM", vm.GetMeta())
	v.touch()
	return connect.NewResponse(&computev1.DeleteVMResponse{Vm: gone, Operation: proto.CloneOf(op)}), nil
}

// power changes desired power, if the phase is right.
func (v vms) power(id, project, verb string, to computev1.PowerState, from ...computev1.VMPhase) (*computev1.VM, *operationv1.Operation, error) {
	v.Lock()
	defer v.Unlock()
	vm, err := v.find(id, project)
	if err != nil {
		return nil, nil, err
	}
	if len(from) > 0 && !slices.Contains(from, vm.GetStatus().GetPhase()) {
		return nil, nil, fault.New(metav1.Reason_REASON_WRONG_STATE, "VM %s is %s", vm.GetMeta().GetName(), strings.ToLower(vm.GetStatus().GetPhase().String()[9:])).
			WithRemedy("start it first")
	}
	vm.Spec.DesiredPower = to
	vm.Meta.Generation++
	op := v.operate(verb, "VM", vm.GetMeta())
	v.realise(vm)
	v.touch()
	return proto.CloneOf(vm), proto.CloneOf(op), nil
}

func (v vms) StartVM(_ context.Context, req *connect.Request[computev1.StartVMRequest]) (*connect.Response[computev1.StartVMResponse], error) {
	vm, op, err := v.power(req.Msg.GetId(), req.Msg.GetProjectId(), "StartVM", computev1.PowerState_POWER_STATE_RUNNING)
	return connect.NewResponse(&computev1.StartVMResponse{Vm: vm, Operation: op}), err
}

func (v vms) StopVM(_ context.Context, req *connect.Request[computev1.StopVMRequest]) (*connect.Response[computev1.StopVMResponse], error) {
	vm, op, err := v.power(req.Msg.GetId(), req.Msg.GetProjectId(), "StopVM", computev1.PowerState_POWER_STATE_STOPPED)
	return connect.NewResponse(&computev1.StopVMResponse{Vm: vm, Operation: op}), err
}

func (v vms) RebootVM(_ context.Context, req *connect.Request[computev1.RebootVMRequest]) (*connect.Response[computev1.RebootVMResponse], error) {
	vm, op, err := v.power(req.Msg.GetId(), req.Msg.GetProjectId(), "RebootVM", computev1.PowerState_POWER_STATE_RUNNING, computev1.VMPhase_VM_PHASE_RUNNING)
	return connect.NewResponse(&computev1.RebootVMResponse{Vm: vm, Operation: op}), err
}

func (v vms) PauseVM(_ context.Context, req *connect.Request[computev1.PauseVMRequest]) (*connect.Response[computev1.PauseVMResponse], error) {
	vm, op, err := v.power(req.Msg.GetId(), req.Msg.GetProjectId(), "PauseVM", computev1.PowerState_POWER_STATE_PAUSED, computev1.VMPhase_VM_PHASE_RUNNING)
	return connect.NewResponse(&computev1.PauseVMResponse{Vm: vm, Operation: op}), err
}

func (v vms) ResumeVM(_ context.Context, req *connect.Request[computev1.ResumeVMRequest]) (*connect.Response[computev1.ResumeVMResponse], error) {
	vm, op, err := v.power(req.Msg.GetId(), req.Msg.GetProjectId(), "ResumeVM", computev1.PowerState_POWER_STATE_RUNNING, computev1.VMPhase_VM_PHASE_PAUSED)
	return connect.NewResponse(&computev1.ResumeVMResponse{Vm: vm, Operation: op}), err
}

func (v vms) ExplainVM(_ context.Context, req *connect.Request[computev1.ExplainVMRequest]) (*connect.Response[computev1.ExplainVMResponse], error) {
	v.Lock()
	defer v.Unlock()
	if _, err := v.find(req.Msg.GetId(), req.Msg.GetProjectId()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&computev1.ExplainVMResponse{
		Summary: "waits: no node has enough memory", NodeCount: 2, Suggestion: "ask for 512 MiB of memory",
		Predicates: []*computev1.PredicateResult{{Predicate: "memory", FailedCount: 2, Example: "host1 lacks 512 MiB"}, {Predicate: "taints"}},
		Nodes: []*computev1.NodeVerdict{
			{NodeName: "host1", FailedPredicates: []string{"memory"}, Message: "lacks 512 MiB"}, {NodeName: "host2", Feasible: true, Score: 0.5},
		},
		Explanation: v.Why,
	}), nil
}

func (v vms) ListVMEvents(_ context.Context, req *connect.Request[computev1.ListVMEventsRequest]) (*connect.Response[computev1.ListVMEventsResponse], error) {
	v.Lock()
	defer v.Unlock()
	if _, err := v.find(req.Msg.GetId(), req.Msg.GetProjectId()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&computev1.ListVMEventsResponse{Events: []*computev1.VMEvent{
		{Time: timestamppb.New(Epoch), Type: "Placed", Message: "on host1"}, {Time: timestamppb.New(Epoch), Type: "Started"},
	}}), nil
}

func (v vms) GetConsoleLog(ctx context.Context, req *connect.Request[computev1.GetConsoleLogRequest], stream *connect.ServerStream[computev1.GetConsoleLogResponse]) error {
	v.Lock()
	_, err := v.find(req.Msg.GetId(), req.Msg.GetProjectId())
	at := req.Msg.GetOffset()
	if at < 0 {
		at = max(0, int64(len(v.Log))+at)
	}
	v.Unlock()
	if err != nil {
		return err
	}
	for {
		v.Lock()
		data, ch := bytes.Clone(v.Log[at:]), v.changed
		v.Unlock()
		if len(data) > 0 {
			if err := stream.Send(&computev1.GetConsoleLogResponse{Offset: at, Data: data}); err != nil {
				return err
			}
			at += int64(len(data))
		}
		if !req.Msg.GetFollow() {
			return nil
		}
		if err := next(ctx, ch); err != nil {
			return err
		}
	}
}

// Print adds to what consoles printed.
func (s *Server) Print(text string) {
	s.Lock()
	defer s.Unlock()
	s.Log = append(s.Log, text...)
	s.touch()
}

// OpenConsole echoes in upper case, and closes at "bye".
func (v vms) OpenConsole(ctx context.Context, stream *connect.BidiStream[computev1.OpenConsoleRequest, computev1.OpenConsoleResponse]) error {
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	v.Lock()
	_, err = v.find(first.GetOpen().GetId(), first.GetOpen().GetProjectId())
	v.Unlock()
	if err != nil {
		return err
	}
	if err := stream.Send(&computev1.OpenConsoleResponse{}); err != nil {
		return err
	}
	for {
		msg, err := stream.Receive()
		if err != nil {
			<-ctx.Done() // the client has said all; the console stays open
			return nil
		}
		v.Lock()
		v.Typed = append(v.Typed, msg.GetData()...)
		v.touch()
		v.Unlock()
		if err := stream.Send(&computev1.OpenConsoleResponse{Data: bytes.ToUpper(msg.GetData())}); err != nil {
			return err
		}
		if bytes.Contains(msg.GetData(), []byte("bye")) {
			return nil
		}
	}
}

func (v vms) WatchVMs(ctx context.Context, req *connect.Request[computev1.WatchVMsRequest], stream *connect.ServerStream[computev1.WatchVMsResponse]) error {
	m := req.Msg
	sent := map[string]*computev1.VM{}
	for opening := m.GetRevision() == 0; ; opening = false {
		v.Lock()
		ch, revision := v.changed, v.revision
		var events []*computev1.WatchVMsResponse
		present := map[string]bool{}
		for _, vm := range v.VMs {
			if !selected(vm, m.GetProjectId(), m.GetLabelSelector(), m.GetId()) {
				continue
			}
			id := vm.GetMeta().GetId()
			present[id] = true
			if !proto.Equal(sent[id], vm) {
				sent[id] = proto.CloneOf(vm)
				events = append(events, &computev1.WatchVMsResponse{Type: computev1.WatchEventType_WATCH_EVENT_TYPE_UPDATED, Vm: sent[id], Revision: revision})
			}
		}
		for id, vm := range sent {
			if !present[id] {
				delete(sent, id)
				events = append(events, &computev1.WatchVMsResponse{Type: computev1.WatchEventType_WATCH_EVENT_TYPE_REMOVED, Vm: vm, Revision: revision})
			}
		}
		v.Unlock()
		if opening {
			events = append(events, &computev1.WatchVMsResponse{Type: computev1.WatchEventType_WATCH_EVENT_TYPE_BOOKMARK, Revision: revision})
		}
		for _, e := range events {
			if err := stream.Send(e); err != nil {
				return err
			}
		}
		if err := next(ctx, ch); err != nil {
			return err
		}
	}
}

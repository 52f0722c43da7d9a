package vm

import (
	"context"

	"connectrpc.com/connect"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

const (
	powerRunning = computev1.PowerState_POWER_STATE_RUNNING
	powerStopped = computev1.PowerState_POWER_STATE_STOPPED
	powerPaused  = computev1.PowerState_POWER_STATE_PAUSED
)

// StartVM sets desired power to RUNNING. A VM that failed is tried again at once.
func (s *Service) StartVM(ctx context.Context, req *connect.Request[computev1.StartVMRequest]) (*connect.Response[computev1.StartVMResponse], error) {
	m := req.Msg
	return respond(mutate(ctx, s, change{
		call: request.Call{Method: computev1connect.VMServiceStartVMProcedure, Body: m, RequestID: m.GetRequestId()},
		verb: domain.VerbStartVM, id: m.GetId(), project: m.GetProjectId(),
		apply: func(rec *statev1.VMRecord, _ *state.Writer) (effect, error) {
			failed := rec.GetVm().GetStatus().GetPhase() == computev1.VMPhase_VM_PHASE_FAILED
			if rec.GetVm().GetSpec().GetDesiredPower() == powerRunning && !failed {
				return nothing, nil
			}
			return s.setPower(rec, powerRunning), nil
		},
	}, func(vm *computev1.VM, op *operationv1.Operation) *computev1.StartVMResponse {
		return &computev1.StartVMResponse{Vm: vm, Operation: op}
	}))
}

// StopVM sets desired power to STOPPED; with force an asked-for stop becomes one by force.
func (s *Service) StopVM(ctx context.Context, req *connect.Request[computev1.StopVMRequest]) (*connect.Response[computev1.StopVMResponse], error) {
	m := req.Msg
	return respond(mutate(ctx, s, change{
		call: request.Call{Method: computev1connect.VMServiceStopVMProcedure, Body: m, RequestID: m.GetRequestId()},
		verb: domain.VerbStopVM, id: m.GetId(), project: m.GetProjectId(),
		apply: func(rec *statev1.VMRecord, _ *state.Writer) (effect, error) {
			vm := rec.GetVm()
			if vm.GetSpec().GetDesiredPower() == powerStopped &&
				(!m.GetForce() || rec.GetForceStop() || vm.GetStatus().GetPhase() == computev1.VMPhase_VM_PHASE_STOPPED) {
				return nothing, nil
			}
			did := s.setPower(rec, powerStopped)
			rec.ForceStop = m.GetForce()
			return did, nil
		},
	}, func(vm *computev1.VM, op *operationv1.Operation) *computev1.StopVMResponse {
		return &computev1.StopVMResponse{Vm: vm, Operation: op}
	}))
}

// RebootVM counts one more reboot of a running VM.
func (s *Service) RebootVM(ctx context.Context, req *connect.Request[computev1.RebootVMRequest]) (*connect.Response[computev1.RebootVMResponse], error) {
	m := req.Msg
	return respond(mutate(ctx, s, change{
		call: request.Call{Method: computev1connect.VMServiceRebootVMProcedure, Body: m, RequestID: m.GetRequestId()},
		verb: domain.VerbRebootVM, id: m.GetId(), project: m.GetProjectId(),
		apply: func(rec *statev1.VMRecord, _ *state.Writer) (effect, error) {
			spec := rec.GetVm().GetSpec()
			if spec.GetDesiredPower() != powerRunning || rec.GetVm().GetStatus().GetPhase() != computev1.VMPhase_VM_PHASE_RUNNING {
				return nothing, wrongState(rec, "only a running VM can be rebooted", "start it")
			}
			spec.RestartGeneration++
			if m.GetForce() {
				rec.ForceRestartGeneration = spec.GetRestartGeneration()
			}
			domain.NewGeneration(rec, s.cfg.Now())
			return wish, nil
		},
	}, func(vm *computev1.VM, op *operationv1.Operation) *computev1.RebootVMResponse {
		return &computev1.RebootVMResponse{Vm: vm, Operation: op}
	}))
}

// PauseVM sets desired power of a running VM to PAUSED.
func (s *Service) PauseVM(ctx context.Context, req *connect.Request[computev1.PauseVMRequest]) (*connect.Response[computev1.PauseVMResponse], error) {
	m := req.Msg
	return respond(mutate(ctx, s, change{
		call: request.Call{Method: computev1connect.VMServicePauseVMProcedure, Body: m, RequestID: m.GetRequestId()},
		verb: domain.VerbPauseVM, id: m.GetId(), project: m.GetProjectId(),
		apply: func(rec *statev1.VMRecord, _ *state.Writer) (effect, error) {
			switch phase := rec.GetVm().GetStatus().GetPhase(); {
			case rec.GetVm().GetSpec().GetDesiredPower() == powerPaused:
				return nothing, nil
			case rec.GetVm().GetSpec().GetDesiredPower() == powerStopped,
				phase != computev1.VMPhase_VM_PHASE_RUNNING && phase != computev1.VMPhase_VM_PHASE_PAUSED:
				return nothing, wrongState(rec, "only a running VM can be paused", "start it first")
			}
			return s.setPower(rec, powerPaused), nil
		},
	}, func(vm *computev1.VM, op *operationv1.Operation) *computev1.PauseVMResponse {
		return &computev1.PauseVMResponse{Vm: vm, Operation: op}
	}))
}

// ResumeVM sets desired power of a paused VM to RUNNING.
func (s *Service) ResumeVM(ctx context.Context, req *connect.Request[computev1.ResumeVMRequest]) (*connect.Response[computev1.ResumeVMResponse], error) {
	m := req.Msg
	return respond(mutate(ctx, s, change{
		call: request.Call{Method: computev1connect.VMServiceResumeVMProcedure, Body: m, RequestID: m.GetRequestId()},
		verb: domain.VerbResumeVM, id: m.GetId(), project: m.GetProjectId(),
		apply: func(rec *statev1.VMRecord, _ *state.Writer) (effect, error) {
			switch rec.GetVm().GetSpec().GetDesiredPower() {
			case powerRunning:
				return nothing, nil
			case powerStopped:
				return nothing, wrongState(rec, "only a paused VM can be resumed", "start it")
			}
			return s.setPower(rec, powerRunning), nil
		},
	}, func(vm *computev1.VM, op *operationv1.Operation) *computev1.ResumeVMResponse {
		return &computev1.ResumeVMResponse{Vm: vm, Operation: op}
	}))
}

// setPower is the one place where desired power changes by request. A stop is graceful unless said otherwise afterwards.
func (s *Service) setPower(rec *statev1.VMRecord, to computev1.PowerState) effect {
	rec.GetVm().Spec.DesiredPower = to
	rec.ForceStop = false
	domain.NewGeneration(rec, s.cfg.Now())
	return wish
}

func wrongState(rec *statev1.VMRecord, rule, remedy string) error {
	vm := rec.GetVm()
	return fault.New(metav1.Reason_REASON_WRONG_STATE, "VM %s is %s, wanted %s: %s", vm.GetMeta().GetName(), phaseName(vm.GetStatus().GetPhase()),
		powerName(vm.GetSpec().GetDesiredPower()), rule).WithRemedy("%s", remedy)
}

func phaseName(p computev1.VMPhase) string { return p.String()[len("VM_PHASE_"):] }

func powerName(p computev1.PowerState) string { return p.String()[len("POWER_STATE_"):] }

// respond wraps a mutation's answer for connect.
func respond[T any](m *T, err error) (*connect.Response[T], error) {
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(m), nil
}

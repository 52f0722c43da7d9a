package failpoint_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
)

func disk(name, image string, size int64) *computev1.Disk {
	return &computev1.Disk{Name: name, Source: &computev1.Disk_Inline{Inline: &computev1.InlineVolume{SizeBytes: size, Image: image}}}
}

func machine(name string, disks ...*computev1.Disk) *computev1.CreateVMRequest {
	m := &computev1.CreateVMRequest{Vm: &computev1.VM{
		Spec: &computev1.VMSpec{Cpu: &computev1.CPU{Vcpus: 1}, MemoryBytes: memory, Disks: disks, DesiredPower: computev1.PowerState_POWER_STATE_RUNNING},
	}, RequestId: name}
	m.Vm.Meta = meta(name)
	return m
}

// create makes a VM and waits until it is as wanted.
func (r *rig) create(ctx context.Context, m *computev1.CreateVMRequest) (string, error) {
	resp, err := call(ctx, r, r.vms.CreateVM, m)
	if err != nil {
		return "", err
	}
	id := resp.GetVm().GetMeta().GetId()
	if _, err := r.vms.GetVM(ctx, connect.NewRequest(&computev1.GetVMRequest{Id: id})); isNotFound(err) {
		return id, fmt.Errorf("vm %s was acknowledged and is not there", id)
	}
	return id, r.vm(ctx, id, computev1.VMPhase_VM_PHASE_RUNNING)
}

// remove deletes a VM and waits until nothing is left of it.
func (r *rig) remove(ctx context.Context, id string) error {
	_, err := call(ctx, r, r.vms.DeleteVM, &computev1.DeleteVMRequest{Id: id, RequestId: r.name("delete")})
	if err != nil && !isNotFound(err) {
		return err
	}
	return r.gone(ctx, id)
}

// actConsole types into the console of the VM that stays and reads it, and its log.
func actConsole(ctx context.Context, r *rig) error {
	word := r.name("typed")
	err := r.until(ctx, "the console answers", func() (bool, string) {
		once, cancel := context.WithTimeout(ctx, oneCall)
		defer cancel()
		s := r.vms.OpenConsole(once)
		defer func() { _ = s.CloseRequest(); _ = s.CloseResponse() }()
		_ = s.Send(&computev1.OpenConsoleRequest{Message: &computev1.OpenConsoleRequest_Open{Open: &computev1.ConsoleTarget{Id: stayName}}})
		_ = s.Send(&computev1.OpenConsoleRequest{Message: &computev1.OpenConsoleRequest_Data{Data: []byte(word + "\n")}})
		var seen []byte
		for {
			m, err := s.Receive()
			if err != nil {
				return false, fmt.Sprintf("%q, %v", seen, err)
			}
			if seen = append(seen, m.GetData()...); bytes.Contains(seen, []byte(word)) {
				return true, ""
			}
		}
	})
	if err != nil {
		return err
	}
	return r.until(ctx, "the console's log has it", func() (bool, string) {
		once, cancel := context.WithTimeout(ctx, oneCall)
		defer cancel()
		s, err := r.vms.GetConsoleLog(once, connect.NewRequest(&computev1.GetConsoleLogRequest{Id: stayName}))
		if err != nil {
			return false, err.Error()
		}
		defer func() { _ = s.Close() }()
		var seen []byte
		for s.Receive() {
			seen = append(seen, s.Msg().GetData()...)
		}
		return bytes.Contains(seen, []byte(word)), fmt.Sprintf("%q, %v", seen, s.Err())
	})
}

// actCreate makes a VM with a disk from the image that stays and another one, and deletes it.
func actCreate(ctx context.Context, r *rig) error {
	m := machine(r.name("vm"), disk("root", stayName, diskSize), disk("data", "", diskSize))
	id, err := r.create(ctx, m)
	if err != nil {
		return err
	}
	again, err := call(ctx, r, r.vms.CreateVM, m)
	if err != nil || again.GetVm().GetMeta().GetId() != id {
		return errors.Join(err, fmt.Errorf("one request id made %s and %s", id, again.GetVm().GetMeta().GetId()))
	}
	return r.remove(ctx, id)
}

func actPower(ctx context.Context, r *rig) error {
	id, err := r.create(ctx, machine(r.name("vm")))
	if err != nil {
		return err
	}
	for _, step := range []struct {
		phase computev1.VMPhase
		do    func(request string) error
	}{
		{computev1.VMPhase_VM_PHASE_PAUSED, func(q string) error {
			_, err := call(ctx, r, r.vms.PauseVM, &computev1.PauseVMRequest{Id: id, RequestId: q})
			return err
		}},
		{computev1.VMPhase_VM_PHASE_RUNNING, func(q string) error {
			_, err := call(ctx, r, r.vms.ResumeVM, &computev1.ResumeVMRequest{Id: id, RequestId: q})
			return err
		}},
		{computev1.VMPhase_VM_PHASE_RUNNING, func(q string) error {
			_, err := call(ctx, r, r.vms.RebootVM, &computev1.RebootVMRequest{Id: id, RequestId: q})
			return err
		}},
		{computev1.VMPhase_VM_PHASE_STOPPED, func(q string) error {
			_, err := call(ctx, r, r.vms.StopVM, &computev1.StopVMRequest{Id: id, RequestId: q})
			return err
		}},
		{computev1.VMPhase_VM_PHASE_RUNNING, func(q string) error {
			_, err := call(ctx, r, r.vms.StartVM, &computev1.StartVMRequest{Id: id, RequestId: q})
			return err
		}},
		{computev1.VMPhase_VM_PHASE_STOPPED, func(q string) error {
			_, err := call(ctx, r, r.vms.StopVM, &computev1.StopVMRequest{Id: id, RequestId: q, Force: true})
			return err
		}},
	} {
		if err := step.do(r.name("power")); err != nil {
			return err
		}
		if err := r.vm(ctx, id, step.phase); err != nil {
			return err
		}
	}
	return r.remove(ctx, id)
}

func actUpdate(ctx context.Context, r *rig) error {
	id, err := r.create(ctx, machine(r.name("vm"), disk("data", "", diskSize)))
	if err != nil {
		return err
	}
	for _, vcpus := range []int32{2, 1} {
		got, err := call(ctx, r, r.vms.GetVM, &computev1.GetVMRequest{Id: id})
		if err != nil {
			return err
		}
		vm := got.GetVm()
		vm.Meta.Etag, vm.Spec.Cpu = "", &computev1.CPU{Vcpus: vcpus}
		q := r.name("update")
		if _, err := call(ctx, r, r.vms.UpdateVM, &computev1.UpdateVMRequest{Vm: vm, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"spec.cpu"}}, RequestId: q}); err != nil {
			return err
		}
		if err := r.vm(ctx, id, computev1.VMPhase_VM_PHASE_RUNNING); err != nil {
			return err
		}
	}
	return r.remove(ctx, id)
}

// actKernel boots a kernel that is an image.
func actKernel(ctx context.Context, r *rig) error {
	m := machine(r.name("vm"))
	m.Vm.Spec.Boot = &computev1.Boot{Kernel: &computev1.KernelBoot{KernelImage: stayName}}
	id, err := r.create(ctx, m)
	if err != nil {
		return err
	}
	return r.remove(ctx, id)
}

// actNoRoom asks for more than there is, makes it smaller, asks again and cancels.
func actNoRoom(ctx context.Context, r *rig) error {
	big := func() (*computev1.CreateVMResponse, error) {
		m := machine(r.name("vm"))
		m.Vm.Spec.MemoryBytes = 1 << 40
		made, err := call(ctx, r, r.vms.CreateVM, m)
		if err != nil {
			return nil, err
		}
		return made, r.until(ctx, "it is said why the vm waits", func() (bool, string) {
			got, err := r.vms.GetVM(ctx, connect.NewRequest(&computev1.GetVMRequest{Id: made.GetVm().GetMeta().GetId()}))
			if err != nil {
				return false, err.Error()
			}
			return got.Msg.GetVm().GetStatus().GetReason() != "", got.Msg.String()
		})
	}
	made, err := big()
	if err != nil {
		return err
	}
	cancelled, err := call(ctx, r, r.ops.CancelOperation, &operationv1.CancelOperationRequest{Id: made.GetOperation().GetId(), RequestId: r.name("cancel")})
	if err != nil {
		return err
	}
	if state, err := r.ended(ctx, cancelled.GetOperation()); err != nil || state != operationv1.OperationState_OPERATION_STATE_CANCELLED {
		return errors.Join(err, fmt.Errorf("the cancelled operation ended %s", state))
	}
	return r.remove(ctx, made.GetVm().GetMeta().GetId())
}

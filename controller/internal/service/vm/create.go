package vm

import (
	"context"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/limiquantix/limiquantix/controller/internal/domain"
	"github.com/limiquantix/limiquantix/controller/internal/service/request"
	"github.com/limiquantix/limiquantix/controller/internal/state"
	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/proto/fault"
	computev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1"
	"github.com/limiquantix/limiquantix/proto/gen/limiquantix/compute/v1/computev1connect"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	operationv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/operation/v1"
	statev1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/state/v1"
)

// UserDataField names the secret field of a VM in the store.
const UserDataField = "user_data"

type createPlan = request.Plan[*computev1.CreateVMResponse]

// CreateVM accepts a VM in one commit: the VM, its volumes and ports, its secret, its name and its operation.
func (s *Service) CreateVM(ctx context.Context, req *connect.Request[computev1.CreateVMRequest]) (*connect.Response[computev1.CreateVMResponse], error) {
	now := s.cfg.Now()
	id := domain.NewID(now)
	given := req.Msg.GetVm()
	vm := &computev1.VM{
		Meta: domain.NewMeta(id, given.GetMeta().GetName(), domain.Project(given.GetMeta().GetProjectId()),
			given.GetMeta().GetLabels(), given.GetMeta().GetAnnotations()),
		Spec: proto.CloneOf(given.GetSpec()),
		Status: &computev1.VMStatus{
			Phase: computev1.VMPhase_VM_PHASE_PENDING, Message: "waits to be placed",
		},
	}
	if vm.Spec == nil {
		vm.Spec = &computev1.VMSpec{}
	}
	vm.Spec.RestartGeneration = 0
	vm.Meta.CreateTime = timestamppb.New(now)
	vm.Meta.UpdateTime = vm.Meta.CreateTime
	domain.DefaultVM(vm.Spec, id)
	var v domain.Violations
	domain.ValidateVM(&v, vm)
	if err := v.Err(); err != nil {
		return nil, err
	}
	secret, err := s.seal(id, domain.TakeUserData(vm.Spec))
	if err != nil {
		return nil, err
	}
	if req.Msg.GetDryRun() {
		return s.dryRun(vm)
	}
	resp, err := request.Do(ctx, s.cfg.Runner, request.Call{
		Method: computev1connect.VMServiceCreateVMProcedure, Body: req.Msg, RequestID: req.Msg.GetRequestId(),
	}, func(context.Context) (*createPlan, error) { return s.planCreate(vm, secret) })
	if err != nil {
		return nil, err
	}
	if resp.GetVm().GetMeta().GetId() == id { // not a repetition
		s.cfg.History.Add(id, &computev1.VMEvent{Time: vm.GetMeta().GetCreateTime(), Type: "Accepted", Message: "accepted; waits to be placed"})
	}
	return connect.NewResponse(resp), nil
}

// planCreate works out the commit against the objects as they are now.
func (s *Service) planCreate(vm *computev1.VM, secret []byte) (*createPlan, error) {
	vm = proto.CloneOf(vm) // every try fills in its own
	meta := vm.GetMeta()
	nameKey := state.NameKey(meta.GetProjectId(), state.KindVM, meta.GetName())
	if other := s.cfg.Cache.ByName(meta.GetProjectId(), state.KindVM, meta.GetName()); other != "" {
		return nil, nameTaken(meta, other)
	}
	var v domain.Violations
	found := s.resolve(&v, vm)
	if err := v.Err(); err != nil {
		return nil, err
	}
	now := meta.GetCreateTime().AsTime()
	op := newOperation(domain.VerbCreateVM, vm, now)
	rec := &statev1.VMRecord{SchemaVersion: 1, Vm: vm, OperationId: op.GetId(), PendingSince: meta.GetCreateTime()}
	var w state.Writer
	if err := s.takeRoom(&w, found); err != nil {
		return nil, err
	}
	for i, vol := range found.volumes {
		disk := vm.GetSpec().GetDisks()[i]
		if row := found.rows[i]; row != nil { // it is the VM's alone from now on, placed or not
			domain.Attach(vol.GetVolume(), meta.GetId(), "", 0, disk.GetReadOnly())
			rec.DiskVolumes = append(rec.DiskVolumes, &statev1.DiskVolume{DiskName: disk.GetName(), VolumeId: row.ID})
			w.Same(row)
			w.Put(state.Key(state.KindVolume, row.ID), vol)
			continue
		}
		volID := domain.NewID(now)
		vol.OwnerVmId = meta.GetId()
		vol.Volume.Meta = domain.NewMeta(volID, disk.GetName(), meta.GetProjectId(), nil, nil)
		vol.Volume.Meta.CreateTime, vol.Volume.Meta.UpdateTime = meta.GetCreateTime(), meta.GetCreateTime()
		vol.Volume.Status.OwnerVmId = meta.GetId()
		rec.DiskVolumes = append(rec.DiskVolumes, &statev1.DiskVolume{DiskName: disk.GetName(), VolumeId: volID})
		w.Put(state.Key(state.KindVolume, volID), vol)
	}
	ports, err := s.plug(&w, rec, nil)
	if err != nil {
		return nil, err
	}
	w.Put(state.Key(state.KindVM, meta.GetId()), rec)
	w.Put(state.Key(state.KindOperation, op.GetId()), &statev1.OperationRecord{SchemaVersion: 1, Operation: op})
	w.PutText(nameKey, meta.GetId())
	if secret != nil {
		w.Put(state.SecretKey(meta.GetId(), UserDataField), &statev1.SecretRecord{SchemaVersion: 1, Sealed: secret})
	}
	w.Require(store.KeyAbsent(nameKey))
	w.Require(found.guards...)
	txn, err := w.Txn()
	if err != nil {
		return nil, request.Fault(err)
	}
	shown := proto.CloneOf(vm)
	showNICs(s.cfg.Cache, rec, shown, ports)
	return &createPlan{
		Txn:      txn,
		Response: &computev1.CreateVMResponse{Vm: shown, Operation: op},
		ObjectID: meta.GetId(), OperationID: op.GetId(),
		Refused: func(c store.Check) error {
			if c.Condition.Key == nameKey && c.Current != nil {
				return nameTaken(meta, string(c.Current.Value))
			}
			return nil
		},
	}, nil
}

// dryRun says what would become of a VM.
func (s *Service) dryRun(vm *computev1.VM) (*connect.Response[computev1.CreateVMResponse], error) {
	var v domain.Violations
	found := s.resolve(&v, vm)
	if err := v.Err(); err != nil {
		return nil, err
	}
	if other := s.cfg.Cache.ByName(vm.GetMeta().GetProjectId(), state.KindVM, vm.GetMeta().GetName()); other != "" {
		return nil, nameTaken(vm.GetMeta(), other)
	}
	if err := s.takeRoom(&state.Writer{}, found); err != nil {
		return nil, err
	}
	rec := &statev1.VMRecord{Vm: vm}
	ports, err := s.plug(&state.Writer{}, rec, nil)
	if err != nil {
		return nil, err
	}
	e := s.cfg.Explain.Explain(rec, found.volumes)
	vm.Status.Message = e.Summary
	if e.FeasibleCount == 0 {
		vm.Status.Reason = fault.ReasonName(metav1.Reason_REASON_UNSCHEDULABLE)
	}
	showNICs(s.cfg.Cache, rec, vm, ports)
	for _, n := range vm.GetStatus().GetNics() {
		if ports[n.GetPortId()].GetOwnerVmId() != "" {
			n.PortId = ""
		}
	}
	vm.Meta.Id = "" // nothing was made
	return connect.NewResponse(&computev1.CreateVMResponse{Vm: vm}), nil
}

// seal encrypts a VM's secret document; nil for none.
func (s *Service) seal(id string, data []byte) ([]byte, error) {
	if data == nil {
		return nil, nil
	}
	if s.cfg.Sealer == nil {
		return nil, fault.New(metav1.Reason_REASON_INTERNAL, "this controller has no key to seal secrets with")
	}
	sealed, err := s.cfg.Sealer.Seal(data, []byte(state.SecretKey(id, UserDataField)))
	if err != nil {
		return nil, fault.New(metav1.Reason_REASON_INTERNAL, "seal user_data of VM %s: %w", id, err)
	}
	return sealed, nil
}

func nameTaken(meta *metav1.ObjectMeta, other string) error {
	return fault.New(metav1.Reason_REASON_NAME_TAKEN, "a VM named %q exists in project %q (%s)", meta.GetName(), meta.GetProjectId(), other).
		WithRemedy("choose another name, or delete that VM").WithMetadata("id", other)
}

// newOperation begins an operation that follows the VM's present generation.
func newOperation(verb string, vm *computev1.VM, now time.Time) *operationv1.Operation {
	return &operationv1.Operation{
		Id: domain.NewID(now), ProjectId: vm.GetMeta().GetProjectId(), Verb: verb, ObjectKind: domain.KindVM, ObjectId: vm.GetMeta().GetId(),
		ObjectName: vm.GetMeta().GetName(), Generation: vm.GetMeta().GetGeneration(),
		State: operationv1.OperationState_OPERATION_STATE_RUNNING, CreateTime: timestamppb.New(now),
	}
}
